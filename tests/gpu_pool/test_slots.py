"""GPUs and cores divided into slots, with made-up lists of GPUs."""

import pytest

from gpu_pool import slots
from gpu_pool.errors import SweepError
from gpu_pool.options import PoolOptions
from gpu_pool.slots import choose_gpus, make_slots, visible_gpus

UUIDS = "GPU-5a1c0f8e-01,GPU-97bd02c4-02"


def machine(monkeypatch, count, environment=None, **options):
    monkeypatch.setattr(slots, "count_gpus", lambda: count)
    return make_slots(PoolOptions(**options), environment or {})


def devices(found):
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found]


@pytest.mark.parametrize(
    ("count", "outer", "options", "expected"),
    [
        (4, None, {}, ["0", "1", "2", "3"]),
        (4, None, {"gpus_per_job": 2}, ["0,1", "2,3"]),
        (5, None, {"gpus_per_job": 2}, ["0,1", "2,3"]),
        (4, None, {"gpus": [3, 1]}, ["3", "1"]),
        (4, None, {"max_parallel": 3}, ["0", "1", "2"]),
        (2, "4,5", {}, ["4", "5"]),
        (2, "4,5", {"gpus": [1]}, ["5"]),
        (2, UUIDS, {}, UUIDS.split(",")),
        (2, UUIDS, {"gpus": ["GPU-97bd02c4-02"]}, ["GPU-97bd02c4-02"]),
        (1, "2,-1,3", {}, ["2"]),  # CUDA stops at the invalid entry, and so does its count
        (4, None, {"cpu_slots": 2}, ["", ""]),
        (0, "", {}, [""]),
        (0, None, {}, [""]),
    ],
)  # fmt: skip
def test_division(count, outer, options, expected, monkeypatch):
    environment = {} if outer is None else {"CUDA_VISIBLE_DEVICES": outer}
    found = machine(monkeypatch, count, environment, **options)
    assert devices(found) == expected
    assert len({slot.name for slot in found}) == len(found)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (2, {"gpus_per_job": 3}, "gpus_per_job=3, but there are 2 GPUs here"),
        (0, {"gpus_per_job": 2}, "there are 0 GPUs here: lower gpus_per_job, or run on the CPU"),
        (2, {"gpus": [2]}, "there is no GPU 2; visible here are 2: 0, 1"),
        (2, {"gpus": [0, 0]}, "names GPU 0 twice"),
        (2, {"gpus": []}, "is empty"),
        (2, {"gpus": "all"}, r"auto or a list like \[0,1\], got 'all'"),
        (2, {"gpus_per_job": 0}, "gpus_per_job must be at least 1, got 0"),
        (2, {"cpu_slots": 0}, "cpu_slots must be at least 1"),
        (2, {"max_parallel": 0}, "max_parallel must be at least 1"),
    ],
)
def test_what_the_machine_lacks_is_said(count, options, message, monkeypatch):
    with pytest.raises(SweepError, match=message):
        machine(monkeypatch, count, **options)


def test_cores_are_shared_unless_threads_are_set(monkeypatch):
    monkeypatch.setattr(slots, "_cores", lambda: 8)
    found = machine(monkeypatch, 0, cpu_slots=3)
    assert {slot.environment["OMP_NUM_THREADS"] for slot in found} == {"2"}
    found = machine(monkeypatch, 0, {"OMP_NUM_THREADS": "5"}, cpu_slots=3)
    assert "OMP_NUM_THREADS" not in found[0].environment


def test_names_before_positions():
    assert choose_gpus(["5"], visible_gpus({"CUDA_VISIBLE_DEVICES": "4,5"}, 2)) == ["5"]
    assert choose_gpus([0], ["4", "5"]) == ["4"]
