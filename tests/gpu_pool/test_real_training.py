"""Sweeps and ranks of real trainings: minutes, hence slow."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from commands import SMALL, start_command, write_camvid
from diary import read_diary
from gpu_pool.command import free_port

TESTS = Path(__file__).parents[1]


def environment():
    """Variables under which a job finds `killer` and starts no threads."""
    paths = [str(TESTS / "gpu_pool"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def processes_of(folder):
    """Processes whose command line or environment names a folder, except this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_six_trainings_of_two_ranks_one_of_which_dies(tmp_path):
    data = write_camvid(tmp_path / "data")
    folder = tmp_path / "a sweep, x=1"
    command = [
        sys.executable, "-m", "stepseg.cli.train", "-m", "hydra/launcher=gpu_pool",
        "hydra.launcher.cpu_slots=2", f'hydra.sweep.dir="{folder}"', "trainer=ddp_cpu",
        "data=camvid", f"data.root={data}", *SMALL, "compare=false", "seed=0,1,2,3,4,5",
        "+callbacks.kill._target_=killer.KillRank", "+callbacks.kill.rank=1",
        "+callbacks.kill.step=3", "+callbacks.kill.seed=${seed}", "+callbacks.kill.unlucky=3",
        f"+callbacks.kill.marker={tmp_path}/marker",
    ]  # fmt: skip

    def sweep():
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=900
        )
        attempts = [
            len(re.findall("^== attempt", (folder / str(job) / "console.log").read_text(), re.M))
            for job in range(6)
        ]
        return done.returncode, done.stdout + done.stderr, attempts

    code, output, attempts = sweep()
    assert code == 1, output
    assert "5 completed, 1 failed" in output
    assert "job 3 (seed=3) failed" in output
    assert attempts == [1] * 6
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == list("012345")
    for job in range(6):
        status = "failed" if job == 3 else "completed"
        result = folder / str(job) / "result.json"
        # the rank that is left may be killed before it can write why
        assert result.is_file() or job == 3
        assert not result.is_file() or json.loads(result.read_text())["status"] == status
    assert processes_of(folder) == []
    code, output, attempts = sweep()
    assert code == 0, output
    assert "1 completed, 5 skipped" in output
    assert attempts == [1, 1, 1, 2, 1, 1]
    assert "ckpt_path=" in (folder / "3" / "job.json").read_text()
    assert processes_of(folder) == []


@pytest.mark.slow
def test_torchrun_starts_the_ranks(tmp_path):
    data = write_camvid(tmp_path / "data")
    out = tmp_path / "out"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
            "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port(())}",
            "-m", "stepseg.cli.train", "trainer=ddp_cpu", "data=camvid", f"data.root={data}",
            *SMALL, "compare=false", f"hydra.run.dir={out}",
        ],
        env=environment(), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "completed"
    assert result["images"] == 5  # the validation images, each once over both ranks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_goes_on_from_the_last_checkpoint_when_a_rank_dies(tmp_path):
    """Two agents, as on two machines; one rank is killed."""
    data, out = write_camvid(tmp_path / "data"), tmp_path / "out"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
        "--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-id=one",
        f"--rdzv-endpoint=127.0.0.1:{free_port(())}", "-m", "stepseg.cli.train",
        "trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", "data=camvid",
        f"data.root={data}", *SMALL, "trainer.max_steps=8", "trainer.val_check_interval=4",
        "compare=false", "ckpt_path=last", f"hydra.run.dir={out}",
        "callbacks.last.every_n_steps=1", "+callbacks.diary._target_=diary.Diary",
        f"+callbacks.diary.file={tmp_path}/diary", "+callbacks.kill._target_=killer.KillRank",
        "+callbacks.kill.rank=1", "+callbacks.kill.step=5", "+callbacks.kill.seed=0",
        "+callbacks.kill.unlucky=0", f"+callbacks.kill.marker={tmp_path}/marker",
    ]  # fmt: skip
    # the agents' own store still has the addresses of ranks that are gone
    variables = {**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agents = [
        subprocess.Popen(command, env=variables, stdout=PIPE, stderr=STDOUT, text=True)
        for _ in range(2)
    ]
    try:
        said = [agent.communicate(timeout=800)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], said
    print((tmp_path / "diary").read_text(), f"killed at {(tmp_path / 'marker').stat().st_mtime}")
    first, second = read_diary(tmp_path / "diary")
    assert second[0] in (first[-1], first[-1] + 1)  # the last step may not have been saved yet
    assert (first, second) == (list(range(1, first[-1] + 1)), list(range(second[0], 9)))
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "completed"
    assert result["resumed_from"]["step"] == second[0] - 1
    assert processes_of(out) == []


@pytest.mark.slow
def test_a_sweep_of_ranks_without_a_launcher_is_refused(tmp_path):
    done = start_command(
        "train", "-m", "trainer=ddp_cpu", "data.root=/nowhere", "seed=0,1",
        f"hydra.sweep.dir={tmp_path}/sweep", output=tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 2
    assert "add hydra/launcher=gpu_pool" in done.stderr
    assert "Traceback" not in done.stderr
