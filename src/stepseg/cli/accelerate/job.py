"""From a finished model and unlabelled images to a checkpoint with a policy."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from stepseg.accelerate.exits import distil, with_heads, with_untrained_heads
from stepseg.accelerate.judge import compare, search_for, smaller_of_cost
from stepseg.accelerate.learn import Lesson, teach, with_policy
from stepseg.accelerate.samples import Samples
from stepseg.accelerate.wish import LEAST, Wish
from stepseg.build import build_policy
from stepseg.card.tuned import with_choice
from stepseg.checkpoint import Checkpoint, read_checkpoint, write_inference_checkpoint
from stepseg.cli.accelerate.options import check_options, find_images, merge_rule
from stepseg.cli.certified import publish
from stepseg.cli.config import output_dir, overrides, plain, recorded
from stepseg.cli.predict.progress import Progress
from stepseg.cli.result import Result
from stepseg.cli.tracking import tracked_result
from stepseg.data.files import read_pixels
from stepseg.dcts.merge import MergeRule
from stepseg.dcts.policy import PolicyNetwork
from stepseg.model import Reduction
from stepseg.model_config import PolicyConfig, ReductionConfig
from stepseg.plain_types import from_values
from stepseg.predict.inputs import File, stamp_of
from stepseg.predict.outputs import OutputFolder
from stepseg.predict.runner import Runner
from stepseg.predict.segmenter import Segmenter
from stepseg.telling import counted, show_table, tell
from stepseg.weights.hub import address_of

FILE = "model.safetensors"
OF_ITS_POLICY = ("systems", "images", "per_class_IoU", "timed_on", "tuned")
"""What a checkpoint says of itself with a policy that is no longer its own."""


def accelerate(cfg: DictConfig) -> None:
    """Run densely, learn, choose a reduction, compare; writes `model.safetensors`.

    Raises:
        ValueError: a request that cannot work.

    """
    values = plain(cfg)
    lesson = from_values(Lesson, values["learn"], "learn")
    policy_config = PolicyConfig.from_dict(values["policy"])
    check_options(values, policy_config, overrides())
    wish, files = Wish.of(values), find_images(values, output_dir())
    wish.check(len(files))
    with tracked_result("stepseg-accelerate", recorded(cfg)) as result:
        checkpoint = read_checkpoint(address_of(values["model"]))
        if values["exits"]:
            checkpoint = with_untrained_heads(checkpoint, values["exits"])
        segmenter = _segmenter(checkpoint, values, Reduction())
        policy = _policy(policy_config, segmenter, values["seed"])  # may refuse: before long runs
        files = _run_densely(segmenter, checkpoint, files, values, result)
        learned, chosen_on, held_out = wish.deal(files, OutputFolder(output_dir() / "dense"))
        fast = _learn(checkpoint, segmenter, policy, learned, lesson, policy_config, values, result)
        base = fast.config.reduction
        segmenter = _segmenter(fast, values, base.build())
        chosen = _choose(wish, segmenter, base, chosen_on, result)
        rows = _compare(segmenter, chosen.build(), held_out)
        kept = {k: v for k, v in checkpoint.about.items() if k not in OF_ITS_POLICY}
        about = {"accelerated": {"source": checkpoint.path.name, "images": len(learned)}}
        fast = replace(fast, about={**kept, **about, "systems": rows})
        tuned = {k: result.values[k] for k in ("certificate",) if k in result.values}
        write_inference_checkpoint(output_dir() / FILE, with_choice(fast, chosen, tuned))
        result.update({"rows": rows, "reduction": asdict(chosen), "checkpoint": FILE})
        result.update({"device": str(segmenter.device)})
        _tell(rows)


def _segmenter(
    checkpoint: Checkpoint, values: Mapping[str, Any], reduction: Reduction
) -> Segmenter:
    keys = ("device", "dtype", "runtime")
    return Segmenter.of(checkpoint, reduction=reduction, **{key: values[key] for key in keys})


def _policy(config: PolicyConfig, segmenter: Segmenter, seed: int) -> PolicyNetwork:
    """A policy that has learned nothing; the same with exits and without."""
    torch.manual_seed(seed)
    policy = build_policy(config, patch_size=segmenter.model.patch_size)
    assert isinstance(policy, PolicyNetwork)
    return policy.to(segmenter.device)


def _run_densely(
    segmenter: Segmenter,
    checkpoint: Checkpoint,
    files: Sequence[File],
    values: Mapping[str, Any],
    result: Result,
) -> list[File]:
    """Label maps of all images, but for those that an earlier run has made; returns the rest."""
    settings = {
        "checkpoint": [str(checkpoint.path.resolve()), *stamp_of(checkpoint.path)],
        "protocol": segmenter.protocol.as_dict(),
        "dtype": values["dtype"],
    }
    folder = OutputFolder(output_dir() / "dense", settings=settings)
    runner = Runner(segmenter, folder, batch_size=values["batch_size"])
    tell(f"stepseg-accelerate: the dense model labels {counted(len(files), 'image')}")
    start = time.perf_counter()
    with Progress(files) as progress:
        runner.on_done = progress.advance
        runner.run(files)
    failed = {failure["source"] for failure in runner.failures}
    result.update(
        {
            "dense_seconds": round(time.perf_counter() - start, 1),
            "finished_before": runner.finished_before,
            "failed": runner.failures,
        }
    )
    left = [file for file in files if str(file.path) not in failed]
    for failure in runner.failures[:5]:
        tell(f"stepseg-accelerate: left out {failure['source']}: {failure['error']}")
    if len(left) < LEAST:
        raise ValueError(f"{len(left)} images could be read: {LEAST} are needed")
    return left


def _learn(
    checkpoint: Checkpoint,
    segmenter: Segmenter,
    policy: PolicyNetwork,
    samples: Samples,
    lesson: Lesson,
    config: PolicyConfig,
    values: Mapping[str, Any],
    result: Result,
) -> Checkpoint:
    """The checkpoint with a policy, and with exit heads where any are asked for."""
    tell(
        f"stepseg-accelerate: the policy learns from {counted(len(samples), 'image')}, "
        f"{counted(lesson.steps, 'step')}"
    )

    def progress(step: int, loss: float) -> None:
        tell(f"stepseg-accelerate: step {step}/{lesson.steps}, loss {loss:.3f}")

    start, seed = time.perf_counter(), values["seed"]
    teach(policy, samples, segmenter.protocol, lesson, seed=seed, progress=progress)
    merge = merge_rule(values, config)
    base = replace(checkpoint.config.reduction, merge=merge, inside=None)
    fast = with_policy(checkpoint, config, policy, base)
    if values["exits"]:
        tell(f"stepseg-accelerate: heads learn after blocks {values['exits']}")
        segmenter = _segmenter(fast, values, base.build())
        fast = with_heads(fast, distil(segmenter, merge, samples, seed))
    result.update({"learn": asdict(lesson), "learn_images": len(samples)})
    result.update({"learn_seconds": round(time.perf_counter() - start, 1)})
    return fast


def _choose(
    wish: Wish, segmenter: Segmenter, base: ReductionConfig, samples: Samples, result: Result
) -> ReductionConfig:
    """The reduction that meets the wish, by images that the policy has not learned from."""
    tell(
        f"stepseg-accelerate: choosing a reduction for {wish.target}={wish.number:g} on "
        f"{counted(len(samples), 'image')}"
    )
    if wish.promise is not None:
        return publish(wish.certify(segmenter, base, samples, output_dir() / "search"), result)
    search = search_for(segmenter, base, samples)
    chosen = wish.met_by(search)
    tried = [
        {"family": t.family.name, "strength": t.strength, **t.row, "chosen": t is chosen}
        for t in search.tried
    ]
    result.update({"tried": tried, "family": chosen.family.name})
    return chosen.reduction


def _compare(segmenter: Segmenter, chosen: Reduction, samples: Samples) -> list[dict[str, Any]]:
    """Rows: the dense model again, the accelerated one, and a smaller input of its cost."""
    tell(f"stepseg-accelerate: comparing on {counted(len(samples), 'image')} held out")
    rows = [{"name": "dense", **compare(segmenter, Reduction(), samples)}]
    rows.append({"name": "accelerated", **compare(segmenter, chosen, samples)})
    if chosen.exit:
        stay = replace(chosen, exit=None, exit_blocks=())
        rows.insert(1, {"name": "without exits", **compare(segmenter, stay, samples)})
    sizes = [read_pixels(file.path).shape[:2] for file in samples.files]
    smaller = smaller_of_cost(segmenter, rows[-1]["gmacs_mean"], sizes)
    uniform = Reduction(merge=MergeRule(windows=(2,), thresholds=None, by="uniform"))
    rows.append({"name": smaller.label, **compare(segmenter, smaller, samples)})
    rows.append({"name": uniform.label, **compare(segmenter, uniform, samples)})
    return rows


def _tell(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=f"{rows[0]['images']} images held out, beside the dense model's labels")
    for column in ("system", "same pixels", "least", "tokens", "GMACs", "s per image"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['agreement']:.2f} %",
            f"{row['agreement_least']:.2f} %",
            f"{row['tokens_mean']:.1f}",
            f"{row['gmacs_mean']:.2f}",
            f"{row['seconds_per_image']:.3f}",
        )
    show_table(table)
    folder = output_dir()
    tell(f"stepseg-accelerate: {folder / FILE}; next: stepseg-predict ckpt_path={folder} input=...")
