"""A reduction: which tokens are merged and which leave early. Every system of the paper is one.

| system         | reduction                     |
|----------------|-------------------------------|
| dense (SegViT) | `Reduction()`                 |
| CTS, dCTS      | only `merge`                  |
| DToP           | only `exit` and `exit_blocks` |
| STEP           | both                          |
| ToMe, ALGM     | only `inside`, or with exits  |
| Cropr          | only `inside`                 |
| smaller input  | only `cell`, or with all      |
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stepseg.dcts.merge import MergeRule
from stepseg.heads.exit import ExitRule
from stepseg.merging.rules import InsideRule


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which tokens are merged and which leave early. The default is the dense baseline."""

    merge: MergeRule | None = None
    exit: ExitRule | None = None
    exit_blocks: tuple[int, ...] = ()
    """Blocks after which tokens may leave, counted from 1."""
    inside: InsideRule | None = None
    """What merges, or waits aside, inside the blocks."""
    cell: int | None = None
    """Side of a cell in pixels of the image, which is resized so that a patch shows one: 24 instead
    of 16 shows it at two thirds of its size. None: that of a patch."""
    gmacs_per_image: float | None = None
    """What no image may exceed: merge thresholds move until it is met (`stepseg.budget`)."""

    def __post_init__(self) -> None:
        if list(self.exit_blocks) != sorted(set(self.exit_blocks)):
            raise ValueError(f"exit blocks must ascend without repetition, got {self.exit_blocks}")
        if bool(self.exit_blocks) != (self.exit is not None):
            raise ValueError(
                f"an exit rule and exit blocks come together, got rule {self.exit} and blocks "
                f"{self.exit_blocks}"
            )
        if self.merge is not None and self.inside is not None:
            raise ValueError(
                f"{self.inside.name} merges inside the blocks, reduction.merge before them: choose "
                f"one (reduction.merge=null)"
            )
        if self.gmacs_per_image is not None:
            self._check_budget()
        if self.cell is not None and self.cell < 1:
            raise ValueError(f"reduction.input.cell is a number of pixels, got {self.cell}")

    def _check_budget(self) -> None:
        assert self.gmacs_per_image is not None
        if self.gmacs_per_image <= 0:
            raise ValueError(
                f"reduction.budget.gmacs_per_image is a positive number of GMACs, got "
                f"{self.gmacs_per_image}"
            )
        if self.merge is None or self.merge.by != "policy" or self.merge.thresholds is None:
            raise ValueError(
                f"reduction.budget.gmacs_per_image={self.gmacs_per_image:g} moves merge thresholds "
                f"of the policy, which {self.kind} has not: choose reduction=dcts or step"
            )

    @property
    def kind(self) -> str:
        """What its paper calls such a system."""
        if self.inside is not None:
            return self.inside.name
        if self.merge is None:
            return "DToP" if self.exit else "dense" if self.cell is None else "smaller input"
        if self.merge.by != "policy":
            return self.merge.by
        if self.merge.thresholds is None:  # a number of windows per image
            return "CTS & DToP" if self.exit else "CTS"
        return "STEP" if self.exit else "dCTS"

    @property
    def label(self) -> str:
        """Its name in tables: ``dense``, ``dCTS``, ``STEP@[3,4]``, ``smaller input, 24 px``."""
        shown = "" if self.cell is None else f", {self.cell} px"
        if self.gmacs_per_image is not None:
            shown += f", at most {self.gmacs_per_image:g} GMACs"
        return f"{placed(self.kind, self.exit_blocks)}{shown}"


KINDS = {
    "none": "dense", "cts": "CTS", "dtop": "DToP", "cts_dtop": "CTS & DToP", "dcts": "dCTS",
    "step": "STEP", "smaller": "smaller input", "uniform": "uniform", "random": "random",
    "tome": "ToMe", "algm": "ALGM", "algm_exit": "ALGM", "cropr": "Cropr",
}  # fmt: skip
"""The kinds of systems by what one types."""
DENSE = "dense"
"""May also be typed as it is called."""


def label_of(name: str, exit_blocks: Sequence[int]) -> str:
    """The name in tables of a system that was chosen by name; one of the user's own keeps it.

    Args:
        name: as typed, with or without a placement: ``none``, ``step@6+8``, ``step_4999``.
        exit_blocks: after which tokens may leave.

    """
    base = name.partition("@")[0]
    return placed(KINDS[base], exit_blocks) if base in KINDS else name


def placed(kind: str, exit_blocks: Sequence[int]) -> str:
    """A kind of system with its exits."""
    return f"{kind}@[{','.join(map(str, exit_blocks))}]" if exit_blocks else kind
