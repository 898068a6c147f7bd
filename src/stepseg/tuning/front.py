"""The front of a search as a picture: accuracy against operations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from stepseg.files.writing import write_atomically
from stepseg.pictures.looks import GREEN, INK, SEQUENCE, SETTINGS

Row = Mapping[str, Any]


def plot_front(
    rows: Sequence[Row], search: Mapping[str, Any], target: Mapping[str, float], path: Path
) -> None:
    """Draw what was tried on the calibration images and what came out on the others.

    Args:
        rows: on the held-out images; ``dense``, ``given`` and ``tuned`` among their names.
        search: of `result.json`.
        target: the key and its number.
        path: of a PNG file.

    """
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        families = list(dict.fromkeys(point["family"] for point in search["tried"]))
        for family, colour in zip(families, SEQUENCE * len(families), strict=False):
            mine = [p for p in search["tried"] if p["family"] == family]
            mine.sort(key=lambda point: point["gmacs_mean"])
            x, y = [p["gmacs_mean"] for p in mine], [p["mIoU"] for p in mine]
            axes.plot(x, y, "o-", color=colour, lw=1, ms=4, alpha=0.6, label=family)
        by_name = {row["name"]: row for row in rows}
        rest = [r for r in rows if r["name"] not in ("dense", "given", "tuned")]
        looks = {"dense": ("*", INK), "given": ("D", INK), "tuned": ("P", GREEN)}
        marks = [("rest of the front", rest, "o", INK)]
        marks += [(name, [by_name[name]], *look) for name, look in looks.items()]
        for name, shown, mark, colour in marks:
            x, y = [r["gmacs_mean"] for r in shown], [r["mIoU"] for r in shown]
            style: Any = {"ms": 10 if name == "tuned" else 7, "mec": colour}
            filled = colour if name != "rest of the front" else "none"
            axes.plot(x, y, mark, color=colour, mfc=filled, label=f"{name}, held out", **style)
        if "gmacs" in target:
            axes.axvline(target["gmacs"], color=GREEN, lw=1, ls="--")
        if "max_drop" in target:
            floor = by_name["dense"]["mIoU"] - target["max_drop"]
            axes.axhline(floor, color=GREEN, lw=1, ls="--")
        axes.set(xlabel="GMACs per image", ylabel="mIoU")
        [(key, number)] = target.items()
        axes.set_title(f"{key}={number:g}; lines: calibration images")
        axes.legend(loc="lower right")
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))
