"""Systems by name: what they are without and with a checkpoint, placements, lists, refusals."""

from dataclasses import replace
from typing import Any

import pytest

from stepseg.cli.comparison import systems
from stepseg.grid.systems import named_system, system_points
from stepseg.model_config import ReductionConfig

OWN = ReductionConfig.from_dict(
    {
        "merge": {"windows": [2, 4], "thresholds": [0.5, 0.7]},
        "exit": {"blocks": [6, 8], "threshold": 0.8},
    }
)
MERGE = {"windows": [2, 4, 8, 16], "thresholds": [0.6, 0.8, 0.9, 0.9]}
KNOWN: dict[str, dict[str, Any]] = {
    "none": {"name": "none", "merge": None, "exit": None},
    "cts": {
        "name": "cts",
        "merge": {"windows": [2], "thresholds": None, "top_k": 103},
        "exit": None,
    },
    "dcts": {"name": "dcts", "merge": MERGE, "exit": None},
    "step": {"name": "step", "merge": MERGE, "exit": {"blocks": [6], "threshold": 0.9}},
    "step_4999": {
        "name": "step",
        "merge": {**MERGE, "thresholds": [0.4, 0.9, 0.9, 0.9]},
        "exit": {"blocks": None, "threshold": None},
    },
}


def points(names, **sweep):
    return system_points(names, KNOWN, OWN, sweep, lambda reduction: None)


def test_without_a_checkpoint_a_system_is_as_configured():
    step = named_system("step@3+9", KNOWN)
    assert step.merge is not None
    assert step.exit is not None
    assert step.merge.thresholds == (0.6, 0.8, 0.9, 0.9)
    assert (step.exit.blocks, step.exit.threshold) == ((3, 9), 0.9)
    assert named_system("none", KNOWN) == ReductionConfig()


OTHERS: dict[str, dict[str, Any]] = {
    "tome": {"name": "tome", "merge": None, "exit": None, "inside": {"rule": "tome", "r": 0.05}},
    "cropr": {"name": "cropr", "merge": None, "exit": None, "inside": {"rule": "cropr"}},
    "random": {"name": "random", "merge": {**MERGE, "by": "random"}, "exit": None},
}


def test_other_methods_are_as_trained_or_as_configured():
    own = ReductionConfig.from_dict({"inside": {"rule": "tome", "r": 3}})
    assert named_system("tome", OTHERS, own) == own
    assert named_system("tome", OTHERS, own, ["systems.tome.inside.r=0.05"]).inside.r == 0.05
    assert named_system("cropr", OTHERS, own).inside.rule == "cropr"
    drawn = named_system("random", OTHERS, OWN).merge
    assert drawn == replace(OWN.merge, by="random")


def test_their_lists_multiply_what_has_that_number():
    found = system_points(
        ["none", "tome", "random"],
        KNOWN | OTHERS,
        OWN,
        {"inside_r": [0.1, 8], "cells": [None, 24], "merge_seeds": [1, 2]},
        lambda reduction: None,
    )
    kinds = [point.name.partition(" ")[0] for point in found]
    assert [kinds.count(name) for name in ("none", "tome", "random")] == [2, 4, 4]
    assert len({point.build() for point in found}) == len({point.label for point in found}) == 10
    rows = [point.columns() for point in found]
    assert {(row["inside"], row["inside_r"]) for row in rows} == {
        (None, None), ("tome", 0.1), ("tome", 8),
    }  # fmt: skip


def test_a_checkpoint_decides_what_it_was_trained_with():
    assert named_system("step", KNOWN, OWN) == OWN
    assert named_system("dcts", KNOWN, OWN) == ReductionConfig(merge=OWN.merge)
    own_merge = named_system("step_4999@8", KNOWN, OWN)
    assert own_merge.merge is not None
    assert own_merge.exit is not None
    assert own_merge.merge.thresholds == (0.4, 0.9, 0.9, 0.9)
    assert (own_merge.exit.blocks, own_merge.exit.threshold) == ((8,), 0.8)
    cts = named_system("cts", KNOWN, OWN).merge
    assert cts is not None
    assert cts.top_k == 103


def test_placed_exits_have_heads_where_they_are_placed_and_nowhere_else():
    exit_ = {"blocks": [6], "heads": [4, 6, 8]}
    own = ReductionConfig.from_dict({"merge": None, "exit": exit_})
    placed, kept = (named_system(name, KNOWN, own).exit for name in ("step@8", "step"))
    assert placed is not None
    assert kept is not None
    assert (placed.head_blocks, kept.head_blocks) == ((8,), (4, 6, 8))


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        (None, "'step' lets tokens leave: the checkpoint has no exit heads: choose"),
        ({"blocks": [], "heads": [6, 8]}, r"leave: say where, as in step@6\+8"),
    ],
)
def test_exits_without_a_place_are_refused(exit_, words):
    """Not shown as dCTS without a word."""
    own = ReductionConfig.from_dict({"merge": None, "exit": exit_})
    known = {"step": KNOWN["step"] | {"exit": {"blocks": None, "threshold": 0.9}}}
    with pytest.raises(ValueError, match=words):
        system_points(["step"], known, own, {}, lambda reduction: None)
    swept = {"exit_blocks": [[6], [8]]}
    assert len(system_points(["step"], known, own, swept, lambda reduction: None)) == 2


def test_what_the_user_changes_is_the_users():
    changed = named_system("step", KNOWN, OWN, ["systems.step.exit.threshold=0.9"])
    assert changed.merge is not None
    assert changed.exit is not None
    assert changed.merge.windows == (2, 4, 8, 16)
    assert (changed.exit.blocks, changed.exit.threshold) == ((6,), 0.9)


def test_lists_multiply_the_systems_that_have_the_part():
    found = points(
        ["none", "cts", "dcts", "step@8"],
        merge_thresholds=[[0.1, 0.2], [0.3, 0.4]],
        exit_thresholds=[0.5, 0.6],
    )
    assert [point.name for point in found] == [
        "none",
        "cts",
        "dcts merge.thresholds=0.1,0.2",
        "dcts merge.thresholds=0.3,0.4",
        *(
            f"step@8 merge.thresholds={merge} exit.threshold={threshold}"
            for merge in ("0.1,0.2", "0.3,0.4")
            for threshold in (0.5, 0.6)
        ),
    ]
    last = found[-1].build()
    assert last.merge is not None
    assert last.merge.thresholds == (0.3, 0.4)
    assert last.exit_blocks == (8,)


def test_placed_exits_are_not_swept():
    found = points(["step", "step@8"], exit_blocks=[[6], [6, 8]])
    assert [p.build().exit_blocks for p in found] == [(6,), (6, 8), (8,)]


@pytest.mark.parametrize(
    ("names", "sweep", "message"),
    [
        ([], {}, "at least one"),
        (["none", "none"], {}, "each system once"),
        (["stepp"], {}, "did you mean 'step'"),
        (["dcts@6"], {}, "dcts has no exits to place"),
        (["step@6-8"], {}, r"placed as in step@6\+8"),
        (["none", "dcts"], {"exit_thresholds": [0.5]}, r"sweep\.exit_thresholds: none of the syst"),
        (["cts"], {"merge_threshold_2": [0.5]}, r"sweep\.merge_threshold_2: none"),
        (["step"], {"exit_thresholds": [1.5]}, r"reductions=step: .*exit_thresholds=1\.5"),
        (["none"], {"exit_threshold": [0.5]}, r"sweep\.exit_threshold is unknown"),
    ],
)
def test_refusals(names, sweep, message):
    with pytest.raises(ValueError, match=message.replace(".*", r"(?s:.)*")):
        points(names, **sweep)


def test_dense_is_another_name_of_none():
    assert points(["dense", "dcts"]) == points(["none", "dcts"])
    with pytest.raises(ValueError, match="each system once"):
        points(["none", "dense"])
    with pytest.raises(ValueError, match="choose one of dense, none, cts"):
        points(["nothing at all"])


def test_tables_call_a_system_what_the_paper_calls_it():
    labels = [point.label for point in points(["none", "cts", "dcts", "step", "step@2+3"])]
    assert labels == ["dense", "CTS", "dCTS", "STEP@[6,8]", "STEP@[2,3]"]
    assert [point.label for point in points(["step_4999@8"])] == ["step_4999@8"]  # the user's own
    swept = points(["step"], exit_thresholds=[0.5, 0.6])
    assert [point.label for point in swept] == [
        "STEP@[6,8] exit.threshold=0.5", "STEP@[6,8] exit.threshold=0.6"
    ]  # fmt: skip


def test_the_systems_in_a_reduction_have_the_same_names():
    assert list(systems(OWN.build())) == ["dense", "dCTS", "STEP@[6,8]"]
    cts = replace(OWN, merge=named_system("cts", KNOWN).merge)
    assert list(systems(cts.build())) == ["dense", "CTS", "CTS & DToP@[6,8]"]
    assert list(systems(ReductionConfig().build())) == ["dense"]
