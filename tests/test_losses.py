"""Losses against loops in float64; what must not matter; means over two processes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from reference import losses as reference
from reference import ranks
from stepseg.losses import (
    LossWeights,
    classes_present,
    head_loss,
    local_count,
    mean_over_ranks,
    one_hot_masks,
    policy_loss,
)

UNUSUAL = LossWeights(
    classes=2.0,
    absent=0.3,
    focal=7.0,
    dice=3.0,
    focal_alpha=0.4,
    focal_gamma=1.5,
    dice_smooth=0.5,
    pixel=0.7,
    class_weights=(0.3, 2.0, 1.0, 5.0, 0.1),
)


DEFAULT = LossWeights()


def terms_of(batch: dict[str, Tensor], weights: LossWeights = DEFAULT) -> dict[str, float]:
    terms = head_loss(batch["masks"], batch["classes"], batch["labels"], weights)
    return {name: term.item() for name, term in terms.items()}


class TestHeadLoss:
    @pytest.mark.parametrize(
        "weights",
        [DEFAULT, UNUSUAL, LossWeights(label_stride=2, pixel=1.0), LossWeights(label_stride=4)],
        ids=["default", "unusual", "every second pixel", "every fourth pixel"],
    )
    @pytest.mark.parametrize("seed", [0, 1])
    def test_equals_a_loop_over_pixels(self, weights, seed):
        batch = reference.toy_batch(3, seed)
        expected = reference.head_loss(
            batch["masks"], batch["classes"], batch["labels"], weights, ignore_index=255
        )
        assert terms_of(batch, weights) == pytest.approx(expected, rel=1e-5)
        assert all(value > 0 for value in expected.values())

    def test_another_ignore_label(self):
        batch = reference.toy_batch(2, 0)
        batch["labels"][batch["labels"] == 255] = 0
        terms = head_loss(
            batch["masks"], batch["classes"], batch["labels"], LossWeights(), ignore_index=0
        )
        expected = reference.head_loss(
            batch["masks"], batch["classes"], batch["labels"], LossWeights(), ignore_index=0
        )
        assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-5)

    def test_by_hand(self):
        """One pixel each of class 0 and 1, all logits zero: every probability is one half."""
        labels = torch.tensor([[[0, 1]]])
        weights = LossWeights(focal=1.0)
        terms = head_loss(torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 2), labels, weights)
        log2 = math.log(2)
        assert terms["classes"].item() == pytest.approx(log2)
        # Inside 0.25 * 0.5^2 * log 2, outside 0.75 * 0.5^2 * log 2; the mean of both.
        assert terms["focal"].item() == pytest.approx(0.125 * log2)
        # 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
        assert terms["dice"].item() == pytest.approx(1 / 3)

    def test_a_perfect_answer_costs_nothing(self):
        labels = torch.tensor([[[0, 1], [2, 255]]])
        masks = one_hot_masks(labels, 4).float() * 200 - 100
        present = torch.tensor([[[50.0, -50.0]] * 3 + [[-50.0, 50.0]]])
        terms = head_loss(masks, present, labels, DEFAULT)
        for name, term in terms.items():
            assert term.item() == pytest.approx(0, abs=1e-6), name

    def test_ignored_pixels_influence_nothing(self):
        """Neither the logits there nor what stands in their place; masks have the label's size."""
        batch = reference.toy_batch(2, 0)
        batch["masks"] = torch.randn(2, 5, 8, 12, requires_grad=True)
        ignored = batch["labels"] == 255
        assert 0 < ignored.sum() < ignored.numel() / 4
        terms = head_loss(batch["masks"], batch["classes"], batch["labels"], UNUSUAL)
        loss = terms["focal"] + terms["dice"] + terms["pixel"]
        gradient = torch.autograd.grad(loss, batch["masks"])[0]
        assert (gradient.movedim(1, -1)[ignored] == 0).all()

        changed = batch["masks"].detach().clone()
        changed.movedim(1, -1)[ignored] = torch.randn(int(ignored.sum()), 5) * 50
        after = head_loss(changed, batch["classes"], batch["labels"], UNUSUAL)
        assert {k: v.item() for k, v in terms.items()} == {k: v.item() for k, v in after.items()}

    def test_a_class_that_only_ignored_pixels_had_is_absent(self):
        labels = torch.tensor([[[0, 0, 255, 255]]])
        logits = torch.randn(1, 2, 1, 4)
        only_first = head_loss(logits, torch.zeros(1, 2, 2), labels, DEFAULT)
        labels_alone = torch.tensor([[[0, 0]]])
        alone = head_loss(logits[..., :2], torch.zeros(1, 2, 2), labels_alone, DEFAULT)
        for name in alone:
            torch.testing.assert_close(only_first[name], alone[name])

    def test_an_image_without_annotation_contributes_nothing(self):
        batch = reference.toy_batch(3, 0)
        blank = {key: value.clone() for key, value in batch.items()}
        blank["labels"][1] = 255
        blank["masks"] = blank["masks"].requires_grad_()
        blank["classes"] = blank["classes"].requires_grad_()
        terms = head_loss(blank["masks"], blank["classes"], blank["labels"], DEFAULT)
        two = {key: value[[0, 2]] for key, value in batch.items()}
        assert {k: v.item() for k, v in terms.items()} == pytest.approx(terms_of(two), rel=1e-6)
        torch.stack(list(terms.values())).sum().backward()
        for logits in (blank["masks"], blank["classes"]):
            assert logits.grad is not None
            assert (logits.grad[1] == 0).all()
            assert logits.grad[0].abs().sum() > 0

    def test_a_batch_without_annotation_is_zero_and_has_zero_gradients(self):
        masks = torch.randn(2, 5, 4, 6, requires_grad=True)
        classes = torch.randn(2, 5, 2, requires_grad=True)
        labels = torch.full((2, 8, 12), 255)
        terms = head_loss(masks, classes, labels, UNUSUAL)
        assert {k: v.item() for k, v in terms.items()} == dict.fromkeys(terms, 0)
        assert set(terms) == {"classes", "focal", "dice", "pixel"}
        gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), (masks, classes))
        assert all((gradient == 0).all() for gradient in gradients)

    def test_absent_classes_weigh_less_and_their_masks_nothing(self):
        labels = torch.zeros(1, 4, 4, dtype=torch.int64)
        masks = torch.randn(1, 2, 4, 4, requires_grad=True)
        terms = head_loss(masks, torch.zeros(1, 2, 2), labels, DEFAULT)
        gradient = torch.autograd.grad(terms["focal"] + terms["dice"], masks)[0]
        assert (gradient[:, 1] == 0).all()
        assert (gradient[:, 0] != 0).all()
        # Logit differences of 0 cost log 2, of 1 in favour of the error log(1 + e).
        wrong_absent = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
        cost = head_loss(masks, wrong_absent, labels, DEFAULT)["classes"].item()
        expected = (math.log(2) + 0.1 * math.log(1 + math.e)) / 1.1
        assert cost == pytest.approx(expected)

    def test_extreme_logits_stay_finite(self):
        batch = reference.toy_batch(2, 0)
        for scale in (1e4, -1e4):
            masks = (batch["masks"] * scale).requires_grad_()
            terms = head_loss(masks, batch["classes"] * 1e3, batch["labels"], DEFAULT)
            total = torch.stack(list(terms.values())).sum()
            assert total.isfinite()
            assert torch.autograd.grad(total, masks)[0].isfinite().all()

    def test_half_precision_logits_are_judged_in_float32(self):
        batch = reference.toy_batch(2, 0)
        masks, classes = batch["masks"].bfloat16(), batch["classes"].bfloat16()
        terms = head_loss(masks, classes, batch["labels"], DEFAULT)
        exact = head_loss(masks.float(), classes.float(), batch["labels"], DEFAULT)
        for name, term in terms.items():
            assert term.dtype == torch.float32
            assert torch.equal(term, exact[name])

    def test_a_stride_beside_the_patch_grid(self):
        with pytest.raises(ValueError, match=r"label_stride must divide a patch of 16 px, got 3"):
            LossWeights(label_stride=3)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"class_weights": (1.0,)}, "loss.pixel=1 asks for it"),
            ({"class_weights": (1.0, 0.0), "pixel": 1.0}, r"positive numbers, got \[1.0, 0.0\]"),
        ],
    )
    def test_class_weights_that_mean_nothing(self, given, said):
        with pytest.raises(ValueError, match=said):
            LossWeights(**given)

    def test_a_validation_may_come_before_the_training(self):
        batch, weights = reference.toy_batch(2, 0), replace(UNUSUAL, class_weights=(0.2,) * 5)
        with torch.inference_mode():
            before = terms_of(batch, weights)
        batch["masks"].requires_grad_()
        terms = head_loss(batch["masks"], batch["classes"], batch["labels"], weights)
        sum(terms.values()).backward()
        assert {name: term.item() for name, term in terms.items()} == before

    def test_one_hot_masks(self):
        labels = torch.tensor([[[0, 2], [255, 1]]])
        assert one_hot_masks(labels, 3).int().tolist() == [
            [[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [0, 0]]]
        ]
        assert one_hot_masks(labels, 3, ignore_index=0)[0, 0].any().item() is False

    @pytest.mark.parametrize("ignore", [255, 1])
    def test_classes_present_are_those_with_a_mask(self, ignore):
        labels = torch.tensor([[[0, 2], [255, 1]], [[7, 7], [-1, 255]]])  # 7 and -1 are no classes
        masks = one_hot_masks(labels, 3, ignore)
        assert torch.equal(classes_present(labels, 3, ignore), masks.flatten(2).any(2))


@pytest.mark.parametrize("balance", [False, True], ids=["plain", "balanced"])
class TestPolicyLoss:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    @pytest.mark.parametrize("weight", [1.0, 0.5])
    def test_equals_a_loop_over_windows(self, seed, weight, balance):
        batch = reference.toy_batch(3, seed)
        logits = {2: batch["windows2"], 4: batch["windows4"]}
        targets = {2: batch["targets2"], 4: batch["targets4"]}
        expected = reference.policy_loss(logits, targets, weight, balance)
        loss = policy_loss(logits, targets, weight, balance)
        assert loss.item() == pytest.approx(expected, rel=1e-5)

    def test_what_it_teaches_is_the_probability(self, balance):
        """Two kinds of windows that look alike within: 3 of 12 and 1 of 4 are homogeneous."""
        targets = {2: torch.tensor([True] * 3 + [False] * 9 + [True] + [False] * 3)[None, None]}
        bias = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=50)

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = bias.repeat_interleave(torch.tensor([12, 4]))[None, None]
            loss = policy_loss({2: logits}, targets, balance=balance)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert bias.sigmoid().tolist() == pytest.approx([0.25, 0.25], abs=1e-4)

    @pytest.mark.parametrize("kind", [True, False])
    def test_one_kind_only(self, kind, balance):
        logits = {2: torch.zeros(1, 2, 2, requires_grad=True)}
        targets = {2: torch.full((1, 2, 2), kind)}
        loss = policy_loss(logits, targets, balance=balance)
        assert loss.item() == pytest.approx(math.log(2))
        gradient = torch.autograd.grad(loss, logits[2])[0]
        assert gradient.flatten().tolist() == pytest.approx([-0.125 if kind else 0.125] * 4)

    def test_a_size_without_windows_has_zero_gradient(self, balance):
        logits = {2: torch.zeros(1, 2, 2), 4: torch.zeros(1, 0, 0)}
        for logit in logits.values():
            logit.requires_grad_()
        targets = {size: torch.ones_like(logit, dtype=torch.bool) for size, logit in logits.items()}
        loss = policy_loss(logits, targets, balance=balance)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, logits[4], retain_graph=True)[0].shape == (1, 0, 0)
        assert loss.item() == pytest.approx(math.log(2))  # the other size, undiluted


class TestCounts:
    """Every mean divides by a count that the caller can reduce in its own way."""

    def test_of_heads(self):
        batch = reference.toy_batch(2, 0)
        logits = batch["masks"], batch["classes"], batch["labels"]
        alone = head_loss(*logits, DEFAULT, reduce_count=local_count)
        assert {k: v.item() for k, v in alone.items()} == terms_of(batch)
        halved = head_loss(*logits, DEFAULT, reduce_count=lambda count: 2 * count)
        for name, term in alone.items():
            torch.testing.assert_close(halved[name], term / 2)

    def test_of_the_policy(self):
        batch = reference.toy_batch(2, 0)
        pair = {2: batch["windows2"]}, {2: batch["targets2"]}
        halved = policy_loss(*pair, reduce_count=lambda count: 2 * count)
        torch.testing.assert_close(halved, policy_loss(*pair, reduce_count=local_count) / 2)


class TestRanks:
    def test_a_single_process_has_its_own_count(self):
        count = torch.tensor(3.0)
        assert mean_over_ranks(count) is count

    def test_two_processes_equal_one_with_the_doubled_batch(self, tmp_path):
        def blank(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return batch | {"labels": torch.full_like(batch["labels"], 255)}

        def few(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
            """One class in the image, and this many positive windows of each size."""
            targets = {}
            for name in ("targets2", "targets4"):
                targets[name] = torch.zeros_like(batch[name])
                targets[name].view(-1)[:count] = True
            return batch | targets | {"labels": torch.full_like(batch["labels"], 1)}

        batches = [
            # Different numbers of masks and of positive windows on the ranks.
            [reference.toy_batch(2, 0), reference.toy_batch(2, 1)],
            # One rank sees no annotation at all.
            [reference.toy_batch(1, 2), blank(reference.toy_batch(1, 3))],
            # Less than one mask and one positive window per rank.
            [few(reference.toy_batch(1, 4), 1), blank(few(reference.toy_batch(1, 5), 0))],
            [blank(reference.toy_batch(1, 6)), blank(reference.toy_batch(1, 7))],
        ]
        # forked: an import of PyTorch in each would take longer than all the rest
        mp.start_processes(
            ranks.run, args=(2, str(tmp_path), batches), nprocs=2, start_method="fork"
        )
        saved = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
        for own in saved:
            assert own["mean"].tolist() == [1.5, 5.0]
        for index, shares in enumerate(batches):
            whole = ranks.gradients({k: torch.cat([s[k] for s in shares]) for k in shares[0]})
            first, second = (own["results"][index] for own in saved)
            # Distributed training averages gradients over the ranks.
            torch.testing.assert_close((first["loss"] + second["loss"]) / 2, whole["loss"])
            for name in ("masks", "classes", "windows2", "windows4", "votes"):
                averaged = torch.cat([first[name], second[name]]) / 2
                torch.testing.assert_close(averaged, whole[name], msg=f"{name} of batch {index}")
        first, second = (own["fitted"] for own in saved)
        alone = [{k: torch.cat([s[k] for s in shares]) for k in shares[0]} for shares in batches]
        for one, two, batch in zip(first, second, [*alone, batches[0][0]], strict=True):
            assert torch.equal(one, two)
            torch.testing.assert_close(one.float(), ranks.corrections(batch).float())


class TestAccumulation:
    """Batches whose gradients are averaged, as `trainer.accumulate_grad_batches` does."""

    @staticmethod
    def of_parts(parts: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """The averaged gradients of the parts, and those of one batch of all, by mask logits."""
        whole = ranks.gradients({key: torch.cat([part[key] for part in parts]) for key in parts[0]})
        means = torch.cat([ranks.gradients(part)["masks"] for part in parts]) / len(parts)
        return means, whole["masks"]

    def test_parts_with_the_same_counts_are_one_larger_batch(self):
        batch = reference.toy_batch(2, 0)
        other = batch | {"masks": batch["masks"].flip(0) / 2}
        torch.testing.assert_close(*self.of_parts([batch, other]))

    def test_parts_weigh_alike_whatever_they_hold(self):
        """A part with one class among ignored pixels weighs as one with many."""
        full, sparse = reference.toy_batch(1, 0), reference.toy_batch(1, 1)
        sparse["labels"] = torch.full_like(sparse["labels"], 255)
        sparse["labels"][:, :4, :4] = 1
        means, whole = self.of_parts([full, sparse])
        assert means[1].norm() > 1.5 * whole[1].norm()
        assert means[0].norm() < whole[0].norm()
