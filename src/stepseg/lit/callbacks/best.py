"""The best checkpoint, also where a run goes on in another folder than it began.

What a checkpoint says about the best one is its score. Where the file lies is never read from it:
it is `best.ckpt` of this run, or lies beside the checkpoint that the user named.
"""

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from stepseg.files.writing import write_atomically
from stepseg.lit.resume import read_point
from stepseg.telling import tell

BEST = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation as `best.ckpt`.

    Lightning forgets the best score when the folder's name changes, and would take the next
    validation for the best one. Here the best checkpoint comes along.
    """

    def __init__(self, dirpath: str | Path, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            dirpath, "best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False
        )

    @property
    def path(self) -> Path:
        """Of the best checkpoint of this run."""
        assert self.dirpath is not None
        return Path(self.dirpath) / BEST

    def state_dict(self) -> dict[str, Any]:
        """The score alone."""
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: done by `on_load_checkpoint`, which knows the file that is loaded."""

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the score, and the file that it belongs to."""
        states = checkpoint.get("callbacks") or {}
        score = self._score(states.get(self.state_key))
        if score is None:
            return
        found = self._bring_along(trainer) if trainer.is_global_zero else False
        if not trainer.strategy.broadcast(found):  # all ranks decide alike what is better
            return
        self.best_model_score = score
        self.best_model_path = self.kth_best_model_path = str(self.path)
        self.best_k_models = {self.best_model_path: score}

    def _score(self, state: Any) -> torch.Tensor | None:
        """The score in a state, if a better one exists: a file may hold anything."""
        score = state.get("best_model_score") if isinstance(state, dict) else None
        if not isinstance(score, torch.Tensor) or score.numel() != 1:
            return None
        value = float(score)
        can_be_beaten = value < math.inf if self.mode == "max" else value > -math.inf
        return score if can_be_beaten else None

    def _bring_along(self, trainer: L.Trainer) -> bool:
        """Whether the best checkpoint is in this run's folder, at last."""
        assert trainer.ckpt_path is not None
        before = Path(trainer.ckpt_path).with_name(BEST)
        try:
            if not before.is_file():
                raise ValueError(f"{before}, the best checkpoint of the run to resume, is gone")
            if before.absolute() != self.path.absolute():
                read_point(before)  # a link may lead anywhere: only a checkpoint is copied
                with before.open("rb") as source:
                    copy = partial(shutil.copyfileobj, source)
                    write_atomically(self.path, copy, durable=True)
        except ValueError as error:
            tell(f"{error}: the best validation counts from here on")
            return False
        return True
