"""Where tokens should leave (the paper's Figures 5 and 6)."""

from collections.abc import Sequence

import matplotlib as mpl

from stepseg.pictures.looks import COLOURS, SETTINGS
from stepseg.report.plots.style import DOUBLE, Plot, fill, legend_of_fills, new_figure, place_labels
from stepseg.report.plots.tradeoff import tip
from stepseg.report.summaries import Arena, Summary

SAVING = 0.10
"""The share of operations that a placement has to save to lie in the shaded region."""


def placements(arena: Arena) -> list[tuple[Summary | None, list[Summary]]]:
    """Lines that differ in the place of their exits only, each set with its baseline.

    The baseline is the line that merges alike and lets nobody leave.
    """
    own = ("system", "exit_blocks", "exit_threshold", "exit_rule", "keep_per_class", "exit_tokens")
    sets: dict[tuple[frozenset, frozenset], list[Summary]] = {}
    bases: dict[frozenset, Summary] = {}
    for s in arena.summaries:
        rest = frozenset((k, v) for k, v in s.fields.items() if v is not None and k not in own)
        if s.system.exit_blocks:
            rule = frozenset((k, s.fields.get(k)) for k in own[2:])
            sets.setdefault((rest, rule), []).append(s)
        else:
            bases[rest] = s
    return [
        (bases.get(rest), summaries)
        for (rest, _), summaries in sets.items()
        if len({s.system.exit_blocks for s in summaries}) >= 3
    ]


def placement_map(
    base: Summary | None, summaries: Sequence[Summary], where: str, name: str
) -> Plot | None:
    """MIoU over GMACs, points named by the blocks after which tokens leave; the star is dense."""
    known = [s for s in summaries if {"mIoU", "gmacs"} <= s.figures.keys()]
    if len(known) < 2:
        return None
    with mpl.rc_context(SETTINGS):
        figure = new_figure()
        axes = figure.subplots()
        tips, labels = _over_cost(axes, base, known, "mIoU", name, (9, 16))
        axes.set_ylabel("mIoU, percent")
        axes.set_title(f"Placement of exit heads after blocks ...\n{where}", fontsize=9)
        shaded = _shade(axes, base)
        if shaded:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13))
        place_labels(axes, labels, [(x, y) for x, y, _ in labels])
    description = f"{len(known)} placements of exit heads: " + "; ".join(tip(s) for s in known)
    return Plot(name, figure, "Placement of exit heads", description, tips)


def _over_cost(
    axes: mpl.axes.Axes,
    base: Summary | None,
    placed: Sequence[Summary],
    figure: str,
    name: str,
    sizes: tuple[int, int],
) -> tuple[dict[str, str], list[tuple[float, float, str]]]:
    """A figure over the cost: a dot per placement, a star without exits (`sizes` of both)."""
    tips, labels = {}, []
    known = base is not None and {figure, "gmacs"} <= base.figures.keys()
    for index, s in enumerate([base, *placed] if base and known else placed):
        is_base = s is base
        x, y, gid = s.figures["gmacs"].mean, s.figures[figure].mean, f"{name}-{index}"
        axes.plot(
            [x], [y], "*" if is_base else "o", markersize=sizes[is_base],
            color=COLOURS["dense"] if is_base else COLOURS[s.system.kind], gid=gid,
        )  # fmt: skip
        labels.append((x, y, "no exits" if is_base else ",".join(map(str, s.system.exit_blocks))))
        tips[gid] = tip(s)
    axes.margins(0.15)
    axes.set_xlabel("GMACs per image")
    return tips, labels


def _shade(axes: mpl.axes.Axes, base: Summary | None) -> bool:
    cost = base.mean("gmacs") if base else None
    if cost is None:
        return False
    left, right = axes.get_xlim()
    axes.axvspan(
        min(left, (1 - SAVING) * cost), (1 - SAVING) * cost, color="#F0E442", alpha=0.3, zorder=0,
        label="at least 10 % fewer GMACs than without exits",
    )  # fmt: skip
    axes.set_xlim(left, right)
    return True


def placement_costs(
    base: Summary | None, summaries: Sequence[Summary], where: str, name: str
) -> Plot | None:
    """Throughput over cost, and the share of tokens that leave, by placement."""
    timed = [s for s in summaries if {"images_per_s", "gmacs"} <= s.figures.keys()]
    left = [s for s in summaries if len(s.tokens) > 1 and s.tokens[0]]
    if len(left) < 2:
        return None
    with mpl.rc_context(SETTINGS):
        has_speed = len(timed) > 1
        figure = new_figure(DOUBLE)
        axes = figure.subplots(1, 2 if has_speed else 1, squeeze=False)[0]
        tips = _pruned(axes[-1], left, name)
        if has_speed:
            speeds, labels = _over_cost(
                axes[0], base, timed, "images_per_s", f"{name}-speed", (8, 14)
            )
            axes[0].set_ylabel("images/s")
            place_labels(axes[0], labels, [(x, y) for x, y, _ in labels])
            tips |= speeds
        figure.suptitle(f"Exits by placement: {where}", x=0.01, ha="left", fontsize=10)
    shares = "; ".join(f"{s.system}: {100 * (1 - s.tokens[-1] / s.tokens[0]):.0f} %" for s in left)
    description = f"Share of the tokens after merging that leave early, by placement: {shares}."
    return Plot(name, figure, "Speed and pruned tokens by placement", description, tips)


def _pruned(axes: mpl.axes.Axes, summaries: Sequence[Summary], name: str) -> dict[str, str]:
    tips = {}
    order = sorted(summaries, key=lambda s: (len(s.system.exit_blocks), s.system.exit_blocks))
    heads = max(len(s.tokens) for s in order) - 1
    for head in range(heads):
        for place, s in enumerate(order):
            if head + 1 >= len(s.tokens):
                continue
            bottom = 100 * (1 - s.tokens[head] / s.tokens[0])
            height = 100 * (s.tokens[head] - s.tokens[head + 1]) / s.tokens[0]
            gid = f"{name}-left-{head}-{place}"
            (bar,) = axes.bar(
                [place], [height], bottom=bottom, color=fill(head)[0], width=0.6,
                hatch=fill(head)[1], edgecolor="white", linewidth=0.5,
            )  # fmt: skip
            bar.set_gid(gid)
            tips[gid] = f"{s.label}, exit {head + 1}: {height:.1f} % of the tokens leave"
    for place, s in enumerate(order):
        total = 100 * (1 - s.tokens[-1] / s.tokens[0])
        axes.annotate(f"{total:.0f}", (place, total), (0, 3), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    labels = [",".join(map(str, s.system.exit_blocks)) for s in order]
    axes.set_xticks(range(len(order)), labels, rotation=90 if len(order) > 12 else 0)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("exits after blocks")
    axes.set_ylabel("tokens that left for good, percent")
    axes.margins(y=0.12)
    fills = {f"exit {head + 1}": fill(head) for head in range(heads)}
    legend_of_fills(axes, fills, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=heads)
    return tips
