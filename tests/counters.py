"""Multiply-accumulates by formula, by PyTorch's counter and by fvcore's: one number."""

import torch
from torch import Tensor

from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction, StepSegmenter
from stepseg.profile.fvcore import trace_fvcore, trace_torch

ELEMENTWISE = ("batch_norm", "upsample_bilinear2d")
"""What fvcore counts besides products, and the formulas leave out."""


def counts_of_all_agree(model: StepSegmenter, image_3HW: Tensor, reduction: Reduction) -> dict:
    """Compare them for one image; returns the parts of the formula."""
    with torch.no_grad():
        parts = count_macs(model, model(image_3HW[None], reduction=reduction))
    (total,) = total_macs(parts)
    assert trace_torch(model, image_3HW, reduction) == total - parts["norms"][0]
    trace = trace_fvcore(model, image_3HW, reduction)
    assert total == trace.total - sum(trace.by_operator.get(name, 0) for name in ELEMENTWISE)
    return parts
