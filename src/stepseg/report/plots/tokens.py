"""How many tokens are left where, and how large the superpatches are (Tables 2 and 7)."""

from collections.abc import Sequence

import matplotlib as mpl

from stepseg.pictures.looks import COLOURS, SETTINGS, window_hex
from stepseg.report.plots.style import Plot, fill, legend_of_fills, new_figure
from stepseg.report.summaries import Arena, Summary

MOST = 4
"""Lines of one kind of system in one plot; more cannot be told apart."""


def token_profile(arena: Arena, name: str) -> Plot | None:
    """Tokens in every block, by system."""
    # a file may claim exits without their counts
    whole = [s for s in arena.summaries if len(s.tokens) == len(s.system.exit_blocks) + 1]
    whole = [s for s in whole if depth_of(s)]
    kinds = dict.fromkeys(s.system.kind for s in whole)
    known = [s for k in kinds for s in _spread_out([s for s in whole if s.system.kind == k])]
    if not any(len(s.tokens) > 1 for s in known):
        return None
    with mpl.rc_context(SETTINGS):
        figure = new_figure((8.5, 4.6))
        axes = figure.subplots()
        styles = ("-", "--", ":", "-.")
        seen: dict[str, int] = {}
        tips = {}
        for index, s in enumerate(known):
            borders = [0, *s.system.exit_blocks, depth_of(s)]
            kind = s.system.kind
            style = styles[seen.setdefault(kind, 0) % 4]
            seen[kind] += 1
            gid = f"{name}-{index}"
            axes.stairs(s.tokens, borders, baseline=None, color=COLOURS[kind], linestyle=style,
                        linewidth=2, label=s.label, gid=gid)  # fmt: skip
            words = ", ".join(f"{tokens:.0f}" for tokens in s.tokens)
            tips[gid] = f"{s.label}: {words} tokens by stage"
        axes.set_xlabel("after so many blocks")
        axes.set_ylabel("tokens per image")
        axes.set_ylim(bottom=0)
        axes.set_title(f"Tokens by stage\n{arena.title}", fontsize=9)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    description = "; ".join(tips.values())
    return Plot(name, figure, "Tokens by stage", description, tips)


def depth_of(summary: Summary) -> int:
    """Blocks of the encoder, from the names of its parts (``blocks_9-12``)."""
    ends = [int(p.rpartition("-")[2]) for p in summary.parts if p.startswith("blocks_")]
    return max(ends, default=0)


def superpatch_shares(arena: Arena, name: str) -> Plot | None:
    """The share of the image under superpatches of each size."""
    merging = [
        s for s in arena.summaries if any(n for side, n in s.superpatches.items() if side > 1)
    ]
    # exits do not change what was merged
    unique = list({_counts(s): s for s in reversed(merging)}.values())[::-1]
    if not unique:
        return None
    unique = _spread_out(sorted(unique, key=lambda s: -s.tokens[0] if s.tokens else 0), 16)
    sides = sorted({side for s in unique for side in s.superpatches})
    with mpl.rc_context(SETTINGS):
        figure = new_figure((8.5, 1.7 + 0.36 * len(unique)))
        axes = figure.subplots()
        tips = {}
        for place, s in enumerate(unique):
            cells = sum(n * side**2 for side, n in s.superpatches.items())
            start = 0.0
            for index, side in enumerate(sides):
                share = 100 * s.superpatches.get(side, 0.0) * side**2 / cells
                gid = f"{name}-{place}-{side}"
                (bar,) = axes.barh(
                    [place], [share], left=start, color=window_hex(side),
                    hatch=fill(index)[1], edgecolor="white", linewidth=0.5,
                )  # fmt: skip
                bar.set_gid(gid)
                number = s.superpatches.get(side, 0.0)
                tips[gid] = (
                    f"{s.label}: {number:.1f} of {side} x {side}, {share:.1f} % of the image"
                )
                start += share
        axes.set_yticks(range(len(unique)), [s.label for s in unique])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the image, percent, by size of superpatch (in patches)")
        axes.set_title(f"Superpatches\n{arena.title}", fontsize=9)
        fills = {f"{s} x {s}": (window_hex(s), fill(index)[1]) for index, s in enumerate(sides)}
        legend_of_fills(axes, fills, loc="center left", bbox_to_anchor=(1.01, 0.5))
    description = "Share of the image by size of superpatch. " + "; ".join(tips.values())
    return Plot(name, figure, "Superpatches by size", description, tips)


def _counts(summary: Summary) -> tuple[tuple[int, float], ...]:
    return tuple((side, round(n, 3)) for side, n in summary.superpatches.items())


def _spread_out(summaries: Sequence[Summary], most: int = MOST) -> list[Summary]:
    """At most so many lines, the cheapest and the dearest among them."""
    if len(summaries) <= most:
        return list(summaries)
    places = {round(i * (len(summaries) - 1) / (most - 1)) for i in range(most)}
    return [s for i, s in enumerate(summaries) if i in places]
