"""Which points no other point beats."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]], *, less_cost: bool = True) -> list[int]:
    """Indices of the points ``(cost, value)`` that none beats, by falling value.

    A point is beaten by one at least as good in both that is better in one.

    Args:
        points: pairs; the second is better when larger.
        less_cost: whether the first is better when smaller.

    """
    sign = 1.0 if less_cost else -1.0
    order = sorted(range(len(points)), key=lambda i: (sign * points[i][0], -points[i][1]))
    front: list[int] = []
    for index in order:
        cost, value = points[index]
        same = bool(front) and points[front[-1]] == (cost, value)
        if not front or value > points[front[-1]][1] or same:
            front.append(index)
    return front[::-1]
