"""What was asked for, as files in the output directory: without secrets, and once it is ours alone.

Hydra would write them itself, as they were typed, and over those of a command that still runs
there; its `output_subdir` is therefore off.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from stepseg.files.writing import write_text
from stepseg.masking import masked_text

FOLDER = ".hydra"
SWEEP = "multirun.yaml"


def write_request(folder: Path, overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Write `config.yaml` and `overrides.yaml`, where reports look for jobs that still run."""
    for name, values in (("config", dict(config)), ("overrides", list(overrides))):
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text(folder / FOLDER / f"{name}.yaml", text)


def mask_sweep() -> None:
    """Take secrets out of the file that Hydra has written about the sweep, if this is one."""
    if not HydraConfig.initialized():
        return
    path = Path(str(HydraConfig.get().sweep.dir)) / SWEEP
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if text != (hidden := masked_text(text)):
            write_text(path, hidden)
