"""`stepseg-eval`: evaluate a checkpoint under one or many reductions, model and data loaded once."""

from typing import Any

import hydra
import lightning as L
from omegaconf import DictConfig

from stepseg.checkpoint import check_data, read_checkpoint
from stepseg.cli.comparison import print_comparison
from stepseg.cli.config import (
    make_all,
    make_datamodule,
    make_trainer,
    output_dir,
    overrides,
    plain,
    run_command,
)
from stepseg.cli.paths import config_dir, register_experiments
from stepseg.cli.result import Result

register_experiments()
