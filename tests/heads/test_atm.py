"""The ATM head equals the head of one image, written out head by head."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import atm, vit
from stepseg.heads.atm import AtmHead, presence_probability
from toys import CLASSES, DIM, packed, toy_head

LENGTHS = {
    "ragged": [5, 2, 9],
    "uniform": [4, 4, 4],
    "one image": [7],
    "one token": [1, 3],
    "one empty": [3, 0, 5],
    "all empty": [0, 0],
}


def leaves(module: torch.nn.Module) -> dict[str, Tensor]:
    """The weights in float64, to differentiate the reference by."""
    return {key: value.requires_grad_() for key, value in vit.weights_of(module).items()}


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_equals_the_reference_of_each_image(lengths, num_layers):
    head = toy_head(num_layers=num_layers, num_heads=4).double().eval()
    tokens = packed(lengths, dtype=torch.float64)
    mask_logits, class_logits = head(tokens)
    assert mask_logits.shape == (sum(lengths), CLASSES)
    assert class_logits.shape == (len(lengths), CLASSES, 2)

    weights = leaves(head)
    images = [
        atm.atm_head(own, weights, num_heads=4, num_layers=num_layers)
        for own in tokens.values_TD.split(lengths)
    ]
    expected = torch.cat([masks for masks, _ in images]), torch.stack([c for _, c in images])
    torch.testing.assert_close(mask_logits.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(class_logits.double(), expected[1], rtol=1e-5, atol=1e-5)

    upstream = [torch.randn_like(x) for x in expected]
    loss = (mask_logits.double() * upstream[0]).sum() + (class_logits.double() * upstream[1]).sum()
    loss.backward()
    expected_gradients = torch.autograd.grad(
        expected, list(weights.values()), upstream, materialize_grads=True
    )
    for (name, parameter), gradient in zip(
        head.named_parameters(), expected_gradients, strict=True
    ):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_scores_of_one_layer_by_hand():
    """Two classes, two heads of one channel, everything but the scores turned off."""
    head = AtmHead(dim=2, num_classes=2, head_dim=2, num_heads=2, num_layers=1).eval()
    layer: Any = head.layers[0]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        for norm in (head.input_norm, layer.norm1):
            norm.weight.fill_(1.0)
        head.input_proj.weight.copy_(torch.eye(2))
        head.query_Cd.copy_(torch.tensor([[3.0, 1.0], [0.0, 2.0]]))
        layer.cross_q.weight.copy_(torch.eye(2))
        head.cross_kv.weight[:2] = torch.diag(torch.tensor([1.0, 5.0]))
    tokens = packed([1], dim=2).with_values(torch.tensor([[7.0, 3.0]]))
    mask_logits, _ = head(tokens)
    # Post-norm makes the queries (1, -1) and (-1, 1), the input norm makes the token (1, -1), its
    # keys (1, -5). Per head q * k: (1, 5) and (-1, -5); the mean over heads is 3 and -3.
    torch.testing.assert_close(mask_logits, torch.tensor([[3.0, -3.0]]), rtol=1e-4, atol=1e-4)


def test_weights_start_as_in_segvit():
    """Linear maps narrow and without bias, queries wide, self-attention as PyTorch's."""
    head = AtmHead(dim=192, num_classes=150, head_dim=96, num_heads=3)
    spread = {name: p.std().item() for name, p in head.named_parameters() if p.dim() == 2}
    expected = dict.fromkeys(spread, 0.02) | {"query_Cd": 1.0}
    xavier = math.sqrt(2 / (96 + 3 * 96))
    expected |= {f"layers.{index}.self_qkv.weight": xavier for index in range(3)}
    assert len(spread) == 22
    for name, std in expected.items():
        assert spread[name] == pytest.approx(std, rel=0.2), name
    assert head.query_Cd.abs().max() > 2  # not truncated
    for name, parameter in head.named_parameters():
        if parameter.dim() == 1:
            is_scale = "norm" in name and name.endswith("weight")
            assert (parameter == (1.0 if is_scale else 0.0)).all(), name


def test_weights_start_as_pytorch_draws_them():
    head = AtmHead(dim=192, num_classes=150, head_dim=96, num_heads=3, init="pytorch")
    assert head.cross_kv.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 96), rel=0.1)
    assert head.query_Cd.std().item() == pytest.approx(1, rel=0.1)
    with pytest.raises(ValueError, match=r"heads\.init='xavier': choose one of segvit, pytorch"):
        toy_head(init="xavier")


def test_dropout_follows_both_attentions_and_both_linear_maps():
    layer, shapes = toy_head(dropout=0.5, num_layers=1).train().layers[0], []
    layer.dropout.register_forward_hook(lambda _, inputs, out: shapes.append(tuple(out.shape)))
    query, tokens = torch.randn(CLASSES, 16), torch.randn(7, 16)
    layer.attend_queries(query, lambda q, k, v: q)
    layer.attend_tokens(query, tokens, tokens, lambda q, k, v: q)
    assert shapes == [(CLASSES, 16), (CLASSES, 16), (CLASSES, 4 * 16), (CLASSES, 16)]
    assert layer.dropout.p == 0.5


def test_an_image_does_not_depend_on_its_neighbours():
    head = toy_head().eval()
    lengths = [5, 2, 9]
    tokens = packed(lengths)
    mask_logits, class_logits = head(tokens)
    for b, (own, logits) in enumerate(
        zip(tokens.values_TD.split(lengths), mask_logits.split(lengths), strict=True)
    ):
        alone = head(packed([lengths[b]]).with_values(own))
        torch.testing.assert_close(alone[0], logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone[1][0], class_logits[b], rtol=1e-4, atol=1e-5)


def test_under_autocast_the_answer_is_computed_in_float32():
    head = toy_head().eval()
    tokens = packed([30, 20])
    exact, exact_classes = head(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mask_logits, class_logits = head(tokens)
    assert mask_logits.dtype == class_logits.dtype == torch.float32
    torch.testing.assert_close(mask_logits, exact, rtol=0.05, atol=0.3)
    torch.testing.assert_close(class_logits, exact_classes, rtol=0.05, atol=0.1)
    # A product in bfloat16 would leave only multiples of 2**-7 between 1 and 2.
    middle = mask_logits[(mask_logits > 1) & (mask_logits < 2)]
    assert ((middle * 128) % 1 != 0).any()


def test_dropout_acts_in_training_only():
    head = toy_head(dropout=0.5)
    tokens = packed([6, 3])
    evaluated = head.eval()(tokens)
    assert torch.equal(evaluated[0], head(tokens)[0])
    trained = head.train()(tokens)
    assert not torch.equal(evaluated[1], trained[1])
    still = toy_head(dropout=0.0)
    still.load_state_dict(head.state_dict())
    torch.testing.assert_close(still.train()(tokens)[1], evaluated[1])


def test_dropout_follows_both_attentions_and_both_feed_forward_layers():
    dropped = []

    class Recorder(torch.nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            dropped.append(x.shape[1])
            return x

    head = toy_head(num_layers=1)
    layer: Any = head.layers[0]
    layer.dropout = Recorder()
    head(packed([6, 3]))
    assert dropped == [16, 16, 4 * 16, 16]


@pytest.mark.parametrize("lengths", [[3, 0], [0, 0]], ids=["one empty", "all empty"])
def test_images_without_tokens_leave_no_parameter_without_gradient(lengths):
    head = toy_head().train()
    mask_logits, class_logits = head(packed(lengths, DIM))
    (mask_logits.sum() + class_logits.sum()).backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    assert class_logits.isfinite().all()


def test_the_first_logit_says_present():
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(4)]]])
    torch.testing.assert_close(presence_probability(logits), torch.tensor([[0.5, 0.75, 0.2]]))


def test_channels_that_do_not_divide_into_heads():
    with pytest.raises(ValueError, match="16 channels do not divide into 3 ATM heads"):
        toy_head(head_dim=16, num_heads=3)


def test_what_no_image_enters_is_computed_once(monkeypatch):
    calls = []
    first = toy_head().eval()
    tokens = packed([5, 2, 9])
    expected = first(tokens)
    names = set(first.state_dict())
    first.cache_first_query()
    assert set(first.state_dict()) == names
    layer: Any = first.layers[0]
    monkeypatch.setattr(layer, "attend_queries", lambda *_: calls.append(1))
    torch.testing.assert_close(first(tokens), expected)
    assert not calls
    # It goes where the weights go.
    double = first.double()(tokens.with_values(tokens.values_TD.double()))
    torch.testing.assert_close(double[0].float(), expected[0], rtol=1e-4, atol=1e-4)


def test_caching_again_follows_the_weights():
    head = toy_head().eval()
    head.cache_first_query()
    with torch.no_grad():
        head.query_Cd.neg_()
    fresh = toy_head().eval()
    fresh.load_state_dict(head.state_dict())
    head.cache_first_query()
    tokens = packed([4])
    torch.testing.assert_close(head(tokens), fresh(tokens))


def test_every_image_draws_its_own_dropout_in_the_first_layer():
    head = toy_head(dropout=0.5)
    first, second = head.first_query(2).chunk(2)
    assert (first != second).any()
    first, second = head.eval().first_query(2).chunk(2)
    assert (first == second).all()
