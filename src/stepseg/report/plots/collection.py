"""All plots that a report's data allow."""

from collections.abc import Sequence

from stepseg.report.fields import reduction_of_system
from stepseg.report.plots.parts import layer_profile
from stepseg.report.plots.placement import placement_costs, placement_map, placements
from stepseg.report.plots.reliability import Curve, curves_of, reliability
from stepseg.report.plots.style import Plot
from stepseg.report.plots.thresholds import threshold_curve
from stepseg.report.plots.tokens import superpatch_shares, token_profile
from stepseg.report.plots.tradeoff import accuracy_over_cost, accuracy_over_speed
from stepseg.report.runs import Problem, Run
from stepseg.report.summaries import Arena
from stepseg.report.systems import system_of


def plots_of_arena(arena: Arena, prefix: str) -> list[Plot]:
    """Plots of the lines of one table; names begin with `prefix`."""
    plots: list[Plot | None] = [accuracy_over_cost(arena, f"{prefix}-accuracy-cost")]
    plots += accuracy_over_speed(arena, f"{prefix}-accuracy-speed")
    plots.append(threshold_curve(arena, f"{prefix}-thresholds"))
    sets = placements(arena)
    for index, (base, summaries) in enumerate(sets):
        suffix = f"-{index + 1}" if len(sets) > 1 else ""
        first = summaries[0]
        blocks = f"@[{','.join(map(str, first.system.exit_blocks))}]"
        where = f"{first.label.replace(blocks, '')}; {arena.title}"
        plots.append(placement_map(base, summaries, where, f"{prefix}-placement{suffix}"))
        plots.append(placement_costs(base, summaries, where, f"{prefix}-exits{suffix}"))
    plots.append(token_profile(arena, f"{prefix}-tokens"))
    plots.append(superpatch_shares(arena, f"{prefix}-superpatches"))
    return [plot for plot in plots if plot is not None]


def plots_of_parts(runs: Sequence[Run]) -> tuple[list[Plot], list[Problem]]:
    """Block by block, of benchmarks with ``parts=true``; what cannot be drawn is a problem."""
    plots: list[Plot | None] = []
    problems = []
    for number, run in enumerate((run for run in runs if run.values.get("parts")), start=1):
        try:
            for index, (name, parts) in enumerate(run.values["parts"].items()):
                rows = [row for row in run.values["rows"] if row["name"] == name]
                system = str(system_of(reduction_of_system(rows[0], run.config), prescribed=True))
                batch = rows[0]["batch_size"]  # the first of batch_sizes, which may be a number
                where = f"{rows[0]['resolution']} px, batch {batch}, {run.values.get('device')}"
                plots.append(
                    layer_profile(system, parts, batch, where, f"parts-{number}-{index + 1}")
                )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            problems.append(Problem(run.path, f"its parts cannot be drawn: {error!r}"))
    return [plot for plot in plots if plot is not None], problems


def plots_of_policies(runs: Sequence[Run]) -> tuple[list[Plot], list[Problem]]:
    """Reliability of policies; evaluations of one and the same images are drawn once."""
    policies: dict[str, dict[int, Curve]] = {}
    problems = []
    for run in runs:
        try:
            curves = curves_of(run.values.get("policy_calibration") or {})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            problems.append(Problem(run.path, f"its calibration cannot be drawn: {error!r}"))
            continue
        if curves and curves not in policies.values():
            policies[str(run.folder)] = curves
    plot = reliability(policies, "policy-reliability")
    return [plot] if plot else [], problems
