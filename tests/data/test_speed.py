import pytest
from torch.utils.data import DataLoader

from stepseg.data.speed import LoaderSpeed, measure_loader


class Names:
    """A loader of `batches` batches with two images each."""

    num_workers = 3

    def __init__(self, batches):
        self.batches = batches
        self.passes = 0

    def __len__(self):
        return self.batches

    def __iter__(self):
        self.passes += 1
        return iter([{"name": ["a", "b"]}] * self.batches)


def test_images_of_the_measured_batches_count(monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr("stepseg.data.speed.time.perf_counter", lambda: next(clock))
    loader = Names(4)
    speed = measure_loader(loader, warmup_batches=2, batches=6)
    assert speed == LoaderSpeed(images=12, seconds=4.0, num_workers=3)
    assert speed.images_per_s == 3.0
    assert speed.images_per_s_per_worker == 1.0
    assert speed.as_dict()["images_per_s"] == 3.0
    assert loader.passes == 2  # a short loader starts again


def test_a_real_loader():
    loader = DataLoader([{"name": "a"}] * 5, batch_size=2)
    assert measure_loader(loader, warmup_batches=1, batches=2).images == 3  # batches of 2 and 1


def test_an_empty_loader_is_refused():
    with pytest.raises(ValueError, match="no batches"):
        measure_loader(Names(0))
