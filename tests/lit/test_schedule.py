"""The reduction of every training step."""

import pytest

from stepseg.lit.schedule import ReductionSchedule
from stepseg.model import Reduction
from toys import SYSTEMS

STEP = SYSTEMS["step"]


def test_dense_then_merging_then_exits():
    schedule = ReductionSchedule(merge_from=0.2, exit_from=0.4)
    assert schedule.at(1, 10, STEP) == Reduction()
    assert schedule.at(2, 10, STEP) == Reduction(merge=STEP.merge)
    assert schedule.at(3, 10, STEP) == Reduction(merge=STEP.merge)
    assert schedule.at(4, 10, STEP) == STEP
    assert ReductionSchedule(merge_from=1, exit_from=1).at(9, 10, STEP) == Reduction()


def test_share_of_dense_steps():
    schedule = ReductionSchedule(dense_share=0.25, seed=1)
    dense = sum(schedule.at(step, 2000, STEP) == Reduction() for step in range(2000))
    assert 420 < dense < 580  # 500 expected, standard deviation 19
    again = ReductionSchedule(dense_share=0.25, seed=1)
    assert all(schedule.at(n, 99, STEP) == again.at(n, 99, STEP) for n in range(99))
    other = ReductionSchedule(dense_share=0.25, seed=2)
    assert any(schedule.at(n, 99, STEP) != other.at(n, 99, STEP) for n in range(99))
    assert ReductionSchedule(dense_share=1).at(7, 9, STEP) == Reduction()


def test_systems_without_a_part():
    schedule = ReductionSchedule()
    assert schedule.at(0, 9, SYSTEMS["dcts"]) == SYSTEMS["dcts"]
    assert schedule.at(0, 9, SYSTEMS["dtop"]) == SYSTEMS["dtop"]


@pytest.mark.parametrize("numbers", [{"dense_share": 1.5}, {"merge_from": -0.1}])
def test_impossible_numbers(numbers):
    with pytest.raises(ValueError, match="got"):
        ReductionSchedule(**numbers)
