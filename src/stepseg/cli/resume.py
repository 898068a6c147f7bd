"""`ckpt_path=`: which checkpoint a training goes on with, and whether it may."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepseg.cli.result import read_result
from stepseg.lit.resume import ResumePoint, changes, newest_point, read_point
from stepseg.lit.stopping import LAST, NEXT, PREVIOUS
from stepseg.telling import tell

COMMAND = "stepseg-train"


def find_point(ckpt_path: str | None, output: Path) -> ResumePoint | None:
    """The checkpoint behind `ckpt_path`; None: start at step 0.

    Args:
        ckpt_path: null, a file, the folder of a run, or ``last``: this run's own folder.
        output: the output directory.

    Raises:
        ValueError: no such checkpoint, or none that is whole.

    """
    if ckpt_path is None:
        return None
    path = output if ckpt_path == "last" else Path(ckpt_path)
    if path.name == LAST and path.parent.name == "checkpoints":
        path = path.parents[1]  # and, in case it is damaged, the one before
    if path.is_file():
        return read_point(path)
    if not path.is_dir():
        raise ValueError(
            f"ckpt_path={ckpt_path!r} is not a file: give a checkpoint, the folder of a run, or "
            f"'last' with hydra.run.dir=<folder of the run>"
        )
    folder = path / "checkpoints"
    point, problems = newest_point(folder)
    for problem in problems:
        _say(problem)
    if point is None and problems:
        raise ValueError(f"no checkpoint in {folder} is whole; remove the folder to start anew")
    if point is None and ckpt_path != "last":
        raise ValueError(f"ckpt_path={ckpt_path!r}: there is no checkpoint in {folder}")
    if point is None:
        _say(f"no checkpoint in {folder} yet: starting at step 0")
    else:
        _say(f"resuming {point.path} at step {point.step}")
    return point


def finished_result(ckpt_path: str | None, output: Path) -> dict[str, Any] | None:
    """The result of this very run, if ``ckpt_path=last`` asks to resume one that has completed."""
    file = output / "result.json"
    if ckpt_path != "last" or not file.is_file():
        return None
    result = read_result(file)
    if result["status"] != "completed" or result.get("command") != COMMAND:
        return None
    _say(
        f"this run has completed ({result.get('steps')} steps), nothing to resume; its figures "
        f"are in {file}"
    )
    return result


def check_config(point: ResumePoint, values: Mapping[str, Any], on_change: str) -> None:
    """Refuse, or announce, a configuration that is not the interrupted run's.

    Raises:
        ValueError: it differs and `on_change` is ``refuse``; names the keys.

    """
    if point.config is None:
        _say(f"{point.path} does not record its configuration: cannot tell whether it is the same")
        return
    changed = changes(point.config, values)
    if not changed:
        return
    listed = ", ".join(f"{key}: {old} -> {new}" for key, (old, new) in sorted(changed.items()))
    if on_change == "refuse":
        raise ValueError(
            f"the configuration differs from that of {point.path} ({listed}): give the old values, "
            f"or resume.on_change=warn if the rest of the training shall differ"
        )
    _say(f"the configuration differs from that of {point.path}: {listed}")


def check_steps(point: ResumePoint, max_steps: int) -> None:
    """Refuse a training that would end before it goes on.

    Raises:
        ValueError: the checkpoint lies behind the last step; names both.

    """
    if point.step > max_steps:
        raise ValueError(
            f"{point.path} is at step {point.step}, behind trainer.max_steps={max_steps}: give "
            f"more steps, or evaluate it with stepseg-eval ckpt_path=..."
        )


def check_unused(ckpt_path: str | None, output: Path) -> None:
    """Refuse to begin where a training has been.

    Raises:
        ValueError: `output` holds one, and it is not the one that `ckpt_path` goes on with.

    """
    folder = output.resolve() / "checkpoints"
    if not any((folder / name).is_file() for name in (LAST, NEXT, PREVIOUS)):
        return
    given = None if ckpt_path is None else Path(ckpt_path).resolve()
    own = given is not None and (given == folder.parent or folder in given.parents)
    if ckpt_path == "last" or own:
        return
    result = output / "result.json"
    if result.is_file() and read_result(result)["status"] == "completed":
        raise ValueError(
            f"{output} holds a finished training: choose another hydra.run.dir, or remove the "
            f"folder"
        )
    raise ValueError(
        f"{output} holds an unfinished training: continue it with ckpt_path=last, or choose "
        f"another hydra.run.dir, or remove the folder"
    )


def _say(message: str) -> None:
    tell(f"{COMMAND}: {message}")
