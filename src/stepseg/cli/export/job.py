"""An export: weights with a card, or a file for another runtime."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stepseg.card.examples import Example
from stepseg.card.files import check_place, write_shared
from stepseg.card.tuned import with_choice
from stepseg.checkpoint import Checkpoint, write_inference_checkpoint
from stepseg.cli.config import (
    checkpoint_reduction,
    given_checkpoint,
    output_dir,
    overrides,
    plain,
    recorded,
)
from stepseg.cli.share import known_facts
from stepseg.cli.tracking import tracked_result
from stepseg.cli.typed import refuse_typed
from stepseg.data.files import read_image
from stepseg.export.job import StaticExport, export_static
from stepseg.model_config import ReductionConfig
from stepseg.profile.images import image_files
from stepseg.telling import counted, tell
from stepseg.weights.hub import check_push, push

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}


def export(cfg: DictConfig) -> None:
    """Write the file and a `result.json` about it."""
    values = plain(cfg)
    with tracked_result("stepseg-export", recorded(cfg)) as result:
        target = _target(values["format"], values["output"])
        if values["push_to"]:
            check_push(values["push_to"])
        if values["format"] == "safetensors" and values["card"]:
            check_place(target.parent)
        checkpoint = given_checkpoint(values)
        given = ReductionConfig.from_dict(
            checkpoint_reduction(values["reduction"], checkpoint.config)
        )
        others = _OF_PROGRAMS if values["format"] == "safetensors" else _OF_WEIGHTS
        refuse_typed(others, overrides(), f"format={values['format']}")
        files = {target.name: target}
        if values["format"] == "safetensors":
            files = _share(checkpoint, target, given, values)
            result.update({"device": "cpu", "bytes": target.stat().st_size})
        else:
            job = StaticExport(
                reduction=given,
                image_size=_size(values["image_size"]),
                **{key: values[key] for key in _OPTIONS},
            )
            checkpoint = replace(checkpoint, about=_chosen(checkpoint, given, values).about)
            result.update(export_static(checkpoint, target, values["format"], job))
        result.update({"file": str(target)})
        if values["push_to"]:
            message = f"{target.name} of {checkpoint.path.name}, by stepseg"
            address = push(values["push_to"], files, message=message, private=values["private"])
            result.update({"pushed_to": address})
    print("\n".join(_summary(result.values)))


def _chosen(
    checkpoint: Checkpoint, reduction: ReductionConfig, values: Mapping[str, Any]
) -> Checkpoint:
    """The checkpoint with this reduction as its own; itself if it is."""
    if reduction == checkpoint.config.reduction:
        return checkpoint
    tuned = values["reduction"].get("tuned") or {}
    return with_choice(checkpoint, reduction, tuned, measured=False)


def _share(
    checkpoint: Checkpoint, target: Path, reduction: ReductionConfig, values: Mapping[str, Any]
) -> dict[str, Path]:
    """Write weights and card; returns the files by their name in a repository."""
    facts, metrics = known_facts(checkpoint, values["result"])
    checkpoint = _chosen(checkpoint, reduction, values)
    if not values["card"]:
        write_inference_checkpoint(target, checkpoint, facts)
        return {target.name: target}
    examples: list[Example] = []
    if values["images"]:
        found = image_files(values["images"])
        chosen = [found[0], found[len(found) // 2]][: len(found)]
        examples = [(read_image(file), None) for file in chosen]
    shared = write_shared(
        target,
        checkpoint,
        facts,
        examples=examples,
        metrics=metrics,
        name=values["name"],
        source=f"hf://{values['push_to']}" if values["push_to"] else None,
        license_=values["license"],
    )
    for problem in shared.problems:
        tell(f"stepseg-export: the card lacks {problem}")
    return shared.files


_OPTIONS = ("batch_size", "scores", "opset", "verify", "images", "seed")
_OF_PROGRAMS = ("image_size", "batch_size", "scores", "opset", "verify")
_OF_WEIGHTS = ("card", "result", "name", "license")


def _target(format_: str, output: str | None) -> Path:
    """The file to write, from a file or a folder."""
    if format_ not in SUFFIXES:
        raise ValueError(f"format={format_!r}: choose one of {', '.join(SUFFIXES)}")
    suffix = SUFFIXES[format_]
    path = Path(output) if output else output_dir()
    if path.suffix == suffix:
        return path
    if path.suffix in SUFFIXES.values():
        raise ValueError(f"output={output!r}: files of format={format_} end in {suffix}")
    return path / f"model{suffix}"


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list) or len(sides) != 2 or not all(type(s) is int for s in sides):
        raise ValueError(f"image_size is pixels or [height, width], got {value!r}")
    return sides[0], sides[1]


def _summary(result: Mapping[str, Any]) -> list[str]:
    """What the terminal says."""
    lines = [f"{result['file']}: {result['bytes'] / 1e6:.1f} MB"]
    if "pushed_to" in result:
        lines.append(f"pushed; load it by {result['pushed_to']}")
    if "tokens_per_stage" in result:
        height, width = result["image_size"]
        tokens = ", ".join(map(str, result["tokens_per_stage"]))
        lines.append(f"{width} x {height} pixels; tokens by stage: {tokens}")
    agreement = result.get("agreement")
    if agreement:
        lines.append(
            f"same class in {100 * agreement['equal']:.4f} % of {agreement['pixels']} pixels; "
            f"elsewhere the two were at most {agreement['largest_margin']:.1e} apart"
        )
        lines.append(
            f"{result['exported_ms_p50']:.1f} ms against {result['model_ms_p50']:.1f} ms of the "
            f"model itself, {counted(result['threads'], 'thread')}"
        )
    return lines
