"""A reduction: which tokens are merged and which leave early. Every system of the paper is one.

| system         | reduction                     |
|----------------|-------------------------------|
| dense (SegViT) | `Reduction()`                 |
| CTS, dCTS      | only `merge`                  |
| DToP           | only `exit` and `exit_blocks` |
| STEP           | both                          |
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stepseg.dcts.merge import MergeRule
from stepseg.heads.exit import ExitRule


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which tokens are merged and which leave early. The default is the dense baseline."""

    merge: MergeRule | None = None
    exit: ExitRule | None = None
    exit_blocks: tuple[int, ...] = ()
    """Blocks after which tokens may leave, counted from 1."""

    def __post_init__(self) -> None:
        if list(self.exit_blocks) != sorted(set(self.exit_blocks)):
            raise ValueError(f"exit blocks must ascend without repetition, got {self.exit_blocks}")
        if bool(self.exit_blocks) != (self.exit is not None):
            raise ValueError(
                f"an exit rule and exit blocks come together, got rule {self.exit} and blocks "
                f"{self.exit_blocks}"
            )

    @property
    def kind(self) -> str:
        """What the paper calls such a system."""
        if self.merge is None:
            return "DToP" if self.exit else "dense"
        if self.merge.thresholds is None:  # a number of windows per image
            return "CTS & DToP" if self.exit else "CTS"
        return "STEP" if self.exit else "dCTS"

    @property
    def label(self) -> str:
        """Its name in tables: ``dense``, ``dCTS``, ``STEP@[3,4]``."""
        return placed(self.kind, self.exit_blocks)


KINDS = {
    "none": "dense", "cts": "CTS", "dtop": "DToP", "cts_dtop": "CTS & DToP", "dcts": "dCTS",
    "step": "STEP",
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
