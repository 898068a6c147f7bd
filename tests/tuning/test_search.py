"""The search on invented models whose costs and accuracies are formulas."""

from math import exp

import pytest
from PIL import Image

from stepseg.dcts.merge import MergeRule
from stepseg.merging.rules import Algm, Cropr, ToMe
from stepseg.model_config import ExitConfig, InputConfig, ReductionConfig
from stepseg.protocol import Protocol
from stepseg.tuning.families import families, grid_cells, together
from stepseg.tuning.search import ImpossibleBudgetError, Search
from stepseg.tuning.split import split_images

STEP = ReductionConfig(merge=MergeRule(), exit=ExitConfig(blocks=(2, 4)))
REDUCTIONS = {
    "step": STEP,
    "dcts": ReductionConfig(merge=MergeRule()),
    "dtop": ReductionConfig(exit=ExitConfig(blocks=(2, 4))),
    "cts": ReductionConfig(merge=MergeRule(windows=(2,), thresholds=None, top_k=100)),
    "tome": ReductionConfig(inside=ToMe()),
    "algm": ReductionConfig(inside=Algm()),
    "cropr": ReductionConfig(inside=Cropr()),
    "smaller": ReductionConfig(input=InputConfig(24)),
}


def invented(reduction):
    """10 GMACs dense; merging beyond half costs accuracy; exits after 4 alone are free of loss."""
    merge, exit_ = reduction.merge, reduction.exit
    left = 1.0
    if merge is not None:
        left = 0.1 + 0.9 / (1 + exp(-8 * (merge.thresholds[0] - 0.5)))
    share = {None: 1.0, (2,): 0.8, (4,): 0.8, (2, 4): 0.6}[exit_ and exit_.blocks]
    loss = 20 * max(0, 0.5 - left) + {None: 0, (2,): 3, (4,): 0, (2, 4): 4}[exit_ and exit_.blocks]
    return {"gmacs_mean": 10 * left * share, "mIoU": 80 - loss, "images": 3}


def search_for(base=STEP, limit=10.0):
    walked = []

    def walk(part, reductions):
        if part == "calibration":
            walked.extend(invented(r)["gmacs_mean"] / 10 for r in reductions)
        return [invented(r) for r in reductions]

    found = families(base, [2, 4], 16, 1024)
    search = Search(found, walk, cost=lambda row: row["gmacs_mean"], share=0.1, limit=limit)
    search.scout()
    return search, walked


def test_a_budget_is_met_by_the_best_family_within_ten_evaluations():
    search, walked = search_for()
    scouted = search.used
    chosen = search.meet(4.5, "GMACs")
    assert chosen.row["gmacs_mean"] == pytest.approx(4.5, rel=0.01)
    assert chosen.family.name == "exits after 4"
    assert search.used == pytest.approx(scouted + sum(walked))
    assert search.used <= 10


@pytest.mark.parametrize("budget", [10.5, 0.3])
def test_an_impossible_budget_says_what_is_possible_before_the_expensive_part(budget):
    search, walked = search_for()
    with pytest.raises(ImpossibleBudgetError, match=r"0\.6\d* to 9\.8\d* GMACs are possible"):
        search.meet(budget, "GMACs")
    assert walked == []


@pytest.mark.parametrize("unpaid", [False, True])
def test_exits_that_never_pay_are_not_searched_unless_asked(unpaid):
    def walk(part, reductions):
        rows = [invented(r) for r in reductions]
        for row, r in zip(rows, reductions, strict=True):
            if r.exit is not None:
                low = (
                    r.merge.thresholds[0] < 0.3
                )  # after 2 it pays where little merges, after 4 never
                row["exits"] = [{"block": b, "pays": b == 2 and not low} for b in r.exit.blocks]
        return rows

    found = families(STEP, [2, 4], 16, 1024)
    search = Search(found, walk, lambda row: row["gmacs_mean"], share=0.1, unpaid=unpaid)
    search.scout()
    without = [f.name for f in found if "2+4" in f.name or f.name.endswith(" 4")]
    assert search.left_out == ([] if unpaid else without)
    assert [f.name for f in search.families] == [
        f.name for f in found if f.name not in search.left_out
    ]


def test_a_drop_is_kept_and_nothing_cheaper_is_left():
    search, _ = search_for()
    chosen = search.keep(1.0)  # at 45 % of the tokens, with exits after 4
    assert chosen.row["mIoU"] >= 79
    assert chosen.row["gmacs_mean"] == pytest.approx(10 * 0.45 * 0.8, rel=0.1)
    assert search.used <= 10


def test_a_dense_run_that_is_unlucky_lowers_no_bar():
    def walk(part, reductions):
        rows = [invented(r) for r in reductions]
        return [row | ({"mIoU": 70} if row["gmacs_mean"] == 10 else {}) for row in rows]

    found = families(STEP, [2, 4], 16, 1024)
    search = Search(found, walk, cost=lambda row: row["gmacs_mean"], share=0.1)
    search.scout()
    assert search.keep(1.0).row["mIoU"] >= 79


def test_a_drop_is_kept_where_nothing_is_cheap_enough_to_compare():
    """By agreement; most of the cost is not reduced, so that 60 % of it is out of reach."""

    def walk(_, reductions):
        rows = [invented(r) for r in reductions]
        return [
            {"gmacs_mean": 20 + row["gmacs_mean"], "agreement": row["mIoU"] + 20, "images": 3}
            for row in rows
        ]

    found = families(STEP, [2, 4], 16, 1024)
    search = Search(found, walk, cost=lambda row: row["gmacs_mean"], share=0.1, score="agreement")
    search.scout()
    chosen = search.keep(1.0)
    assert chosen.row["agreement"] >= 99
    assert chosen.row["gmacs_mean"] < 26


def test_a_small_limit_is_kept():
    search, walked = search_for(limit=4.0)
    search.meet(4.5, "GMACs")
    assert search.used <= 4.05
    assert len(walked) < 4


@pytest.mark.parametrize("name", REDUCTIONS)
def test_families_go_from_little_to_much_and_only_the_number_moves(name):
    found = families(REDUCTIONS[name], [2, 4], 16, 1024)
    assert len(found) == {"step": 5, "dtop": 3}.get(name, 1)
    for family in found:
        ways = [family.at(t / 8) for t in range(9)]
        assert len(set(ways)) == 9
        assert all(way.build() for way in ways)
    first, last = found[0].at(0.0), found[0].at(1.0)
    if name == "step":
        assert first.merge.thresholds == (1.0,) * 4
        assert last.merge.thresholds == (0.0,) * 4
        assert found[1].at(0.5) == STEP
    if name == "cts":
        assert first.merge.top_k == 0
        assert last.merge.top_k == 256


def test_what_has_no_number_is_refused():
    with pytest.raises(ValueError, match="dense has no number to tune"):
        families(ReductionConfig(), [], 16, 1024)
    budget = ReductionConfig(exit=ExitConfig(blocks=(2,), rule="budget", tokens=(9,)))
    for make in (lambda: families(budget, [2], 16, 1024), lambda: together(budget, 16, 1024)):
        with pytest.raises(ValueError, match="prescribes its numbers"):
            make()


def test_numbers_of_windows_are_shares_of_what_the_model_is_shown_at_once(tmp_path):
    Image.new("RGB", (256, 128)).save(tmp_path / "a.png")
    image = tmp_path / "a.png"
    assert grid_cells(image, Protocol(), 16) == 8 * 16
    assert grid_cells(image, Protocol(), 24) == 6 * 11
    assert grid_cells(image, Protocol(mode="slide", crop=(64, 96)), 16) == 4 * 6
    assert grid_cells(image, Protocol(resize_short=64), 16) == 4 * 8


def test_parts_are_alike_and_depend_on_nothing_but_the_files(tmp_path):
    images = []
    for index in range(40):
        file = tmp_path / f"{index}.png"
        file.write_bytes(b"x" * (1000 + index**2))
        images.append((file.stem, file))
    parts = split_images(images, 0.5)
    assert {*parts.calibration} | {*parts.held_out} == {name for name, _ in images}
    assert not {*parts.calibration} & {*parts.held_out}
    assert len(parts.calibration) == 20
    means = [
        sum(1000 + int(name) ** 2 for name in part) / 20
        for part in (parts.calibration, parts.held_out)
    ]
    assert means[0] == pytest.approx(means[1], rel=0.01)
    assert {*parts.scouted} < {*parts.calibration}
    assert len(parts.scouted) == 2
    assert parts == split_images(images[::-1], 0.5)
    with pytest.raises(ValueError, match="fewer than 10"):
        split_images(images[:18], 0.5)
