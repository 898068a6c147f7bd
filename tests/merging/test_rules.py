"""ToMe, ALGM and Cropr against loops; what every method promises of batches and gradients."""

import pytest
import torch

from reference import inside, vit
from stepseg.explorer.plan import make_plan
from stepseg.export.static import check_static
from stepseg.grid.shared import segment_all
from stepseg.merging.rules import Algm, Cropr, ToMe
from stepseg.merging.scorer import TokenScorer, scorer_loss
from stepseg.model import Reduction
from stepseg.packed import TokenLayout
from stepseg.pictures.token_maps import View
from stepseg.runtime.apply import stand_in
from stepseg.vit.staged import StagedViT
from toys import (
    CONFIDENCE,
    DCTS,
    FOUNDATION,
    OTHERS,
    packed,
    segmenter_of,
    toy_cascaded_segmenter,
    toy_images,
    toy_segmenter,
    toy_vit,
)

INSIDE = ["tome", "tome_exit", "algm", "cropr"]


@pytest.mark.parametrize("grid", [(3, 5), (1, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("system", INSIDE)
@torch.no_grad()
def test_equals_loops(system, grid):
    """Every value, every group and every count, of three images at once."""
    prefix = 2 if system in ("tome", "cropr") else 0
    model = segmenter_of(system, backbone=toy_vit(prefix=prefix)).double()
    rule = OTHERS[system].inside
    layout = TokenLayout.full(3, grid, "cpu")
    cells = grid[0] * grid[1]
    images = toy_images(3, 16 * grid[0], 16 * grid[1]).double()
    tokens = model.embed(images, layout, None)
    for start, stop in ((0, 2), (2, 3), (3, 4)):  # heads may stand anywhere between
        tokens = rule.run(model.backbone, tokens, (start, stop), grid, model.scorers)
    weights = vit.under(vit.weights_of(model), "backbone")
    x_BND = model.embed(images, layout, None).values_TD.unflatten(0, (3, -1))
    x_BND, prefix_BPD = x_BND[:, prefix:], x_BND[:, :prefix]
    roots = tokens.root_T0.view(3, -1) - torch.arange(3)[:, None] * cells
    values_BTD = tokens.patches().values_TD.split(tokens.lengths)
    for b, values in enumerate(values_BTD):
        expected, counts = inside.run(
            rule, x_BND[b], prefix_BPD[b], weights, 2, 4, grid[1], model.scorers
        )
        assert [passed.after[b] for passed in tokens.passed] == counts
        expected_TD = torch.stack([token.value_D for token in expected])
        torch.testing.assert_close(values, expected_TD, rtol=1e-5, atol=1e-6)
        for token in expected:
            assert {cell for cell, root in enumerate(roots[b]) if root == token.cells[0]} == {
                *token.cells
            }


@pytest.mark.parametrize("system", ["tome_exit", "algm_exit", "cropr"])
@torch.no_grad()
def test_a_batch_equals_its_images_alone_of_a_foundation_model(system):
    model, images = segmenter_of(system, backbone=toy_vit(**FOUNDATION)), toy_images()
    scores = model(images, reduction=OTHERS[system]).cell_scores()
    for b in range(3):
        alone = model(images[b : b + 1], reduction=OTHERS[system])
        torch.testing.assert_close(alone.cell_scores()[0], scores[b], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", OTHERS)
class TestEveryMethod:
    @torch.no_grad()
    def test_a_batch_equals_its_images_alone(self, system):
        model, images = segmenter_of(system), toy_images()
        together = model(images, reduction=OTHERS[system])
        scores = together.cell_scores()
        assert together.prediction().shape == (3, 80, 112)
        for b in range(3):
            alone = model(images[b : b + 1], reduction=OTHERS[system])
            torch.testing.assert_close(alone.cell_scores()[0], scores[b], rtol=1e-4, atol=1e-5)
            counts = [lengths[b] for lengths in together.tokens_per_stage]
            assert [lengths[0] for lengths in alone.tokens_per_stage] == counts
            of_alone, of_batch = View.of(alone).tokens_YX, View.of(together, b).tokens_YX
            assert (of_alone == of_batch).all()

    @torch.no_grad()
    def test_a_grid_gives_what_each_gives_alone(self, system):
        model, images = segmenter_of(system), toy_images()
        points = [Reduction(), OTHERS[system]]
        for reduction, result in zip(points, segment_all(model, points, images), strict=True):
            alone = model(images, reduction=reduction)
            assert torch.equal(alone.cell_scores(), result.cell_scores())

    def test_all_weights_learn(self, system):
        """Also with activations recomputed; the policy learns by its own loss."""
        gradients = []
        for recompute in (False, True):
            torch.manual_seed(0)
            model = segmenter_of(system, checkpoint_blocks=recompute, policy=None, dropout=0.0)
            model.policy = None if not model.policy else model.policy.requires_grad_(False)
            torch.manual_seed(1)
            result = model.train()(toy_images(), reduction=OTHERS[system])
            terms = [h.mask_logits_T0C.sum() + h.class_logits_BC2.sum() for h in result.heads]
            terms += [vote.square().sum() for vote in result.heads[-1].votes]
            torch.stack(terms).sum().backward()
            own = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
            assert [name for name, gradient in own.items() if gradient is None] == []
            gradients.append(own)
        torch.testing.assert_close(*gradients)


def test_merged_tokens_keep_their_groups_when_they_leave():
    """Cells of one token have one score, whatever happened to it after it merged."""
    for system in ("tome_exit", "algm_exit"):
        result = segmenter_of(system)(toy_images(), reduction=OTHERS[system])
        assert len(set(result.exit_T0.tolist())) > 1
        assert result.root_T0 is not None
        for values in (result.exit_T0, result.heads[-1].mask_logits_T0C):
            torch.testing.assert_close(values, values[result.root_T0])


def test_random_windows_are_as_many_and_elsewhere():
    model, images = toy_segmenter(), toy_images()
    drawn, chosen = (
        model(images, reduction=reduction).layout
        for reduction in (OTHERS["random"], Reduction(merge=DCTS))
    )
    for side in (1, 2, 4):
        counts = [
            (layout.window_BYX == side).flatten(1).sum(1).tolist() for layout in (drawn, chosen)
        ]
        assert counts[0] == counts[1]
    assert not torch.equal(drawn.window_BYX, chosen.window_BYX)


def test_a_smaller_input_shows_the_image_at_that_scale():
    images = toy_images(2, 48, 96)
    model = toy_segmenter(policy=None)
    small = model(images, reduction=Reduction(cell=24))
    resized = torch.nn.functional.interpolate(
        images, size=(32, 64), mode="bilinear", align_corners=False, antialias=True
    )
    by_hand = model(resized)
    torch.testing.assert_close(small.cell_scores(), by_hand.cell_scores())
    wide = torch.nn.functional.interpolate(
        by_hand.cell_scores(), scale_factor=24, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(small.scores(), wide)
    assert small.scores().shape[2:] == (48, 96)


def test_scorers_take_nothing_from_tokens_and_learn_the_classes_of_parts():
    scorer = TokenScorer(dim=32, num_classes=3, parts=2)
    tokens = packed([5, 0, 3], requires_grad=True)
    votes = scorer.vote(tokens)
    assert votes.shape == (3, 4, 3)
    labels = torch.zeros(3, 32, 32, dtype=torch.int64)
    labels[:, :16, :16] = 255  # a part without labels
    labels[:, 16:, 16:] = 1
    sure = torch.full((3, 4, 3), -30.0)
    for part, label in enumerate((2, 0, 0, 1)):
        sure[:, part, label] = 30.0
    assert scorer_loss(sure[None], labels) == pytest.approx(0, abs=1e-6)
    wrong = scorer_loss(-sure[None], labels)
    assert wrong > 30
    torch.testing.assert_close(scorer_loss(torch.stack([sure, -sure]), labels), wrong / 2)
    scorer_loss(votes[None], labels).backward()
    assert tokens.values_TD.grad is None
    assert all(p.grad is not None for p in scorer.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ToMe(r=0.7), "inside.r=0.7"),
        (lambda: ToMe(r=2.5), "inside.r=2.5"),
        (lambda: Algm(local_block=3, global_block=3), "a later one"),
        (lambda: Reduction(merge=OTHERS["uniform"].merge, inside=ToMe()), "choose one"),
        (lambda: toy_segmenter(reduction=Reduction(inside=Algm(global_block=9))), "has 4"),
        (lambda: toy_segmenter(reduction=Reduction(inside=Cropr())), "trained"),
        (lambda: toy_segmenter(reduction=Reduction(inside=Cropr(blocks=(1,)))), "2 to 3"),
        (
            lambda: toy_segmenter(
                reduction=Reduction(inside=Cropr(), exit=CONFIDENCE, exit_blocks=(1,))
            ),
            "reduction.exit=null",
        ),
        (lambda: toy_cascaded_segmenter(reduction=Reduction(inside=ToMe())), "heads.cascade=null"),
        (lambda: check_static(OTHERS["tome"]), "not exported"),
        (lambda: check_static(OTHERS["smaller"]), "cell=null"),
        (lambda: make_plan(toy_segmenter(), reduction=OTHERS["algm"]), "explorer"),
    ],
)
def test_says_what_does_not_go(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("system", ["algm", "cropr"])
@torch.no_grad()
def test_blocks_between_may_be_compiled(system):
    """A rule hands whole ranges of blocks to whatever stands in for the encoder's."""
    model, images = segmenter_of(system), toy_images()
    expected = model(images, reduction=OTHERS[system]).cell_scores()
    ranges = []

    def instead(tokens, start, stop):
        ranges.append((start, stop))
        return StagedViT.run_blocks(model.backbone, tokens, start, stop)

    stand_in(model.backbone, "run_blocks", instead)
    assert torch.equal(model(images, reduction=OTHERS[system]).cell_scores(), expected)
    blocks = [block for start, stop in ranges for block in range(start, stop)]
    assert blocks == ([2, 3] if system == "algm" else [0, 1, 2, 3])
