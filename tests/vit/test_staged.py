"""The staged ViT: timm's features, superpatches, stages, packed images as if each were alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from reference import merging, vit
from stepseg.dcts.merge import MergeRule, build_layout
from stepseg.model import StepSegmenter
from stepseg.packed import TokenLayout
from stepseg.vit.staged import StagedViT
from stepseg.vit.weights import load_timm_state
from toys import new_vit, packed, toy_images, toy_vit

NUMBERS: dict[str, Any] = {"depth": 3, "num_heads": 4}


def timm_vit(grid: tuple[int, int], *, class_token: bool) -> VisionTransformer:
    height, width = grid
    model = VisionTransformer(
        img_size=(height * 16, width * 16),
        embed_dim=64,
        num_classes=0,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
        **NUMBERS,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, so that none is neutral
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def without_class_token(state: dict[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """The weights of the same network without a class token, its positions resized by hand."""
    state = dict(state)
    if "cls_token" in state:
        del state["cls_token"]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    positions = vit.position_grid(state["pos_embed"], *grid)
    state["pos_embed"] = positions.flatten(0, 1)[None].float()
    return {key: value for key, value in state.items() if not key.startswith(("norm.", "fc_norm."))}


def timm_features(model: VisionTransformer, images: Tensor) -> list[Tensor]:
    """timm's features after every block, ``[B, Y * X, D]``; it wants normalised images."""
    features: Any = model.forward_intermediates(
        (images - 0.5) / 0.5, norm=False, intermediates_only=True, output_fmt="NLC"
    )
    return features


def features_by_block(model: StagedViT, images: Tensor) -> list[Tensor]:
    """Our features after every block, ``[B, Y * X, D]``."""
    batch, _, height, width = images.shape
    layout = TokenLayout.full(batch, (height // 16, width // 16), "cpu")
    tokens = model.embed(images, layout, "bilinear")
    features = []
    for block in range(model.depth):
        tokens = model.run_blocks(tokens, block, block + 1)
        features.append(tokens.values_TD.view(batch, -1, model.dim))
    return features


class TestEqualsTimm:
    @pytest.mark.parametrize("class_token", [False, True], ids=["plain", "class token"])
    @pytest.mark.parametrize(
        ("trained_on", "grid"),
        [((4, 4), (4, 4)), ((4, 4), (6, 10)), ((7, 7), (5, 3)), ((4, 4), (8, 8))],
        ids=["same grid", "not square", "smaller", "larger"],
    )
    @torch.no_grad()
    def test_with_nothing_merged(self, class_token, trained_on, grid):
        checkpoint = timm_vit(trained_on, class_token=class_token).state_dict()
        ours = new_vit(dim=64, pos_grid=14, **NUMBERS).eval()
        load_timm_state(ours, checkpoint, source="test")

        theirs = timm_vit(grid, class_token=False)
        missing = theirs.load_state_dict(without_class_token(checkpoint, grid), strict=False)
        assert set(missing.missing_keys) <= {"fc_norm.weight", "fc_norm.bias"}
        assert missing.unexpected_keys == []

        images = torch.rand(2, 3, grid[0] * 16, grid[1] * 16)
        expected = timm_features(theirs, images)
        for block, feature in enumerate(features_by_block(ours, images)):
            torch.testing.assert_close(feature, expected[block], rtol=1e-5, atol=1e-5)

    @torch.no_grad()
    def test_with_faint_activations(self):
        """The epsilon of LayerNorm shows where the variance is of its order."""
        theirs = timm_vit((4, 4), class_token=False)
        for name in ("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
            theirs.get_parameter(name).mul_(1e-3)
        ours = new_vit(dim=64, **NUMBERS).eval()
        load_timm_state(ours, theirs.state_dict(), source="test")
        images = torch.rand(2, 3, 64, 64)
        expected = timm_features(theirs, images)
        for block, feature in enumerate(features_by_block(ours, images)):
            torch.testing.assert_close(feature, expected[block], rtol=1e-5, atol=1e-5)

    @torch.no_grad()
    def test_inside_the_segmenter(self):
        """The same features reach the decoder of a segmenter without merging and exits."""

        class Record(torch.nn.Module):
            num_classes, earlier_blocks, among_all, temperature = 2, (), False, None

            def answers(self, tokens):
                self.tokens = tokens
                counts = len(tokens), tokens.segments.num_images
                return [(torch.zeros(counts[0], 2), torch.zeros(counts[1], 2, 2))]

        theirs = timm_vit((5, 7), class_token=False)
        checkpoint = timm_vit((4, 4), class_token=False).state_dict()
        theirs.load_state_dict(without_class_token(checkpoint, (5, 7)), strict=False)
        ours = new_vit(dim=64, **NUMBERS)
        load_timm_state(ours, checkpoint, source="test")
        decoder = Record()
        model = StepSegmenter(backbone=ours, decoder=decoder).eval()  # type: ignore[arg-type]
        images = toy_images(2, 75, 101)
        model(images)
        padded = torch.full((2, 3, 80, 112), 0.5)  # grey, hence zero after normalisation
        padded[:, :, :75, :101] = images
        expected = timm_features(theirs, padded)[-1]
        torch.testing.assert_close(
            decoder.tokens.values_TD, expected.flatten(0, 1), rtol=1e-5, atol=1e-5
        )


class TestPacked:
    @pytest.mark.parametrize(
        "lengths",
        [[5, 3, 7], [4, 4], [6], [3, 0, 5], [0, 4], [0, 0]],
        ids=["ragged", "uniform", "one", "one empty", "first empty", "all empty"],
    )
    def test_every_image_as_if_alone(self, lengths):
        model = toy_vit(depth=3).double()
        tokens = packed(lengths, dtype=torch.float64, requires_grad=True)
        out = model.run_blocks(tokens, 0, 3)
        assert out.segments is tokens.segments

        weights = vit.weights_of(model)
        expected = []
        for own in tokens.values_TD.split(lengths):
            for index in range(3):
                own = vit.block(own, vit.under(weights, f"blocks.{index}"), 2)
            expected.append(own)
        torch.testing.assert_close(out.values_TD, torch.cat(expected))

        upstream = torch.randn_like(out.values_TD)
        gradient = torch.autograd.grad(out.values_TD, tokens.values_TD, upstream)
        expected_gradient = torch.autograd.grad(torch.cat(expected), tokens.values_TD, upstream)
        torch.testing.assert_close(gradient, expected_gradient)

    @pytest.mark.parametrize("lengths", [[3, 0, 5], [0, 0]], ids=["one empty", "all empty"])
    def test_every_parameter_has_a_gradient(self, lengths):
        model = toy_vit()
        model.run_blocks(packed(lengths), 0, 4).values_TD.sum().backward()
        without = [n for n, p in model.blocks.named_parameters() if p.grad is None]
        assert without == []

    def test_stages_compose(self):
        model = toy_vit(depth=4)
        tokens = packed([5, 3])
        at_once = model.run_blocks(tokens, 0, 4).values_TD
        in_stages = model.run_blocks(model.run_blocks(tokens, 0, 1), 1, 4).values_TD
        assert torch.equal(at_once, in_stages)
        assert not torch.equal(model.run_blocks(tokens, 0, 3).values_TD, at_once)
        assert model.run_blocks(tokens, 2, 2) is tokens


def mixed_layout(windows: tuple[int, ...], rows: int, columns: int, batch: int = 2) -> TokenLayout:
    """About half of the windows of each size merged at random, coarse to fine."""
    maps = []
    for _ in range(batch):
        scores = {
            s: torch.rand(rows // s, columns // s).tolist()
            for s in windows
            if s <= min(rows, columns)
        }
        rule = MergeRule(windows=windows, thresholds=(0.5,) * len(windows))
        maps.append(merging.merge(scores, rule, rows, columns))
    return build_layout(torch.tensor(maps), windows)


def windows_by_image(layout: TokenLayout) -> list[list[tuple[int, int, int]]]:
    return [merging.tokens(own) for own in layout.window_BYX.tolist()]


class TestEmbedding:
    @pytest.mark.parametrize("resize", ["bilinear", "area"])
    @pytest.mark.parametrize("window", [1, 2, 4, 8, 16])
    def test_pixels_of_a_window_are_those_of_its_crop_resized_alone(self, window, resize):
        """A kernel that copies its patch shows the pixels that a token is made of."""
        copy = new_vit(dim=768, depth=0, num_heads=1, mean=(0, 0, 0), std=(1, 1, 1))
        with torch.no_grad():
            copy.patch_embed.proj.weight.copy_(torch.eye(768).view(768, 3, 16, 16))
            copy.patch_embed.proj.bias.zero_()  # type: ignore[union-attr]
            copy.pos_embed.zero_()
        rows, columns = 2 * window + 1, window + 1  # a rest at the border that no window covers
        window_YX = torch.ones(rows, columns, dtype=torch.int64)
        window_YX[: 2 * window, :window] = window
        layout = build_layout(window_YX[None].expand(2, -1, -1), (window,) if window > 1 else ())
        images = torch.rand(2, 3, rows * 16, columns * 16)
        tokens = copy.embed(images, layout, resize).values_TD.view(-1, 3, 16, 16)

        row = 0
        for b, own_windows in enumerate(windows_by_image(layout)):
            for y, x, size in own_windows:
                crop = images[
                    b : b + 1, :, y * 16 : y * 16 + size * 16, x * 16 : x * 16 + size * 16
                ]
                if size == 1:
                    expected = crop
                elif resize == "area":
                    expected = F.interpolate(crop, size=(16, 16), mode="area")
                else:
                    expected = F.interpolate(
                        crop, size=(16, 16), mode="bilinear", align_corners=False
                    )
                torch.testing.assert_close(tokens[row], expected[0], rtol=1e-5, atol=1e-6)
                row += 1
        assert row == len(tokens)
        assert (layout.window_T0 == window).any()

    def test_bilinear_superpatches_of_two_are_means_over_two_by_two_pixels(self):
        """What CTS does."""
        image = torch.rand(3, 32, 32)
        means = image.view(3, 16, 2, 16, 2).mean(dim=(2, 4))
        torch.testing.assert_close(vit.superpatch(image, 0, 0, 2, "bilinear"), means)
        copy = toy_vit()
        with torch.no_grad():
            copy.pos_embed.zero_()
        merged = build_layout(torch.full((1, 2, 2), 2), (2,))
        token = copy.embed(image[None], merged, "bilinear").values_TD
        alone = copy.embed(means[None], TokenLayout.full(1, (1, 1), "cpu"), "bilinear").values_TD
        torch.testing.assert_close(token, alone)

    def test_a_window_has_the_mean_position_of_its_cells(self):
        model = toy_vit(pos_grid=4)
        with torch.no_grad():
            model.patch_embed.proj.weight.zero_()
            model.patch_embed.proj.bias.zero_()  # type: ignore[union-attr]
            model.pos_embed.copy_(torch.arange(16.0).view(1, 16, 1).expand_as(model.pos_embed))
        #  0  1 |  2  3        A A b c
        #  4  5 |  6  7        A A d e
        #  8  9   10 11        f g H H
        # 12 13   14 15        i j H H
        window_YX = torch.ones(4, 4, dtype=torch.int64)
        window_YX[:2, :2] = window_YX[2:, 2:] = 2
        layout = build_layout(window_YX[None], (2,))
        tokens = model.embed(torch.rand(1, 3, 64, 64), layout, "bilinear")
        expected = [2.5, 2, 3, 6, 7, 8, 9, 12.5, 12, 13]
        assert tokens.values_TD[:, 0].tolist() == expected

        whole = build_layout(torch.full((1, 4, 4), 4), (2, 4))
        assert model.embed(torch.rand(1, 3, 64, 64), whole, "area").values_TD[0, 0] == 7.5

    @pytest.mark.parametrize("resize", ["bilinear", "area"])
    @pytest.mark.parametrize(
        ("windows", "grid"),
        [((2,), (5, 7)), ((2, 4), (9, 6)), ((2, 4, 8), (8, 11)), ((3,), (7, 7)), ((2, 16), (6, 6))],
        ids=str,
    )
    def test_tokens_equal_a_loop_over_windows(self, windows, grid, resize):
        rows, columns = grid
        layout = mixed_layout(windows, rows, columns)
        assert not layout.is_full_grid
        model = toy_vit(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)).double()
        images = toy_images(2, rows * 16, columns * 16).double()
        tokens = model.embed(images, layout, resize)
        assert tokens.segments is layout.segments
        weights = vit.weights_of(model)
        expected = [
            vit.embed(images[b], own, weights, resize, model.mean, model.std)
            for b, own in enumerate(windows_by_image(layout))
        ]
        # The position grid is interpolated in float32.
        torch.testing.assert_close(tokens.values_TD, torch.cat(expected), rtol=1e-5, atol=1e-5)

    def test_statistics_of_the_input_are_not_weights(self):
        assert not {"mean", "std"} & set(toy_vit().state_dict())


class TestDropPath:
    def test_the_rate_grows_linearly_with_depth(self):
        rates = [block.drop_path.rate for block in toy_vit(drop_path=0.3).blocks]  # type: ignore[union-attr]
        assert rates == pytest.approx([0, 0.1, 0.2, 0.3])

    def test_branches_are_dropped_per_image(self):
        """Every image is one of four: with or without attention, with or without MLP."""
        model = toy_vit(depth=2, drop_path=0.5).double().train()
        lengths = [2, 3] * 12
        tokens = packed(lengths, dtype=torch.float64)
        out = model.run_blocks(tokens, 1, 2).values_TD.split(lengths)
        weights = vit.under(vit.weights_of(model), "blocks.1")
        seen = set()
        for before, after in zip(tokens.values_TD.split(lengths), out, strict=True):
            matches = []
            for attention in (0.0, 2.0):
                for mlp in (0.0, 2.0):
                    scaled = dict(weights)
                    for key in ("attn.proj.weight", "attn.proj.bias"):
                        scaled[key] = weights[key] * attention
                    for key in ("mlp.fc2.weight", "mlp.fc2.bias"):
                        scaled[key] = weights[key] * mlp
                    if torch.allclose(vit.block(before, scaled, 2), after):
                        matches.append((attention, mlp))
            assert len(matches) == 1
            seen.add(matches[0])
        assert len(seen) == 4

    def test_evaluation_drops_nothing(self):
        tokens = packed([4, 2])
        model = toy_vit(drop_path=0.5).eval()
        weights_alike = toy_vit()
        weights_alike.load_state_dict(model.state_dict())
        assert torch.equal(
            model.run_blocks(tokens, 0, 4).values_TD,
            weights_alike.eval().run_blocks(tokens, 0, 4).values_TD,
        )


class TestCheckpointing:
    @pytest.mark.parametrize("frozen_embedding", [False, True])
    @pytest.mark.filterwarnings("error")
    def test_gives_the_same_gradients(self, frozen_embedding):
        gradients = []
        for checkpoint_blocks in (False, True):
            torch.manual_seed(1)
            model = toy_vit(checkpoint_blocks=checkpoint_blocks, drop_path=0.3).train()
            model.patch_embed.requires_grad_(not frozen_embedding)
            model.pos_embed.requires_grad_(not frozen_embedding)
            layout = mixed_layout((2,), 4, 6)
            images = toy_images(2, 64, 96)
            torch.manual_seed(2)  # the same images drop the same branches
            tokens = model.embed(images, layout, "bilinear")
            model.run_blocks(tokens, 0, 4).values_TD.square().sum().backward()
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            assert gradient is not None
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(gradients[1][name], gradient)

    def test_recomputes_only_where_gradients_are_kept(self, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("nothing to recompute without gradients")

        monkeypatch.setattr("stepseg.vit.staged.checkpoint", refuse)
        with torch.no_grad():
            toy_vit(checkpoint_blocks=True).run_blocks(packed([3]), 0, 4)

    @pytest.mark.parametrize(("blocks", "recomputed"), [(False, 0), (3, 3), (True, 4)])
    def test_of_so_many_first_blocks(self, blocks, recomputed, monkeypatch):
        seen = []

        def note(function, block, *arguments, **options):
            seen.append(block)
            return function(block, *arguments)

        monkeypatch.setattr("stepseg.vit.staged.checkpoint", note)
        model = toy_vit(checkpoint_blocks=blocks)
        for start in (0, 2):
            model.run_blocks(packed([3]), start, start + 2)
        assert seen == list(model.blocks)[:recomputed]

    def test_of_more_blocks_than_there_are(self):
        with pytest.raises(ValueError, match=r"checkpoint_blocks=5: .* so many first blocks of 4"):
            toy_vit(checkpoint_blocks=5)


def test_channels_that_do_not_divide_into_heads():
    with pytest.raises(ValueError, match="30 channels do not divide into 4 attention heads"):
        new_vit(dim=30, depth=1, num_heads=4)


def test_weights_start_narrow_and_without_bias():
    model = new_vit(dim=64, depth=2, num_heads=2)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
            assert parameter.mean().item() == pytest.approx(0, abs=0.001), name
