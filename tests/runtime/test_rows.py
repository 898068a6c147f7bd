"""Buckets, and the host's bounds of what only the device knows."""

import pytest
import torch

from stepseg.runtime.rows import STEP, bounds, bucket, padded


def test_buckets():
    assert [bucket(rows) for rows in (1, 127, 128, 129, 1000)] == [128, 128, 128, 256, 1024]


@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("cells", [1, 100, 256, 300, 4096])
@pytest.mark.parametrize("images", [1, 2, 33])
def test_bounds_hold_for_all_that_a_bucket_may_hold(images, cells, prefix):
    around = (images + 1) * prefix
    for tokens in (0, 1, images * cells // 2, images * cells):
        for extra in (0, STEP) if tokens < images * cells else (0,):
            rows = bucket(tokens + around + 1) + extra
            lengths = bounds(images, rows, cells, prefix)
            assert (len(lengths), sum(lengths)) == (images + 1, rows)
            assert len(set(lengths)) > 1  # no batch of equal images
            assert min(lengths) >= prefix
            padding = rows - tokens - around
            assert max(lengths) >= prefix + max(min(tokens, cells), padding)
            assert max(lengths) <= prefix + max(cells, 2 * STEP)


def test_the_device_knows_the_images():
    """Whatever stands behind the images in what is held."""
    for rest in ([], [-7, 9]):
        cu_seqlens = torch.tensor([0, 3, 3, 10, *rest], dtype=torch.int32)
        segments = padded(cu_seqlens, bounds(3, 128, 8))
        assert segments.cu_seqlens.tolist() == [0, 3, 3, 10, 128]
        assert segments.cu_seqlens.dtype == torch.int32
        assert not segments.is_uniform
        assert (segments.num_images, segments.total, segments.max_length) == (4, 128, 128)
        assert torch.equal(segments.image_ids().bincount(), torch.tensor([3, 0, 7, 118]))
