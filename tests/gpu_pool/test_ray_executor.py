"""The executor of Ray, with threads for its remote functions; `test_ray` has a real one."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from fake_ray import FakeRay
from gpu_pool import on_node, ray_executor
from gpu_pool.errors import SweepError
from gpu_pool.job import Job, State
from gpu_pool.on_node import HOLDS, LEASE, Around, run_job
from gpu_pool.options import RayOptions
from gpu_pool.plan import needed_gpus
from gpu_pool.pool import Pool
from gpu_pool.ray_cluster import connect
from gpu_pool.ray_executor import RayExecutor

DONE = """printf '{"status": "completed", "mIoU": 1.5}' > $0/result.json"""
CPU = OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 1}})
GPUS = OmegaConf.create({"trainer": {"accelerator": "gpu", "devices": 2}})


def job(folder, number, script=DONE, cfg=CPU):
    folder = folder / str(number)
    command = ["sh", "-c", f'echo "$1" >> $0/attempts; {script}', str(folder)]
    made = Job(number, [f"x={number}"], "fake", folder, command, f"x={number}", can_resume=True)
    return made, cfg


class Status:
    """Notes what it is told; `at_beat` may do something."""

    def __init__(self, at_beat=lambda: None):
        self.told, self.beat = [], at_beat

    def started(self, job):
        self.told.append(f"{job.number} started")

    def ended(self, job, *, again):
        self.told.append(f"{job.number} {job.state.value}{' again' if again else ''}")


def run(folder, jobs, monkeypatch, status=None, ray=None, **options):
    """Run jobs as a sweep does."""
    ray = ray or FakeRay()
    monkeypatch.setattr(ray_executor, "connect", lambda address: (ray, address == "local"))
    options = RayOptions(**{"grace_seconds": 5.0} | options)
    executor = RayExecutor(options, {"WANDB_MODE": "offline", "HOME": "/nowhere"}, "a/sweep")
    for one, cfg in jobs:
        executor.check(one, cfg)
    with executor.hold(folder) as where:
        assert where == "Ray with 1 node, 4 cores, 2 GPUs"
        Pool(executor, options=options, status=status or Status()).run([one for one, _ in jobs])
    assert not list(folder.rglob(f"*{LEASE}"))
    return ray


def test_jobs_complete_and_fail_and_get_what_they_need(tmp_path, monkeypatch):
    show = "echo $CUDA_VISIBLE_DEVICES $WANDB_MODE $WANDB_RUN_GROUP $HOME $RAY_X $GPU_POOL_HOLDS;"
    monkeypatch.setenv("HOME", "/home/node")
    monkeypatch.setenv("RAY_X", "secret of Ray")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    jobs = [job(tmp_path, 0, show + DONE, GPUS), job(tmp_path, 1, "exit 3"), job(tmp_path, 2, show)]
    ray = run(tmp_path, jobs, monkeypatch, cpus_per_job=4)
    states = [one.state for one, _ in jobs]
    assert states == [State.COMPLETED, State.FAILED, State.FAILED]
    assert [one.message for one, _ in jobs][1:] == [
        "ended with exit code 3 and without a result.json",
        "ended with exit code 0 and without a result.json",
    ]
    assert [(o["num_cpus"], o["num_gpus"], o["max_retries"]) for o in ray.options] == [
        (4, 2, 0), (4, 0, 0), (4, 0, 0),
    ]  # fmt: skip
    assert jobs[0][0].tail(1) == [f"0,3 offline a/sweep /home/node {tmp_path / '0'}"]
    assert jobs[2][0].tail(1) == [f"offline a/sweep /home/node {tmp_path / '2'}"]
    assert jobs[0][0].slot.endswith("gpu 0,3")
    assert HOLDS == "GPU_POOL_HOLDS"


class Losing(FakeRay):
    """Loses the node of the first attempts, once they have begun."""

    def __init__(self, often):
        super().__init__()
        self.often = often

    def remote(self, function):
        def losing(job, *arguments):
            run = function(job, *arguments)
            yield next(run)
            if job.attempts <= self.often:
                while not (job.folder / "checkpoints" / "last.ckpt").is_file():
                    on_node.time.sleep(0.02)
                run.close()
                raise self.exceptions.NodeDiedError("the node died")
            yield from run

        return super().remote(losing)


def test_a_job_whose_node_died_goes_on_elsewhere(tmp_path, monkeypatch):
    trains = (
        f'mkdir -p $0/checkpoints; touch $0/checkpoints/last.ckpt; test "$1" || sleep 60; {DONE}'
    )
    one, cfg = job(tmp_path, 0, trains)
    status = Status()
    run(tmp_path, [(one, cfg)], monkeypatch, status, Losing(1))
    assert status.told == ["0 started", "0 failed again", "0 started", "0 completed"]
    first, second = (one.folder / "attempts").read_text().splitlines()
    assert (first, second) == ("", f'ckpt_path="{one.folder}/checkpoints/last.ckpt"')
    gone, cfg = job(
        tmp_path, 1, "mkdir -p $0/checkpoints; touch $0/checkpoints/last.ckpt; sleep 60"
    )
    run(tmp_path, [(gone, cfg)], monkeypatch, None, Losing(9), node_retries=1, retries=5)
    assert (gone.attempts, gone.state) == (2, State.FAILED)
    assert gone.message == "lost with its node: the node died"


def test_ctrl_c_ends_what_runs_and_what_waits(tmp_path, monkeypatch):
    jobs = [job(tmp_path, n, "trap 'exit 7' TERM; touch $0/on; sleep 60 & wait") for n in range(3)]

    def ctrl_c():
        if len(list(tmp_path.glob("*/on"))) == 2:
            status.beat = lambda: None
            raise KeyboardInterrupt

    status = Status(ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, jobs, monkeypatch, status, max_parallel=2)
    assert [one.state.value for one, _ in jobs] == ["interrupted", "interrupted", "waiting"]
    assert not (tmp_path / "2").exists()


def test_who_loses_the_folder_ends_at_once(tmp_path, monkeypatch):
    one, cfg = job(tmp_path, 0, "trap '' TERM; touch $0/on; sleep 60")

    def taken_over():
        with contextlib.suppress(FileNotFoundError):
            if (one.folder / "on").exists():
                (one.folder / LEASE).unlink()

    run(tmp_path, [(one, cfg)], monkeypatch, Status(taken_over), grace_seconds=600)
    assert one.message == "killed by signal 9"


@pytest.mark.parametrize(("said", "code"), [(b".", 7), (b"..", 137), (b"", 7)])
def test_a_supervisor_is_asked_by_bytes_twice_means_at_once(said, code):
    """And by the end of its launcher, which is never more than one request."""
    patient = "trap 'sleep 1; exit 7' TERM; echo on; while :; do sleep 0.1; done"
    process = subprocess.Popen(
        [sys.executable, "-m", "gpu_pool.supervise", "600", "sh", "-c", patient],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == b"on\n"
    process.stdin.write(said)
    process.stdin.close()
    assert process.wait(60) == code


def around(folder):
    (folder / LEASE).touch()
    return Around(folder, "a/sweep", {}, str(folder), 1.0)


def test_what_a_lost_attempt_completed_is_not_run_again(tmp_path):
    one, _ = job(tmp_path, 0)
    one.folder.mkdir()
    (one.folder / "result.json").write_text(json.dumps({"status": "completed"}))
    assert list(run_job(one, around(tmp_path), 0))[1:] == [0]
    assert not one.log.exists()
    (one.folder / "job.json").write_text(json.dumps({"overrides": ["x=5"]}))
    with pytest.raises(SweepError, match="holds another job"):
        list(run_job(one, around(tmp_path), 0))
    assert not (one.folder / LEASE).exists()


def test_a_ray_of_our_own_does_not_grow_and_a_cluster_may(tmp_path, monkeypatch, capsys):
    with pytest.raises(SweepError, match="needs 5 cores and up to 2 GPUs of one node, which have"):
        run(tmp_path, [job(tmp_path, 0, cfg=GPUS)], monkeypatch, cpus_per_job=5, address="local")
    assert not (tmp_path / "0").exists()
    run(tmp_path, [job(tmp_path, 0, cfg=GPUS)], monkeypatch, cpus_per_job=5)
    assert "waiting for a node that has more" in capsys.readouterr().err


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path, monkeypatch):
    one, cfg = job(tmp_path, 0)
    elsewhere = Around(Path("/not/there"), "", {}, "/", 1.0)
    monkeypatch.setattr(ray_executor, "run_job", lambda j, _, gpus: run_job(j, elsewhere, gpus))
    run(tmp_path, [(one, cfg)], monkeypatch)
    assert "does not see /not/there: hydra.sweep.dir must lie in a folder that all" in one.message


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"trainer": {"accelerator": "gpu", "devices": 4}}, 4),
        ({"trainer": {"accelerator": "gpu", "devices": [0, 1]}}, 2),
        ({"trainer": {"accelerator": "cpu", "devices": 2}}, 0),
        ({"device": "cuda"}, 1),
        ({"device": "cpu"}, 0),
        ({"trainer": {"accelerator": "gpu", "devices": "auto"}}, "leaves open how many GPUs"),
        ({"trainer": {"accelerator": "auto", "devices": 1}}, "accelerator=auto, trainer.devices=1"),
        ({"trainer": {"accelerator": "gpu", "devices": 1, "num_nodes": 2}}, "on one machine"),
    ],
)
def test_gpus_follow_from_the_trainer(config, expected, tmp_path):
    one, cfg = job(tmp_path, 0, cfg=OmegaConf.create(config))
    executor = RayExecutor(RayOptions(), {}, "")
    if isinstance(expected, int):
        assert needed_gpus(one, cfg) == expected
        executor.check(one, cfg)
        return
    with pytest.raises(SweepError, match=expected):
        executor.check(one, cfg)
    if "leaves open" in expected:
        RayExecutor(RayOptions(gpus_per_job=4), {}, "").check(one, cfg)


def test_what_cannot_be_joined_is_said(monkeypatch):
    def init(address, **_):
        raise ConnectionError("nobody is there")

    ray = SimpleNamespace(init=init)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(SweepError, match="address=host:1: nobody is there"):
        connect("host:1")
    with pytest.raises(SweepError, match="start it there, or by ray job submit"):
        connect("ray://host:10001")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepError, match=r"pip install 'stepseg\[ray\]'"):
        connect(None)
