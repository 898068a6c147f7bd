"""A prediction: every input to its label map and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.cli.config import checkpoint_reduction, output_dir, overrides, plain, recorded
from stepseg.cli.predict.explorer import check_explorer, check_replayable, write_page
from stepseg.cli.predict.options import check_options, input_files
from stepseg.cli.predict.progress import Progress
from stepseg.cli.protocol import choose_protocol
from stepseg.cli.result import Result
from stepseg.data.files import ImageFileError, Pixels, read_pixels
from stepseg.files.confusion import write_confusion
from stepseg.model import Reduction
from stepseg.model_config import ReductionConfig
from stepseg.pictures.drawing import Labels
from stepseg.predict import video
from stepseg.predict.inputs import File, first_name, stamp_of
from stepseg.predict.outputs import OutputFolder
from stepseg.predict.runner import Runner
from stepseg.predict.segmenter import Segmenter
from stepseg.predict.statistics import write_statistics
from stepseg.predict.submission import check_file_names, published_ids, write_submission
from stepseg.predict.summary import summarise, write_table
from stepseg.predict.truth import TruthFolder
from stepseg.telling import counted, tell


def predict(cfg: DictConfig) -> None:
    """Segment every input and write `result.json`.

    Raises:
        ValueError: a request that cannot work, or, at the end, inputs that failed.

    """
    values = plain(cfg)
    check_options(values)
    # Before the result file: an output that lies over the input gets none either.
    files = input_files(values, output_dir())
    if values["explorer"]:
        check_explorer(files)
    with Result(
        output_dir(),
        command="stepseg-predict",
        overrides=overrides(),
        config=recorded(cfg),
        hidden=False,
    ) as result:
        checkpoint = read_checkpoint(values["ckpt_path"])
        reduction = checkpoint_reduction(values["reduction"], checkpoint.config)
        truths = _truths(values, checkpoint, files)
        ids = _submitted_ids(values, checkpoint, files)
        segmenter = _segmenter(values, checkpoint, reduction)
        if values["explorer"]:
            check_replayable(segmenter)
        result.update(_about(segmenter, checkpoint, reduction, values))
        runner = Runner(
            segmenter,
            _outputs(values, checkpoint, segmenter, reduction),
            truths=truths,
            dense=segmenter.with_reduction(Reduction()) if "dense" in _kinds(values) else None,
            batch_size=values["batch_size"],
            frames=values["frames"],
        )
        _run(runner, files, result)
        result.update(_beside(values, runner, files, ids))
        if values["explorer"]:
            path = output_dir() / "explorer.html"
            page = write_page(path, segmenter, files, checkpoint, overrides())
            result.update({"explorer": page.name if page else None})
        _tell(runner, result.values.get("problems", ()))
        _check_failures(runner)


def _run(runner: Runner, files: Sequence[File], result: Result) -> None:
    """Segment; an interrupted run says what it did."""
    try:
        with Progress(files) as progress:
            runner.on_done = progress.advance
            runner.run(files)
    finally:
        result.update(_figures(runner))
        write_table(output_dir() / "images.csv", runner.records, runner.failures)


def _segmenter(
    values: Mapping[str, Any], checkpoint: Checkpoint, reduction: Mapping[str, Any]
) -> Segmenter:
    keys = ("resize_short", "crop", "stride", "scales", "flip", "window_batch")
    protocol = {"mode": values["protocol"], **{key: values[key] for key in keys}}
    return Segmenter.of(
        checkpoint,
        protocol=choose_protocol("stepseg-predict", checkpoint, protocol),
        reduction=ReductionConfig.from_dict(reduction).build(),
        **{key: values[key] for key in ("device", "dtype", "runtime")},
    )


def _kinds(values: Mapping[str, Any]) -> list[str]:
    return list(values["pictures"] or [])


def _truths(
    values: Mapping[str, Any], checkpoint: Checkpoint, files: Sequence[File]
) -> TruthFolder | None:
    if not values["labels"]:
        return None
    truths = TruthFolder(
        values["labels"],
        checkpoint.data["name"],
        checkpoint.config.num_classes,
        values["label_ids"],
    )
    if not any(truths.find(file) for file in files):
        wanted = Path(files[0].relative).with_suffix(".png")
        raise ValueError(
            f"labels={values['labels']!r} has no label of any input; for {files[0].path} it would "
            f"be {Path(values['labels']) / wanted}"
        )
    return truths


def _outputs(
    values: Mapping[str, Any],
    checkpoint: Checkpoint,
    segmenter: Segmenter,
    reduction: Mapping[str, Any],
) -> OutputFolder:
    settings = {
        "checkpoint": [str(checkpoint.path.resolve()), *stamp_of(checkpoint.path)],
        "reduction": reduction,
        "protocol": segmenter.protocol.as_dict(),
        "dtype": values["dtype"],
        "runtime": segmenter.runtime,
        "pictures": sorted(_kinds(values)),
        "labels": values["labels"],
        "label_ids": values["label_ids"],
    }
    return OutputFolder(output_dir(), _kinds(values), settings, not values["overwrite"])


def _about(
    segmenter: Segmenter,
    checkpoint: Checkpoint,
    reduction: Mapping[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    on_gpu = segmenter.device.type == "cuda"
    return {
        "device": str(segmenter.device),
        "device_name": torch.cuda.get_device_name(segmenter.device) if on_gpu else None,
        "dtype": values["dtype"],
        "runtime": segmenter.runtime,
        "protocol": segmenter.protocol.as_dict(),
        "reduction": dict(reduction),
        "data": checkpoint.data["name"],
        "data_name": checkpoint.data["name"],  # as every command calls it that knows one
        "classes": list(segmenter.classes),
    }


def _figures(runner: Runner) -> dict[str, Any]:
    figures = {
        **summarise(runner.records),
        "finished_before": runner.finished_before,
        "failed": runner.failures,
    }
    if runner.truths is not None:
        accuracy = runner.accuracy.compute()
        confusion = accuracy.pop("confusion")
        write_confusion(output_dir() / "confusion.csv", confusion, runner.segmenter.classes)
        figures["confusion"] = "confusion.csv"
        figures["without_label"] = runner.without_label
        figures["per_class_IoU"] = accuracy.pop("per_class_IoU").tolist()
        figures |= {name: float(value) for name, value in accuracy.items()}
        if runner.records and accuracy["aAcc"].isnan():
            from stepseg.evaluation import NO_LABELS

            figures["problems"] = [NO_LABELS]
    return figures


def _beside(
    values: Mapping[str, Any],
    runner: Runner,
    files: Sequence[File],
    ids: NDArray[np.integer] | None,
) -> dict[str, Any]:
    """Make one of many, as far as it was asked for: videos, statistics, a submission."""
    figures: dict[str, Any] = {}
    if values["mp4"]:
        figures["videos"] = _join_videos(files, runner, values["frames"])
        figures["failed"] = runner.failures
    if values["statistics"] and runner.records:
        figures["statistics"] = write_statistics(output_dir(), runner.records)
    if ids is not None:
        path = output_dir() / "submission.zip"
        write_submission(path, _label_maps(runner), ids)
        figures["submission"] = path.name
    return figures


def _join_videos(files: Sequence[File], runner: Runner, frames: int) -> list[str]:
    """Overlays of each video's finished frames as a video of their own."""
    written = []
    for file in files:
        names = sorted(r["name"] for r in runner.records if r["source"] == str(file.path))
        if not file.is_video or not names:
            continue
        path = output_dir() / "videos" / f"{file.name}.mp4"
        try:
            rate = video.frame_rate(file.path) / frames
            video.write_video(path, _overlays(runner, names), rate)
        except ImageFileError as error:
            runner.failures.append({"source": str(file.path), "error": str(error)})
            continue
        written.append(path.relative_to(output_dir()).as_posix())
    return written


def _submitted_ids(
    values: Mapping[str, Any], checkpoint: Checkpoint, files: Sequence[File]
) -> NDArray[np.integer] | None:
    """The data set's own ids by class, where a submission is wanted."""
    if not values["submission"]:
        return None
    check_file_names(first_name(file) for file in files)
    return published_ids(checkpoint.data["name"], checkpoint.config.num_classes)


def _label_maps(runner: Runner) -> Iterator[tuple[str, Labels]]:
    for record in sorted(runner.records, key=lambda record: record["name"]):
        yield record["name"], runner.outputs.labels(record["name"])


def _overlays(runner: Runner, names: Sequence[str]) -> Iterator[Pixels]:
    return (read_pixels(runner.outputs.path("overlay", name)) for name in names)


def _tell(runner: Runner, problems: Sequence[str]) -> None:
    figures = summarise(runner.records)
    done = counted(figures["images"], "image")
    if runner.finished_before:
        done += f", {runner.finished_before} of them from before"
    if runner.records:
        tokens = " > ".join(f"{n:.0f}" for n in figures["tokens_per_stage"])
        done += f"; tokens {tokens}; {figures['gmacs_mean']:.3f} GMACs"
    tell(f"{done}; written to {output_dir()}")
    for problem in problems:
        tell(f"stepseg-predict: {problem}")


def _check_failures(runner: Runner) -> None:
    """Refuse to end well where inputs failed."""
    if runner.failures:
        raise ValueError(
            f"{len(runner.failures)} input(s) failed, {len(runner.records)} done; the first: "
            f"{runner.failures[0]['error']}; all are in {output_dir() / 'result.json'}"
        )
