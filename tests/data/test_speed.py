from itertools import repeat

from stepseg.data.speed import measure_loader


class Names:
    """An endless loader of batches with two images each."""

    num_workers = 3

    def __iter__(self):
        return repeat({"name": ["a", "b"]})


def test_images_of_the_measured_batches_count(monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr("stepseg.data.speed.time.perf_counter", lambda: next(clock))
    assert measure_loader(Names(), warmup_batches=2, batches=6) == {
        "images": 12,
        "seconds": 4.0,
        "num_workers": 3,
        "images_per_s": 3.0,
        "images_per_s_per_worker": 1.0,
    }
