"""What SLURM is asked for, without a SLURM."""

import sys

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from gpu_pool.errors import SweepError
from gpu_pool.slurm import submitit_launcher, with_counts
from hydra_plugins.stepseg_launcher.launcher import register_launchers
from stepseg.cli.paths import config_dir


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
    with pytest.raises(SweepError, match=r"pip install hydra-submitit-launcher"):
        submitit_launcher({})


def test_the_batch_script_asks_for_what_the_training_needs(tmp_path, monkeypatch):
    """From the command line to submitit's script, with submission itself left out."""
    submitit = pytest.importorskip("submitit")
    scripts = []

    def instead_of_submitting(self, launcher, *arguments):
        scripts.append(self._executor._make_submission_file_text("command", "uid"))
        assert [list(overrides) for overrides in arguments[0]] == OVERRIDES
        raise RuntimeError("nothing is submitted")

    monkeypatch.setattr(submitit.slurm.slurm.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(submitit.AutoExecutor, "map_array", instead_of_submitting)
    register_launchers()
    given = [
        "hydra/launcher=slurm", "hydra.launcher.partition=gpu", f"hydra.sweep.dir={tmp_path}",
        "+hydra.launcher.additional_parameters.reservation=mine",
    ]  # fmt: skip
    with initialize_config_dir(config_dir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", given, run_mode=RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=None)
        launcher = Plugins.instance().instantiate_launcher(context, lambda cfg: None, config)
        with pytest.raises(RuntimeError, match="nothing is submitted"):
            launcher.launch(OVERRIDES, 0)
    (script,) = scripts
    for line in (
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=8",
        "--partition=gpu", "--reservation=mine", "--signal=USR2@300", "--time=1440",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script


OVERRIDES = [
    ["trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2", f"seed={s}"] for s in (0, 1)
]
