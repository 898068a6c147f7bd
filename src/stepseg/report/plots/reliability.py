"""Whether a policy's scores are probabilities: how many windows of a score are homogeneous."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes

from stepseg.pictures.looks import INK, SEQUENCE, SETTINGS
from stepseg.report.plots.style import Plot, new_figure
from stepseg.report.values import number

MOST = 6
"""Policies in one plot; more cannot be told apart."""


class Curve(NamedTuple):
    """Of one policy and window size."""

    error: float | None
    """Expected calibration error; None: there were no windows."""
    points: Sequence[tuple[float, float, float]]
    """Mean score, share of homogeneous windows and number of windows."""


def curves_of(calibration: Mapping[str, Mapping[str, Any]]) -> dict[int, Curve]:
    """The ``policy_calibration`` of a `result.json`, by window side.

    Raises:
        Exception: of any usual kind, where the file holds something else.

    """
    curves = {}
    for side, figures in calibration.items():
        found = [
            (number(values, "confidence"), number(values, "accuracy"), number(values, "count"))
            for values in figures["bins"]
        ]
        points = [(x, y, n) for x, y, n in found if x is not None and y is not None and n and n > 0]
        curves[int(side)] = Curve(number(figures, "ece"), points)
    return curves


def reliability(policies: Mapping[str, Mapping[int, Curve]], name: str) -> Plot | None:
    """A panel per window size; points below the diagonal are scores that promise too much.

    Args:
        policies: by label; those after the first `MOST` are left out.
        name: of the plot.

    """
    shown = dict(list(policies.items())[:MOST])
    sides = sorted({side for curves in shown.values() for side in curves})
    if not sides:
        return None
    tips: dict[str, str] = {}
    words = []
    with mpl.rc_context(SETTINGS):
        figure = new_figure((max(3.0 * len(sides), 5.0), 3.9))
        panels = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
        for axes, side in zip(panels, sides, strict=True):
            here = {label: curves[side] for label, curves in shown.items() if side in curves}
            tips |= _draw(axes, here, f"{name}-{side}", f"{side} x {side}")
            errors = ["-" if c.error is None else f"{c.error:.3f}" for c in here.values()]
            words.append(f"{side} x {side}: {', '.join(errors)}")
            axes.set_title(f"{side} x {side}\nECE {', '.join(errors)}", fontsize=9)
        panels[0].set_ylabel("share of homogeneous windows")
        handles, labels = panels[0].get_legend_handles_labels()
        if len(shown) > 1:
            figure.legend(handles, labels, loc="outside lower left", fontsize=8)
        figure.suptitle("Reliability of the policy's scores", x=0.01, ha="left", fontsize=10)
    description = f"Expected calibration error by window size. {'; '.join(words)}."
    if len(policies) > len(shown):
        description += f" {len(policies) - len(shown)} more policies are not drawn."
    return Plot(name, figure, "Reliability of the policy's scores", description, tips)


def _draw(axes: Axes, curves: Mapping[str, Curve], name: str, size: str) -> dict[str, str]:
    """One panel; the larger a point, the more windows it stands for."""
    tips = {}
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1)
    for index, (label, curve) in enumerate(curves.items()):
        colour = SEQUENCE[index % len(SEQUENCE)]
        scores, shares = [x for x, _, _ in curve.points], [y for _, y, _ in curve.points]
        axes.plot(scores, shares, color=colour, linewidth=1.2, label=label)
        most = max((count for _, _, count in curve.points), default=1)
        for place, (score, share, count) in enumerate(curve.points):
            gid = f"{name}-{index}-{place}"
            radius = 3 + 6 * (count / most) ** 0.5
            axes.plot([score], [share], "o", color=colour, gid=gid, markersize=radius)
            tips[gid] = (
                f"{label}, {size}: score {score:.2f}, {100 * share:.0f} % of {count:.0f} windows "
                f"are homogeneous"
            )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="mean score")
    return tips
