"""Stages on fixed buffers: the same features whatever lay in them, at constant addresses."""

import math

import pytest
import torch

from stepseg.packed import Segments
from stepseg.runtime.apply import stand_in
from stepseg.runtime.buffered import BufferedStages, StageBuffers, Usage, bucket
from toys import DIM, SYSTEMS, packed, toy_images, toy_segmenter, toy_vit

RAGGED = [
    (5, 6),
    (7,),
    (1,),
    (0,),
    (0, 0),
    (0, 1),
    (9, 9),  # one length: a dense batch without padding
    (32,),  # as long as its padding
    (64,),  # no padding
    (30, 0, 34),
    (0, 65),
    (4, 0, 2, 8),
    (300, 90, 122),
    (513,),
]


@pytest.fixture
def vit():
    return toy_vit().eval().requires_grad_(False)


def buffered(vit, **options):
    stages = BufferedStages(vit, **options)
    stand_in(vit, "run_blocks", stages)
    return stages


def poison(stages):
    """What could be left in memory that nobody wrote."""
    for buffers in stages._buffers.values():
        buffers.values_RD.fill_(math.nan)
        buffers.out_RD.fill_(math.nan)
        buffers.cu_seqlens[:-1] = -(2**31)  # the last entry is as constant as the size
        buffers.offsets[:-1] = -(2**63)


def addresses(buffers):
    tensors = (buffers.values_RD, buffers.out_RD, buffers.cu_seqlens, buffers.offsets)
    return [tensor.data_ptr() for tensor in tensors]


def test_buckets_against_a_list():
    borders = [*range(64, 512, 64), *range(512, 2048, 128), *range(2048, 6000, 256)]
    for tokens in range(5000):
        assert bucket(tokens) == next(border for border in borders if border >= tokens)


def test_buckets_at_their_borders():
    assert [bucket(tokens) for tokens in (0, 1, 64, 65, 512, 513)] == [64, 64, 64, 128, 512, 640]
    assert [bucket(tokens) for tokens in (640, 641, 2048, 2049, 2304, 2305)] == [
        *(640, 768, 2048, 2304, 2304, 2560)
    ]


def test_new_buffers_are_all_padding():
    """What a capture would see: a bound of all lengths, and none that are equal."""
    for batch in (1, 2, 5):
        segments = StageBuffers(batch, 64, torch.empty(0, DIM)).segments
        assert segments.lengths == (0,) * batch + (64,)
        assert segments.max_length == segments.total == 64
        assert not segments.is_uniform
        assert segments.cu_seqlens.tolist() == [0] * (batch + 1) + [64]


@pytest.mark.parametrize(
    ("lengths", "offsets"),
    [
        ((5, 0, 6), [0, 5, 5, 11, 64]),
        ((0, 0, 0), [0, 0, 0, 0, 64]),
        ((60, 3, 1), [0, 60, 63, 64, 64]),
    ],
)
def test_filling(lengths, offsets):
    tokens = packed(lengths)
    buffers = StageBuffers(3, 64, tokens.values_TD)
    buffers.values_RD.fill_(math.nan)
    before = addresses(buffers)
    buffers.fill(tokens)
    assert addresses(buffers) == before
    assert buffers.offsets.tolist() == buffers.cu_seqlens.tolist() == offsets
    assert (buffers.offsets.dtype, buffers.cu_seqlens.dtype) == (torch.int64, torch.int32)
    assert torch.equal(buffers.values_RD[: len(tokens)], tokens.values_TD)
    assert torch.equal(buffers.values_RD[len(tokens) :], torch.zeros(64 - len(tokens), DIM))


@pytest.mark.parametrize("lengths", RAGGED)
@torch.inference_mode()
def test_equals_eager(lengths, vit):
    tokens = packed(lengths)
    expected = vit.run_blocks(tokens, 1, 3)
    stages = buffered(vit)
    found = vit.run_blocks(tokens, 1, 3)
    assert stages.usage == Usage(made=1)
    assert found.segments is tokens.segments
    torch.testing.assert_close(found.values_TD, expected.values_TD)


@torch.inference_mode()
def test_nothing_that_was_in_the_buffers_matters(vit):
    """Large, small, large again in one bucket, each over NaN, and over what the last run left."""
    batches = [packed((60, 0, 64)), packed((1, 2, 64)), packed((100, 28, 0)), packed((65, 0, 0))]
    batches += batches[:2]
    expected = [vit.run_blocks(tokens, 0, 4).values_TD for tokens in batches]
    stages = buffered(vit)
    for poisoned in (False, True):
        for tokens, eager in zip(batches, expected, strict=True):
            if poisoned:
                poison(stages)
            found = vit.run_blocks(tokens, 0, 4).values_TD
            torch.testing.assert_close(found, eager)
            alone = BufferedStages(vit)(tokens, 0, 4).values_TD
            assert torch.equal(found, alone)
            (buffers,) = stages._buffers.values()
            assert buffers.out_RD.isfinite().all()  # the rows of the padding, too


@torch.inference_mode()
def test_a_replay_needs_no_more_than_what_a_capture_saw(vit, monkeypatch):
    """The host's numbers of new buffers, as a graph would keep them, and the device's of now.

    With masks attention reads the images from the device, as variable-length kernels do.
    """
    monkeypatch.setenv("STEPSEG_ATTENTION", "masked")
    batches = [packed((30, 34)), packed((5, 6)), packed((0, 1)), packed((21, 21)), packed((64, 0))]
    expected = [vit.run_blocks(tokens, 0, 4).values_TD for tokens in batches]
    stages = buffered(vit)
    seen = StageBuffers(2, 64, batches[0].values_TD).segments.lengths
    monkeypatch.setattr(
        StageBuffers, "segments", property(lambda self: Segments(self.cu_seqlens, seen))
    )
    for tokens, eager in zip(batches, expected, strict=True):
        torch.testing.assert_close(stages(tokens, 0, 4).values_TD, eager)
        poison(stages)
    assert stages.usage == Usage(hits=4, made=1)


@torch.inference_mode()
def test_padding_is_an_image_of_its_own(vit):
    """What an image attends to ends with it: other rows of zeros would pull its values."""
    stages = buffered(vit)
    seen = []
    stage = stages._stage

    def spy(buffers, start, stop):
        buffers.values_RD[buffers.offsets[-2] :] = 100.0
        seen.append(buffers.segments.lengths)
        stage(buffers, start, stop)

    tokens = packed((20, 7))
    clean = stages(tokens, 0, 4).values_TD
    stages._stage = spy
    assert torch.equal(stages(tokens, 0, 4).values_TD, clean)
    assert seen == [(20, 7, 37)]


@torch.inference_mode()
def test_addresses_never_change(vit):
    stages = buffered(vit)
    stages(packed((5, 6)), 0, 2)
    (buffers,) = stages._buffers.values()
    before = addresses(buffers)
    for lengths in [(64, 0), (0, 1), (30, 31), (0, 0)]:
        stages(packed(lengths), 0, 2)
        assert list(stages._buffers.values()) == [buffers]
        assert addresses(buffers) == before


@torch.inference_mode()
def test_output_outlives_a_later_run(vit):
    stages = buffered(vit)
    first = stages(packed((5, 6)), 0, 2).values_TD
    kept = first.clone()
    stages(packed((60, 4)), 0, 2)
    assert torch.equal(first, kept)
    first.zero_()  # nor does what a caller does with it reach the buffers
    (buffers,) = stages._buffers.values()
    assert buffers.out_RD.abs().min() > 0


@torch.inference_mode()
def test_no_blocks_need_no_buffers(vit):
    stages, tokens = buffered(vit), packed((5, 6))
    assert vit.run_blocks(tokens, 2, 2) is tokens
    assert stages.usage == Usage()


@torch.inference_mode()
def test_input_stays(vit):
    tokens = packed((5, 6))
    kept = tokens.values_TD.clone()
    buffered(vit)(tokens, 0, 4)
    assert torch.equal(tokens.values_TD, kept)


@torch.inference_mode()
def test_images_do_not_see_their_neighbours(vit):
    stages = buffered(vit)
    tokens = packed((50, 1, 0, 70))
    together = stages(tokens, 0, 4).values_TD.split(tokens.segments.lengths)
    for values, expected in zip(
        tokens.values_TD.split(tokens.segments.lengths), together, strict=True
    ):
        alone = packed((len(values),)).with_values(values)
        torch.testing.assert_close(stages(alone, 0, 4).values_TD, expected)


@torch.inference_mode()
def test_least_recently_used_buffers_leave(vit):
    stages = buffered(vit, most_buffers=2)

    def rows():
        return [key[3] for key in stages._buffers]

    stages(packed((60,)), 0, 2)
    stages(packed((100,)), 0, 2)
    stages(packed((1,)), 0, 2)  # 64 again: 128 is now the older one
    assert stages.usage == Usage(hits=1, made=2)
    stages(packed((150,)), 0, 2)
    assert rows() == [64, 192]
    assert stages.usage == Usage(hits=1, made=3, evicted=1)
    stages(packed((128,)), 0, 2)
    assert rows() == [192, 128]
    assert stages.usage == Usage(hits=1, made=4, evicted=2)
    assert stages.usage.hit_rate == 0.2


@torch.inference_mode()
def test_every_stage_batch_and_bucket_has_its_own_buffers(vit):
    stages = buffered(vit)
    tokens = packed((5, 6))
    runs = [
        (tokens, 0, 2),
        (tokens, 0, 3),
        (tokens, 1, 3),
        (packed((11,)), 0, 2),
        (packed((5, 66)), 0, 2),
        (packed((5, 6), dtype=torch.float64), 0, 2),
    ]
    for tokens, start, stop in runs:
        vit.to(tokens.values_TD.dtype)
        for _ in range(2):
            assert stages(tokens, start, stop).values_TD.dtype == tokens.values_TD.dtype
    assert stages.usage == Usage(hits=len(runs), made=len(runs))
    shared = {address for b in stages._buffers.values() for address in addresses(b)}
    assert len(shared) == 4 * len(runs)


@torch.inference_mode()
def test_too_many_tokens_run_without_buffers(vit):
    tokens = packed((60, 41))
    expected = vit.run_blocks(tokens, 0, 3).values_TD
    stages = buffered(vit, most_tokens=100)
    assert torch.equal(stages(tokens, 0, 3).values_TD, expected)
    assert not stages._buffers
    assert stages.usage == Usage(fallbacks=1)
    stages(packed((60, 40)), 0, 3)
    assert stages.usage == Usage(made=1, fallbacks=1)
    assert stages.usage.hit_rate == 0


def test_no_runs_have_no_hit_rate():
    assert Usage().hit_rate is None


def test_no_buffers_at_all():
    with pytest.raises(ValueError, match="most_buffers must be at least 1, got 0"):
        BufferedStages(None, most_buffers=0)


def test_buffers_are_not_made_on_a_gpu():
    class OnCuda:
        is_cuda = True

    with pytest.raises(NotImplementedError, match="not been run on a GPU yet"):
        StageBuffers(1, 64, OnCuda())


def test_gradients_take_the_eager_way(vit):
    stages = buffered(vit.requires_grad_(True))
    vit.run_blocks(packed((3, 4)), 0, 2).values_TD.sum().backward()
    assert vit.blocks[0].attn.qkv.weight.grad is not None
    assert stages.usage == Usage()


def test_inside_and_outside_of_inference_mode(vit):
    stages = buffered(vit)
    tokens = packed((5, 6))
    with torch.inference_mode():
        inside = vit.run_blocks(tokens, 0, 2).values_TD
    with torch.no_grad():
        outside = vit.run_blocks(tokens, 0, 2).values_TD
    assert torch.equal(inside, outside)
    assert not outside.is_inference()
    assert stages.usage == Usage(hits=1, made=1)


@torch.inference_mode()
def test_autocast(vit):
    tokens = packed((5, 6))
    with torch.autocast("cpu", torch.bfloat16):
        expected = vit.run_blocks(tokens, 0, 2).values_TD
        buffered(vit)
        found = vit.run_blocks(tokens, 0, 2).values_TD
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("system", SYSTEMS)
@torch.inference_mode()
def test_segmenter_equals_eager(system):
    model = toy_segmenter().prepare_for_inference()
    sizes = [(128, 128), (64, 160), (200, 256), (16, 16)]
    batches = [toy_images(batch, *size) for size in sizes for batch in (1, 3)]
    eager = [model(images, reduction=SYSTEMS[system]) for images in batches]
    stages = buffered(model.backbone)
    for _ in range(2):
        for images, expected in zip(batches, eager, strict=True):
            found = model(images, reduction=SYSTEMS[system])
            assert found.tokens_per_stage == expected.tokens_per_stage
            torch.testing.assert_close(found.scores(), expected.scores())
            poison(stages)
    usage = stages.usage
    assert usage.hits >= usage.made > 0
    assert usage.fallbacks == usage.evicted == 0
