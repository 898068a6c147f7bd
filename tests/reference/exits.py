"""Exit rules for one image, one token at a time."""

from stepseg.heads.exit import BudgetExit, ConfidenceExit, ExitRule, MarginExit, UniformExit

Rows = list[list[float]]
"""p of every class for every token of one image."""


def confidence(p: Rows, threshold: float, keep_per_class: int) -> list[bool]:
    """DToP: confident tokens leave, but for the k most confident ones of each predicted class."""
    return by([max(row) for row in p], p, threshold, keep_per_class)


def margin(p: Rows, threshold: float, keep_per_class: int) -> list[bool]:
    """Likewise, by how far the best class is above the second, or above nothing."""
    ordered = [sorted([*row, 0.0], reverse=True) for row in p]
    return by([best - second for best, second, *_ in ordered], p, threshold, keep_per_class)


def by(best: list[float], p: Rows, threshold: float, keep_per_class: int) -> list[bool]:
    """Those above a threshold leave, but for the first k of each predicted class."""
    predicted = [row.index(max(row)) for row in p]
    keep = [value <= threshold for value in best]
    for label in set(predicted):
        confident = [t for t in range(len(p)) if predicted[t] == label and best[t] > threshold]
        confident.sort(key=lambda t: best[t], reverse=True)
        for t in confident[:keep_per_class]:
            keep[t] = True
    return keep


def uniform(p: Rows, threshold: float, keep_per_class: int) -> list[bool]:
    """As many leave as with `confidence`, spread evenly over the sequence."""
    leaving = confidence(p, threshold, keep_per_class).count(False)
    return [(t + 1) * leaving // len(p) == t * leaving // len(p) for t in range(len(p))]


def budget(p: Rows, num_tokens: int) -> list[bool]:
    """The least confident tokens stay."""
    order = sorted(range(len(p)), key=lambda t: max(p[t]))
    return [t in order[:num_tokens] for t in range(len(p))]


def keep(rule: ExitRule, p: Rows, exit_index: int) -> list[bool]:
    """What a rule of the library decides for one image."""
    match rule:
        case ConfidenceExit(threshold=threshold, keep_per_class=k):
            return confidence(p, threshold, k)
        case MarginExit(threshold=threshold, keep_per_class=k):
            return margin(p, threshold, k)
        case UniformExit(base=ConfidenceExit(threshold=threshold, keep_per_class=k)):
            return uniform(p, threshold, k)
        case BudgetExit(tokens=tokens):
            return budget(p, tokens[min(exit_index, len(tokens) - 1)])
    raise NotImplementedError(f"no reference for {rule}")
