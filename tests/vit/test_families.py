"""Foundation ViTs against timm: full grids, some of the patches, superpatches, and batches."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg import from_timm
from stepseg.dcts.merge import build_layout
from stepseg.packed import TokenLayout
from stepseg.vit import block
from stepseg.vit.architecture import RopeNumbers
from stepseg.vit.rotary import Rope, Rotation
from stepseg.vit.staged import StagedViT
from stepseg.vit.timm_models import architecture_of, read_architecture
from timm_families import FAMILIES, drawn, timm_features, timm_model

ROTARY = [name for name, (_, options) in FAMILIES.items() if "use_rot_pos_emb" in options]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def images_of(model: Any, batch: int = 2, grid: tuple[int, int] = (3, 5)) -> Tensor:
    side = model.patch_embed.patch_size[0]
    return torch.rand(batch, 3, grid[0] * side, grid[1] * side)


@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_stage_equals_timm(family, norm):
    model = timm_model(family)
    for grid in ((4, 4), (3, 6)):
        images = images_of(model, grid=grid)
        ours = from_timm(model).features(images, blocks=(1, 2, 3), norm=norm)
        for mine, theirs in zip(ours, timm_features(model, images, norm=norm), strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)


FULL_SIZE = (
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3_qkvb",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_gap_224",
    "vit_so400m_patch14_siglip_gap_224",
    "vit_base_patch14_reg1_tipsv2",
    "vit_base_patch16_lingbot",
    "eva02_small_patch14_224",
    "eva02_base_patch14_224",
    "vit_pe_spatial_tiny_patch16_512",
    "vit_pe_spatial_base_patch16_512",
    "vit_base_patch16_clip_quickgelu_224",
    "deit3_small_patch16_224",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
@torch.no_grad()
def test_every_stage_equals_timm_at_full_size(name):
    model = drawn(timm.create_model(name, num_classes=0, dynamic_img_size=True))
    encoder, images = from_timm(model), images_of(model, batch=1)
    assert encoder.numbers == replace(architecture_of(name), pos_antialias=True)
    blocks = range(1, encoder.depth + 1)
    theirs = timm_features(model, images, norm=True)
    for ours, expected in zip(encoder.features(images, blocks), theirs, strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(ours / scale, expected / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_some_of_the_patches_equal_timm_on_those_rows(family):
    """As after exits, after the first block: each row keeps its place."""
    model, encoder = timm_model(family), None
    images = images_of(model)
    encoder = from_timm(model)
    keep = torch.rand(2, 15) < torch.tensor([[0.5], [0.3]])
    keep[0, 3] = keep[1, 4] = True
    tokens = encoder.run_blocks(embedded(encoder, images), 0, 1).select(keep.flatten())
    ours = encoder.run_blocks(tokens, 1, 3)
    for image, kept in enumerate(keep):
        rows = torch.cat(
            [torch.arange(encoder.numbers.prefix), encoder.numbers.prefix + kept.nonzero()[:, 0]]
        )
        expected = timm_rows(model, images[image : image + 1], rows)
        torch.testing.assert_close(ours.values_TD[ours.image_ids_T == image], expected, **CLOSE)


def embedded(encoder: StagedViT, images: Tensor, windows_BYX: Tensor | None = None):
    side = encoder.patch_size
    grid = (images.shape[2] // side, images.shape[3] // side)
    layout = TokenLayout.full(len(images), grid, "cpu")
    if windows_BYX is not None:
        layout = build_layout(windows_BYX, (2,))
    return encoder.embed(images, layout, "bilinear")


def timm_rows(model: Any, image_13HW: Tensor, rows: Tensor) -> Tensor:
    """timm's first block on all rows of an image, the others on some."""
    x = model._pos_embed(model.patch_embed((image_13HW - 0.5) / 0.5))
    x, rope = x if isinstance(x, tuple) else (x, None)
    x = model.norm_pre(x)
    for number, layer in enumerate(model.blocks):
        if number == 1:
            x = x[:, rows]
            prefix = model.num_prefix_tokens
            rope = None if rope is None else rope[rows[prefix:] - prefix]
        x = layer(x) if rope is None else layer(x, rope=rope)
    return x[0]


@pytest.mark.parametrize("family", ["dinov3", "dinov3_qkvb", "dinov3_plus"])
@torch.no_grad()
def test_everything_merged_equals_timm_at_half_the_size(family):
    model = timm_model(family)
    images = images_of(model, grid=(6, 8))
    encoder = from_timm(model)
    layout = build_layout(torch.full((2, 6, 8), 2), (2,))
    [ours] = encoder.features(images, layout=layout)
    half = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    [*_, theirs] = timm_features(model, half, norm=True)
    torch.testing.assert_close(ours[:, ::2, ::2], theirs, **CLOSE)
    assert torch.equal(ours[:, ::2, ::2], ours[:, 1::2, 1::2])


@pytest.mark.parametrize("family", ["eva02_base", "pe_spatial"])
@torch.no_grad()
def test_places_of_superpatches_are_the_means_of_their_cells(family):
    rope = from_timm(timm_model(family)).rope
    assert rope is not None
    cells = rope.places(TokenLayout.full(1, (4, 6), "cpu")).view(1, 4, 6, 2)
    merged = rope.places(build_layout(torch.full((1, 4, 6), 2), (2,)))
    means = F.avg_pool2d(cells.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(merged, means)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_ragged_batch_equals_single_images(family):
    model = timm_model(family)
    encoder, images = from_timm(model), images_of(model, grid=(4, 6))
    windows = torch.ones(2, 4, 6, dtype=torch.int64)
    windows[0, :2, 2:4] = windows[1, 2:, :2] = windows[1, 2:, 4:] = 2
    both = encoder.run_blocks(embedded(encoder, images, windows), 0, 3)
    for image in (0, 1):
        one = slice(image, image + 1)
        alone = encoder.run_blocks(embedded(encoder, images[one], windows[one]), 0, 3)
        torch.testing.assert_close(
            both.values_TD[both.image_ids_T == image], alone.values_TD, **CLOSE
        )


@torch.no_grad()
def test_prefix_rows_go_on_alone():
    encoder = from_timm(timm_model("dinov3"))
    tokens = embedded(encoder, torch.rand(2, 3, 64, 64))
    nobody = tokens.select(torch.zeros(32, dtype=torch.bool))
    out = encoder.run_blocks(nobody, 0, 3)
    assert out.segments.lengths == (5, 5)
    assert len(encoder.read(out)) == 0
    assert not torch.equal(out.values_TD, nobody.values_TD)


@pytest.mark.parametrize("checkpoint_blocks", [False, True])
@pytest.mark.parametrize("family", ["dinov2_giant", "dinov3_qkvb", "eva02_base", "pe_spatial"])
def test_everything_learns(family, checkpoint_blocks):
    model = timm_model(family)
    encoder = from_timm(model)
    encoder.checkpoint_blocks = checkpoint_blocks
    [features] = encoder.features(images_of(model))
    (features * torch.randn_like(features)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_types_and_modes_follow_the_model():
    encoder = from_timm(timm_model("dinov3").bfloat16().train())
    assert encoder.training
    assert encoder.get_parameter("blocks.0.ls1.gamma").dtype == torch.bfloat16
    assert encoder.rope is not None
    assert encoder.rope.frequencies_F.dtype == torch.float32
    half = Rotation(torch.ones(1, 1, 8), torch.zeros(1, 1, 8), True)
    assert half.turn(torch.ones(1, 3, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


class TestFeatures:
    def test_says_what_it_cannot_do(self):
        encoder = from_timm(timm_model("deit"))
        with pytest.raises(ValueError, match=r"60 x 64 px do not divide into patches of 16"):
            encoder.features(torch.rand(1, 3, 60, 64))
        for blocks in ([0], [4], [2, 1], [1, 1]):
            with pytest.raises(ValueError, match=r"ascending numbers within 1\.\.3"):
                encoder.features(torch.rand(1, 3, 64, 64), blocks)

    def test_patches_of_another_size(self):
        """Bilinear patches of 28 px show a kernel of 14 px, resampled, what it was made for."""
        model = timm_model("dinov2")
        encoder = from_timm(model, patch_size=28)
        flat = torch.rand(1, 3, 4, 4).repeat_interleave(14, 2).repeat_interleave(14, 3)
        large = flat.repeat_interleave(2, 2).repeat_interleave(2, 3)
        with torch.no_grad():
            [ours] = encoder.features(large)
            [*_, theirs] = timm_features(model, flat, norm=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


class TestRope:
    def places(self, training: bool = False, **numbers: Any) -> Tensor:
        rope = Rope(RopeNumbers(**numbers), 16)
        return rope.train(training).places(TokenLayout.full(1, (2, 4), "cpu"))

    def test_literals(self):
        assert self.places()[:2].tolist() == [[-0.5, -0.75], [-0.5, -0.25]]
        assert self.places(places="index")[5].tolist() == [1, 1]
        assert self.places(places="index", offset=1, ref_grid=(4, 4))[5].tolist() == [4, 2]

    def test_augmentation(self):
        plain = self.places()
        assert torch.equal(self.places(training=True), plain)
        assert torch.equal(self.places(shift=0.5, jitter=2, rescale=2), plain)
        shifted = self.places(training=True, shift=0.5) - plain
        torch.testing.assert_close(shifted, shifted[:1].expand(8, 2))
        assert 0 < shifted.abs().max() <= 0.5
        for factors in ({"jitter": 2.0}, {"rescale": 2.0}):
            ratio = self.places(training=True, **factors) / plain
            torch.testing.assert_close(ratio, ratio[:1].expand(8, 2))
            assert 0.5 <= ratio.min() < ratio.max() + 1e-6 <= 2 + 1e-5
            assert ("rescale" in factors) is bool((ratio[0, 0] - ratio[0, 1]).abs() < 1e-6)

    def test_periods_in_bfloat16(self):
        plain, rounded = (
            Rope(RopeNumbers(bfloat16_periods=b), 64).frequencies_F for b in (False, True)
        )
        periods = 2 * torch.pi / plain
        torch.testing.assert_close(2 * torch.pi / rounded, periods.bfloat16().float())
        assert not torch.equal(plain, rounded)


class TestMutations:
    """What a mistake would change shows against timm."""

    def worst(self, family: str, encoder: StagedViT | None = None) -> float:
        torch.manual_seed(3)
        model = timm_model(family)
        images = images_of(model, grid=(4, 6))
        layout = build_layout(torch.full((2, 4, 6), 2), (2,)) if family == "dinov3" else None
        ours = from_timm(model).features(images, (1, 2, 3), layout=layout)
        theirs = images
        if layout is not None:
            theirs = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
            ours = [features[:, ::2, ::2] for features in ours]
        expected = timm_features(model, theirs, norm=True)
        return max(float((a - b).abs().max()) for a, b in zip(ours, expected, strict=True))

    def check(self, family: str) -> None:
        assert self.worst(family) > 1e-2

    @torch.no_grad()
    def test_none(self):
        assert self.worst("dinov3") < 1e-4
        assert self.worst("pe_spatial") < 1e-4

    @torch.no_grad()
    def test_rotated_prefix_rows(self, monkeypatch):
        def turned(self: Rope, places_T2: Tensor) -> Rotation:
            is_prefix = (places_T2 == 0).all(1, keepdim=True)  # cells begin at 1 in this family
            return rotation(self, torch.where(is_prefix, 1.5, places_T2))

        rotation = Rope.rotation
        monkeypatch.setattr(Rope, "rotation", turned)
        self.check("pe_spatial")

    @torch.no_grad()
    def test_swapped_axes(self, monkeypatch):
        places = Rope.places
        monkeypatch.setattr(Rope, "places", lambda self, layout: places(self, layout).flip(1))
        self.check("dinov3")

    @torch.no_grad()
    def test_averaged_sines(self, monkeypatch):
        """The mean over the cells of a window of 2 x 2, instead of its centre."""

        def averaged(self: Rope, places_T2: Tensor) -> Rotation:
            inner = places_T2.abs().sum(1, keepdim=True) > 0
            steps = torch.tensor([[y / 4, x / 6] for y in (-1, 1) for x in (-1, 1)])
            parts = [exact(self, places_T2 + inner * step) for step in steps]
            cos, sin = (
                torch.stack(p).mean(0)
                for p in ([x.cos_T1A for x in parts], [x.sin_T1A for x in parts])
            )
            return Rotation(cos, sin, self.numbers.halves)

        exact = Rope.rotation
        monkeypatch.setattr(Rope, "rotation", averaged)
        self.check("dinov3")

    @torch.no_grad()
    def test_the_other_pairs_of_channels(self, monkeypatch):
        turn = Rotation.turn
        monkeypatch.setattr(
            Rotation, "turn", lambda self, x: turn(replace(self, halves=not self.halves), x)
        )
        self.check("pe_spatial")

    @torch.no_grad()
    def test_a_forgotten_factor(self, monkeypatch):
        monkeypatch.setattr(block.LayerScale, "forward", lambda self, x: x)
        self.check("dinov2_reg")

    @torch.no_grad()
    def test_gate_and_values_exchanged(self, monkeypatch):
        def exchanged(self: block.Mlp, x_TD: Tensor) -> Tensor:
            x_TH, gate_TH = self.fc1(x_TD).chunk(2, dim=-1)
            return self.fc2(self.norm(F.silu(gate_TH) * x_TH))

        monkeypatch.setattr(block.Mlp, "forward", exchanged)
        self.check("eva02_base")

    @torch.no_grad()
    def test_another_eps(self):
        theirs = timm_model("dinov3")
        for parameter in theirs.patch_embed.parameters():
            parameter.mul_(1e-3)
        theirs.cls_token.mul_(1e-3), theirs.reg_token.mul_(1e-3)
        images = images_of(theirs)
        expected = timm_features(theirs, images, norm=False)[0]
        right, wrong = from_timm(theirs), from_timm(theirs)
        for layer in wrong.blocks:
            layer.norm1.eps = 1e-6  # type: ignore[union-attr]
        errors = [
            float((e.features(images, [1], norm=False)[0] - expected).abs().max())
            for e in (right, wrong)
        ]
        assert errors[0] < 1e-4 < 1e-2 < errors[1]


class TestNames:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "beit_base_patch16_224",
                "class Beit, which is not supported; the nearest that is: deit",
            ),
            (
                "vit_base_patch16_rope_mixed_224",
                "RotaryEmbeddingMixed.*vit_base_patch16_rope",
            ),
        ],
    )
    def test_refused(self, name, message):
        with pytest.raises(ValueError, match=message):
            architecture_of(name)

    @pytest.mark.parametrize(
        ("family", "options", "message"),
        [
            ("dinov3", {"qk_norm": True}, "normalised queries and keys"),
            ("dinov3", {"attn_only_layer_scale": True}, "a LayerScale of attention alone"),
            ("eva02_base", {"scale_attn_inner": True}, "a norm on attended values"),
            ("eva02_base", {"use_post_norm": True}, "blocks of the class EvaBlockPostNorm"),
            ("deit", {"qk_norm": True}, "normalised queries and keys"),
            ("deit", {"in_chans": 4}, "other than RGB"),
            ("deit", {"img_size": (64, 32)}, "not square"),
            ("deit", {"act_layer": torch.nn.ReLU}, "an MLP of the class Mlp with ReLU"),
        ],
    )
    def test_features_that_are_missing(self, family, options, message):
        with pytest.raises(ValueError, match=message):
            read_architecture(timm_model(family, **options))
