"""Sweeps on a real Ray: minutes, hence slow."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from commands import SMALL, write_camvid
from diary import read_diary
from gpu_pool.processes import living

pytest.importorskip("ray")
HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def wait_for(condition, seconds=600):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)
    return found


def marked(mark):
    """Processes that inherited a variable, and those whose command line has it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if mark.encode() in text and state not in "ZX" and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def text(path):
    return path.read_text() if path.is_file() else ""


def status(folder):
    result = text(folder / "result.json")
    return json.loads(result)["status"] if result else None


@pytest.mark.timeout(900)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_the_launcher_ends_every_process(signum, tmp_path):
    """Ray's own processes included; the same command then goes on."""
    folder, mark = tmp_path / "s", f"TEST_MARK={tmp_path}"
    command = [
        sys.executable, str(HERE / "fake_job.py"), "-m", "hydra/launcher=ray",
        "hydra.launcher.address=local", "hydra.launcher.max_parallel=2",
        f"hydra.sweep.dir={folder}", "x=1,2,3", "+acts={2:raise}", "rank=true", "checkpoint=true",
    ]  # fmt: skip
    environment = {**os.environ, "TEST_MARK": str(tmp_path)}
    output = open(tmp_path / "output", "w")  # noqa: SIM115
    process = subprocess.Popen(
        command,
        stdout=output,
        stderr=output,
        env={**environment, "FAKE_SECONDS": "600"},
        cwd=tmp_path,
    )
    try:
        wait_for(lambda: len(list(folder.glob("*/pids"))) == 2)
        process.send_signal(signum)
        code = process.wait(120)
    finally:
        process.kill()
    wait_for(lambda: not marked(mark), 120)
    assert code == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    assert not (folder / "2").exists()
    assert (signum == signal.SIGKILL) is not ("2 interrupted" in text(tmp_path / "output"))
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 completed, 1 failed" in done.stderr
    assert "ValueError: no luck" in done.stderr
    assert [len(text(folder / job / "attempts").splitlines()) for job in "012"] == [2, 2, 1]
    assert text(folder / "0" / "attempts").splitlines()[1].endswith("last.ckpt")
    assert not marked(mark)


@pytest.fixture
def cluster(monkeypatch):
    """A Ray of two nodes of one core each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")

    nodes = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**nodes, "include_dashboard": False})
    cluster.add_node(**nodes)
    yield cluster
    cluster.shutdown()


@pytest.mark.timeout(3000)
def test_six_trainings_a_kill_a_lost_node_and_a_lost_launcher(cluster, tmp_path):
    """Nothing is lost but the steps since the last checkpoint, and nothing runs twice."""
    folder, data, steps = tmp_path / "sweep", write_camvid(tmp_path / "data"), 8
    command = [
        sys.executable, "-m", "stepseg.cli.train", "-m", "hydra/launcher=ray",
        f"hydra.launcher.address={cluster.address}", "hydra.launcher.retries=1",
        f"hydra.sweep.dir={folder}", "data=camvid", f"data.root={data}", *SMALL, "compare=false",
        "seed=0,1,2,3,4,5", f"trainer.max_steps={steps}", "trainer.val_check_interval=4",
        "callbacks.last.every_n_steps=1", "+callbacks.diary._target_=diary.Diary",
        "+callbacks.diary.file='${hydra:runtime.output_dir}/diary'", "+callbacks.diary.pause=1",
        "+callbacks.kill._target_=killer.KillRank", "+callbacks.kill.rank=0",
        "+callbacks.kill.step=3", "+callbacks.kill.seed=${seed}", "+callbacks.kill.unlucky=1",
        f"+callbacks.kill.marker={tmp_path}/marker",
    ]  # fmt: skip
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}

    def start():
        output = open(tmp_path / "output", "a")  # noqa: SIM115
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def folders_of(node):
        """Jobs that run there and have a checkpoint."""
        raylet = node.all_processes["raylet"][0].process.pid
        lines = [Path(f"/proc/{pid}/cmdline") for pid in living(raylet)]
        found = set()
        for line in lines:
            with contextlib.suppress(OSError):
                found |= set(re.findall(rf"{folder}/\d", line.read_text()))
        return [Path(f) for f in found if (Path(f) / "checkpoints" / "last.ckpt").is_file()]

    def attempts(job):
        return re.findall("^== attempt.*", text(job / "console.log"), re.MULTILINE)

    head, node = cluster.list_all_nodes()
    process = start()
    try:
        (lost,) = wait_for(lambda: folders_of(node))
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: len(attempts(lost)) == 2 or status(lost) == "completed")
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        wait_for(lambda: sum(status(job) == "completed" for job in folder.glob("[0-9]")) >= 3)
        wait_for(lambda: folders_of(head))
        process.send_signal(signal.SIGKILL)
        process.wait()
        again = start()
        assert again.wait(1800) == 0, text(tmp_path / "output")
    finally:
        process.kill()
        print(text(tmp_path / "output"))
    jobs = [folder / str(number) for number in range(6)]
    assert [status(job) for job in jobs] == ["completed"] * 6
    tries = {job.name: len(attempts(job)) for job in jobs}
    assert tries["1"] >= 2  # killed
    assert tries[lost.name] >= 2
    assert sum(tries.values()) <= 6 + 1 + 1 + 2  # a kill, a node, and what two nodes were at
    for job in jobs:
        made = read_diary(job / "diary")
        assert made[-1][-1] == steps
        for before, after in pairwise(made):  # from the last checkpoint, which is of every step
            assert after[0] in (before[-1], before[-1] + 1)
    assert "ckpt_path=" in attempts(lost)[1]
    wait_for(lambda: not marked(str(folder)), 60)
