"""Every backend of the variable-length attention equals attention of each image by itself."""

import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from reference.attention import attend_packed
from stepseg.ops import attention, flash
from stepseg.ops.attention import choose_backend, varlen_attention
from stepseg.ops.first_use import FirstUse
from stepseg.packed import Segments

HEADS, CHANNELS = 2, 8

# Lengths of queries and of keys. Self-attention has both alike, a head's queries are its classes.
CASES = {
    "ragged": ([5, 1, 7], [5, 1, 7]),
    "an image without tokens": ([4, 0, 6], [4, 0, 6]),
    "an image without keys": ([3, 3, 3], [4, 0, 6]),
    "an image without queries": ([3, 0, 2], [4, 5, 6]),
    "first and last empty": ([0, 4, 0], [0, 4, 0]),
    "one image": ([6], [6]),
    "one token each": ([1, 1], [1, 1]),
    "no tokens at all": ([0, 0], [0, 0]),
    "no keys at all": ([3, 3], [0, 0]),
    "no queries at all": ([0, 0], [3, 2]),
}


Qkv = tuple[Tensor, Tensor, Tensor]


def inputs(
    q_lengths: list[int], k_lengths: list[int], **options: Any
) -> tuple[Qkv, Segments, Segments]:
    """Random queries, keys and values; by default float64 and with gradients."""
    defaults: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True, "device": "cpu"}
    options = defaults | options
    q, k, v = (
        torch.randn(sum(lengths), HEADS, CHANNELS, **options)
        for lengths in (q_lengths, k_lengths, k_lengths)
    )
    q_segments, k_segments = (
        Segments.from_lengths(lengths, options["device"]) for lengths in (q_lengths, k_lengths)
    )
    return (q, k, v), q_segments, k_segments


@pytest.mark.parametrize("backend", ["loop", "masked"])
@pytest.mark.parametrize(("q_lengths", "k_lengths"), CASES.values(), ids=CASES)
def test_ragged_backends_equal_the_reference(backend, q_lengths, k_lengths, monkeypatch):
    monkeypatch.setenv("STEPSEG_ATTENTION", backend)
    qkv, q_segments, k_segments = inputs(q_lengths, k_lengths)
    out = varlen_attention(*qkv, q_segments, k_segments)
    expected = attend_packed(*qkv, q_lengths, k_lengths)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(out)
    gradients = torch.autograd.grad(out, qkv, upstream)  # raises where an input is unconnected
    expected_gradients = torch.autograd.grad(expected, qkv, upstream, materialize_grads=True)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("backend", ["loop", "masked"])
def test_backends_themselves_take_images_without_tokens(backend):
    """`varlen_attention` decides the uniform and the empty cases before it asks a backend."""
    qkv, q_segments, k_segments = inputs([3, 0, 2], [4, 1, 0])
    implementation = attention._IMPLEMENTATIONS[backend]
    out = implementation(*qkv, q_segments, k_segments)
    torch.testing.assert_close(out, attend_packed(*qkv, [3, 0, 2], [4, 1, 0]))
    assert out[3:].abs().max() == 0


@pytest.mark.parametrize(("q_lengths", "k_lengths"), [([4, 4, 4], [4, 4, 4]), ([2, 2], [5, 5])])
def test_dense_equals_the_reference(q_lengths, k_lengths):
    qkv, q_segments, k_segments = inputs(q_lengths, k_lengths)
    assert attention._backend_for(qkv[0], q_segments, k_segments) == "dense"
    out = varlen_attention(*qkv, q_segments, k_segments)
    expected = attend_packed(*qkv, q_lengths, k_lengths)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, qkv, upstream), torch.autograd.grad(expected, qkv, upstream)
    )


@pytest.mark.parametrize(("q_lengths", "k_lengths"), [([3, 3], [3, 2]), ([3, 2], [3, 3])])
def test_dense_needs_both_sides_uniform(q_lengths, k_lengths):
    qkv, q_segments, k_segments = inputs(q_lengths, k_lengths)
    assert attention._backend_for(qkv[0], q_segments, k_segments) == "loop"


def test_no_image_sees_another():
    qkv, q_segments, k_segments = inputs([3, 4], [3, 4], requires_grad=False)
    before = varlen_attention(*qkv, q_segments, k_segments)
    for tensor in qkv:
        tensor[3:] = torch.randn(4, HEADS, CHANNELS, dtype=torch.float64) * 100
    after = varlen_attention(*qkv, q_segments, k_segments)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


@pytest.mark.parametrize("backend", ["loop", "masked"])
def test_half_precision_stays_half(backend, monkeypatch):
    monkeypatch.setenv("STEPSEG_ATTENTION", backend)
    qkv, q_segments, k_segments = inputs([3, 0, 5], [3, 0, 5], dtype=torch.bfloat16)
    out = varlen_attention(*qkv, q_segments, k_segments)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.double(), attend_packed(*qkv, [3, 0, 5], [3, 0, 5]), rtol=0.02, atol=0.02
    )


class TestChoice:
    @pytest.mark.parametrize(
        ("changes", "backend"),
        [
            ({}, "flash"),
            ({"dtype": torch.float16}, "flash"),
            ({"capability": (9, 0)}, "flash"),
            ({"head_dim": 256}, "flash"),
            ({"head_dim": 264}, "efficient"),
            ({"head_dim": 20}, "efficient"),
            ({"dtype": torch.float32}, "efficient"),
            ({"has_flash": False}, "efficient"),
            ({"capability": (7, 5), "dtype": torch.float16}, "efficient"),
            ({"capability": (7, 5)}, "masked"),  # no bfloat16 kernel before sm_80
            ({"dtype": torch.float64}, "masked"),
            ({"has_flash": False, "has_efficient": False}, "masked"),
            ({"dtype": torch.float32, "has_efficient": False}, "masked"),
            ({"device_type": "cpu"}, "loop"),
            ({"device_type": "cpu", "dtype": torch.float32}, "loop"),
            ({"device_type": "mps", "capability": None}, "loop"),
        ],
    )
    def test_backend_by_device_dtype_and_shape(self, changes, backend):
        usual = {
            "device_type": "cuda",
            "dtype": torch.bfloat16,
            "capability": (8, 0),
            "head_dim": 64,
            "has_flash": True,
            "has_efficient": True,
        }
        assert choose_backend(**(usual | changes)) == backend

    def test_environment_overrides_ragged_batches_only(self, monkeypatch):
        monkeypatch.setenv("STEPSEG_ATTENTION", "masked")
        qkv, ragged, _ = inputs([3, 2], [3, 2])
        uniform = Segments.from_lengths([2, 2], "cpu")
        assert attention._backend_for(qkv[0], ragged, ragged) == "masked"
        assert attention._backend_for(qkv[0], uniform, uniform) == "dense"

    @pytest.mark.parametrize("wrong", ["xformers", "dense"])
    def test_environment_with_an_unknown_backend(self, wrong, monkeypatch):
        monkeypatch.setenv("STEPSEG_ATTENTION", wrong)
        qkv, q_segments, k_segments = inputs([3, 2], [3, 2])
        with pytest.raises(ValueError, match=f"STEPSEG_ATTENTION='{wrong}' is not one of flash"):
            varlen_attention(*qkv, q_segments, k_segments)

    def test_every_backend_is_implemented(self):
        assert set(attention._IMPLEMENTATIONS) == set(attention.BACKENDS)


def flash_of_2_10(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None
):
    assert (is_causal, return_aux) == (False, None)
    return query, key, value, cu_seq_q, cu_seq_k, max_q, max_k


def flash_of_2_11(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
):
    assert (return_aux, scale, window_size) == (None, None, (-1, -1))
    return query, key, value, cu_seq_q, cu_seq_k, max_q, max_k


class TestFlash:
    @pytest.mark.parametrize("signature", [flash_of_2_10, flash_of_2_11])
    def test_called_as_all_versions_of_pytorch_accept(self, signature, monkeypatch):
        calls = []

        def attend(*args, **kwargs):
            q, k, v, cu_q, cu_k, max_q, max_k = signature(*args, **kwargs)
            calls.append((len(args), kwargs))
            assert (max_q, max_k) == (5, 6)
            assert torch.backends.cuda.flash_sdp_enabled()
            assert not torch.backends.cuda.cudnn_sdp_enabled()
            return attend_packed(q, k, v, cu_q.diff().tolist(), cu_k.diff().tolist())

        monkeypatch.setattr(flash, "varlen_attn", lambda: attend)
        monkeypatch.setenv("STEPSEG_ATTENTION", "flash")
        qkv, q_segments, k_segments = inputs([5, 2, 0], [4, 6, 1])
        out = varlen_attention(*qkv, q_segments, k_segments)
        assert calls == [(7, {})]
        torch.testing.assert_close(out, attend_packed(*qkv, [5, 2, 0], [4, 6, 1]))

    def test_the_installed_pytorch_accepts_the_call(self):
        signature = inspect.signature(flash.varlen_attn())
        bound = signature.bind(*range(7)).arguments
        assert list(bound) == "query key value cu_seq_q cu_seq_k max_q max_k".split()

    @pytest.mark.parametrize("lengths", [[5, 2, 0], [4, 4, 4]], ids=["ragged", "uniform"])
    def test_at_inference_the_operator_takes_the_arguments(self, lengths):
        """A CPU kernel stands in for the CUDA one; packed rows and batches reach it alike."""

        def kernel(query, key, value, cu_q, cu_k, max_q, max_k, dropout_p, causal, debug, **rest):
            assert (dropout_p, causal, debug, rest) == (0.0, False, False, {})
            assert (max_q, max_k) == (max(lengths),) * 2
            assert (cu_q is None) == (query.dim() == 4) == (len(set(lengths)) == 1)
            if cu_q is not None:
                assert cu_q.diff().tolist() == cu_k.diff().tolist() == lengths
            rows = [x.flatten(0, -3) for x in (query, key, value)]
            out = attend_packed(*rows, lengths, lengths).view_as(query)
            empty = torch.zeros(0)
            return out, empty, empty.long(), empty.long(), empty

        qkv, segments, _ = inputs(lengths, lengths, requires_grad=False)
        operator = flash.operator_uniform if lengths[2] else flash.operator_ragged
        with torch.library._scoped_library("aten", "IMPL") as library, torch.no_grad():
            library.impl("_flash_attention_forward", kernel, "CPU")
            out = operator(*qkv, segments, segments)
        torch.testing.assert_close(out, attend_packed(*qkv, lengths, lengths))

    @pytest.mark.parametrize("lengths", [[5, 2, 0], [4, 4, 4]], ids=["ragged", "uniform"])
    def test_the_operator_takes_cuda_tensors_of_these_shapes(self, lengths):
        with FakeTensorMode(), torch.no_grad():
            qkv = torch.empty(sum(lengths), 3, 4, 64, device="cuda", dtype=torch.bfloat16).unbind(1)
            offsets = torch.empty(4, device="cuda", dtype=torch.int32)
            segments = Segments(offsets, tuple(lengths))
            operator = flash.operator_uniform if lengths[2] else flash.operator_ragged
            out = operator(*qkv, segments, segments)
        assert (out.shape, out.dtype, out.is_cuda) == (qkv[0].shape, torch.bfloat16, True)

    def test_the_installed_pytorch_has_the_operator(self):
        assert flash.has_operator()
        assert not flash.takes("_flash_attention_forward", flash.LEADING[:-1])  # needs one more
        assert not flash.takes("_flash_attention_forward", ["query", "value"])
        assert not flash.takes("_no_such_operator", [])

    @pytest.mark.parametrize("grad", [False, True])
    @pytest.mark.parametrize("lengths", [[5, 2], [4, 4]], ids=["ragged", "uniform"])
    def test_no_new_shape_ever_reaches_cudnn(self, lengths, grad, monkeypatch):
        """Training takes public functions, inference compares with them at first."""
        pinned = []

        def public(q, k, v, q_segments, k_segments):
            pinned.append(not torch.backends.cuda.cudnn_sdp_enabled())
            return q

        monkeypatch.setattr(flash, "batched", public)
        monkeypatch.setattr(flash, "varlen_attn", lambda: lambda *qkv: public(*qkv[:3], None, None))
        for name in ("ragged", "uniform"):  # as new
            used = getattr(flash, name)
            raising = FirstUse("it", lambda *_: 1 / 0, used.plain, used.differ)
            monkeypatch.setattr(flash, name, raising)
        qkv, segments, _ = inputs(lengths, lengths)
        attend = flash.flash_ragged if len(set(lengths)) > 1 else flash.flash_uniform
        with torch.set_grad_enabled(grad), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                assert attend(*qkv, segments, segments) is qkv[0]
        assert all(pinned)
        assert len(told) == (not grad)


class TestEfficient:
    def test_the_installed_pytorch_has_the_operator(self):
        assert attention._has_efficient()

    def test_arguments_reach_the_operator_in_its_order(self):
        """A CPU kernel that reads the offsets stands in for the CUDA one."""

        def kernel(query, key, value, bias, cu_q, cu_k, max_q, max_k, dropout_p, mask, lse=False):
            assert (bias, max_q, max_k, dropout_p, mask, lse) == (None, 5, 6, 0.0, 0, False)
            lengths = [cu.diff().tolist() for cu in (cu_q, cu_k)]
            out = attend_packed(query[0], key[0], value[0], *lengths)[None]
            empty = torch.zeros(0)
            return out, empty, empty.long(), empty.long(), max_q, max_k

        qkv, q_segments, k_segments = inputs([5, 2, 0], [4, 6, 1], requires_grad=False)
        with torch.library._scoped_library("aten", "IMPL") as library, torch.no_grad():
            library.impl("_efficient_attention_forward", kernel, "CPU")
            out = attention._efficient(*qkv, q_segments, k_segments)
        torch.testing.assert_close(out, attend_packed(*qkv, [5, 2, 0], [4, 6, 1]))


@pytest.mark.parametrize("backend", ["flash", "efficient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("q_lengths", "k_lengths"), CASES.values(), ids=CASES)
def test_gpu_backends_pass_shapes_forward_and_backward(
    backend, dtype, q_lengths, k_lengths, monkeypatch
):
    """Tensors without data go through the operators' own shape functions and derivatives."""
    monkeypatch.setenv("STEPSEG_ATTENTION", backend)
    qkv, q_segments, k_segments = inputs(q_lengths, k_lengths, device="meta", dtype=dtype)
    out = varlen_attention(*qkv, q_segments, k_segments)
    assert out.shape == (sum(q_lengths), HEADS, CHANNELS)
    assert out.dtype == dtype
    gradients = torch.autograd.grad(out.sum(), qkv)
    assert [g.shape for g in gradients] == [x.shape for x in qkv]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("flash", torch.bfloat16),
        ("flash", torch.float16),
        ("efficient", torch.bfloat16),
        ("efficient", torch.float32),
        ("masked", torch.float32),
    ],
)
@pytest.mark.parametrize(("q_lengths", "k_lengths"), CASES.values(), ids=CASES)
def test_gpu_backends_equal_the_reference(backend, dtype, q_lengths, k_lengths, monkeypatch):
    monkeypatch.setenv("STEPSEG_ATTENTION", backend)
    qkv, q_segments, k_segments = inputs(q_lengths, k_lengths, device="cuda", dtype=dtype)
    out = varlen_attention(*qkv, q_segments, k_segments)
    expected = attend_packed(*qkv, q_lengths, k_lengths)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(out, qkv, upstream.to(dtype))
    expected_gradients = torch.autograd.grad(expected, qkv, upstream, materialize_grads=True)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(
            gradient, expected_gradient.to(dtype), rtol=tolerance, atol=tolerance
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lengths", [[5, 2, 0], [4, 4, 4], [7]], ids=str)
def test_at_inference_the_operator_is_taken_on_a_gpu(lengths):
    qkv, segments, _ = inputs(lengths, lengths, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        for _ in range(2):  # at first it is compared
            out = varlen_attention(*qkv, segments, segments)
    expected = attend_packed(*qkv, lengths, lengths)
    torch.testing.assert_close(out.double(), expected, rtol=3e-2, atol=3e-2)
    verdicts = flash.ragged.verdicts | flash.uniform.verdicts
    assert verdicts
    assert all(verdicts.values())
