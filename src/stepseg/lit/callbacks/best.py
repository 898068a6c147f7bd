"""The best checkpoint, also where a run goes on in another folder than it began."""

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from stepseg.writing import write_atomically


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation as `best.ckpt`.

    Lightning forgets the best score when the folder's name changes, and would take the next
    validation for the best one. Here the best checkpoint comes along.

    Args:
        dirpath: where.
        monitor: the figure of validation.
        mode: whether it shall be `max` or `min`.

    """

    def __init__(self, dirpath: str | Path, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            dirpath, "best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.dirpath is not None
        before, here = Path(state_dict["best_model_path"]), Path(self.dirpath) / "best.ckpt"
        if state_dict["best_model_path"] and state_dict["dirpath"] != self.dirpath:
            self._bring_along(before, here)
            score = state_dict["best_model_score"]
            state_dict = state_dict | {
                "dirpath": self.dirpath,
                "best_model_path": str(here),
                "kth_best_model_path": str(here),
                "best_k_models": {str(here): score},
            }
        super().load_state_dict(state_dict)

    @rank_zero_only
    def _bring_along(self, before: Path, here: Path) -> None:
        if here.exists():  # the whole folder was moved
            return
        if not before.is_file():
            raise ValueError(f"{before}, the best checkpoint of the run to resume, is gone")
        with before.open("rb") as source:
            write_atomically(here, lambda file: shutil.copyfileobj(source, file), durable=True)
