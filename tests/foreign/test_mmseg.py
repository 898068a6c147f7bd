"""SegViT and DToP of mmsegmentation: equal to a float64 reference by their own names, strictly."""

import pytest
import torch

from reference.mmseg import dtop, encode, segvit
from stepseg.checkpoint import read_checkpoint
from stepseg.model import Reduction
from toys import toy_images

DIM, DEPTH, CLASSES, GRID = 64, 12, 5, 4
FFN = "backbone.layers.0.ffn.layers.0.0"


def state_of(kind: str, classes: int = CLASSES) -> dict[str, torch.Tensor]:
    """Random weights of a small model, by their names."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def linear(name: str, outputs: int, inputs: int, joint: str = ".") -> None:
        state[f"{name}{joint}weight"] = torch.randn(outputs, inputs) * inputs**-0.5
        state[f"{name}{joint}bias"] = torch.randn(outputs) * 0.1

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"] = 0.5 + torch.rand(size)
        state[f"{name}.bias"] = torch.randn(size) * 0.1

    def attention(name: str, size: int) -> None:
        linear(f"{name}.in_proj", 3 * size, size, joint="_")
        linear(f"{name}.out_proj", size, size)

    state["backbone.cls_token"] = torch.randn(1, 1, DIM)
    state["backbone.pos_embed"] = torch.randn(1, GRID**2 + 1, DIM)
    state["backbone.patch_embed.projection.weight"] = torch.randn(DIM, 3, 16, 16) / 28
    state["backbone.patch_embed.projection.bias"] = torch.randn(DIM) * 0.1
    for index in range(DEPTH):
        layer = f"backbone.layers.{index}"
        norm(f"{layer}.ln1", DIM)
        attention(f"{layer}.attn.attn", DIM)
        norm(f"{layer}.ln2", DIM)
        linear(f"{layer}.ffn.layers.0.0", 2 * DIM, DIM)
        linear(f"{layer}.ffn.layers.1", DIM, 2 * DIM)
    heads = {"decode_head": ("_1", "_2", "_3")}
    if kind == "dtop":
        heads = dict.fromkeys(("decode_head", "auxiliary_head.0", "auxiliary_head.1"), ("",))
    small = DIM // 2
    for head, suffixes in heads.items():
        state[f"{head}.q.weight"] = torch.randn(classes, small)
        linear(f"{head}.class_embed", 2 if kind == "dtop" else classes + 1, small)
        state[f"{head}.loss_decode.criterion.empty_weight"] = torch.ones(classes + 1)
        for suffix in suffixes:
            linear(f"{head}.input_proj{suffix}", small, DIM)
            norm(f"{head}.proj_norm{suffix}", small)
            for index in range(2):
                layer = f"{head}.decoder{suffix}.layers.{index}"
                attention(f"{layer}.self_attn", small)
                for part in ("q", "k", "v", "proj"):
                    linear(f"{layer}.multihead_attn.{part}", small, small)
                linear(f"{layer}.linear1", 4 * small, small)
                linear(f"{layer}.linear2", small, 4 * small)
                for number in (1, 2, 3):
                    norm(f"{layer}.norm{number}", small)
    return state


def saved(state, tmp_path, **content):
    path = tmp_path / "iter_160000.pth"
    torch.save({"state_dict": state, **content}, path)
    return path


@pytest.mark.parametrize("kind", ["segvit", "dtop"])
@torch.no_grad()
def test_scores_equal_the_reference(kind, tmp_path):
    state = state_of(kind)
    meta = {"meta": {"CLASSES": ["water", "reed", "duck", "sky", "boat"]}}
    checkpoint = read_checkpoint(saved(state, tmp_path, **meta))
    assert checkpoint.data["classes"][2] == "duck"
    assert (checkpoint.protocol.crop, checkpoint.protocol.resize_short) == ((64, 64), None)
    model = checkpoint.build().eval()
    image = toy_images(1, 64, 64)
    weights = {key: value.double() for key, value in state.items()}
    normalised = (image[0] - model.backbone.mean) / model.backbone.std
    seen = encode(normalised, weights, 1, [6, 8, 12])
    if kind == "segvit":
        expected = segvit(seen, weights, 1, (GRID, GRID), 16)
    else:
        expected = dtop(seen[-1], weights, 1, (GRID, GRID), 16)
        assert checkpoint.config.reduction.build().exit_blocks == (6, 8)
    found = model(image, reduction=Reduction())
    torch.testing.assert_close(found.scores()[0].double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.prediction(), found.scores().argmax(1))
    if kind == "dtop":
        assert model(image).heads[0].block == 6


@pytest.mark.parametrize(
    ("classes", "name", "fitted"),
    [(150, "ade20k", (2048, 64)), (171, "cocostuff10k", (2048, 64)), (19, "cityscapes", None)],
)
def test_images_are_shown_as_published(classes, name, fitted, tmp_path):
    """As of `conf/data`: the short edge is as long as windows are."""
    checkpoint = read_checkpoint(saved(state_of("segvit", classes), tmp_path))
    assert checkpoint.data["name"] == name
    assert (checkpoint.protocol.crop, checkpoint.protocol.resize_short) == ((64, 64), fitted)


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("segvit", {"decode_head.extra": 1}, "unknown decode_head.extra"),
        ("segvit", {"decode_head.proj_norm_3.bias": None}, "missing decoder.further.1.input_norm"),
        ("dtop", {"backbone.ln1.weight": 1}, "unknown backbone.ln1.weight"),
        ("dtop", {"auxiliary_head.1.q.weight": None}, "12 blocks and 1 heads"),
        ("dtop", {"backbone.layers.12.ln1.bias": 1}, "has 13 blocks"),
        ("segvit", {"backbone.pos_embed": None}, "missing backbone.pos_embed"),
        ("segvit", {"backbone.pos_embed": 1}, r"pos_embed is \[64\], expected 3 dimensions"),
        ("dtop", {f"{FFN}.weight": None}, f"missing {FFN}.weight"),
    ],
)
def test_every_key_is_accounted_for(kind, change, why, tmp_path):
    state = state_of(kind)
    for key, value in change.items():
        state.pop(key, None)
        if value is not None:
            state[key] = torch.ones(DIM)
    with pytest.raises(ValueError, match=why):
        read_checkpoint(saved(state, tmp_path))


@pytest.mark.parametrize("kind", ["segvit", "dtop"])
def test_a_decoder_without_layers_is_named(kind, tmp_path):
    state = {k: v for k, v in state_of(kind).items() if not k.startswith("decode_head.decoder")}
    with pytest.raises(ValueError, match=r"missing decode_head\.decoder"):
        read_checkpoint(saved(state, tmp_path))
