"""EoMT of transformers: the same answers on packed tokens, and what becomes of them when merged."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    Dinov2Config,
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
)

from counters import counts_of_all_agree
from stepseg import Segmenter, from_eomt
from stepseg.checkpoint import read_checkpoint, write_inference_checkpoint
from stepseg.checkpoint.checkpoint import of_foreign
from stepseg.dcts.merge import MergeRule
from stepseg.explorer.plan import make_plan
from stepseg.export.static import StaticSegmenter
from stepseg.foreign.eomt import translate
from stepseg.heads.exit import ConfidenceExit
from stepseg.macs import macs_of_stages, total_macs
from stepseg.model import Reduction
from stepseg.profile.break_even import break_even
from stepseg.profile.parts import profile_parts
from stepseg.protocol import Protocol
from toys import CLASSES, DCTS, SYSTEMS, light_heads, toy_eomt_segmenter, toy_images

SIDE = 64
NUMBERS = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE,
    "num_queries": 7, "num_blocks": 2, "num_register_tokens": 2, "num_labels": CLASSES,
}  # fmt: skip
LEAVING = {
    "dtop": Reduction(exit=ConfidenceExit(0.6, 1), exit_blocks=(1, 2)),
    "step": Reduction(merge=DCTS, exit=ConfidenceExit(0.6, 1), exit_blocks=(1, 2)),
    "all leave": Reduction(exit=ConfidenceExit(0.0, 0), exit_blocks=(2,)),
    "nobody leaves": Reduction(exit=ConfidenceExit(1.0), exit_blocks=(1, 2)),
}
"""On a model whose queries enter after block 2."""
UNIFORM = Reduction(merge=MergeRule(windows=(2,), thresholds=None, by="uniform"))


def theirs(kind: str, **changes):
    """A model of theirs whose weights hide no mistake; masked attention is annealed away."""
    torch.manual_seed(0)
    if kind == "dinov3":
        config = EomtDinov3Config(**NUMBERS | {"intermediate_size": 64} | changes)
        model = EomtDinov3ForUniversalSegmentation(config)
    else:
        model = EomtForUniversalSegmentation(EomtConfig(**NUMBERS | {"mlp_ratio": 2} | changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lambda" in name or "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif weight.dim() > 1 and not name.startswith(("embeddings.", "query")):
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.normal_(std=0.3)
        model.attn_mask_probs.zero_()
    return model.eval()


def processor(**changes):
    size = {"shortest_edge": SIDE, "longest_edge": None}
    return EomtImageProcessor(**{"do_split_image": True, "size": size} | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ade20k_semantic_eomt")
    theirs("dinov2").save_pretrained(path)
    processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    heads = light_heads()
    return toy_eomt_segmenter(exit_heads={1: heads[1], 2: heads[3]})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("dinov2", {}), ("dinov3", {}), ("dinov2", {"use_swiglu_ffn": True, "mlp_ratio": 4})],
    ids=["DINOv2", "DINOv3", "SwiGLU"],
)
@torch.no_grad()
def test_whole_images_equal_transformers(kind, changes, tmp_path):
    model, images = theirs(kind, **changes), torch.rand(2, 3, SIDE, SIDE)
    ours = of_foreign(tmp_path, translate(model)).build().eval()
    expected = model(pixel_values=(images - ours.backbone.mean) / ours.backbone.std)
    found = ours(images)
    logits = found.masks.mask_logits_BQyx
    torch.testing.assert_close(logits, expected.masks_queries_logits, rtol=1e-4, atol=1e-4)
    said = found.masks.class_logits_BQC
    torch.testing.assert_close(said, expected.class_queries_logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_sliding_images_equal_transformers(folder):
    """Windows evenly spread along the long side, in the size of training."""
    model, own = theirs("dinov2"), processor()
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, 150, 3), np.uint8)
    inputs = own(Image.fromarray(pixels), return_tensors="pt")
    output = model(**inputs)
    (expected,) = own.post_process_semantic_segmentation(
        output, [(SIDE, 150)], {"shortest_edge": SIDE, "longest_edge": None}
    )
    found = Segmenter.from_pretrained(folder).predict(pixels)
    assert len(found.views) == len(inputs["pixel_values"]) == 3
    assert (torch.from_numpy(found.labels) == expected).float().mean() > 0.999


def test_a_folder_says_how_images_are_shown(folder, tmp_path):
    checkpoint = read_checkpoint(folder)
    assert checkpoint.protocol == Protocol(
        "slide", resize_short=SIDE, crop=(SIDE, SIDE), even=True, antialias=True
    )
    path = tmp_path / "model.safetensors"
    write_inference_checkpoint(path, checkpoint)
    again = read_checkpoint(path)
    assert (again.config, again.protocol) == (checkpoint.config, checkpoint.protocol)
    assert all(torch.equal(again.state[key], value) for key, value in checkpoint.state.items())


def test_a_reduction_without_a_policy_works_at_once(folder):
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    dense = Segmenter.from_pretrained(folder).predict(image)
    fewer = Segmenter.from_pretrained(folder, reduction=UNIFORM).predict(image)
    assert (dense.tokens, fewer.tokens) == ((16,), (4,))
    assert fewer.gmacs < dense.gmacs
    with pytest.raises(ValueError, match="stepseg-accelerate gives a finished model a policy"):
        Segmenter.from_pretrained(folder, reduction=SYSTEMS["dcts"])


def test_a_live_model():
    assert from_eomt(theirs("dinov3"), reduction=UNIFORM).reduction == UNIFORM
    masked = theirs("dinov2")
    masked.attn_mask_probs.fill_(0.5)
    with pytest.raises(ValueError, match=r"annealed away \(attn_mask_probs \[0.5, 0.5\]\)"):
        from_eomt(masked)
    with pytest.raises(ValueError, match="panoptic or instance segmentation"):
        from_eomt(theirs("dinov2"), processor(do_split_image=False, do_pad=True))
    with pytest.raises(ValueError, match="windows of 80 px, the model takes 64"):
        from_eomt(theirs("dinov2"), processor(size={"shortest_edge": 80, "longest_edge": None}))


def test_other_folders_are_refused(folder, tmp_path):
    Dinov2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a model of type 'dinov2'"):
        read_checkpoint(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_queries": 9}))
    with pytest.raises(ValueError, match="transformers cannot load"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("system", ["dense", "dcts", "cts", *LEAVING])
@torch.no_grad()
def test_a_batch_equals_its_images_alone(model, system):
    torch.manual_seed(1)
    images, reduction = toy_images(3), {**SYSTEMS, **LEAVING}[system]
    together = model(images, reduction=reduction)
    fewer = system not in ("dense", "nobody leaves")
    assert (sum(together.tokens_per_stage[-1]) < 3 * 35) == fewer
    for index, image in enumerate(images):
        alone = model(image[None], reduction=reduction)
        torch.testing.assert_close(together.scores()[index], alone.scores()[0])
        assert torch.equal(together.prediction()[index], together.scores()[index].argmax(0))


@torch.no_grad()
def test_who_has_left_keeps_what_the_exit_head_said(model):
    torch.manual_seed(1)
    images = toy_images(2)
    dense = model(images)
    stayed = model(images, reduction=LEAVING["nobody leaves"])
    torch.testing.assert_close(stayed.scores(), dense.scores())

    gone = model(images, reduction=LEAVING["all leave"])
    assert gone.tokens_per_stage == [(35, 35), (0, 0)]
    p_BCYX = gone.mask_logits(gone.heads[0]).sigmoid()
    torch.testing.assert_close(gone.cell_scores().sum(1), torch.ones(2, 5, 7))
    expected = F.interpolate(p_BCYX, (80, 112), mode="bilinear")
    torch.testing.assert_close(gone.scores(), expected)

    some = model(images, reduction=LEAVING["dtop"])
    left = (some.exit_T0 < 2).view(2, 5, 7).repeat_interleave(16, 1).repeat_interleave(16, 2)
    assert 0 < left.sum() < left.numel()
    early = F.interpolate(some.mask_logits(some.heads[1]).sigmoid(), (80, 112), mode="bilinear")
    where = left[:, None].expand_as(early)
    torch.testing.assert_close(some.scores()[where], early[where])
    assert not torch.isclose(some.scores(), early)[~where].all()


@pytest.mark.parametrize("system", ["dense", "dcts", "step"])
def test_multiply_accumulates_equal_both_counters(model, system):
    image, reduction = toy_images(1)[0], {**SYSTEMS, **LEAVING}[system]
    parts = counts_of_all_agree(model, image, reduction)
    rows = profile_parts(model, {"it": reduction}, image[None], iterations=1)["it"]
    assert sum(row["gmacs"] or 0 for row in rows) * 1e9 == pytest.approx(total_macs(parts)[0])


@pytest.mark.parametrize("block", [1, 2])
def test_an_exit_pays_from_its_break_even_on(model, block):
    def products(*stages):
        parts = macs_of_stages(model, stages)
        return sum(macs for part, macs in parts.items() if part != "norms")

    leaving = round(break_even(model, block, 35) * 35)
    assert 0 < leaving < 35
    assert products((block, 35), (4, 35 - leaving)) <= products((4, 35))
    assert products((block, 35), (4, 36 - leaving)) > products((4, 35))


@pytest.mark.parametrize("heads", [{3: light_heads()[1]}, {1: light_heads()[2]}])
def test_exits_beside_queries_or_of_another_kind_are_refused(heads):
    with pytest.raises(ValueError, match=r"linear ones \(heads.exit=linear\) up to block 2"):
        toy_eomt_segmenter(exit_heads=heads)


def test_what_is_not_there_yet_is_told_for_what_it_is(model):
    """And not for the thresholds, which a user would change in vain."""
    with pytest.raises(ValueError, match="not exported yet"):
        StaticSegmenter(model, SYSTEMS["dcts"], (80, 112))
    with pytest.raises(ValueError, match="answer token by token"):
        make_plan(model)
