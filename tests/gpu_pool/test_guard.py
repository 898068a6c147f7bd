"""Which sweeps are refused, and which are not."""

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf, read_write

from commands import compose_config
from gpu_pool.errors import SweepError
from gpu_pool.guard import asked_devices, check_sweep, is_distributed
from stepseg.cli.evaluate.job import evaluate
from stepseg.cli.train.job import train

CPU = {"accelerator": "cpu", "devices": 1}
DDP = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


def within(mode, launcher, trainer, **options):
    """Check a job as if Hydra ran it in that mode under that launcher."""
    hydra = {"mode": RunMode[mode], "launcher": {"_target_": f"somewhere.{launcher}", **options}}
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": hydra})
    check_sweep({"trainer": trainer})


@pytest.mark.parametrize("launcher", ["BasicLauncher", "JoblibLauncher", "LocalLauncher"])
def test_ranks_within_a_sweep_of_one_process(launcher):
    with pytest.raises(SweepError, match="add hydra/launcher=gpu_pool"):
        within("MULTIRUN", launcher, DDP)


@pytest.mark.parametrize("launcher", ["GpuPoolLauncher", "RayLauncher", "SlurmLauncher"])
def test_launchers_with_processes_of_their_own(launcher):
    within("MULTIRUN", launcher, DDP)


def test_one_device_or_one_run_may_go_on():
    within("MULTIRUN", "BasicLauncher", CPU)
    within("RUN", "BasicLauncher", DDP)
    check_sweep({})  # a benchmark has no trainer


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "TORCHELASTIC_RUN_ID"])
def test_a_rank_that_was_told_to_sweep(variable, monkeypatch):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SweepError, match="one rank of a distributed run"):
        within("MULTIRUN", "BasicLauncher", CPU)
    within("RUN", "BasicLauncher", DDP)


@pytest.mark.parametrize("given", [{"tasks_per_node": 1}, {"tasks_per_node": 2, "nodes": 2}])
def test_slurm_tasks_that_are_not_the_devices(given):
    with pytest.raises(SweepError, match="take hydra/launcher=slurm"):
        within("MULTIRUN", "SlurmLauncher", DDP, **given)
    within("MULTIRUN", "SlurmLauncher", DDP, tasks_per_node=2, nodes=1)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_commands_ask_before_they_touch_data(name, tmp_path):
    command = {"train": train, "evaluate": evaluate}[name]
    config = {"train": "train", "evaluate": "eval"}[name]
    cfg = compose_config(config, ["trainer=ddp_cpu", "data.root=/nowhere"], tmp_path)
    hydra = HydraConfig.instance().cfg.hydra
    with read_write(hydra):
        hydra.mode = RunMode.MULTIRUN
    with pytest.raises(SweepError, match="add hydra/launcher=gpu_pool"):
        command(cfg)


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"accelerator": "cpu", "devices": 1}, False),
        ({"accelerator": "cpu", "devices": "auto"}, False),
        ({"accelerator": "gpu", "devices": 1, "strategy": "auto"}, False),
        ({"accelerator": "gpu", "devices": 2}, True),
        ({"accelerator": "gpu", "devices": [0, 1]}, True),
        ({"accelerator": "gpu", "devices": "0,1"}, True),
        ({"devices": 1, "strategy": "ddp_find_unused_parameters_true"}, True),
        ({"devices": 1, "strategy": {"_target_": "lightning.strategies.DDPStrategy"}}, True),
        ({"devices": 1, "strategy": "deepspeed_stage_2"}, True),
        ({"accelerator": "gpu", "devices": 1, "num_nodes": 2}, True),
    ],
)  # fmt: skip
def test_what_counts_as_distributed(trainer, expected):
    assert is_distributed(trainer) is expected


def test_devices_as_written():
    written = [4, "4", "0,1", [0, 2, 3], "auto", -1, "-1", None]
    assert [asked_devices({"devices": d}) for d in written] == [4, 4, 2, 3, None, None, None, None]
