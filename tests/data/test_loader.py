from itertools import islice

import pytest
import torch

from stepseg.data.dataset import AugmentedDataset, SegmentationDataset
from stepseg.data.loader import TrainLoader
from stepseg.data.sampler import InfiniteBatchSampler
from stepseg.data.specs import get_spec
from stepseg.data.transforms import Augmentation, TrainTransform


@pytest.fixture
def make_loader(roots):
    def make(num_workers=0, seed=0, batch_size=2, rank=0, world=1, **kwargs):
        dataset = SegmentationDataset(get_spec("camvid"), roots["camvid"], "train")
        augmented = AugmentedDataset(dataset, TrainTransform(Augmentation(), (32, 32)), seed)
        sequence = InfiniteBatchSampler(len(dataset), batch_size, seed, rank, world)
        return TrainLoader(augmented, sequence, num_workers=num_workers, **kwargs)

    return make


def same(a, b):
    return (
        a["name"] == b["name"]
        and torch.equal(a["image"], b["image"])
        and torch.equal(a["label"], b["label"])
    )


def test_workers_do_not_change_the_batches(make_loader):
    alone = list(islice(make_loader(0), 5))
    with_workers = list(islice(make_loader(2), 5))
    assert all(same(a, b) for a, b in zip(alone, with_workers, strict=True))
    assert alone[0]["image"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_yields_the_very_same_next_batches(make_loader, num_workers):
    loader = make_loader(num_workers)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    assert state == {"position": 6, "seed": 0, "num_samples": 5}
    expected = list(islice(iterator, 2))
    resumed = make_loader(0)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert all(same(a, b) for a, b in zip(islice(resumed, 2), expected, strict=True))


def test_state_counts_used_batches_not_fetched_ones(make_loader):
    used = 0
    loader = make_loader(batches_used=lambda: used)
    iterator = iter(loader)
    next(iterator)
    used = 1
    next(iterator)  # looked ahead, not used
    assert loader.state_dict()["position"] == 2


def test_a_state_can_be_resumed_with_more_ranks(make_loader):
    one = make_loader(batch_size=4)
    iterator = iter(one)
    next(iterator)
    state, expected = one.state_dict(), next(iterator)
    halves = []
    for rank in range(2):
        loader = make_loader(batch_size=2, rank=rank, world=2)
        loader.load_state_dict(state)
        halves.append(next(iter(loader)))
    assert torch.equal(torch.cat([half["image"] for half in halves]), expected["image"])


@pytest.mark.parametrize(("key", "value"), [("seed", 9), ("num_samples", 400)])
def test_a_foreign_state_is_refused(make_loader, key, value):
    state = make_loader().state_dict() | {key: value}
    with pytest.raises(ValueError, match=f"{key}={value}.*same data and seed"):
        make_loader().load_state_dict(state)


def test_endless_means_no_length(make_loader):
    with pytest.raises(TypeError):
        len(make_loader())
