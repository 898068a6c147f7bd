"""The search: few evaluations of the calibration part, spent where they decide.

1. Scout: every family at a few strengths, on a tenth of the images. That tells what each costs at
   each strength, which budgets are possible at all, and which exits never pay for themselves.
2. Compare: every family at one and the same cost, on all calibration images: at the budget, or at
   `COMPARED_AT` of the dense cost where the target is a drop of accuracy.
3. Refine: the best two families, until they meet the target.
4. Draw the rest of the front of the best family, as far as evaluations are left.

An evaluation is what one dense run over the calibration part costs, in operations. A reduction
counts by its own share of that, as if it shared nothing with others of its pass: what is printed is
an upper bound.

Costs are those of rows of figures by any measure (`Cost`): operations, or predicted milliseconds.
So is what is kept: mIoU, or agreement with the dense model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log
from typing import Any

from stepseg.model_config import ReductionConfig
from stepseg.tuning.families import Family

Row = Mapping[str, Any]
Cost = Callable[[Row], float]
Walk = Callable[[str, Sequence[ReductionConfig]], Sequence[Row]]
"""Evaluates reductions at once on a part, ``scouted`` or ``calibration``; one row each."""

LIMIT = 10.0
"""Evaluations of a search."""
STRENGTHS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
"""At which families are scouted."""
COMPARED_AT = 0.6
"""Of the dense cost."""
CLOSE = 0.005
"""Relative error at which a point is left as it is."""
TOLERANCE = 0.01
"""By how much a chosen point may lie above its budget on the calibration part, and below it."""
FRONT = (0.85, 0.7, 0.55, 0.4)
"""Where else the front is drawn, as shares of the dense cost."""


class ImpossibleBudgetError(ValueError):
    """No reduction of any family has such a cost; says what is possible."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A reduction that was evaluated on the calibration part."""

    family: Family
    strength: float
    reduction: ReductionConfig
    row: Row


@dataclass(slots=True)
class Search:
    """One search.

    Args:
        families: to choose among.
        walk: evaluates.
        cost: of a row, in the unit of the budget.
        share: of the calibration images that are scouted.
        score: the key of a row by which reductions of one cost are chosen, percent: ``mIoU``, or
            ``agreement`` with the dense model, which needs no labels.
        limit: evaluations of the calibration part.
        unpaid: whether exits are searched, too, that cost more operations than they save.

    """

    families: Sequence[Family]
    walk: Walk
    cost: Cost
    share: float
    score: str = "mIoU"
    limit: float = LIMIT
    unpaid: bool = False
    used: float = 0.0
    """Evaluations of the calibration part so far."""
    dense: Row = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    scouted: dict[str, list[tuple[float, Row]]] = field(default_factory=dict)
    """Rows by strength, of every family."""
    dense_scouted: Row = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Families with an exit that paid at no strength."""

    def scout(self) -> None:
        """Try all families on a few images."""
        points = [(family, t) for family in self.families for t in STRENGTHS]
        reductions = [family.at(t) for family, t in points]
        self.dense_scouted, *rows = self.walk("scouted", [ReductionConfig(), *reductions])
        for (family, t), row in zip(points, rows, strict=True):
            self.scouted.setdefault(family.name, []).append((t, row))
        self.used += self.share * sum(map(self._evaluations, [self.dense_scouted, *rows]))
        paying = [f for f in self.families if self.unpaid or self._pays(f)]
        if paying:  # else there is nothing better
            self.left_out = [f.name for f in self.families if f not in paying]
            self.families = paying

    def possible(self) -> tuple[float, float]:
        """Least and greatest cost of a reduction, by the scouted images."""
        costs = [self.cost(row) for f in self.families for _, row in self.scouted[f.name]]
        return min(costs), min(max(costs), self.cost(self.dense_scouted))

    def meet(self, budget: float, unit: str) -> Tried | None:
        """The most accurate reduction at a budget; None: none came close to it.

        Raises:
            ImpossibleBudgetError: by the scouted images.

        """
        least, most = self.possible()
        if not least <= budget < most:
            dense = self.cost(self.dense_scouted)
            raise ImpossibleBudgetError(
                f"{budget:g} {unit} cannot be met: {least:.4g} to {most:.4g} {unit} are possible "
                f"(on {self.dense_scouted['images']} images; {dense:.4g} without any reduction)"
            )
        self._compare(budget)
        for _ in range(3):
            best = self._best_families(budget)
            self._try([(f, budget) for f in best if abs(self._miss(f, budget)) > CLOSE])
        if not any(self.cost(t.row) <= budget * (1 + TOLERANCE) for t in self.tried):
            self._try_below(budget)
        near = [t for t in self.tried if abs(self.cost(t.row) / budget - 1) <= TOLERANCE]
        below = [t for t in self.tried if self.cost(t.row) <= budget]
        return max(near, key=self._score) if near else max(below, key=self._cost_of, default=None)

    def keep(self, max_drop: float) -> Tried | None:
        """The cheapest reduction that loses at most so many points; None: none does."""
        self._compare(COMPARED_AT * self.cost(self.dense_scouted))
        dense = self.cost(self.dense)
        best = self._best_families(COMPARED_AT * dense) or self.families[:2]
        for _ in range(6):
            wanted = []
            for family in best:
                mine = [(self._cost_of(t), self._drop(t)) for t in self.tried if t.family is family]
                high = min((p for p in mine if p[1] <= max_drop), default=(dense, 0.0))
                poor = [point for point in mine if point[0] < high[0]]
                low = max(poor, default=None)
                if low is None:  # on, while nothing is lost
                    wanted.append((family, max(self._end(family), 0.6 * high[0])))
                elif high[0] / low[0] > 1 + CLOSE:
                    wanted.append((family, _between(high, low, max_drop)))
            self._try(wanted)
        fine_ones = [t for t in self.tried if self._drop(t) <= max_drop]
        return min(fine_ones, key=self._cost_of, default=None)

    def draw_front(self, family: Family) -> None:
        """Evaluate a family at other costs, as far as evaluations are left."""
        self._try([(family, share * self.cost(self.dense)) for share in FRONT])

    def _compare(self, level: float) -> None:
        """Every family at one cost, and the dense run, on all calibration images; once."""
        if self.dense:
            return
        self.dense, *_ = self.walk("calibration", [ReductionConfig()])
        self.used += 1
        self._try([(family, level) for family in self.families if self._reaches(family, level)])

    def _try(self, wanted: Sequence[tuple[Family, float]]) -> None:
        """Evaluate families at costs."""
        reaching = [(family, cost) for family, cost in wanted if self._reaches(family, cost)]
        self._evaluate([(f, self._strength(f, cost), cost) for f, cost in reaching])

    def _try_below(self, budget: float) -> None:
        """Where costs leap over the budget: the first scouted point below it."""
        for family in self._best_families(budget) or self.families:
            costs = [(self.cost(row), t) for t, row in self.scouted[family.name]]
            below = [(cost, t) for cost, t in costs if cost <= budget]
            self._evaluate([(family, t, cost) for cost, t in sorted(below)[-1:]])

    def _evaluate(self, wanted: Sequence[tuple[Family, float, float]]) -> None:
        """Evaluate families at strengths of about a cost, new ones, as many as the limit leaves."""
        points: list[tuple[Family, float, ReductionConfig]] = []
        left = self.limit - self.used
        for family, t, cost in wanted:
            reduction = family.at(t)
            if any(x.reduction == reduction for x in self.tried):
                continue
            left -= cost / self.cost(self.dense_scouted) * 1.05
            if left >= 0:
                points.append((family, t, reduction))
        if not points:
            return
        rows = self.walk("calibration", [reduction for _, _, reduction in points])
        self.used += sum(map(self._evaluations, rows))
        self.tried += [Tried(*point, row) for point, row in zip(points, rows, strict=True)]

    def _strength(self, family: Family, cost: float) -> float:
        """At which a family costs so much: by the scouts, corrected by what was evaluated."""
        curve = [(t, self.cost(row)) for t, row in self.scouted[family.name]]
        known = [(x.strength, self.cost(x.row)) for x in self.tried if x.family is family]
        if known:
            # between what is known on all images, the scouts say how it bends
            known.sort(key=lambda point: abs(log(point[1] / cost)))
            factors = sorted((t, c / _at(curve, t)) for t, c in known[:2])
            curve = [(t, c * _at(factors, t)) for t, c in curve]
            curve = sorted({**dict(curve), **dict(known)}.items())
        else:
            scale = self.cost(self.dense) / self.cost(self.dense_scouted) if self.dense else 1.0
            curve = [(t, c * scale) for t, c in curve]
        return round(_where(curve, cost), 5)

    def _pays(self, family: Family) -> bool:
        """Whether every exit saves, at some strength, more than its head costs."""
        exits = [row.get("exits", ()) for _, row in self.scouted[family.name]]
        return all(any(exit_["pays"] for exit_ in same) for same in zip(*exits, strict=True))

    def _reaches(self, family: Family, cost: float) -> bool:
        costs = [self.cost(row) for _, row in self.scouted[family.name]]
        return min(costs) <= cost <= max(costs)

    def _end(self, family: Family) -> float:
        return min(self.cost(row) for _, row in self.scouted[family.name])

    def _miss(self, family: Family, budget: float) -> float:
        mine = [self.cost(t.row) / budget - 1 for t in self.tried if t.family is family]
        return min(mine, key=abs)

    def _best_families(self, level: float) -> list[Family]:
        """The two most accurate, each by its point next to a cost."""
        nearest: dict[str, Tried] = {}
        for tried in sorted(self.tried, key=lambda t: -abs(log(self.cost(t.row) / level))):
            nearest[tried.family.name] = tried
        return [t.family for t in sorted(nearest.values(), key=self._score, reverse=True)[:2]]

    def _drop(self, tried: Tried) -> float:
        """Points below the best of the dense run and of all that costs at least as much.

        Not below the dense run alone: where that is unlucky on these images, the bar would be low.
        """
        dearer = [self._score(t) for t in self.tried if self._cost_of(t) >= self._cost_of(tried)]
        return max(float(self.dense[self.score]), *dearer) - self._score(tried)

    def _score(self, tried: Tried) -> float:
        return float(tried.row[self.score])

    def _cost_of(self, tried: Tried) -> float:
        return self.cost(tried.row)

    def _evaluations(self, row: Row) -> float:
        dense = self.dense or self.dense_scouted
        return float(row["gmacs_mean"] / dense["gmacs_mean"])


def _between(fine: tuple[float, float], poor: tuple[float, float], max_drop: float) -> float:
    """A cost between two, where their drops let expect the greatest that is allowed."""
    share = (max_drop - fine[1]) / max(poor[1] - fine[1], 1e-9)
    share = min(max(share, 0.2), 0.8)  # drops scatter
    return exp((1 - share) * log(fine[0]) + share * log(poor[0]))


def _at(curve: Sequence[tuple[float, float]], t: float) -> float:
    """A curve between its points, and constant beyond them."""
    if t <= curve[0][0]:
        return curve[0][1]
    for (t0, c0), (t1, c1) in pairwise(curve):
        if t <= t1:
            return exp(log(c0) + (t - t0) / (t1 - t0) * (log(c1) - log(c0)))
    return curve[-1][1]


def _where(curve: Sequence[tuple[float, float]], cost: float) -> float:
    """Where a falling curve takes a value; its nearest end if nowhere."""
    if cost >= curve[0][1]:
        return curve[0][0]
    for (t0, c0), (t1, c1) in pairwise(curve):
        if c1 <= cost <= c0:
            return t0 + (t1 - t0) * (log(c0 / cost) / log(c0 / c1) if c0 > c1 else 0.0)
    return curve[-1][0]
