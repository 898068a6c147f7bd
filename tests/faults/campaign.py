"""Faults on purpose: kill -9 at any moment, full disk, silent server, bad images; nothing is lost.

python tests/faults/campaign.py --kills 20 --seed 0 --work /tmp/campaign

Every run is a process of its own, forked from one that has imported everything, and really killed.
Prints a table and ends with an error when a run differs from the one that nobody disturbed.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))

from commands import compose_config, write_camvid
from stepseg.cli.evaluate.job import evaluate
from stepseg.cli.train.job import train
from training import TINY, assert_same_run, load

STEPS = ["trainer.max_steps=60", "trainer.val_check_interval=20", "callbacks.last.every_n_steps=5"]
SWEEP = "sweep.exit_thresholds=[0.2,0.3,0.4,0.5,0.6,0.7]"
FREE = ("seconds", "images_per_s", "timing", "latency")


def start(task: Callable[[], object], log: Path) -> int:
    """Run a task in a child process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        task()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float | None = None) -> int | None:
    """Exit code of a child, negative for a signal; None: still running after so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            return None
        time.sleep(0.01)


def finish(task: Callable[[], object], log: Path) -> int:
    """Run a task in a child to its end; returns the exit code."""
    code = wait(start(task, log))
    assert code is not None
    return code


def kill_and_resume(
    begin: Callable[[Path], Callable[[], object]],
    check: Callable[[Path], None],
    progress: Callable[[Path], int],
    work: Path,
    kills: int,
    longest: float,
    draw: random.Random,
) -> dict[str, int]:
    """Kill at random moments, start again, compare what has run to its end.

    Args:
        begin: makes the task of a run in a folder; it continues what lies there.
        check: raises when a finished run is not as it should be.
        progress: steps that the folder can go on from.
        work: folder of the runs.
        kills: how many.
        longest: seconds that a process is left alone, at most.
        draw: random numbers.

    """
    done = {"kills": 0, "runs": 0, "lost": 0}
    before = 0
    while True:
        folder = work / f"run{done['runs']}"
        folder.mkdir(parents=True, exist_ok=True)
        pid = start(begin(folder), folder / "log.txt")
        patience = draw.uniform(0, longest) if done["kills"] < kills else None
        code = wait(pid, patience)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            done["kills"] += 1
            after = progress(folder)
            done["lost"] += after < before  # what was safe once stays safe
            before = after
            continue
        if code:
            raise AssertionError((folder / "log.txt").read_text()[-3000:])
        check(folder)
        done["runs"] += 1
        before = 0
        if done["kills"] >= kills:
            return done


def saved_step(folder: Path) -> int:
    """The newest step among the whole checkpoints of a run."""
    steps = [0]
    for name in ("last.ckpt", "next.ckpt", "previous.ckpt"):
        # a running training renames it meanwhile
        with contextlib.suppress(FileNotFoundError):
            steps.append(int(load(folder, name)["global_step"]))
    return max(steps)


def train_task(folder: Path, data: Path, *overrides: str) -> Callable[[], object]:
    """A small training in a folder."""
    chosen = ["data=camvid", f"data.root={data}", *TINY, *STEPS, *overrides]
    return lambda: train(compose_config("train", chosen, folder))


def sweep_task(folder: Path, data: Path, checkpoint: Path) -> Callable[[], object]:
    """A small grid in a folder."""
    chosen = [
        f"ckpt_path={checkpoint}", "data=camvid", f"data.root={data}", "data.num_workers=0",
        SWEEP, "grid.snapshot_seconds=0.2", "grid.points_per_pass=2",
    ]  # fmt: skip
    return lambda: evaluate(compose_config("eval", chosen, folder))


def sweep_rows(folder: Path) -> list[dict[str, str]]:
    """Figures of a grid that do not depend on the clock."""
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith(FREE)} for row in rows]


def finished_points(folder: Path) -> int:
    """Rows that a grid has finished."""
    path = folder / "grid" / "rows.json"
    return len(json.loads(path.read_text())["rows"]) if path.is_file() else 0


def fill_disk(work: Path, data: Path, whole: Path) -> None:
    """A checkpoint does not fit; after making room the run ends as if nothing had happened."""
    folder = work / "run"
    folder.mkdir(parents=True)
    # the first checkpoints are written without the limit
    pid = start(train_task(folder, data), work / "log.txt")
    while saved_step(folder) < 10:
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    safe = saved_step(folder)
    limit = (folder / "checkpoints" / "last.ckpt").stat().st_size // 2
    resume = ("ckpt_path=last",)

    def full() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return train_task(folder, data, *resume)()

    assert finish(full, work / "log.txt") == 1
    assert "no space left to write" in (work / "log.txt").read_text()
    assert saved_step(folder) >= safe
    assert finish(train_task(folder, data, *resume), work / "log.txt") == 0
    assert_same_run(folder, whole)


def lose_tracker(work: Path, data: Path, whole: Path) -> None:
    """A W&B server that accepts and never answers stops no training; the run is kept on disk."""
    folder = work / "run"
    folder.mkdir(parents=True)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        environment = {
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
            "WANDB_API_KEY": "a" * 40,
            "WANDB_MODE": "online",
        }
        tracked = ("logger=wandb", "logger.wandb.init_timeout=2", "logger.wandb.finish_timeout=2")

        def task() -> object:
            os.environ.update(environment)
            return train_task(folder, data, *tracked)()

        assert finish(task, work / "log.txt") == 0, (work / "log.txt").read_text()[-3000:]
    assert "this run is kept on disk" in (work / "log.txt").read_text()
    assert list(folder.rglob("offline-run-*/*.wandb"))
    assert_same_run(folder, whole)


def spoil_images(work: Path) -> None:
    """Unreadable images end a training by name, or are left out and counted."""
    root = write_camvid(work / "data")
    (root / "images" / "train" / "002.png").write_bytes(b"no image")
    assert finish(train_task(work / "raise", root), work / "log.txt") == 1
    assert "002.png: cannot read this image" in (work / "log.txt").read_text()
    skip = train_task(work / "skip", root, "data.on_error=skip")
    assert finish(skip, work / "log.txt") == 0
    result = json.loads((work / "skip" / "result.json").read_text())
    assert result["broken_images"]["files"] == 1


def campaign(work: Path, kills: int, sweep_kills: int, seed: int) -> list[tuple[str, ...]]:
    """Everything; returns the rows of the table."""
    torch.set_num_threads(1)
    draw, rows = random.Random(seed), []
    work.mkdir(parents=True)
    data = write_camvid(work / "data")
    began = time.monotonic()
    assert finish(train_task(work / "whole", data), work / "whole.txt") == 0
    whole_s = time.monotonic() - began

    def add(name: str, began: float, done: dict[str, int]) -> None:
        shown = (str(done.get(key, 0)) for key in ("kills", "runs", "lost"))
        rows.append((name, *shown, f"{time.monotonic() - began:.0f}"))
        print(*rows[-1], sep="\t", flush=True)

    print("fault", "kills", "identical runs", "lost", "seconds", sep="\t")
    began = time.monotonic()
    done = kill_and_resume(
        lambda folder: train_task(folder, data, "ckpt_path=last"),
        lambda folder: assert_same_run(folder, work / "whole"),
        saved_step, work / "kills", kills, whole_s * 0.7, draw,
    )  # fmt: skip
    add("kill -9 in training", began, done)

    checkpoint = work / "whole" / "checkpoints" / "best.ckpt"
    began = time.monotonic()
    assert finish(sweep_task(work / "grid", data, checkpoint), work / "grid.txt") == 0
    grid_s = time.monotonic() - began
    began = time.monotonic()

    def same_grid(folder: Path) -> None:
        assert sweep_rows(folder) == sweep_rows(work / "grid")

    done = kill_and_resume(
        lambda folder: sweep_task(folder, data, checkpoint),
        same_grid, finished_points, work / "grids", sweep_kills, grid_s, draw,
    )  # fmt: skip
    add("kill -9 in a grid", began, done)
    began = time.monotonic()
    fill_disk(work / "full", data, work / "whole")
    add("disk full", began, {"kills": 1, "runs": 1})
    began = time.monotonic()
    lose_tracker(work / "tracker", data, work / "whole")
    add("W&B unreachable", began, {"runs": 1})
    began = time.monotonic()
    spoil_images(work / "spoilt")
    add("unreadable image", began, {"runs": 2})
    return rows


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sweep-kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="a folder that does not exist")
    options = parser.parse_args()
    rows = campaign(options.work, options.kills, options.sweep_kills, options.seed)
    if any(row[3] != "0" for row in rows):
        sys.exit("something was lost")


if __name__ == "__main__":
    main()
