"""Whole sweeps of fake jobs, run as a user would run them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu_pool.job import masked
from gpu_pool.local import sweep_lock

APP = Path(__file__).parent / "fake_job.py"


def start(folder, *overrides, launcher="gpu_pool", **environment):
    options = [f"hydra/launcher={launcher}", f'hydra.sweep.dir="{folder}"']
    if launcher == "gpu_pool" and "FAKE_GPUS" not in environment:
        options.append("hydra.launcher.cpu_slots=2")
    inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, str(APP), "-m", *options, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**inherited, **environment},
        cwd=folder.parent,
    )


def sweep(folder, *overrides, **more):
    """Exit code and output of a sweep."""
    process = start(folder, *overrides, **more)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def attempts(folder):
    return (folder / "attempts").read_text().splitlines()


def pids(folder):
    return [int(pid) for file in folder.glob("*/pids") for pid in file.read_text().split()]


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


linux = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks into /proc")


@linux
def test_one_failure_stops_nothing_and_only_it_runs_again(tmp_path):
    folder = tmp_path / "a sweep, x=1"
    overrides = ["x=1,2,3,4", "rank=true", "seconds=0.3", "+acts={2:die}"]
    code, output = sweep(folder, *overrides)
    assert code == 1, output
    assert "job 1 (x=2) failed: killed by signal 9; see" in output
    assert f"the end of {folder}/1/console.log:\n  hello from 2" in output
    assert "Traceback" not in output
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]
    for job in (0, 2, 3):
        assert result_of(folder / str(job))["status"] == "completed"
        assert len(attempts(folder / str(job))) == 1
    assert len(pids(folder)) == 8
    assert not any(map(alive, pids(folder)))
    log = (folder / "1" / "console.log").read_text()
    assert "ended 1 it left behind" in log
    code, output = sweep(folder, *overrides)
    assert code == 1
    assert "3 of them completed before" in output
    assert [len(attempts(folder / str(job))) for job in range(4)] == [1, 2, 1, 1]


def test_two_at_a_time_and_the_next_as_soon_as_one_ends(tmp_path):
    code, output = sweep(tmp_path / "s", "x=0,1,2,3", "+times={0:4}", "seconds=1")
    assert code == 0, output
    events = []
    for job in range(4):
        for line in (tmp_path / "s" / str(job) / "clock").read_text().splitlines():
            what, when = line.split()
            events.append((float(when), what, job))
    events.sort()
    running, most = 0, 0
    for _, what, _ in events:
        running += 1 if what == "start" else -1
        most = max(most, running)
    assert most == 2
    # no barrier: the third job starts although the first is still running
    order = [(what, job) for _, what, job in events]
    assert order.index(("start", 2)) < order.index(("end", 0))


def test_gpus_are_handed_out_and_no_more_than_there_are(tmp_path):
    environment = {"FAKE_GPUS": "4", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c,GPU-d"}
    options = ["hydra.launcher.gpus_per_job=2", "x=0,1,2", "seconds=0.5"]
    code, output = sweep(tmp_path / "s", *options, **environment)
    assert code == 0, output
    seen = [attempts(tmp_path / "s" / str(job))[0].split()[0] for job in range(3)]
    assert set(seen) == {"GPU-a,GPU-b", "GPU-c,GPU-d"}
    code, output = sweep(tmp_path / "t", "hydra.launcher.gpus_per_job=5", "x=0", **environment)
    assert code == 1
    assert "gpus_per_job=5, but there are 4 GPUs here (GPU-a, GPU-b, GPU-c, GPU-d)" in output
    code, output = sweep(
        tmp_path / "t", "trainer.accelerator=gpu", "trainer.devices=1,2", "x=0", **environment
    )
    assert code == 1
    assert (
        "trainer.devices=2 GPUs, but every slot has 1: set hydra.launcher.gpus_per_job=2" in output
    )
    assert "Traceback" not in output
    assert not list((tmp_path / "t").glob("*/attempts"))


@linux
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_launcher_ends_every_process(signum, tmp_path):
    folder = tmp_path / "s"
    process = start(folder, "x=0,1,2", "rank=true", "seconds=200")
    try:
        wait_for(lambda: len(pids(folder)) == 4)
        assert all(map(alive, pids(folder)))
        process.send_signal(signum)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    wait_for(lambda: not any(map(alive, pids(folder))), 20)
    assert not (folder / "2").exists()
    if signum != signal.SIGKILL:
        assert process.returncode == 130
        assert "2 interrupted" in output
        assert "the same command goes on where it stopped" in output
    else:
        assert process.returncode == -signal.SIGKILL


@linux
def test_a_killed_supervisor_takes_its_job_along(tmp_path):
    folder = tmp_path / "s"
    process = start(folder, "x=0,1", "rank=true", "seconds=5")
    wait_for(lambda: (folder / "0" / "pids").is_file() and len(pids(folder)) == 4)
    main = int((folder / "0" / "pids").read_text().split()[0])
    supervisor = int(Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert "1 completed, 1 failed" in output
    assert not any(map(alive, pids(folder)))


def test_another_job_in_the_folder_is_never_taken_for_done(tmp_path):
    code, _ = sweep(tmp_path / "s", "x=1,2")
    assert code == 0
    code, output = sweep(tmp_path / "s", "x=1,5")
    assert code == 1
    assert "holds another job: it has ['x=2'], job 1 has ['x=5']" in output
    assert len(attempts(tmp_path / "s" / "0")) == 1
    assert result_of(tmp_path / "s" / "1")["mIoU"] == 99
    subdir = "hydra.sweep.subdir=${hydra.job.override_dirname}"
    assert sweep(tmp_path / "t", "x=1,2", subdir)[0] == 0
    code, output = sweep(tmp_path / "t", "x=1,5,2", subdir)
    assert code == 0, output
    assert "3 jobs, 2 of them completed before" in output
    assert (tmp_path / "t" / "x=5" / "result.json").is_file()
    code, output = sweep(tmp_path / "u", "x=1,2", "hydra.sweep.subdir=same")
    assert code == 1
    assert "jobs 0 and 1 would both write to" in output


def test_retries_resume_from_the_last_checkpoint(tmp_path):
    overrides = ["x=1", "act=die once", "checkpoint=true", "hydra.launcher.retries=1"]
    code, output = sweep(tmp_path / "s", *overrides)
    assert code == 0, output
    assert "trying again" in output
    first, second = attempts(tmp_path / "s" / "0")
    assert first.endswith("None")
    assert "last" in second
    code, output = sweep(tmp_path / "t", *overrides, "hydra.launcher.resume=false")
    assert code == 0, output
    assert attempts(tmp_path / "t" / "0")[1].endswith("None")


def test_an_exit_code_of_0_without_a_result_is_a_failure(tmp_path):
    code, output = sweep(tmp_path / "s", "x=1", "act=vanish,raise")
    assert code == 1
    assert "ended with exit code 0 and without a result.json" in output
    assert "ValueError: no luck" in output


def test_sweepers_get_figures_and_failures(tmp_path):
    overrides = ["hydra/sweeper=climber", "+acts={4:raise}"]
    code, output = sweep(tmp_path / "s", *overrides)
    assert code == 0, output
    found = json.loads((tmp_path / "s" / "found.json").read_text())
    assert (found["0"], found["2"], found["3"]) == (91, 99, 100)
    assert "job 1 (x=4) failed: ValueError: no luck" in found["4"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir() if p.is_dir()) == list("0123")
    several = ["hydra/sweeper=climber", "hydra.launcher.objective=[mIoU,gmacs_mean]"]
    assert sweep(tmp_path / "t", *several)[0] == 0
    assert json.loads((tmp_path / "t" / "found.json").read_text())["2"] == [99, 2]


def test_two_launchers_keep_out_of_each_others_way(tmp_path):
    folder = tmp_path / "s"
    first = start(folder, "x=1", "seconds=20")
    try:
        wait_for(lambda: (folder / "0" / "attempts").is_file())
        code, output = sweep(folder, "x=1")
        assert code == 1
        assert "is in use" in output
    finally:
        first.terminate()
        first.communicate(timeout=60)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("dear")
    (tmp_path / ".gpu_pool.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="gpu_pool"), sweep_lock(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "dear"


def test_secrets_are_not_noted_with_a_job():
    typed = ["+a.api_key=X1", "+a={token: X1, b: c}", "tokens=[1,2]", "a.token=${oc.env:T}"]
    assert masked(typed) == ["+a.api_key=***", "+a={token: ***, b: c}", *typed[2:]]
    words = ["passphrase", "passwd", "credentials", "private_key", "secrets"]
    assert masked([f"+user.{word}=X1" for word in words]) == [f"+user.{w}=***" for w in words]


def test_a_sweep_with_ranks_in_one_process_is_refused(tmp_path):
    code, output = sweep(tmp_path / "s", "x=1,2", "trainer.devices=2", launcher="basic")
    assert code == 1
    assert "add hydra/launcher=gpu_pool" in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("attempts"))


def test_a_sweep_under_torchrun_is_refused(tmp_path):
    code, output = sweep(tmp_path / "s", "x=1,2", LOCAL_RANK="1")
    assert code == 1
    assert "start the sweep once, without torchrun" in output
