"""Exit rules against a loop over tokens and classes, by hand, and image by image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reference import exits
from stepseg.heads.exit import (
    BudgetExit,
    ConfidenceExit,
    ExitRule,
    MarginExit,
    RandomExit,
    UniformExit,
)
from stepseg.packed import PackedTokens, Segments

CONFIDENCE = ConfidenceExit(threshold=0.6, keep_per_class=2)
RULES: dict[str, ExitRule] = {
    "confidence": CONFIDENCE,
    "margin": MarginExit(threshold=0.1, keep_per_class=2),
    "random": RandomExit(CONFIDENCE, seed=1),
    "uniform": UniformExit(CONFIDENCE),
    "budget": BudgetExit((4,)),
}


def tokens_of(lengths: list[int]) -> PackedTokens:
    segments = Segments.from_lengths(lengths, "cpu")
    rows = torch.arange(segments.total)
    return PackedTokens(rows[:, None].float(), segments, rows, segments.image_ids())


def keep(rule: ExitRule, p: Tensor, lengths: list[int], exit_index: int = 0) -> list[list[bool]]:
    """The decision for each image."""
    decision = rule.keep(p, tokens_of(lengths), exit_index)
    assert decision.dtype == torch.bool
    assert decision.shape == (sum(lengths),)
    return [own.tolist() for own in decision.split(lengths)]


def probabilities(count: int, classes: int = 3, seed: int = 0) -> Tensor:
    """Distinct numbers, so that nothing ties."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count * classes, generator=generator)
    return (order.view(count, classes) + 0.5) / (count * classes)


lengths_strategy = st.lists(st.integers(0, 25), min_size=1, max_size=4)


class TestConfidence:
    def test_by_hand(self):
        # Columns are classes; confident is above 0.6, two per class stay.
        p = torch.tensor(
            [
                [0.9, 0.1],  # class 0, third: leaves
                [0.2, 0.7],  # class 1, only one: stays
                [0.95, 0.0],  # class 0, first: stays
                [0.6, 0.1],  # exactly the threshold: not confident, stays
                [0.91, 0.9],  # class 0, second: stays
                [0.1, 0.59],  # not confident: stays
                [0.61, 0.6],  # class 0, fourth: leaves
            ]
        )
        assert keep(CONFIDENCE, p, [7]) == [[False, True, True, True, True, True, False]]

    def test_keeps_per_image(self):
        p = torch.tensor([[0.9, 0.1]] * 3 + [[0.8, 0.1]] * 2 + [[0.7, 0.1]])
        assert keep(CONFIDENCE, p, [3, 2, 1]) == [[True, True, False], [True, True], [True]]

    def test_ties_are_broken_by_position_and_the_number_stays_exact(self):
        p = torch.tensor([[0.9, 0.1]] * 6)
        assert keep(CONFIDENCE, p, [6]) == [[True, True, False, False, False, False]]

    def test_margin_by_hand(self):
        p = torch.tensor([[0.9, 0.8, 0.0], [0.5, 0.1, 0.0], [0.6, 0.1, 0.0], [0.1, 0.0, 0.3]])
        assert keep(MarginExit(0.25, 0), p, [4]) == [[True, False, False, True]]
        assert keep(MarginExit(0.25, 1), p, [4]) == [[True, False, True, True]]

    @pytest.mark.parametrize("kind", [ConfidenceExit, MarginExit])
    @given(
        lengths=lengths_strategy,
        classes=st.integers(1, 5),
        threshold=st.sampled_from([0.0, 0.25, 0.5, 0.875, 1.0]),
        keep_per_class=st.integers(0, 4),
        seed=st.integers(0, 2**31),
    )
    def test_equals_a_loop_over_images_and_classes(
        self, kind, lengths, classes, threshold, keep_per_class, seed
    ):
        p = probabilities(sum(lengths), classes, seed).double()
        rule = kind(threshold, keep_per_class)
        images = [own.tolist() for own in p.split(lengths)]
        expected = [exits.keep(rule, own, 0) for own in images]
        assert keep(rule, p, lengths) == expected

    def test_everybody_leaves(self):
        p = probabilities(12)
        assert keep(ConfidenceExit(0.0, 0), p, [7, 0, 5]) == [[False] * 7, [], [False] * 5]

    def test_nobody_leaves_at_threshold_one(self):
        p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.999, 0.5]])
        assert keep(ConfidenceExit(1.0, 0), p, [3]) == [[True] * 3]

    @pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan")])
    def test_a_threshold_outside_its_range(self, threshold):
        with pytest.raises(ValueError, match=rf"exit threshold .* in \[0, 1\], got {threshold}"):
            ConfidenceExit(threshold)

    def test_a_negative_number_to_keep(self):
        with pytest.raises(ValueError, match=r"keep_per_class .* cannot be -1"):
            ConfidenceExit(0.9, -1)


class TestControls:
    @given(
        lengths=lengths_strategy,
        threshold=st.sampled_from([0.0, 0.4, 0.7, 1.0]),
        keep_per_class=st.integers(0, 3),
        seed=st.integers(0, 2**31),
        exit_index=st.integers(0, 3),
    )
    def test_release_as_many_of_each_image_as_confidence_does(
        self, lengths, threshold, keep_per_class, seed, exit_index
    ):
        p = probabilities(sum(lengths), 3, seed)
        base = ConfidenceExit(threshold, keep_per_class)
        expected = [own.count(False) for own in keep(base, p, lengths)]
        for rule in (RandomExit(base, seed), UniformExit(base)):
            counts = [own.count(False) for own in keep(rule, p, lengths, exit_index)]
            assert counts == expected, rule

    def test_uniform_by_hand(self):
        # Three of ten are confident; the control releases every third or fourth.
        p = torch.tensor([[0.9]] * 3 + [[0.1]] * 7)
        released = keep(UniformExit(ConfidenceExit(0.5, 0)), p, [10])[0]
        assert [t for t in range(10) if not released[t]] == [3, 6, 9]

    @pytest.mark.parametrize(("length", "leaving"), [(17, 5), (30, 29), (8, 4), (5, 5)])
    def test_uniform_is_evenly_spread(self, length, leaving):
        p = torch.full((length, 1), 0.1)
        p[:leaving] = 0.9
        stays = torch.tensor(keep(UniformExit(ConfidenceExit(0.5, 0)), p, [length])[0])
        gaps = (~stays).nonzero().flatten().diff()
        assert (~stays).sum() == leaving
        assert leaving < 2 or gaps.max() - gaps.min() <= 1

    @given(lengths=lengths_strategy, seed=st.integers(0, 2**31))
    def test_uniform_equals_its_loop(self, lengths, seed):
        p = probabilities(sum(lengths), 3, seed)
        expected = [exits.uniform(own.tolist(), 0.6, 2) for own in p.split(lengths)]
        assert keep(RULES["uniform"], p, lengths) == expected

    def test_random_does_not_look_at_confidence(self):
        p = torch.tensor([[0.9]] * 4 + [[0.1]] * 8)
        rule = RandomExit(ConfidenceExit(0.5, 0))
        assert keep(rule, p, [12]) == keep(rule, p.flip(0), [12])

    def test_random_draws_anew_for_each_seed_and_exit(self):
        p = torch.tensor([[0.9]] * 20 + [[0.1]] * 20)
        base = ConfidenceExit(0.5, 0)
        draws = {
            tuple(keep(RandomExit(base, seed), p, [40], exit_index)[0])
            for seed in (0, 1)
            for exit_index in (0, 1)
        }
        assert len(draws) == 4

    def test_random_is_fair_to_all_positions(self):
        p = torch.tensor([[0.9]] * 4 + [[0.1]] * 6)
        base = ConfidenceExit(0.5, 0)
        stays = torch.tensor([keep(RandomExit(base, seed), p, [10])[0] for seed in range(600)])
        # 40 % leave; four standard deviations of 600 draws are 0.08.
        torch.testing.assert_close(
            (~stays).float().mean(0), torch.full((10,), 0.4), rtol=0, atol=0.08
        )

    @pytest.mark.parametrize("seed", [-1, 2**31, 2**63, 10**30])
    def test_any_integer_is_a_seed(self, seed):
        p = torch.tensor([[0.9]] * 4 + [[0.1]] * 6)
        assert keep(RandomExit(ConfidenceExit(0.5, 0), seed), p, [10])[0].count(False) == 4


class TestBudget:
    @given(lengths=lengths_strategy, budget=st.integers(0, 30), seed=st.integers(0, 2**31))
    def test_exactly_the_least_confident_stay(self, lengths, budget, seed):
        p = probabilities(sum(lengths), 3, seed)
        decisions = keep(BudgetExit((budget,)), p, lengths)
        assert decisions == [exits.budget(own.tolist(), budget) for own in p.split(lengths)]
        assert [own.count(True) for own in decisions] == [min(budget, n) for n in lengths]

    def test_is_exact_where_all_tokens_tie(self):
        p = torch.full((9, 2), 0.5)
        assert [own.count(True) for own in keep(BudgetExit((4,)), p, [7, 2])] == [4, 2]

    def test_has_a_number_per_exit_and_repeats_the_last(self):
        p = probabilities(10)
        rule = BudgetExit((6, 3))
        stay = [keep(rule, p, [10], exit_index)[0].count(True) for exit_index in range(4)]
        assert stay == [6, 3, 3, 3]

    @pytest.mark.parametrize("tokens", [(), (5, -1)])
    def test_a_budget_that_is_none(self, tokens):
        with pytest.raises(ValueError, match="exit budget needs a number of tokens >= 0"):
            BudgetExit(tokens)


class TestEveryRule:
    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    def test_an_image_does_not_depend_on_its_neighbours(self, rule):
        lengths = [9, 0, 14, 3, 9]
        p = probabilities(sum(lengths))
        for exit_index in (0, 1):
            together = keep(rule, p, lengths, exit_index)
            assert any(False in own for own in together), "the rule must have work to do"
            alone = [keep(rule, own, [len(own)], exit_index)[0] for own in p.split(lengths)]
            assert together == alone
            order = [3, 2, 0, 4, 1]
            shuffled = torch.cat([p.split(lengths)[b] for b in order])
            permuted = keep(rule, shuffled, [lengths[b] for b in order], exit_index)
            assert permuted == [together[b] for b in order]

    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    @pytest.mark.parametrize("lengths", [[0], [0, 0], [3, 0], [0, 3]], ids=str)
    def test_images_without_tokens(self, rule, lengths):
        decisions = keep(rule, probabilities(sum(lengths)), lengths)
        assert [len(own) for own in decisions] == lengths

    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    def test_the_same_answer_every_time(self, rule):
        p = probabilities(20)
        assert keep(rule, p, [12, 8]) == keep(rule, p, [12, 8])


@given(
    lengths=lengths_strategy,
    budget=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    exit_index=st.integers(0, 4),
    seed=st.integers(0, 2**31),
    levels=st.sampled_from([1, 2, 1000]),
)
def test_a_budget_is_exact_whatever_ties(lengths, budget, exit_index, seed, levels):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randint(0, levels, (sum(lengths), 3), generator=generator) / levels
    stay = keep(BudgetExit(tuple(budget)), p, lengths, exit_index)
    expected = budget[min(exit_index, len(budget) - 1)]
    assert [own.count(True) for own in stay] == [min(n, expected) for n in lengths]
    for own, image in zip(stay, p.split(lengths), strict=True):
        assert own == exits.budget(image.tolist(), expected)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(
    lengths=lengths_strategy,
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_the_order_of_a_batch_moves_decisions_and_changes_none(rule, lengths, seed, data):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randint(0, 5, (sum(lengths), 3), generator=generator) / 5  # many ties
    order = data.draw(st.permutations(range(len(lengths))))
    images = p.split(lengths)
    moved = keep(rule, torch.cat([images[i] for i in order]), [lengths[i] for i in order])
    stay = keep(rule, p, lengths)
    assert moved == [stay[i] for i in order]
