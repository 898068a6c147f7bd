import importlib.util

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import stepseg.ops.upsample as upsample
from stepseg.ops.upsample import upsampled_argmax


def reference(scores_BYXC, factor):
    scores = F.interpolate(
        scores_BYXC.permute(0, 3, 1, 2), scale_factor=factor, mode="bilinear", align_corners=False
    )
    return scores, scores.argmax(1)


def assert_equal_up_to_ties(scores_BYXC, factor):
    scores_BCHW, expected = reference(scores_BYXC, factor)
    labels = upsampled_argmax(scores_BYXC, factor)
    assert labels.shape == expected.shape
    assert labels.dtype == torch.int64
    best = scores_BCHW.amax(1)
    chosen = scores_BCHW.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(chosen, best, rtol=0, atol=2e-6)
    assert (labels == expected).float().mean() > 0.999


def test_two_cells_side_by_side():
    # Class 0 falls from 1 to 0 and class 1 rises from 0 to 0.6: they meet at 1 / 1.6 = 0.625 of the
    # way, that is in pixel centres 4.5 + 5, between the 9th and 10th of 16 pixels.
    scores = torch.tensor([[[[1.0, 0.0], [0.0, 0.6]]]])
    labels = upsampled_argmax(scores, 8)
    assert labels.shape == (1, 8, 16)
    assert labels.tolist() == [[[0] * 9 + [1] * 7] * 8]


def test_a_class_can_lead_between_cells_where_it_leads_in_none():
    # Class 2 is second everywhere: half way its 0.7 beats the mean of 1 and 0.
    scores = torch.tensor([[[[1.0, 0.0, 0.7], [0.0, 1.0, 0.7]]]])
    assert upsampled_argmax(scores, 4)[0, 0].tolist() == [0, 0, 0, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (4, 1), (6, 9)])
def test_equals_interpolation_and_argmax(rows, columns, factor):
    assert_equal_up_to_ties(torch.rand(2, rows, columns, 7), factor)


def test_equals_interpolation_and_argmax_on_smooth_scores():
    coarse = torch.randn(1, 30, 5, 5)
    scores = F.interpolate(coarse, size=(20, 24), mode="bicubic").sigmoid()
    assert_equal_up_to_ties(scores.permute(0, 2, 3, 1), 16)


def test_chunks_make_no_difference(monkeypatch):
    scores = torch.rand(3, 5, 4, 6)
    whole = upsampled_argmax(scores, 8)
    monkeypatch.setattr(upsample, "CPU_CHUNK", 1)
    assert torch.equal(upsampled_argmax(scores, 8), whole)


def test_an_image_does_not_depend_on_its_batch():
    scores = torch.rand(3, 5, 4, 6)
    together = upsampled_argmax(scores, 8)
    assert torch.equal(together, torch.cat([upsampled_argmax(s[None], 8) for s in scores]))


def test_no_image_is_no_map():
    assert upsampled_argmax(torch.rand(0, 5, 4, 6), 8).shape == (0, 40, 32)


def test_half_precision_keeps_its_dtype_within():
    scores = torch.rand(1, 6, 6, 4).bfloat16()
    labels = upsampled_argmax(scores, 16)
    _, expected = reference(scores.float(), 16)
    assert (labels == expected).float().mean() > 0.95


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    classes=st.integers(1, 6),
    factor=st.integers(1, 9),
    peaked=st.booleans(),
)
def test_the_chosen_class_leads_wherever_interpolation_says_so(
    seed, batch, rows, columns, classes, factor, peaked
):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, rows, columns, classes, generator=generator)
    if peaked:  # whole numbers: many ties, many cells that agree
        scores = (scores * 3).round()
    upsampled, expected = reference(scores, factor)
    labels = upsampled_argmax(scores, factor)
    assert labels.shape == expected.shape
    chosen = upsampled.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(chosen, upsampled.amax(1), rtol=0, atol=2e-6)


def load_kernel():
    """The module as new: Triton asks the environment when a kernel is defined."""
    pytest.importorskip("triton")
    spec = importlib.util.find_spec("stepseg.ops.map_kernel")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kernel(monkeypatch):
    """In Triton's interpreter."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return load_kernel().label_quads


@pytest.mark.parametrize(
    ("shape", "factor", "dtype"),
    [
        ((2, 2, 1, 3), 4, torch.int64),
        ((1, 1, 1, 3), 3, torch.uint8),
        ((1, 1, 2, 2), 16, torch.uint8),
        ((0, 2, 2, 3), 2, torch.int64),
    ],
    ids=str,
)
def test_the_kernel_equals_the_reference(kernel, shape, factor, dtype):
    for scores in (torch.rand(shape), (torch.rand(shape) * 2).round()):  # the latter tie
        labels = kernel(scores, factor, dtype)
        assert labels.dtype == upsampled_argmax(scores, factor, dtype).dtype == dtype
        assert labels.shape == (shape[0], shape[1] * factor, shape[2] * factor)
        if len(scores):
            upsampled, _ = reference(scores, factor)
            chosen = upsampled.gather(1, labels.long()[:, None])[:, 0]
            torch.testing.assert_close(chosen, upsampled.amax(1), rtol=0, atol=2e-6)


def test_the_kernel_reads_half_precision_and_permuted_scores(kernel):
    scores = torch.rand(1, 4, 2, 2).bfloat16().permute(0, 2, 3, 1)
    labels = kernel(scores, 8, torch.int64)
    _, expected = reference(scores.float(), 8)
    assert (labels == expected).float().mean() > 0.99


def test_a_kernel_that_is_wrong_somewhere_is_not_used():
    scores = torch.rand(1, 3, 4, 5)
    expected = upsampled_argmax(scores, 4)
    assert upsample._differ(expected, expected) is None
    assert "another class" in upsample._differ((expected + 1) % 5, expected)
    assert "uint8" in upsample._differ(expected.to(torch.uint8), expected)


def test_the_kernel_compiles_for_a_gpu(monkeypatch):
    """All the way to machine code, for which no GPU is needed."""
    module = load_kernel()
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    types = {"scores": "*fp32", "labels": "*i64", "rows": "i32", "columns": "i32", "classes": "i32"}
    constants = {"FACTOR": 16, "PIXELS": 256}
    signature = types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=module._label_quads, signature=signature, constexprs=constants)
    assert compile_kernel(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_the_kernel_is_taken_on_a_gpu(dtype):
    scores = torch.rand(2, 20, 24, 19)
    for _ in range(2):  # at first it is compared
        labels = upsampled_argmax(scores.cuda(), 16, dtype)
    assert labels.dtype == dtype
    assert (labels.cpu() == upsampled_argmax(scores, 16, dtype)).float().mean() > 0.999
    assert all(upsample._fused().verdicts.values())
