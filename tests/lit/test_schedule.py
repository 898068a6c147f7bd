"""The reduction of every training step."""

import pytest

from stepseg.lit.schedule import ReductionSchedule
from stepseg.model import Reduction
from toys import SYSTEMS

STEP = SYSTEMS["step"]


def test_dense_then_merging_then_exits():
    schedule = ReductionSchedule(merge_from_step=2, exit_from_step=4)
    assert schedule.at(1, STEP) == Reduction()
    assert schedule.at(2, STEP) == Reduction(merge=STEP.merge)
    assert schedule.at(3, STEP) == Reduction(merge=STEP.merge)
    assert schedule.at(4, STEP) == STEP


def test_share_of_dense_steps():
    schedule = ReductionSchedule(dense_share=0.25, seed=1)
    dense = sum(schedule.at(step, STEP) == Reduction() for step in range(2000))
    assert 420 < dense < 580  # 500 expected, standard deviation 19
    again = ReductionSchedule(dense_share=0.25, seed=1)
    assert all(schedule.at(step, STEP) == again.at(step, STEP) for step in range(100))
    assert ReductionSchedule(dense_share=1).at(7, STEP) == Reduction()


def test_systems_without_a_part():
    schedule = ReductionSchedule()
    assert schedule.at(0, SYSTEMS["dcts"]) == SYSTEMS["dcts"]
    assert schedule.at(0, SYSTEMS["dtop"]) == SYSTEMS["dtop"]


@pytest.mark.parametrize("numbers", [{"dense_share": 1.5}, {"merge_from_step": -1}])
def test_impossible_numbers(numbers):
    with pytest.raises(ValueError, match="got"):
        ReductionSchedule(**numbers)
