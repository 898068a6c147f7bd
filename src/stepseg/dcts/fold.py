"""Fold BatchNorm into the convolution before it: the policy network for inference."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.hooks import RemovableHandle


@torch.no_grad()
def fold_batch_norm(model: nn.Module, example: Tensor) -> None:
    """Replace every convolution + BatchNorm pair of `model` by one convolution, in place.

    Pairs are found by running `example` once: a BatchNorm whose input is exactly a convolution's
    output, used once each. timm's fused norm-activation layers keep their activation. The result
    equals the model in evaluation mode up to rounding.
    """
    pairs = _find_pairs(model, example)
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    for norm, convolution in pairs.items():
        # Whatever the mode of the model: folding uses the running statistics.
        folded = fuse_conv_bn_eval(convolution.eval(), norm.eval())
        convolution.weight, convolution.bias = folded.weight, folded.bias
        rest = [child for _, child in norm.named_children() if not isinstance(child, nn.Identity)]
        parent, _, attribute = names[norm].rpartition(".")
        setattr(model.get_submodule(parent), attribute, nn.Sequential(*rest) or nn.Identity())


def _find_pairs(model: nn.Module, example: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    producers: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # keep outputs alive so that identities stay unique
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def note_output(module, inputs, output):
        producers[id(output)] = module
        kept.append(output)

    def note_input(module, inputs):
        if id(inputs[0]) in producers:
            pairs[module] = producers.pop(id(inputs[0]))

    handles: list[RemovableHandle] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(note_output))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(note_input))
    was_training = model.training
    try:
        model.eval()
        model(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return pairs
