"""Which run a job is for the trackers, its loggers, and the end of both.

A job is a run of its own; one that resumes a checkpoint continues the run that wrote it. Jobs of a
sweep share the group of the sweep's folder, whichever launcher started them.
"""

import json
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from stepseg.cli.config import make_all, output_dir, overrides
from stepseg.cli.result import Result, is_first_process, was_interrupted
from stepseg.files.writing import write_json

RECORD = "tracking.json"
"""In the output directory: the run's id, for the job that resumes it."""
CONTINUED = "tracking.continued"
"""In the output directory: where the run goes on, so that it goes on once."""
KILLED = 255
"""The exit code by which W&B knows a run that was stopped from outside."""
MAX_NAME = 120
DULL = ("logger", "callbacks", "data.root", "data.num_workers", "ckpt_path", "compare", "resume")
"""Overrides that tell no runs apart."""


@contextmanager
def tracked_result(command: str, config: dict[str, Any]) -> Iterator[Result]:
    """The `result.json` of this job, and the end of its runs in all trackers."""
    with (
        Result(output_dir(), command=command, overrides=overrides(), config=config) as result,
        finished_runs(),
    ):
        yield result


def make_loggers(
    values: Mapping[str, Any],
    job_type: str,
    *,
    resumes: Path | None = None,
    tags: Sequence[str] = (),
) -> list[Any]:
    """The loggers of `logger=...`; what is null in their configuration and known here is filled in.

    Args:
        values: with the group `logger`.
        job_type: train, policy, eval, tune or benchmark.
        resumes: the checkpoint with which a training goes on.
        tags: beside those in the configuration.

    """
    chosen = {name: dict(value) for name, value in (values.get("logger") or {}).items() if value}
    identity = {"job_type": job_type, "group": sweep_group(), "name": run_name()}
    if any("id" in value for value in chosen.values()):
        identity["id"] = run_id(resumes)
    for value in chosen.values():
        value |= {k: v for k, v in identity.items() if k in value and value[k] is None}
        if "tags" in value:
            value["tags"] = [*(value["tags"] or ()), *tags]
    return make_all("logger", chosen)


def sweep_group() -> str | None:
    """Name of the sweep's folder, else of the experiment, else None."""
    folder = sweep_folder()
    if folder is not None:
        return folder.name
    experiment = HydraConfig.get().runtime.choices.get("experiment")
    return str(experiment) if experiment else None


def sweep_folder() -> Path | None:
    """Folder of the sweep to which this job belongs, also where every job is its own process."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        return Path(hydra.sweep.dir).resolve()
    parents = output_dir().resolve().parents
    return next((p for p in parents[:3] if (p / "multirun.yaml").is_file()), None)


def run_name() -> str:
    """What the user typed, without what tells no runs apart, and the output directory's name."""
    typed = [text for text in overrides() if not _is_dull(text.lstrip("+~"))]
    text = " ".join(typed)
    place = output_dir().name
    room = MAX_NAME - len(place) - 3
    if len(text) > room:
        text = "…" + text[1 - room :]  # what a sweep varies is typed last
    return f"{text} - {place}" if text else place


def run_id(resumes: Path | None = None) -> str:
    """The run's id, noted in the output directory: new, or that of the run which is resumed.

    From the folder of another job one job may continue, and no point of a sweep: two jobs never
    write into the same run.
    """
    output = output_dir().resolve()
    origin = _folder_of(resumes) if resumes else None
    chosen = secrets.token_hex(4)
    if origin == output or (origin and sweep_folder() is None and _claim(origin, output)):
        chosen = json.loads((origin / RECORD).read_text())["id"]
    if is_first_process():
        write_json(output / RECORD, {"id": chosen, "group": sweep_group(), "name": run_name()})
    return chosen


@contextmanager
def finished_runs() -> Iterator[None]:
    """Finish a W&B run when the block ends, with the right exit code; Lightning leaves it open."""
    try:
        yield
    except BaseException as error:
        _finish(KILLED if was_interrupted(error) else 1)
        raise
    _finish(0)


def _finish(exit_code: int) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)


def _is_dull(override: str) -> bool:
    key = override.partition("=")[0]
    return any(key == dull or key.startswith(f"{dull}.") for dull in (*DULL, "hydra"))


def _folder_of(checkpoint: Path) -> Path | None:
    """The run folder of ``<folder>/checkpoints/<name>``, if it says which run it was."""
    folder = checkpoint.resolve().parent.parent
    return folder if (folder / RECORD).is_file() else None


def _claim(origin: Path, output: Path) -> bool:
    """Whether this job is the one that goes on with the run of `origin`."""
    note = origin / CONTINUED
    if is_first_process():
        try:
            with note.open("x") as file:
                file.write(str(output))
        except OSError:  # somebody else did, or the folder is read-only
            pass
    return note.is_file() and note.read_text() == str(output)
