"""Evaluations of a search: many reductions at once on one part of the images, kept on disk."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepseg.cli.config import output_dir
from stepseg.cli.evaluate.grid import GridRun
from stepseg.cli.evaluate.setting import Setting
from stepseg.data.files import read_image
from stepseg.grid.points import Point
from stepseg.model_config import ReductionConfig
from stepseg.tuning.latency import Clock
from stepseg.tuning.split import Parts

TIMED = 6
"""Images."""


class Walks:
    """Rows by part; those of an earlier run in the same folder are taken as they are.

    Args:
        setting: what is evaluated.
        parts: names of the images of each.

    """

    def __init__(self, setting: Setting, parts: Parts) -> None:
        self.setting, self.parts = setting, parts

    def clock(self, part: str) -> Clock:
        """For reductions on a few images of a part, where the trainer's device is."""
        setting, device = self.setting, self.setting.trainer.strategy.root_device
        setting.datamodule.test_only(getattr(self.parts, part))
        pairs = setting.datamodule.dataset("test").pairs
        chosen = pairs[:: max(1, len(pairs) // TIMED)][:TIMED]
        images = [read_image(pair.image).to(device) for pair in chosen]
        return Clock(
            setting.model.to(device),
            setting.datamodule.protocol,
            images,
            during=setting.trainer.precision_plugin.val_step_context,
        )

    def folder(self, part: str) -> Path:
        """Where a part's rows and confusions lie."""
        return output_dir() / "search" / part

    def rows(self, part: str, reductions: Sequence[ReductionConfig]) -> list[dict[str, Any]]:
        """Evaluate on the images of one part, ``scouted``, ``calibration`` or ``held_out``."""
        setting, folder = self.setting, self.folder(part)
        setting.datamodule.test_only(getattr(self.parts, part))
        points = [Point(str(i), asdict(r), axes={}) for i, r in enumerate(reductions)]
        grid = GridRun(setting, setting.store(folder), points, folder)
        return grid.run(setting.values["grid"]["points_per_pass"], None)
