"""A reduction: which tokens are merged and which leave early. Every system of the paper is one.

| system         | reduction                     |
|----------------|-------------------------------|
| dense (SegViT) | `Reduction()`                 |
| CTS, dCTS      | only `merge`                  |
| DToP           | only `exit` and `exit_blocks` |
| STEP           | both                          |
"""

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
