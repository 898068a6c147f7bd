"""The training loader: endless, with a state that says exactly how many batches were used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from stepseg.data.dataset import AugmentedDataset, Batch, collate
from stepseg.data.sampler import InfiniteBatchSampler


class TrainLoader(DataLoader[Any]):
    """Endless loader over an `InfiniteBatchSampler`; has no length.

    `state_dict` tells the global position after the last used batch. Batches that workers prepared
    ahead are not used; nor are those that a training loop holds ahead, which only the loop knows:
    it passes `batches_used`, a function that returns how many batches it took into a step since
    iteration began. Without it every batch handed out counts as used.
    """

    def __init__(
        self,
        dataset: AugmentedDataset,
        batch_sampler: InfiniteBatchSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        batches_used: Callable[[], int] | None = None,
    ) -> None:
        self._sequence = batch_sampler
        self._handed_out = 0
        self._batches_used = batches_used
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=collate,
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._handed_out = 0
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Seed, size of the data set and the global position of the next unused sample."""
        used = self._handed_out if self._batches_used is None else self._batches_used()
        return {
            "position": self._sequence.start + used * self._sequence.global_batch,
            "seed": self._sequence.seed,
            "num_samples": self._sequence.num_samples,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a saved position; call before iterating.

        Raises:
            ValueError: the state belongs to another seed or another data set.
        """
        for key, here in (
            ("seed", self._sequence.seed),
            ("num_samples", self._sequence.num_samples),
        ):
            if state[key] != here:
                raise ValueError(
                    f"cannot resume: the checkpoint's training data has {key}={state[key]}, this "
                    f"run has {key}={here}. Resume with the same data and seed, or start a new run "
                    "from the weights."
                )
        self._sequence.start = state["position"]
        self._handed_out = 0
