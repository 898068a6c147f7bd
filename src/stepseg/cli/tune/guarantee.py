"""A certificate: the fastest reduction that keeps a promise, by images without labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepseg.cli.certified import publish
from stepseg.cli.config import checkpoint_reduction, given_checkpoint, output_dir
from stepseg.cli.protocol import choose_protocol
from stepseg.cli.result import Result
from stepseg.cli.trainer import make_datamodule
from stepseg.cli.tune.choice import FILE, write_choice
from stepseg.data.files import read_image
from stepseg.grid.store import file_hash
from stepseg.model_config import ReductionConfig
from stepseg.profile.images import image_files
from stepseg.runtime.apply import apply_runtime
from stepseg.runtime.choice import choose_device, choose_runtime
from stepseg.telling import tell
from stepseg.tuning.certificate import Promise
from stepseg.tuning.changes import Changes, changes_of
from stepseg.tuning.families import grid_cells
from stepseg.tuning.sequence import STEPS, certify_sequence, fixed_sequence


def guarantee(values: Mapping[str, Any], result: Result) -> ReductionConfig:
    """Certify, write `reduction.yaml`; figures go to the result. Returns the reduction."""
    promise = Promise.from_values(values)
    if values["policy"]["name"] != "checkpoint":
        raise ValueError("certify= needs no labels, and policy=oracle merges by them: drop it")
    checkpoint = given_checkpoint(values)
    config = checkpoint.config
    base = ReductionConfig.from_dict(checkpoint_reduction(values["reduction"], config))
    files = _files(values)
    promise.check(len(files))
    given = values["data"]["evaluation"] or {}
    protocol = choose_protocol("stepseg-tune", checkpoint, given, "data.evaluation")
    device = choose_device("cpu" if values["trainer"]["accelerator"] == "cpu" else "auto")
    runtime = choose_runtime(values["runtime"], device)
    model = apply_runtime(checkpoint.build().prepare_for_inference().to(device), runtime)
    cells = grid_cells(files[0], protocol, base.input.cell or model.patch_size)
    sequence = fixed_sequence(model, base, cells)
    result.update({"model": config.to_dict(), "device": str(device), "runtime": runtime})

    def look(file: Path, chosen: Sequence[ReductionConfig]) -> Changes:
        image_3HW = read_image(file).to(device)
        return changes_of(model, [r.build() for r in chosen], image_3HW, protocol)

    tell(f"stepseg-tune: {len(files)} images, up to {STEPS} reductions from none outwards")
    identity = {
        "checkpoint": file_hash(checkpoint.path),
        "protocol": protocol.as_dict(),
        "runtime": runtime,
    }
    tested = certify_sequence(
        promise, sequence, files, look, output_dir() / "search", identity, values["seed"]
    )
    result.update({"reduction_file": FILE})
    chosen = publish(tested, result)
    write_choice(checkpoint, chosen, "certified", {"certificate": tested.as_dict()})
    tell(f"file    reduction={output_dir() / FILE}")
    return chosen


def _files(values: Mapping[str, Any]) -> list[Path]:
    """Images of a folder, or of the data's test split."""
    if values["images"]:
        return image_files(values["images"])
    datamodule = make_datamodule(values, evaluation=None)
    datamodule.prepare_data()
    return [pair.image for pair in datamodule.dataset("test").pairs]
