"""Merging and its labels for one image, one window at a time."""

import math

from stepseg.dcts.merge import MergeRule

Map = list[list[int]]
Scores = dict[int, list[list[float]]]
"""Per window side, one number per window."""


def merge(
    scores: Scores,
    rule: MergeRule,
    rows: int,
    columns: int,
    edges: Scores | None = None,
    shift: float = -math.inf,
) -> Map:
    """Side of the window that covers each cell, coarse to fine; thresholds lower by `shift`."""
    covered = [[1] * columns for _ in range(rows)]
    for size in sorted(rule.windows, reverse=True):
        index = rule.windows.index(size)
        cells = [(i, j) for i in range(size) for j in range(size)]
        free = [
            (y, x)
            for y in range(rows // size)
            for x in range(columns // size)
            if all(covered[y * size + i][x * size + j] == 1 for i, j in cells)
        ]
        if rule.top_k is not None:
            counts = [rule.top_k] if isinstance(rule.top_k, int) else rule.top_k
            free.sort(key=lambda at: scores[size][at[0]][at[1]], reverse=True)
            chosen = free[: counts[index]]
        else:
            chosen = [
                (y, x)
                for y, x in free
                if (gap := threshold(rule, index, edges, y, x) - scores[size][y][x]) < 0
                or (gap <= shift and rule.thresholds[index] < 1)
            ]
        for y, x in chosen:
            for i in range(size):
                for j in range(size):
                    covered[y * size + i][x * size + j] = size
    return covered


def merge_bounded(
    scores: Scores, rule: MergeRule, rows: int, columns: int, edges: Scores | None = None
) -> Map:
    """Try all shifts from the least on, until few enough tokens are left."""
    assert rule.most_tokens is not None
    gaps = [
        threshold(rule, index, edges, y, x) - score
        for index, size in enumerate(rule.windows)
        if rule.thresholds[index] < 1
        for y, row in enumerate(scores[size])
        for x, score in enumerate(row)
    ]
    for shift in (-math.inf, *sorted(gaps)):
        covered = merge(scores, rule, rows, columns, edges, shift)
        if len(tokens(covered)) <= rule.most_tokens:
            return covered
    raise AssertionError("it cannot be met")


def threshold(rule: MergeRule, index: int, edges: Scores | None, y: int, x: int) -> float:
    """What the score of a window must exceed: moved by its edge density, if the rule says so."""
    assert rule.thresholds is not None
    value = rule.thresholds[index]
    if rule.edge_weight and value < 1:
        assert edges is not None
        value += rule.edge_weight * (edges[rule.windows[index]][y][x] - 0.5)
    return min(max(value, 0.0), 1.0)


def edge_density(grey: list[list[float]], patch_size: int, sizes: tuple[int, ...]) -> Scores:
    """Steps to the right and lower neighbours, mean over a window, relative to the image's mean."""
    height, width = len(grey), len(grey[0])
    rows, columns = -(-height // patch_size), -(-width // patch_size)

    def step(i: int, j: int) -> float:
        if i >= height or j >= width:
            return 0.0
        right = abs(grey[i][j + 1] - grey[i][j]) if j + 1 < width else 0.0
        below = abs(grey[i + 1][j] - grey[i][j]) if i + 1 < height else 0.0
        return right + below

    def mean(top: int, left: int, tall: int, wide: int) -> float:
        pixels = [step(i, j) for i in range(top, top + tall) for j in range(left, left + wide)]
        return sum(pixels) / len(pixels)

    everywhere = mean(0, 0, rows * patch_size, columns * patch_size)
    result = {}
    for size in sizes:
        side = size * patch_size
        means = [
            [mean(y * side, x * side, side, side) for x in range(columns // size)]
            for y in range(rows // size)
        ]
        result[size] = [[one / (one + everywhere) for one in row] for row in means]
    return result


def tokens(covered: Map) -> list[tuple[int, int, int]]:
    """(y, x, side) of every token, in raster order of the top-left cells."""
    return [
        (y, x, side)
        for y, row in enumerate(covered)
        for x, side in enumerate(row)
        if y % side == 0 and x % side == 0
    ]


def homogeneous(
    labels: Map,
    patch_size: int,
    size: int,
    *,
    ignore_index: int = 255,
    all_ignore_is_homogeneous: bool = True,
    ignore_breaks_homogeneity: bool = True,
) -> list[list[bool]]:
    """Which windows of `size` patches carry one label; pixels beyond the image are ignored ones."""
    rows, columns = -(-len(labels) // patch_size), -(-len(labels[0]) // patch_size)
    side = patch_size * size

    def label(i: int, j: int) -> int:
        inside = i < len(labels) and j < len(labels[0])
        return labels[i][j] if inside else ignore_index

    def decide(y: int, x: int) -> bool:
        kinds = {label(y * side + i, x * side + j) for i in range(side) for j in range(side)}
        if kinds == {ignore_index}:
            return all_ignore_is_homogeneous
        if not ignore_breaks_homogeneity:
            kinds.discard(ignore_index)
        return len(kinds) == 1

    return [[decide(y, x) for x in range(columns // size)] for y in range(rows // size)]
