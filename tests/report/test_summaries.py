from pathlib import Path

import pytest

from run_results import EXIT, MERGE, accuracy_row, benchmark, evaluation, training
from stepseg.report.pareto import pareto_front
from stepseg.report.rows import rows_of_runs
from stepseg.report.runs import Run
from stepseg.report.summaries import summarise


def arenas_of(*values, ignore=()):
    runs = [Run(Path(f"run{i}/result.json"), v) for i, v in enumerate(values)]
    rows, problems = rows_of_runs(runs)
    assert problems == []
    return summarise(rows, ignore)


def test_seeds_are_averaged_with_their_sample_deviation():
    values = [training(seed) for seed in range(3)]
    values += [evaluation([accuracy_row(30.0 + s, 3.0)], seed=s) for s in range(3)]
    (arena,), notices = arenas_of(*values)
    (line,) = arena.summaries
    spread = line.figures["mIoU"]
    assert (spread.mean, spread.std, spread.n) == (31.0, 1.0, 3)
    assert line.seeds == ("0", "1", "2")
    assert notices == []


@pytest.mark.parametrize(("seeds", "std"), [(1, None), (2, pytest.approx(2**0.5))])
def test_two_seeds_deviate_and_one_does_not(seeds, std):
    values = [training(seed) for seed in range(seeds)]
    values += [evaluation([accuracy_row(30.0 + 2 * s, 3.0)], seed=s) for s in range(seeds)]
    (arena,), _ = arenas_of(*values)
    assert arena.summaries[0].figures["mIoU"].std == std


def test_rows_that_differ_in_anything_but_the_seed_stay_apart():
    values = [training(0, 0.001), training(1, 0.002)]
    values += [evaluation([accuracy_row(30.0, 3.0)], 0, 0.001)]
    values += [evaluation([accuracy_row(32.0, 3.0)], 1, 0.002)]
    (arena,), _ = arenas_of(*values)
    assert [line.mean("mIoU") for line in arena.summaries] == [30.0, 32.0]
    assert arena.differing == ("train.optim.lr",)
    assert [line.label for line in arena.summaries] == [
        "dense optim.lr=0.001",
        "dense optim.lr=0.002",
    ]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("commit", {"git_sha": "b" * 40}),
        ("device", {"device": "cuda:0"}),
        ("versions", {"versions": {"torch": "2.14.0"}}),
    ],
)
def test_other_code_or_machine_keeps_rows_apart_unless_ignored(field, changes):
    values = [training(0), training(1)]
    values += [evaluation([accuracy_row(30.0, 3.0)], 0)]
    values += [evaluation([accuracy_row(32.0, 3.0)], 1, **changes)]
    (arena,), _ = arenas_of(*values)
    assert len(arena.summaries) == 2
    assert arena.differing == (field,)
    (arena,), _ = arenas_of(*values, ignore=[field])
    (line,) = arena.summaries
    assert line.figures["mIoU"].n == 2
    assert " / " in line.fields[field]


def test_a_repeated_seed_counts_once():
    same = [evaluation([accuracy_row(30.0, 3.0)], 0)] * 2
    other = evaluation([accuracy_row(34.0, 3.0)], 0)
    values = [training(0), training(1), evaluation([accuracy_row(40.0, 3.0)], 1)]
    (arena,), (notice,) = arenas_of(*values, *same)
    assert arena.summaries[0].figures["mIoU"].mean == 35.0
    assert "same figures: counted once" in notice
    assert "run3/result.json" in notice
    (arena,), (notice,) = arenas_of(*values, same[0], other)
    assert arena.summaries[0].figures["mIoU"].mean == 36.0  # of (30 + 34) / 2 and 40
    assert "with other mIoU: averaged, counted as one seed" in notice


@pytest.mark.parametrize(
    "changes",
    [
        {"per_class_IoU": [1.0, 2.0]},
        {"images": 101},
        {"protocol": {"mode": "whole", "resize_short": 480}},
        {"protocol": {"mode": "whole", "flip": True}},
    ],
)
def test_what_cannot_be_compared_has_tables_of_its_own(changes):
    rows = [accuracy_row(30.0, 3.0), accuracy_row(60.0, 3.0, **changes)]
    arenas, _ = arenas_of(evaluation(rows))
    assert [len(arena.summaries) for arena in arenas] == [1, 1]


def test_data_sets_have_tables_of_their_own_and_the_reader_is_told():
    other = evaluation([accuracy_row(60.0, 3.0)])
    other["config"] = {**other["config"], "data": {"name": "ade20k"}}
    arenas, notices = arenas_of(evaluation([accuracy_row(30.0, 3.0)]), other, benchmark())
    assert [arena.key.get("data") for arena in arenas] == ["ade20k", "camvid", None]
    assert any("Several data sets" in notice for notice in notices)


def test_fields_that_make_rows_incomparable_cannot_be_ignored():
    with pytest.raises(ValueError, match="'data' are never averaged"):
        arenas_of(evaluation([accuracy_row(30.0, 3.0)]), ignore=["data"])
    with pytest.raises(ValueError, match="unknown field 'weather'"):
        arenas_of(evaluation([accuracy_row(30.0, 3.0)]), ignore=["weather"])


def test_lines_are_told_apart_by_as_few_fields_as_it_takes():
    rows = [accuracy_row(30.0, 3.0), accuracy_row(31.0, 2.0, MERGE)]
    rows += [accuracy_row(32.0, 1.0, MERGE, {**EXIT, "threshold": t}) for t in (0.6, 0.9)]
    (arena,), _ = arenas_of(evaluation(rows))
    assert arena.differing == ("exit_threshold",)
    assert [line.label for line in arena.summaries] == [
        "dense", "dCTS τ-6899", "STEP@[6,8] τ-6899 θ=0.6", "STEP@[6,8] τ-6899 θ=0.9",
    ]  # fmt: skip


def test_the_front_holds_what_nothing_beats():
    #        cheapest    beaten      equal pair              best        worse than best
    points = [(1.0, 30), (2.0, 29), (2.0, 35), (2.0, 35), (3.0, 40), (4.0, 39)]
    assert sorted(pareto_front(points)) == [0, 2, 3, 4]
    speeds = [(10.0, 30), (20.0, 29), (5.0, 30)]
    assert sorted(pareto_front(speeds, less_cost=False)) == [0, 1]
    assert pareto_front([]) == []
