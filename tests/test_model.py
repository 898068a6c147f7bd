"""The whole model: one tester for all systems, exits by hand, gradients, wrong parts."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reference import merging, step_loop, vit
from stepseg.dcts.merge import MergeRule
from stepseg.dcts.targets import HomogeneityRule
from stepseg.grid import segment_all
from stepseg.heads.exit import BudgetExit, ConfidenceExit
from stepseg.losses import LossWeights, head_loss, policy_loss
from stepseg.model import HeadOutput, Reduction, Segmentation, StepSegmenter
from stepseg.packed import PackedTokens
from toys import (
    CLASSES,
    DCTS,
    EXIT_BLOCKS,
    HEAD_BLOCKS,
    SYSTEMS,
    toy_head,
    toy_images,
    toy_labels,
    toy_oracle,
    toy_policy,
    toy_segmenter,
    toy_vit,
)

WITH_EXITS = [name for name, reduction in SYSTEMS.items() if reduction.exit_blocks]
CLASS_SOURCES = ["final", "own"]


@dataclass(frozen=True)
class LetGo:
    """A rule for tests: whole images leave, or the tokens in some rows of the packed batch."""

    images: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        keep_T = torch.ones(len(tokens), dtype=torch.bool)
        for image in self.images:
            keep_T &= tokens.image_ids_T != image
        for row in self.rows:
            keep_T &= tokens.token_ids_T != row
        return keep_T


def exits_by_image(result: Segmentation) -> list[list[int]]:
    return [own.tolist() for own in result.exit_T0.split(result.layout.segments.lengths)]


def image_of(result: Segmentation, b: int) -> dict[str, Tensor]:
    """Everything that is said about one image of a batch."""
    rows = slice(*result.layout.segments.cu_seqlens[b : b + 2].tolist())
    return {
        "windows": result.layout.window_BYX[b],
        "exits": result.exit_T0[rows],
        "cell scores": result.cell_scores()[b],
        "scores": result.scores()[b],
        "tokens": torch.tensor([head.tokens_per_image[b] for head in result.heads]),
        "mask logits": torch.stack([head.mask_logits_T0C[rows] for head in result.heads]),
    }


def training_loss(result: Segmentation, labels: Tensor) -> Tensor:
    """All loss terms of all heads, and that of the policy where it learns."""
    weights = LossWeights()
    height, width = result.layout.grid[0] * 16, result.layout.grid[1] * 16
    padded = torch.full((len(labels), height, width), 255)
    padded[:, : labels.shape[1], : labels.shape[2]] = labels
    terms = [
        term
        for head in result.heads
        for term in head_loss(
            result.mask_logits(head), head.class_logits_BC2, padded, weights
        ).values()
    ]
    if result.policy_logits:
        targets = HomogeneityRule().windows(labels, 16, list(result.policy_logits))
        terms.append(policy_loss(result.policy_logits, targets))
    return torch.stack(terms).sum()


def without_gradient(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("class_source", CLASS_SOURCES)
@pytest.mark.parametrize("system", SYSTEMS)
class TestEverySystem:
    """What holds for the dense baseline, for every way to merge and for every exit rule."""

    def test_equals_the_method_in_loops(self, system, class_source):
        if system == "step_random":
            pytest.skip("the draw has no description to write a reference from")
        model = toy_segmenter(class_source=class_source).double()
        images = toy_images().double()
        result = model(images, reduction=SYSTEMS[system])
        weights = {k: v.requires_grad_() for k, v in vit.weights_of(model).items()}
        expected_scores = []
        for b in range(3):
            expected = step_loop.segment(model, images[b], SYSTEMS[system], weights=weights)
            assert merging.tokens(result.layout.window_BYX[b].tolist()) == expected.windows
            assert [head.tokens_per_image[b] for head in result.heads] == expected.tokens_per_head
            assert exits_by_image(result)[b] == expected.exit_index
            expected_scores.append(expected.cell_scores_CYX)
        scores, expected_BCYX = result.cell_scores(), torch.stack(expected_scores)
        torch.testing.assert_close(scores.double(), expected_BCYX, rtol=1e-5, atol=1e-5)

        # The same gradients, through merging, exits and the map.
        upstream = torch.randn_like(expected_BCYX)
        (scores * upstream).sum().backward()
        expected_BCYX.backward(upstream)
        for name, parameter in model.named_parameters():
            if name.startswith("policy.") or parameter.grad is None:
                assert weights[name].grad is None, name
                continue
            gradient = weights[name].grad
            if gradient is None:  # the loops do not ask heads that have nothing to say
                gradient = torch.zeros_like(parameter)
            scale = 1e-4 * max(1.0, gradient.abs().max().item())
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=scale, msg=name)

    @torch.no_grad()
    def test_a_batch_equals_its_images_alone(self, system, class_source):
        model = toy_segmenter(class_source=class_source)
        images = toy_images()
        together = model(images, reduction=SYSTEMS[system])
        for b in range(3):
            alone = image_of(model(images[b : b + 1], reduction=SYSTEMS[system]), 0)
            for name, value in image_of(together, b).items():
                torch.testing.assert_close(alone[name], value, rtol=1e-4, atol=1e-5, msg=name)

    @torch.no_grad()
    def test_permuting_images_permutes_results(self, system, class_source):
        model = toy_segmenter(class_source=class_source)
        images = toy_images()
        order = [2, 0, 1]
        straight = model(images, reduction=SYSTEMS[system])
        permuted = model(images[order], reduction=SYSTEMS[system])
        for place, b in enumerate(order):
            other = image_of(permuted, place)
            for name, value in image_of(straight, b).items():
                torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=name)

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(75, 101), (16, 16), (33, 200), (64, 48)], ids=str)
    def test_maps_have_the_size_of_the_image(self, system, class_source, size):
        model = toy_segmenter(class_source=class_source)
        result = model(toy_images(2, *size), reduction=SYSTEMS[system])
        rows, columns = -(-size[0] // 16), -(-size[1] // 16)
        assert result.cell_scores().shape == (2, CLASSES, rows, columns)
        scores = result.scores()
        assert scores.shape == (2, CLASSES, *size)
        assert scores.min() >= 0
        assert scores.max() <= 1
        prediction = result.prediction()
        assert prediction.shape == (2, *size)
        assert prediction.dtype == torch.int64
        chosen = scores.gather(1, prediction[:, None])[:, 0]
        torch.testing.assert_close(chosen, scores.amax(1))

    @torch.no_grad()
    def test_tokens_are_accounted_for(self, system, class_source):
        reduction = SYSTEMS[system]
        model = toy_segmenter(class_source=class_source)
        result = model(toy_images(), reduction=reduction)
        assert [head.block for head in result.heads] == [*reduction.exit_blocks, 4]
        assert result.tokens_per_stage[0] == result.layout.segments.lengths
        for b, exits in enumerate(exits_by_image(result)):
            for stage, head in enumerate(result.heads):
                assert head.tokens_per_image[b] == sum(index >= stage for index in exits)
        if reduction.merge is None:
            assert result.layout.segments.lengths == (35, 35, 35)
        else:
            assert 3 < result.layout.num_tokens < 105, "the toy must merge some"
        if reduction.exit_blocks:
            assert sum(result.tokens_per_stage[1]) < result.layout.num_tokens

    @torch.no_grad()
    def test_who_left_keeps_what_was_said_and_later_heads_overwrite_the_rest(
        self, system, class_source
    ):
        result = toy_segmenter(class_source=class_source)(toy_images(), reduction=SYSTEMS[system])
        for stage in range(1, len(result.heads)):
            before = result.heads[stage - 1].mask_logits_T0C
            after = result.heads[stage].mask_logits_T0C
            left = result.exit_T0 < stage
            assert torch.equal(after[left], before[left])
            assert (after[~left] != before[~left]).any(1).all()

    def test_every_parameter_learns(self, system, class_source):
        model = toy_segmenter(class_source=class_source).train()
        result = model(toy_images(), reduction=SYSTEMS[system])
        assert [head.block for head in result.heads] == [*HEAD_BLOCKS, 4]
        assert set(result.policy_logits) == {2, 4}
        training_loss(result, toy_labels()).backward()
        assert without_gradient(model) == []
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        if system != "step_all_leave":
            silent = [
                n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()
            ]
            assert silent == []

    @torch.no_grad()
    def test_neighbours_change_nothing_in_training_either(self, system, class_source):
        """Not even by way of what the policy learns from them."""
        model = toy_segmenter(class_source=class_source, dropout=0.0).train()
        images = toy_images()
        results = []
        for neighbours in ([], [1, 2], [2]):
            again = copy.deepcopy(model)
            assert again.policy is not None
            assert again.policy.training
            result = again(images[[0, *neighbours]], reduction=SYSTEMS[system])
            results.append(image_of(result, 0))
        for other in results[1:]:
            for name, value in results[0].items():
                torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=name)

    def test_half_precision_runs_forward_and_backward(self, system, class_source):
        model = toy_segmenter(class_source=class_source).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = model(toy_images(), reduction=SYSTEMS[system])
        for head in result.heads:
            assert head.mask_logits_T0C.dtype == torch.float32
            assert head.mask_logits_T0C.isfinite().all()
        training_loss(result, toy_labels()).backward()
        assert without_gradient(model) == []
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            assert model.eval()(toy_images(), reduction=SYSTEMS[system]).scores().isfinite().all()

    @torch.no_grad()
    def test_evaluation_is_deterministic(self, system, class_source):
        model = toy_segmenter(class_source=class_source, drop_path=0.5, dropout=0.5)
        images = toy_images()
        first, second = (model(images, reduction=SYSTEMS[system]).scores() for _ in range(2))
        assert torch.equal(first, second)


class TestSizes:
    """Grids that are smaller than a window, or no multiple of one."""

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(160, 160), (40, 144), (16, 16), (17, 300)], ids=str)
    def test_equals_the_method_in_loops(self, size):
        model = toy_segmenter(policy=toy_policy(windows=(2, 4, 8, 16))).double()
        images = toy_images(2, *size).double()
        merge = MergeRule(windows=(2, 4, 8, 16), thresholds=(0.4, 0.4, 0.4, 0.4))
        reduction = Reduction(merge=merge, exit=ConfidenceExit(0.85, 1), exit_blocks=(2,))
        result = model(images, reduction=reduction)
        for b in range(2):
            expected = step_loop.segment(model, images[b], reduction)
            assert merging.tokens(result.layout.window_BYX[b].tolist()) == expected.windows
            assert exits_by_image(result)[b] == expected.exit_index
            torch.testing.assert_close(
                result.cell_scores()[b].double(), expected.cell_scores_CYX, rtol=1e-5, atol=1e-5
            )

    @pytest.mark.parametrize("size", [(160, 80), (16, 16)], ids=str)
    def test_every_parameter_has_a_gradient(self, size):
        """Also those of window sizes that do not fit into the image."""
        model = toy_segmenter(policy=toy_policy(windows=(2, 4, 8, 16))).train()
        merge = MergeRule(windows=(2, 4, 8, 16), thresholds=(0.4, 0.4, 0.4, 0.4))
        result = model(toy_images(2, *size), reduction=Reduction(merge=merge))
        training_loss(result, toy_labels(2, *size)).backward()
        assert without_gradient(model) == []


class TestOracle:
    @torch.no_grad()
    def test_equals_the_method_in_loops(self):
        model = toy_segmenter(policy=toy_oracle()).double()
        images, labels = toy_images().double(), toy_labels()
        reduction = SYSTEMS["step"]
        result = model(images, labels, reduction)
        sides = set(result.layout.window_T0.tolist())
        assert sides == {1, 2, 4}, "the toy labels must have windows of all sizes"
        for b in range(3):
            expected = step_loop.segment(model, images[b], reduction, labels[b])
            assert merging.tokens(result.layout.window_BYX[b].tolist()) == expected.windows
            torch.testing.assert_close(
                result.cell_scores()[b].double(), expected.cell_scores_CYX, rtol=1e-5, atol=1e-5
            )

    @torch.no_grad()
    def test_one_class_is_one_token_per_largest_window(self):
        model = toy_segmenter(policy=toy_oracle())
        labels = torch.full((1, 64, 128), 3)
        result = model(toy_images(1, 64, 128), labels, Reduction(merge=DCTS))
        assert result.layout.cell_to_token_BYX[0].tolist() == [[0] * 4 + [1] * 4] * 4
        assert result.tokens_per_stage == [(2,)]

    def test_needs_labels_for_merging_only(self):
        model = toy_segmenter(policy=toy_oracle())
        with pytest.raises(ValueError, match="oracle policy merges by labels: pass labels_BHW"):
            model(toy_images(1), reduction=Reduction(merge=DCTS))
        assert model(toy_images(1)).tokens_per_stage == [(35,)]


class SaysSo(nn.Module):
    """A head with a fixed answer: one mask logit for all tokens, one presence for all classes."""

    num_classes = 2
    earlier_blocks = ()
    among_all = False
    temperature = None

    def __init__(self, mask_logit: float, presence: float) -> None:
        super().__init__()
        self.mask_logit = mask_logit
        self.class_logits = torch.tensor([presence, 1 - presence]).log()

    def forward(self, tokens: PackedTokens) -> tuple[Tensor, Tensor]:
        batch = tokens.segments.num_images
        masks = torch.full((len(tokens), 2), self.mask_logit)
        return masks, self.class_logits.expand(batch, 2, 2)

    def answers(self, tokens: PackedTokens) -> list[tuple[Tensor, Tensor]]:
        return [self(tokens)]


class TestMapByHand:
    """Two images of 2 x 2 cells; heads after blocks 1 and 2 of 3, which answer alike everywhere.

    sigmoid(0) is 1/2, sigmoid(log 3) is 3/4, sigmoid(-log 3) is 1/4.
    """

    log3 = 1.0986122886681098

    def segment(self, first: LetGo, second: LetGo, class_source: str) -> Tensor:
        """Map of class 0 where `first` and `second` decide who leaves."""

        @dataclass(frozen=True)
        class InTurn:
            def keep(self, probabilities_TC, tokens, exit_index):
                return (first, second)[exit_index].keep(probabilities_TC, tokens, exit_index)

        model = StepSegmenter(
            backbone=toy_vit(depth=3),
            decoder=SaysSo(-self.log3, 0.2),  # type: ignore[arg-type]
            exit_heads={1: SaysSo(0.0, 0.8), 2: SaysSo(self.log3, 0.4)},  # type: ignore[dict-item]
            reduction=Reduction(exit=InTurn(), exit_blocks=(1, 2)),
            class_source=class_source,
        ).eval()
        return model(toy_images(2, 32, 32)).cell_scores()[:, 0]

    @pytest.mark.parametrize(
        ("class_source", "early", "late", "never"),
        [
            ("final", 0.5 * 0.2, 0.75 * 0.2, 0.25 * 0.2),
            ("own", 0.5 * 0.8, 0.75 * 0.4, 0.25 * 0.2),
        ],
    )
    def test_each_cell_has_the_mask_of_the_head_where_its_token_left(
        self, class_source, early, late, never
    ):
        # Rows 0-3 are the cells of the first image, 4-7 those of the second.
        scores = self.segment(LetGo(rows=(1, 4)), LetGo(rows=(2, 7)), class_source)
        expected = torch.tensor([[[never, early], [late, never]], [[early, never], [never, late]]])
        torch.testing.assert_close(scores, expected)

    @pytest.mark.parametrize("class_source", CLASS_SOURCES)
    def test_an_image_that_ran_out_keeps_the_classes_of_the_head_that_saw_it_last(
        self, class_source
    ):
        scores = self.segment(LetGo(rows=(0,)), LetGo(images=(0,)), class_source)
        first_left = 0.5 * (0.4 if class_source == "final" else 0.8)
        torch.testing.assert_close(
            scores,
            torch.tensor([[[first_left, 0.3], [0.3, 0.3]], [[0.05, 0.05], [0.05, 0.05]]]),
        )

    @pytest.mark.parametrize("class_source", CLASS_SOURCES)
    def test_all_leave_at_the_first_head(self, class_source):
        scores = self.segment(LetGo(images=(0, 1)), LetGo(), class_source)
        torch.testing.assert_close(scores, torch.full((2, 2, 2), 0.4))


RUN_OUT: dict[str, Any] = {
    "one image at the first exit": LetGo(images=(0,)),
    "the last image": LetGo(images=(2,)),
    "two images": LetGo(images=(0, 1)),
    "all images": LetGo(images=(0, 1, 2)),
    "all by confidence": ConfidenceExit(0.0, 0),
    "all by budget": BudgetExit((0,)),
}


class TestImagesRunOut:
    """Images without tokens, before the last stage and at it."""

    @pytest.mark.parametrize("class_source", CLASS_SOURCES)
    @pytest.mark.parametrize("merge", [None, DCTS], ids=["patches", "merged"])
    @pytest.mark.parametrize("rule", RUN_OUT.values(), ids=RUN_OUT)
    def test_every_parameter_has_a_gradient(self, rule, merge, class_source):
        model = toy_segmenter(class_source=class_source, drop_path=0.1).train()
        reduction = Reduction(merge=merge, exit=rule, exit_blocks=EXIT_BLOCKS)
        result = model(toy_images(), reduction=reduction)
        assert 0 in result.tokens_per_stage[1]
        training_loss(result, toy_labels()).backward()
        assert without_gradient(model) == []
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    @pytest.mark.parametrize("checkpoint_blocks", [False, True])
    def test_exits_only_between_other_stages(self, checkpoint_blocks):
        """Gradient checkpointing walks over empty stages, too."""
        model = toy_segmenter(checkpoint_blocks=checkpoint_blocks).train()
        reduction = Reduction(exit=LetGo(images=(0, 1, 2)), exit_blocks=(2,))
        training_loss(model(toy_images(), reduction=reduction), toy_labels()).backward()
        assert without_gradient(model) == []

    @torch.no_grad()
    def test_the_others_do_not_notice(self):
        model = toy_segmenter()
        images = toy_images()
        nobody = Reduction(exit=LetGo(), exit_blocks=EXIT_BLOCKS)
        first = Reduction(exit=LetGo(images=(0,)), exit_blocks=EXIT_BLOCKS)
        without, with_exit = (model(images, reduction=r).scores() for r in (nobody, first))
        torch.testing.assert_close(without[1:], with_exit[1:], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(without[0], with_exit[0], atol=1e-3)


class TestGradientFlow:
    """Decisions carry no gradient, values do."""

    def test_blocks_before_an_exit_learn_from_what_comes_after_it(self):
        model = toy_segmenter(class_source="own")
        result = model(toy_images(), reduction=SYSTEMS["step"])
        stayed = result.exit_T0 == len(EXIT_BLOCKS)
        assert stayed.any()
        result.heads[-1].mask_logits_T0C[stayed].square().sum().backward()
        for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"):
            gradient = model.backbone.get_parameter(name).grad
            assert gradient is not None, name
            assert gradient.abs().sum() > 0, name
        query = model.exit_heads["1"].get_parameter("query_Cd")
        assert query.grad is None or not query.grad.any()

    def test_tokens_that_left_learn_from_the_head_at_which_they_left(self):
        model = toy_segmenter()
        result = model(toy_images(), reduction=SYSTEMS["step"])
        left = result.exit_T0 == 0
        assert left.any()
        result.heads[-1].mask_logits_T0C[left].square().sum().backward()
        query = model.exit_heads["1"].get_parameter("query_Cd")
        assert query.grad is not None
        assert query.grad.abs().sum() > 0
        late = model.backbone.get_parameter("blocks.3.mlp.fc1.weight").grad
        assert late is None or not late.any()

    def test_no_gradient_of_the_segmentation_reaches_the_policy(self):
        model = toy_segmenter().train()
        result = model(toy_images(), reduction=SYSTEMS["step"])
        result.scores().sum().backward()
        assert model.policy is not None
        assert all(p.grad is None for p in model.policy.parameters())

    def test_a_frozen_policy_stays_as_it_is(self):
        policy = toy_policy(training="frozen")
        before = {key: value.clone() for key, value in policy.state_dict().items()}
        model = toy_segmenter(policy=policy).train()
        assert model.backbone.training
        assert not policy.training
        result = model(toy_images(), reduction=SYSTEMS["step"])
        training_loss(result, toy_labels()).backward()
        assert all(p.grad is None for p in policy.parameters())
        assert without_gradient(model) == []
        for key, value in policy.state_dict().items():
            assert torch.equal(value, before[key]), key

    @pytest.mark.parametrize("system", ["dense", "dcts", "step"])
    def test_recomputing_blocks_gives_the_same_gradients(self, system):
        gradients = []
        for checkpoint_blocks in (False, True):
            torch.manual_seed(0)
            model = toy_segmenter(checkpoint_blocks=checkpoint_blocks, drop_path=0.3).train()
            images, labels = toy_images(), toy_labels()
            torch.manual_seed(1)
            training_loss(model(images, reduction=SYSTEMS[system]), labels).backward()
            gradients.append([p.grad for p in model.parameters()])
        for plain, recomputed in zip(*gradients, strict=True):
            torch.testing.assert_close(recomputed, plain)


class TestWhichPartsRun:
    def test_training_runs_all_heads_and_evaluation_the_active_ones(self):
        model = toy_segmenter()
        reduction = SYSTEMS["dtop"]
        blocks = [head.block for head in model.train()(toy_images(), reduction=reduction).heads]
        assert blocks == [1, 2, 3, 4]
        blocks = [head.block for head in model.eval()(toy_images(), reduction=reduction).heads]
        assert blocks == [1, 3, 4]
        blocks = [head.block for head in model(toy_images()).heads]
        assert blocks == [4]

    def test_heads_without_exit_change_nothing(self):
        """An exit head that only watches lets nobody leave and does not touch the tokens."""
        model = toy_segmenter(dropout=0.0)
        images = toy_images()
        evaluated = model(images, reduction=SYSTEMS["dtop"])
        trained = model.train()(images, reduction=SYSTEMS["dtop"])
        assert trained.tokens_per_stage[1] == trained.tokens_per_stage[2]
        torch.testing.assert_close(trained.cell_scores(), evaluated.cell_scores())

    def test_the_policy_runs_where_it_merges_or_learns(self):
        model = toy_segmenter()
        assert model(toy_images()).policy_logits == {}
        assert set(model(toy_images(), reduction=SYSTEMS["dcts"]).policy_logits) == {2, 4}
        assert set(model.train()(toy_images()).policy_logits) == {2, 4}
        frozen = toy_segmenter(policy=toy_policy(training="frozen")).train()
        assert frozen(toy_images()).policy_logits == {}

    def test_the_model_has_a_reduction_of_its_own(self):
        images = toy_images()
        model = toy_segmenter(reduction=SYSTEMS["step"])
        own, same = model(images), model(images, reduction=SYSTEMS["step"])
        assert torch.equal(own.scores(), same.scores())
        assert model(images, reduction=Reduction()).tokens_per_stage == [(35, 35, 35)]

    def test_heads_stand_in_the_order_of_blocks(self):
        heads = {block: toy_head() for block in (10, 2, 9)}
        model = StepSegmenter(backbone=toy_vit(depth=12), decoder=toy_head(), exit_heads=heads)
        assert model.exit_head_blocks == [2, 9, 10]
        assert model.exit_heads["9"] is heads[9]
        assert (model.num_classes, model.patch_size) == (CLASSES, 16)

    def test_mask_logits_of_a_head_lie_on_the_grid(self):
        result = toy_segmenter()(toy_images(), reduction=SYSTEMS["dcts"])
        head: HeadOutput = result.heads[0]
        grid = result.mask_logits(head)
        assert grid.shape == (3, CLASSES, 5, 7)
        for b, y, x in [(0, 0, 0), (1, 4, 6), (2, 2, 3)]:
            token = result.layout.cell_to_token_BYX[b, y, x]
            assert torch.equal(grid[b, :, y, x], head.mask_logits_T0C[token])

    @torch.no_grad()
    def test_pixels_are_interpolated_scores_cropped_to_the_image(self):
        """Half-way between the centres of two cells lies the mean of their scores."""
        result = toy_segmenter()(toy_images(1, 40, 56))
        cells, pixels = result.cell_scores()[0], result.scores()[0]
        assert pixels.shape == (CLASSES, 40, 56)
        # Cell centres are at pixels 7.5, 23.5, ...; pixels 15 and 16 lie at 15/32 and 17/32.
        weights = torch.tensor([17 / 32, 15 / 32])
        torch.testing.assert_close(pixels[:, 0, 15], cells[:, 0, :2] @ weights)
        torch.testing.assert_close(pixels[:, 15, 0], cells[:, :2, 0] @ weights)
        torch.testing.assert_close(pixels[:, 0, 0], cells[:, 0, 0])


class TestWrongImages:
    """Refused where a batch enters, whichever way it does."""

    @pytest.mark.parametrize("shape", [(0, 3, 64, 64), (1, 3, 0, 64), (3, 64, 64), (1, 4, 64, 64)])
    def test_a_batch_of_another_shape(self, shape):
        model = toy_segmenter()
        with pytest.raises(ValueError, match=rf"at least one image .* got \[{shape[0]}, "):
            model(torch.zeros(shape))
        with pytest.raises(ValueError, match=rf"at least one image .* got \[{shape[0]}, "):
            segment_all(model, [Reduction()], torch.zeros(shape))


class TestWrongParts:
    @pytest.mark.parametrize("block", [0, 4, 7, -1])
    def test_an_exit_block_outside_the_depth(self, block):
        with pytest.raises(ValueError, match=rf"exit block {block} is outside 1\.\.3.* 4 blocks"):
            StepSegmenter(
                backbone=toy_vit(depth=4), decoder=toy_head(), exit_heads={block: toy_head()}
            )

    def test_an_exit_without_a_head(self):
        reduction = Reduction(exit=ConfidenceExit(), exit_blocks=(1, 3))
        message = r"no exit head after block\(s\) \[3\]; this model has heads after \[1, 2\]"
        heads = {1: toy_head(), 2: toy_head()}
        with pytest.raises(ValueError, match=message):
            StepSegmenter(
                backbone=toy_vit(), decoder=toy_head(), exit_heads=heads, reduction=reduction
            )
        model = StepSegmenter(backbone=toy_vit(), decoder=toy_head(), exit_heads=heads)
        with pytest.raises(ValueError, match=message):
            model.check(reduction)

    def test_merging_without_a_policy(self):
        with pytest.raises(ValueError, match=r"merging windows \(2, 4\) needs a policy"):
            StepSegmenter(backbone=toy_vit(), decoder=toy_head(), reduction=Reduction(merge=DCTS))

    def test_windows_that_the_policy_does_not_score(self):
        reduction = Reduction(merge=MergeRule(windows=(2, 8), thresholds=(0.5, 0.5)))
        with pytest.raises(ValueError, match=r"policy scores windows \(2, 4\), not \[8\]"):
            toy_segmenter().check(reduction)

    def test_an_unknown_class_source(self):
        with pytest.raises(ValueError, match="class_source must be 'final' or 'own', got 'mean'"):
            toy_segmenter(class_source="mean")

    @pytest.mark.parametrize("blocks", [(3, 1), (2, 2)])
    def test_exit_blocks_out_of_order(self, blocks):
        with pytest.raises(ValueError, match="must ascend without repetition, got"):
            Reduction(exit=ConfidenceExit(), exit_blocks=blocks)

    @pytest.mark.parametrize(
        "half", [{"exit": ConfidenceExit()}, {"exit_blocks": (2,)}], ids=["no blocks", "no rule"]
    )
    def test_half_an_exit(self, half):
        with pytest.raises(ValueError, match="exit rule and exit blocks come together"):
            Reduction(**half)
