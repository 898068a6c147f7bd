"""Names of systems, from what they merge and who leaves; the paper's where it has one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepseg.report.values import is_number, mapping

KINDS = (
    "dense", "smaller input", "uniform", "random", "CTS", "dCTS", "ToMe", "ALGM", "Cropr", "DToP",
    "CTS & DToP", "STEP",
)  # fmt: skip
INSIDE = {"tome": "ToMe", "algm": "ALGM", "cropr": "Cropr"}
WINDOWS = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class System:
    """One way of reducing tokens, as the tables name it."""

    kind: str
    """One of `KINDS`."""
    exit_blocks: tuple[int, ...]
    tau: str | None
    """The paper's short form of the merging thresholds, such as ``6899``; None without them."""
    amount: str = ""
    """How much other methods reduce, in their own number, such as ``r=0.05`` or ``24 px``."""

    def __str__(self) -> str:
        blocks = f"@[{','.join(map(str, self.exit_blocks))}]" if self.exit_blocks else ""
        tau = ""
        if self.tau:
            # "2x2 0.4" reads "2x2 τ=0.4"
            tau = (
                f" τ-{self.tau}"
                if self.tau.isdigit()
                else " " + re.sub(r"(x\d+) ", r"\1 τ=", self.tau)
            )
        amount = f" {self.amount}" if self.amount else ""
        return f"{self.kind}{blocks}{tau}{amount}"


def system_of(reduction: Mapping[str, Any], *, prescribed: bool = False) -> System:
    """Name a reduction, a mapping with `merge` and `exit`.

    Args:
        reduction: as in a configuration; parts may be missing or None.
        prescribed: token counts were prescribed, so that thresholds decided nothing.

    Raises:
        ValueError: exit blocks that are no numbers.

    """
    merge, leave = mapping(reduction.get("merge")), mapping(reduction.get("exit"))
    blocks = tuple(leave.get("blocks") or ())
    if not all(isinstance(block, int) for block in blocks):
        raise ValueError(f"exit blocks are whole numbers, got {list(blocks)}")
    fixed = bool(merge) and merge.get("thresholds") is None and merge.get("top_k") is not None
    inside, cell = mapping(reduction.get("inside")), mapping(reduction.get("input")).get("cell")
    amounts = [f"{key}={inside[key]:g}" for key in ("r", "threshold") if is_number(inside, key)]
    amounts += [f"{cell} px"] if isinstance(cell, int) else []
    bound = mapping(reduction.get("budget"))
    if is_number(bound, "gmacs_per_image"):
        amounts.append(f"at most {bound['gmacs_per_image']:g} GMACs")
    if inside.get("rule") in INSIDE:
        kind = INSIDE[str(inside["rule"])]
    elif merge and merge.get("by") in ("uniform", "random"):
        kind = str(merge["by"])
    elif not merge:
        kind = "DToP" if blocks else "smaller input" if amounts else "dense"
    elif fixed:
        kind = "CTS & DToP" if blocks else "CTS"
    else:
        kind = "STEP" if blocks else "dCTS"
    thresholds = merge.get("thresholds")
    tau = None
    if thresholds and not fixed and not prescribed:
        tau = short_thresholds(merge.get("windows") or WINDOWS, thresholds)
    return System(kind, blocks, tau, ", ".join(amounts))


def short_thresholds(windows: Sequence[int], thresholds: Sequence[float]) -> str:
    """``6899`` for one digit per window of 2, 4, 8, 16; else windows with what they need.

    A threshold of 1 or more never merges and is left out.
    """
    used = {w: t for w, t in zip(windows, thresholds, strict=False) if t < 1}
    digits = [f"{10 * t:.6g}" for t in used.values()]
    if tuple(used) == WINDOWS and all(len(d) == 1 for d in digits):
        return "".join(digits)
    return ", ".join(f"{w}x{w} {t:g}" for w, t in used.items()) or "off"
