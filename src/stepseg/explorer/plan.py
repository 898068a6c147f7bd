"""Which runs an explorer carries: rules of merging times settings of exits.

Every rule is run once with all heads and nobody leaving, which tells the page what each head says
about each token, and once per exit threshold, which tells exactly what STEP does there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stepseg.dcts.merge import MergeRule
from stepseg.dcts.policy import OraclePolicy
from stepseg.heads.exit import ConfidenceExit, RandomExit, UniformExit
from stepseg.model import Reduction, StepSegmenter

PAPER_MERGE = {2: 0.6, 4: 0.8, 8: 0.9, 16: 0.9}
"""tau-6899 of STEP, by window side."""
PAPER_EXIT = 0.9
EXIT_THRESHOLDS = (0.8, 0.9, 0.95)

_THRESHOLDS = {
    "paper, τ-6899": PAPER_MERGE,
    "paper, τ-4999": {2: 0.4, 4: 0.9, 8: 0.9, 16: 0.9},
    "eager": {2: 0.3, 4: 0.5, 8: 0.6, 16: 0.7},
}
_CTS = MergeRule(windows=(2,), thresholds=None, top_k=103, top_k_cells=1024)


@dataclass(frozen=True, slots=True)
class Level:
    """A rule of merging with a name for people."""

    name: str
    rule: MergeRule | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run for every image."""

    windows: tuple[int, ...]
    """Window sides that the policy scores; empty: nothing can merge."""
    levels: tuple[Level, ...]
    heads: tuple[int, ...]
    """All blocks with an exit head."""
    exit_blocks: tuple[int, ...]
    """Those at which tokens leave in the exact runs."""
    own_exits: bool
    """Whether tokens leave at the start, in the reduction that the plan is made for."""
    exit: ConfidenceExit
    """Its threshold and number kept per class."""
    exit_thresholds: tuple[float, ...]
    own_merge: MergeRule | None
    """How it merges."""
    other_exits: bool
    """Whether tokens leave by another rule than `exit`, which stands in for it."""

    @property
    def exits(self) -> list[ConfidenceExit]:
        """The exit rules of the exact runs."""
        return [replace(self.exit, threshold=threshold) for threshold in self.exit_thresholds]

    def listening(self, rule: MergeRule | None) -> Reduction:
        """All heads speak and nobody leaves."""
        if not self.heads:
            return Reduction(merge=rule)
        return Reduction(merge=rule, exit=ConfidenceExit(1.0, 0), exit_blocks=self.heads)

    def __len__(self) -> int:
        return len(self.levels) * (1 + len(self.exit_thresholds))


def make_plan(
    model: StepSegmenter,
    exit_thresholds: Sequence[float] = EXIT_THRESHOLDS,
    reduction: Reduction | None = None,
) -> Plan:
    """Choose the runs that suit a model: only windows that it scores, only heads that it has.

    Args:
        model: whose policy and heads there are.
        exit_thresholds: besides that of the reduction.
        reduction: where the page starts; None: the model's own.

    """
    if model.decoder.among_all:
        raise ValueError(
            "the explorer replays heads that answer token by token, not those of EoMT and SegViT: "
            "pictures=[superpatches,dense] show what merging does"
        )
    reduction = reduction or model.reduction
    chosen = reduction.merge is None or reduction.merge.by == "policy"
    bound = reduction.gmacs_per_image is not None
    if reduction.inside is not None or reduction.cell is not None or bound or not chosen:
        raise ValueError(
            f"the explorer replays thresholds of windows and exits, and knows nothing of "
            f"{reduction.label}: choose reduction=step or another system of these"
        )
    scored = model.policy is not None and not isinstance(model.policy, OraclePolicy)
    windows = tuple(model.policy.windows) if model.policy is not None and scored else ()
    own = widen(reduction.merge, windows) if reduction.merge is not None and windows else None
    rule = reduction.exit
    confident = rule.base if isinstance(rule, RandomExit | UniformExit) else rule
    if not isinstance(confident, ConfidenceExit):
        confident = ConfidenceExit()
    heads = tuple(model.exit_head_blocks)
    thresholds = {*exit_thresholds, confident.threshold} - {1.0} if heads else ()
    return Plan(
        windows=windows,
        levels=tuple(_levels(windows, own)),
        heads=heads,
        exit_blocks=reduction.exit_blocks or heads,
        own_exits=bool(reduction.exit_blocks),
        exit=confident,
        exit_thresholds=tuple(sorted(thresholds)),
        own_merge=own,
        other_exits=bool(reduction.exit_blocks) and not isinstance(rule, ConfidenceExit),
    )


def widen(rule: MergeRule, windows: Sequence[int]) -> MergeRule:
    """The same rule over all windows that the policy scores: others are off by value."""
    if rule.thresholds is not None:
        given = dict(zip(rule.windows, rule.thresholds, strict=True))
        values = tuple(float(given.get(window, 1.0)) for window in windows)
        return replace(rule, windows=tuple(windows), thresholds=values)
    counts = dict(zip(rule.windows, rule.counts, strict=True))
    return replace(rule, windows=tuple(windows), top_k=tuple(counts.get(w, 0) for w in windows))


def _levels(windows: tuple[int, ...], own: MergeRule | None) -> Iterator[Level]:
    yield Level("no merging", None)
    if not windows:
        return
    like = own or MergeRule()
    rules: dict[str, MergeRule] = {}
    if 2 in windows:
        rules["CTS"] = replace(widen(_CTS, windows), resize=like.resize)
    for name, thresholds in _THRESHOLDS.items():
        rules[name] = MergeRule(
            windows=windows,
            thresholds=tuple(thresholds.get(window, 1.0) for window in windows),
            edge_weight=like.edge_weight,
            resize=like.resize,
        )
    if own is not None and own not in rules.values():
        yield Level("as configured", own)
    for name, rule in rules.items():
        yield Level(name, rule)
