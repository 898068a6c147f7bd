"""Cross-checks of the analytic count by tracing: fvcore, as in the papers, and PyTorch's counter.

Both trace one image at a time, since counts differ between images. fvcore knows neither fused nor
variable-length attention and silently counts it as nothing (14 % of a ViT-L at 512 x 512), hence
the handles. It also drops a network whose output is only read by Python; here the policy's scores
stay connected to the result through the indices made from them, and the test-suite holds that.

fvcore counts what `stepseg.macs` counts and besides four operations per value of a bilinear
resize and two per value of a BatchNorm that was not folded.
"""

import warnings
from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stepseg.model import Reduction, StepSegmenter

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it uses TorchScript, which is deprecated
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape


@dataclass(frozen=True, slots=True)
class Trace:
    """What a trace of one image counted, in multiply-accumulates."""

    total: int
    by_module: dict[str, int]
    """By dotted name within the segmenter; ``""`` is all of it."""
    by_operator: dict[str, int]


def trace_fvcore(
    model: StepSegmenter, image_3HW: Tensor, reduction: Reduction | None = None
) -> Trace:
    """Count one image by fvcore, from pixels to class scores on the patch grid."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; fvcore has nothing else
        analysis = FlopCountAnalysis(_ToGrid(model, reduction), image_3HW[None])
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        for operator, handle in HANDLES.items():
            analysis.set_op_handle(operator, handle)
        return Trace(
            total=int(analysis.total()),
            by_module={
                name.removeprefix("model").removeprefix("."): int(count)
                for name, count in analysis.by_module().items()
                if name
            },
            by_operator={name: int(count) for name, count in analysis.by_operator().items()},
        )


def trace_torch(model: StepSegmenter, image_3HW: Tensor, reduction: Reduction | None = None) -> int:
    """Count one image by `torch.utils.flop_counter`: products only, no norms.

    PyTorch counts two operations per multiply-accumulate; they are halved here.
    """
    # The counter follows modules by hooks that want a graph: with gradients on, but none needed.
    frozen = {name: p.detach() for name, p in model.named_parameters()}
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(
            _ToGrid(model, reduction),
            {f"model.{name}": value for name, value in frozen.items()},
            (image_3HW[None],),
        )
    return counter.get_total_flops() // 2


class _ToGrid(nn.Module):
    """Tensor in, tensor out, as tracing wants it."""

    def __init__(self, model: StepSegmenter, reduction: Reduction | None) -> None:
        super().__init__()
        self.model, self.reduction = model, reduction

    def forward(self, images_B3HW: Tensor) -> Tensor:
        output = self.model(images_B3HW, reduction=self.reduction)
        if output.masks is None:
            return output.cell_scores()
        said = (output.masks.mask_logits_BQyx, output.masks.class_logits_BQC)
        return torch.cat([logits.flatten() for logits in said])


def attention_handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Products of `scaled_dot_product_attention` on ``[..., rows, channels]``."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    assert query and key and value, "attention of unknown shapes"
    pairs = prod(query[:-1]) * key[-2]
    return Counter({"attention": pairs * (query[-1] + value[-1])})


def packed_attention_handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Products of variable-length attention on ``[..., rows, heads, channels]`` of one image.

    A trace knows shapes, not lengths: with several images the number of pairs is unknown.
    """
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    offsets = next(
        shape for tensor in inputs[3:] if (shape := get_shape(tensor)) and len(shape) == 1
    )
    assert query and key and value, "attention of unknown shapes"
    if offsets[0] != 2:
        raise ValueError(
            f"the cost of ragged attention over {offsets[0] - 1} images does not follow from a "
            f"trace: trace one image at a time"
        )
    rows, heads, channels = query[-3:]
    return Counter({"attention": rows * key[-3] * heads * (channels + value[-1])})


HANDLES = {
    "aten::scaled_dot_product_attention": attention_handle,
    "torch_attn::_varlen_attn": packed_attention_handle,
    "aten::_flash_attention_forward": packed_attention_handle,
    "aten::_efficient_attention_forward": packed_attention_handle,
}
"""For fvcore, by operator: the kernels behind `stepseg.ops.attention`."""
