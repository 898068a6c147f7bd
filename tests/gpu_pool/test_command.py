"""The command line and environment of a job."""

import socket

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gpu_pool import command
from gpu_pool.command import free_port, job_environment, quoted


@pytest.mark.parametrize(
    "path", ["/a/plain", "/a b/c=d,e/[8,16]", "/it's/[x={y: 1}]", '/a "b"', "/ends/in\\", "/ü/#1"]
)
def test_quoting_survives_hydra(path):
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quoted(path)}"])
    assert override.value() == path


def test_environment_has_no_trace_of_another_training():
    outer = {
        "HOME": "/home/me", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1",
        "MASTER_ADDR": "else", "TORCHELASTIC_RUN_ID": "x", "PL_GLOBAL_SEED": "3", "RANK": "0",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }  # fmt: skip
    made = job_environment(outer, {"CUDA_VISIBLE_DEVICES": "2"}, port=20001, group="train/now")
    assert made == {
        "HOME": "/home/me", "MASTER_PORT": "20001", "CUDA_VISIBLE_DEVICES": "2",
        "PYTHONUNBUFFERED": "1", "WANDB_RUN_GROUP": "train/now",
    }  # fmt: skip


def test_within_an_allocation_jobs_start_their_own_ranks():
    from lightning.fabric.plugins.environments import SLURMEnvironment

    outer = {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "sweep", "WANDB_RUN_GROUP": "mine"}
    made = job_environment(outer, {}, port=20001, group="x")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in outer.items():
            patch.setenv(name, value)
        assert SLURMEnvironment.detect()
        patch.setenv("SLURM_JOB_NAME", made["SLURM_JOB_NAME"])
        assert not SLURMEnvironment.detect()
    assert made["WANDB_RUN_GROUP"] == "mine"


def test_ports_are_free_and_given_once(monkeypatch):
    with socket.socket() as busy:
        busy.bind(("", 0))
        port = busy.getsockname()[1]
        busy.listen()
        monkeypatch.setattr(command, "PORTS", range(port, port + 1))
        monkeypatch.setattr(command.random.SystemRandom, "sample", lambda self, ports, k: ports)
        with pytest.raises(OSError, match="no free port"):
            free_port(set())
    assert free_port(set()) == port
    with pytest.raises(OSError, match="no free port"):
        free_port({port})
