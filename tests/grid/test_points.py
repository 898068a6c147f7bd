"""Grids of reductions from lists in the configuration."""

import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from run_results import EXIT, MERGE
from stepseg.grid.points import AXES, ONE_THRESHOLD, grid_points
from stepseg.reduction import Reduction

BASE = {
    "merge": {**MERGE, "windows": [2, 4], "thresholds": [0.5, 0.6]},
    "exit": {**EXIT, "blocks": [2, 4]},
}


def check(reduction: Reduction) -> None:
    missing = set(reduction.exit_blocks) - {2, 4}
    if missing:
        raise ValueError(f"no exit head after {sorted(missing)}")


def points(base=BASE, **sweep):
    return grid_points(base, sweep, check)


def refused(base=BASE, **sweep) -> str:
    with pytest.raises(ValueError, match=r"sweep\.") as error:
        points(base, **sweep)
    return str(error.value)


def test_no_list_is_the_reduction_itself():
    [point] = points(exit_rules=None)
    assert point.name == "reduction"
    assert point.values == BASE
    assert point.columns() == {
        "merge_windows": [2, 4], "merge_thresholds": [0.5, 0.6], "top_k": None,
        "top_k_cells": None, "edge_weight": 0.0, "resize": "bilinear", "exit_blocks": [2, 4],
        "exit_rule": "confidence", "exit_threshold": 0.9, "keep_per_class": 5,
        "exit_tokens": None, "exit_seed": None, "merge_by": None, "merge_seed": None,
            "inside": None, "inside_r": None, "inside_threshold": None, "cell": None,
        "budget": None,
    }  # fmt: skip


def test_thresholds_of_single_windows_multiply():
    grid = points(merge_threshold_2=[0.4, 0.7], merge_threshold_4=[0.8, 1], exit_thresholds=[0.9])
    assert [p.columns()["merge_thresholds"] for p in grid] == [
        [0.4, 0.8], [0.4, 1], [0.7, 0.8], [0.7, 1],
    ]  # fmt: skip
    assert grid[1].name == "merge.threshold_2=0.4 merge.threshold_4=1 exit.threshold=0.9"
    assert grid[1].build().merge.thresholds == (0.4, 1)
    assert BASE["merge"]["thresholds"] == [0.5, 0.6]


def test_one_threshold_replaces_its_place_in_whole_lists():
    grid = points(merge_thresholds=[[0.1, 0.2], [0.3, 0.4]], merge_threshold_4=[0.9])
    assert [p.columns()["merge_thresholds"] for p in grid] == [[0.1, 0.9], [0.3, 0.9]]


def test_a_rank_takes_the_place_of_thresholds():
    grid = points(top_k=[[3, 1], [5, 2]])
    assert [p.build().merge.counts for p in grid] == [(3, 1), (5, 2)]
    assert grid[0].columns()["merge_thresholds"] is None


def test_thresholds_take_the_place_of_a_rank():
    ranked = {"thresholds": None, "top_k": [3, 1], "top_k_cells": 1024}
    grid = points(BASE | {"merge": BASE["merge"] | ranked}, merge_thresholds=[[0.1, 0.2]])
    assert grid[0].build().merge.thresholds == (0.1, 0.2)
    assert (grid[0].columns()["top_k"], grid[0].columns()["top_k_cells"]) == (None, None)


def test_numbers_that_a_rule_does_not_read_make_no_points():
    grid = points(
        exit_rules=["confidence", "random", "budget"],
        exit_thresholds=[0.8, 0.9],
        exit_tokens=[[9, 4], [4, 2]],
        exit_seeds=[0, 1],
    )
    assert len(grid) == 2 + 2 * 2 + 2
    budget = grid[-1].columns()
    assert (budget["exit_threshold"], budget["exit_tokens"]) == (None, [4, 2])
    assert len({point.build() for point in grid}) == len(grid)


def test_no_exit_block_turns_exits_off_once():
    grid = points(exit_blocks=[[], [2], [2, 4]], exit_thresholds=[0.8, 0.9])
    assert [p.name for p in grid][:2] == [
        "exit.blocks=none", "exit.blocks=2 exit.threshold=0.8"
    ]  # fmt: skip
    assert len(grid) == 5
    assert grid[0].build().exit is None
    assert grid[0].columns()["exit_threshold"] is None


def test_all_bad_values_are_named_at_once():
    message = refused(
        merge_threshold_2=[0.5, 1.5],
        merge_threshold_4=[0.3, 0.6],
        exit_blocks=[[2], [3]],
        exit_rules=["confidence", "confident"],
        exit_thresholds=[0.9, -1, "much"],
    )
    lines = message.splitlines()[1:]
    for cause, what in (
        ("sweep.merge_threshold_2=1.5: ", "got 1.5"),
        ("sweep.exit_blocks=3: ", "no exit head after [3]"),
        ("sweep.exit_rules=confident: ", "did you mean 'confidence'"),
        ("sweep.exit_thresholds=-1: ", "got -1"),
        ("sweep.exit_thresholds=much: ", "'much', expected float"),
    ):
        assert [line for line in lines if line.strip().startswith(cause) and what in line]
    assert not [line for line in lines if "threshold_4" in line.split(":")[0]]


@pytest.mark.parametrize(
    ("base", "sweep", "message"),
    [
        (BASE, {"exit_treshold": [1]}, "sweep.exit_treshold is unknown; known: merge_thresholds"),
        (BASE, {"exit_thresholds": 0.9}, r"sweep.exit_thresholds=0.9: give a list, such as [0.9]"),
        (BASE, {"exit_rules": []}, "sweep.exit_rules is empty"),
        (BASE | {"exit": None}, {"exit_thresholds": [0.5]}, "the reduction has no exit"),
        (BASE | {"merge": None}, {"merge_threshold_2": [0.5]}, "the reduction has no merge"),
        (BASE, {"merge_threshold_8": [0.5]}, "merge_threshold_8: the reduction merges windows of"),
        (BASE, {"top_k": [[1, 1]], "merge_threshold_2": [0.5]}, "exclude each other"),
        (BASE, {"top_k": [7]}, "sweep.top_k=7: top_k ranks the windows of each size"),
        (BASE, {"exit_seeds": [1, 2]}, "sweep.exit_seeds changes nothing"),
        (BASE, {"exit_tokens": [[3]]}, "sweep.exit_tokens changes nothing"),
        (BASE, {"exit_blocks": [[]], "exit_rules": ["random"]}, "exit_rules changes nothing"),
        (BASE, {"merge_thresholds": [[0.1]], "merge_threshold_4": [0.9]}, "1 merge thresholds for"),
        (BASE, {"merge_thresholds": [None], "merge_threshold_4": [0.9]}, "give either merge"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be(base, sweep, message):
    assert message in refused(base, **sweep)


def test_a_threshold_needs_thresholds():
    ranked = BASE | {"merge": BASE["merge"] | {"thresholds": None, "top_k": [3, 1]}}
    assert "no merge thresholds, but top_k=[3, 1]" in refused(ranked, merge_threshold_2=[0.5])


PROBABILITIES = st.sampled_from([0, 0.25, 0.5, 0.75, 1])
SOUND = {
    "merge_threshold_2": PROBABILITIES,
    "merge_threshold_4": PROBABILITIES,
    "edge_weights": st.sampled_from([0.0, 0.5, -1.0]),
    "resizes": st.sampled_from(["bilinear", "area"]),
    "exit_blocks": st.sampled_from([[], [2], [4], [2, 4]]),
    "exit_rules": st.sampled_from(["confidence", "random", "uniform"]),
    "exit_thresholds": PROBABILITIES,
    "keep_per_class": st.integers(0, 9),
    "exit_seeds": st.integers(0, 9),
}


@st.composite
def sound_sweeps(draw):
    keys = draw(st.lists(st.sampled_from(list(SOUND)), unique=True, max_size=5))
    return {key: draw(st.lists(SOUND[key], min_size=1, max_size=3, unique_by=str)) for key in keys}


@given(sweep=sound_sweeps())
def test_as_many_points_as_there_are_different_reductions(sweep):
    """Counted by hand: which lists multiply depends on blocks and rule."""
    count, idle = 0, set(sweep)
    for blocks in sweep.get("exit_blocks", [[2, 4]]):
        for rule in sweep.get("exit_rules", ["confidence"]) if blocks else ["confidence"]:
            read = {"merge_threshold_2", "merge_threshold_4", "edge_weights", "resizes"}
            read |= {"exit_thresholds", "keep_per_class"} if blocks else set()
            read |= {"exit_seeds"} if blocks and rule == "random" else set()
            idle -= read | {"exit_blocks"} | ({"exit_rules"} if blocks else set())
            count += math.prod(len(sweep[key]) for key in read if key in sweep)
    if idle:
        assert "changes nothing" in refused(**sweep)
        return
    grid = points(**sweep)
    assert len(grid) == count
    assert len({point.name for point in grid}) == count
    assert len({str(point.columns()) for point in grid}) == count
    assert len({point.build() for point in grid}) == count


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
) | st.sampled_from(["random", "budget", "area", [2], [0.5, 0.5], [1, 1]])  # fmt: skip


@given(
    sweep=st.dictionaries(
        st.sampled_from([*AXES, *SOUND]),
        st.lists(ANYTHING, min_size=1, max_size=3) | ANYTHING,
        max_size=3,
    )
)
def test_whatever_is_swept_is_a_grid_or_one_error(sweep):
    try:
        grid = points(**sweep)
    except ValueError as error:
        assert "sweep" in str(error)  # noqa: PT017
        return
    assert len({point.name for point in grid}) == len(grid)
    for point in grid:
        assert set(point.columns()) == set(points()[0].columns())


def test_documented_lists_exist():
    """Every list of the configuration is in docs/evaluation.md, and no other."""
    root = Path(__file__).parents[2]
    named = set(re.findall(r"sweep\.(\w+)", (root / "docs" / "evaluation.md").read_text()))
    named |= {f"{ONE_THRESHOLD}{window}" for window in (4, 8, 16)}
    assert named == set(yaml.safe_load((root / "conf" / "eval.yaml").read_text())["sweep"])
    assert {key for key in named if not key.startswith(ONE_THRESHOLD)} == set(AXES)
