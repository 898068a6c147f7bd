"""What SLURM is asked for, without a SLURM."""

import sys

import pytest
from omegaconf import OmegaConf

from stepseg.launcher.errors import SweepError
from stepseg.launcher.slurm import submitit_launcher, with_counts


def job(**trainer):
    return OmegaConf.create({"trainer": {"accelerator": "gpu", "devices": 1, **trainer}})


NOTHING_GIVEN = {"nodes": None, "tasks_per_node": None, "gpus_per_node": None, "timeout_min": 60}


def test_counts_follow_from_the_trainer():
    counts = with_counts(NOTHING_GIVEN, [job(devices=4, num_nodes=2)] * 2)
    assert counts == {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4, "timeout_min": 60}
    counts = with_counts(NOTHING_GIVEN, [job(accelerator="cpu", devices=2)])
    assert counts == {"nodes": 1, "tasks_per_node": 2, "timeout_min": 60}
    counts = with_counts(NOTHING_GIVEN, [OmegaConf.create({"device": "cuda"})])
    assert counts == {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 1, "timeout_min": 60}


@pytest.mark.parametrize(
    ("given", "jobs", "message"),
    [
        ({"tasks_per_node": 1}, [job(devices=4)], "tasks_per_node=1, but trainer.devices needs 4"),
        ({"nodes": 1}, [job(num_nodes=2)], "nodes=1, but trainer.num_nodes needs 2"),
        ({"gpus_per_node": 8}, [job(devices=4)], "gpus_per_node=8, but trainer.devices needs 4"),
        ({}, [job(devices="auto")], "trainer.devices=auto leaves open"),
        ({}, [job(devices=2), job(devices=4)], "different machines"),
    ],
)
def test_mismatches_are_refused(given, jobs, message):
    with pytest.raises(SweepError, match=message):
        with_counts({**NOTHING_GIVEN, **given}, jobs)


def test_missing_plugin_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_submitit_launcher", None)
    monkeypatch.setitem(
        sys.modules, "hydra_plugins.hydra_submitit_launcher.submitit_launcher", None
    )
    with pytest.raises(SweepError, match=r"pip install 'stepseg\[slurm\]'"):
        submitit_launcher({})
