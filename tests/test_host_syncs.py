"""The host waits for the device once after merging and once per exit, and nowhere else."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import stepseg.metrics.tokens
import stepseg.packed
from host_syncs import HostSyncs
from stepseg.budget import budget_range
from stepseg.dcts.targets import HomogeneityRule
from stepseg.grid import segment_all
from stepseg.heads.exit import ConfidenceExit
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.losses import LossWeights, head_loss, policy_loss
from stepseg.merging.rules import Algm
from stepseg.model import Reduction, StepSegmenter
from stepseg.model_config import ModelConfig
from stepseg.packed import PackedTokens
from stepseg.protocol import Protocol
from toys import (
    CLASSES,
    DCTS,
    FOUNDATION,
    OTHERS,
    SYSTEMS,
    segmenter_of,
    toy_images,
    toy_labels,
    toy_oracle,
    toy_segmenter,
    toy_vit,
)


@pytest.fixture(autouse=True)
def _uploads_are_no_downloads(monkeypatch):
    """On a CPU `to("cpu")` is both; the one function that copies to the device is known."""

    def upload(values: Any, dtype: torch.dtype, device: Any) -> Tensor:
        return torch.tensor(values, dtype=dtype)

    for module in (stepseg.packed.segments, stepseg.packed.layout, stepseg.metrics.tokens):
        monkeypatch.setattr(module, "upload", upload)


def syncs_of(work: Callable[[], object]) -> list[str]:
    with HostSyncs() as syncs:
        work()
    return syncs.seen


NUMBERS = torch.tensor([1, 0, 2])
MASK = NUMBERS > 0
SCALAR = torch.tensor(3.0)

WAITS: dict[str, Callable[[], object]] = {
    "if any": lambda: 1 if MASK.any() else 0,
    "if all": lambda: 1 if not MASK.all() else 0,
    "or": lambda: MASK.sum() > 7 or 0,
    "item": lambda: SCALAR.item(),
    "int": lambda: int(NUMBERS.sum()),
    "float": lambda: float(SCALAR),
    "index of a list": lambda: [1, 2, 3][NUMBERS[2]],
    "range": lambda: range(NUMBERS[2]),
    "slice": lambda: NUMBERS[: NUMBERS[2]],
    "in": lambda: 2 in NUMBERS,
    "format": lambda: f"{SCALAR:.1f}",
    "size from a tensor": lambda: torch.full((2,), SCALAR),  # type: ignore[call-overload]
    "numbers to a device": lambda: torch.tensor([1, 2], device=NUMBERS.device),
    "tolist": lambda: NUMBERS.tolist(),
    "cpu": lambda: NUMBERS.cpu(),
    "to": lambda: NUMBERS.to("cpu"),
    "to device": lambda: NUMBERS.to(device=torch.device("cpu")),
    "numpy": lambda: NUMBERS.numpy(),
    "boolean index": lambda: NUMBERS[MASK],
    "boolean index of two": lambda: torch.zeros(3, 2)[MASK, 0],
    "assignment of rows": lambda: NUMBERS.clone().__setitem__(MASK, torch.tensor([5, 6])),
    "masked_select": lambda: NUMBERS.masked_select(MASK),
    "nonzero": lambda: MASK.nonzero(),
    "argwhere": lambda: torch.argwhere(MASK),
    "where of a condition": lambda: torch.where(MASK),
    "unique": lambda: NUMBERS.unique(),
    "unique_consecutive": lambda: torch.unique_consecutive(NUMBERS),
    "equal": lambda: torch.equal(NUMBERS, NUMBERS),
    "allclose": lambda: torch.allclose(SCALAR, SCALAR),
    "bincount": lambda: torch.bincount(NUMBERS),
    "repeat_interleave": lambda: torch.repeat_interleave(NUMBERS, NUMBERS),
    "split by values": lambda: torch.zeros(3).split(NUMBERS.tolist()),
}

WAITS_NOT: dict[str, Callable[[], object]] = {
    "where": lambda: torch.where(MASK, NUMBERS, 0),
    "integer index": lambda: NUMBERS[NUMBERS],
    "integer assignment": lambda: NUMBERS.clone().index_put((NUMBERS,), NUMBERS),
    "masked_fill": lambda: NUMBERS.masked_fill(MASK, 0),
    "scalar assignment": lambda: NUMBERS.clone().__setitem__(MASK, 0),
    "repeat_interleave of known size": lambda: torch.repeat_interleave(
        NUMBERS, NUMBERS, output_size=3
    ),
    "repeat by a number": lambda: NUMBERS.repeat_interleave(2),
    "nonzero of known size": lambda: torch.nonzero_static(MASK, size=2),
    "sizes": lambda: (len(NUMBERS), NUMBERS.shape[0], NUMBERS.numel(), NUMBERS.dtype),
    "to another type": lambda: NUMBERS.to(torch.float32),
    "sort": lambda: NUMBERS.argsort(),
    "cumsum": lambda: MASK.cumsum(0),
}


class TestCounter:
    """The counter sees what it must see, and nothing else."""

    @pytest.mark.parametrize("work", WAITS.values(), ids=WAITS)
    def test_counts_once_what_waits(self, work):
        assert len(syncs_of(work)) == 1

    @pytest.mark.parametrize("work", WAITS_NOT.values(), ids=WAITS_NOT)
    def test_counts_nothing_else(self, work):
        assert syncs_of(work) == []

    def test_counts_each_time(self):
        assert len(syncs_of(lambda: [bool(value) for value in MASK])) == 3


def allowed(reduction: Reduction) -> int:
    """One after merging, one per exit and per block that merges by a threshold."""
    in_blocks = 2 * isinstance(reduction.inside, Algm)
    return (reduction.merge is not None) + len(reduction.exit_blocks) + in_blocks


def forward(
    model: StepSegmenter, reduction: Reduction, labels: Tensor | None = None
) -> Callable[[], object]:
    images = toy_images()
    return lambda: model(images, labels, reduction)


class TestModel:
    @pytest.mark.parametrize("grad", [False, True], ids=["inference", "with gradients"])
    @pytest.mark.parametrize("class_source", ["final", "own"])
    @pytest.mark.parametrize("system", SYSTEMS)
    def test_forward(self, system, class_source, grad):
        reduction = SYSTEMS[system]
        model = toy_segmenter(class_source=class_source)
        with torch.set_grad_enabled(grad):
            seen = syncs_of(forward(model, reduction))
        assert seen == ["tolist"] * allowed(reduction)

    @pytest.mark.parametrize("system", ["dense", "step", "step_all_leave"])
    def test_prefix_rows_and_rotary_positions(self, system):
        model = toy_segmenter(backbone=toy_vit(**FOUNDATION))
        with torch.no_grad():
            seen = syncs_of(forward(model, SYSTEMS[system]))
        assert seen == ["tolist"] * allowed(SYSTEMS[system])

    @pytest.mark.parametrize("grad", [False, True], ids=["inference", "with gradients"])
    @pytest.mark.parametrize("system", OTHERS)
    def test_other_methods(self, system, grad):
        reduction, model = OTHERS[system], segmenter_of(system)
        with torch.set_grad_enabled(grad):
            seen = syncs_of(forward(model.train(grad), reduction))
        assert seen == ["tolist"] * allowed(reduction)

    def test_a_budget_costs_none(self):
        model = toy_segmenter()
        least, most = budget_range(model, SYSTEMS["step"], (80, 112))
        reduction = replace(SYSTEMS["step"], gmacs_per_image=(least + most) / 2)
        seen = syncs_of(forward(model, reduction))
        assert seen == ["tolist"] * allowed(reduction)

    def test_dense_has_none(self):
        assert syncs_of(forward(toy_segmenter(), Reduction())) == []

    @pytest.mark.parametrize("system", ["dcts", "step"])
    def test_oracle(self, system):
        model = toy_segmenter(policy=toy_oracle())
        seen = syncs_of(forward(model, SYSTEMS[system], toy_labels()))
        assert seen == ["tolist"] * allowed(SYSTEMS[system])

    @pytest.mark.parametrize("system", SYSTEMS)
    def test_training_step(self, system):
        """The loss and the backward pass wait for nothing, either."""
        reduction = SYSTEMS[system]
        model = toy_segmenter(drop_path=0.1).train()
        images, labels = toy_images(), toy_labels()

        def step() -> None:
            result = model(images, labels, reduction)
            terms: list[Tensor] = []
            for head in result.heads:
                losses = head_loss(
                    result.mask_logits(head), head.class_logits_BC2, labels, LossWeights()
                )
                terms.extend(losses.values())
            targets = HomogeneityRule().windows(labels, 16, (2, 4))
            terms.append(policy_loss(result.policy_logits, targets))
            torch.stack(terms).sum().backward()

        assert syncs_of(step) == ["tolist"] * allowed(reduction)

    @pytest.mark.parametrize("system", ["dense", "step"])
    def test_training_step_of_the_command(self, system):
        """What Lightning calls, with all that it counts; but for the steps that are logged."""
        model, labels = toy_segmenter(reduction=SYSTEMS[system], drop_path=0.1), toy_labels()
        spec = SimpleNamespace(num_classes=CLASSES, ignore_index=255)
        config = ModelConfig(num_classes=CLASSES)
        module = SegmentationModule(config=config, spec=spec, model=model, protocol=Protocol())
        numbers = {"global_step": 1, "max_steps": 8, "log_every_n_steps": 99}
        module.trainer = SimpleNamespace(**numbers, accumulate_grad_batches=1)
        batch = {"image": (toy_images() * 255).to(torch.uint8), "label": labels}
        seen = syncs_of(lambda: module.train().training_step(batch, 0).backward())
        assert seen == ["tolist"] * allowed(SYSTEMS[system])

    @pytest.mark.parametrize("system", ["dense", "step"])
    def test_scores(self, system):
        result = toy_segmenter()(toy_images(), reduction=SYSTEMS[system])
        assert syncs_of(result.scores) == []


class TestGrid:
    """Once per layout and branch, and once per set of decisions that are compared."""

    def test_one_reduction_waits_as_alone(self):
        model, images, points = toy_segmenter(), toy_images(), [SYSTEMS["step"]]
        seen = syncs_of(lambda: segment_all(model, points, images))
        assert seen == ["tolist"] * 3

    def test_merging(self):
        model, images = toy_segmenter(), toy_images()
        points = [Reduction(DCTS), Reduction(replace(DCTS, thresholds=(1, 1)))]
        seen = syncs_of(lambda: segment_all(model, points, images))
        assert seen == ["cpu", "numpy", "tolist", "tolist"]

    def test_exits(self):
        model, images = toy_segmenter(), toy_images()
        rules = [ConfidenceExit(threshold, 1) for threshold in (0.5, 0.9)]
        points = [Reduction(exit=rule, exit_blocks=(3,)) for rule in rules]
        seen = syncs_of(lambda: segment_all(model, points, images))
        assert seen == ["cpu", "numpy", "tolist", "tolist"]


class TestControl:
    """Code that waits is caught."""

    def test_a_shortcut_for_empty_selections(self, monkeypatch):
        select = PackedTokens.select

        def select_if_any(self: PackedTokens, keep_T: Tensor) -> PackedTokens:
            return select(self, keep_T) if not keep_T.all() else self

        monkeypatch.setattr(PackedTokens, "select", select_if_any)
        seen = syncs_of(forward(toy_segmenter(), SYSTEMS["step"]))
        assert seen.count("_local_scalar_dense") == 2

    def test_a_rule_that_indexes_by_a_mask(self, monkeypatch):
        keep = ConfidenceExit.keep

        def keep_and_look(self, probabilities_TC, tokens, exit_index):
            keep_T = keep(self, probabilities_TC, tokens, exit_index)
            assert len(keep_T[keep_T]) <= len(keep_T)
            return keep_T

        monkeypatch.setattr(ConfidenceExit, "keep", keep_and_look)
        seen = syncs_of(forward(toy_segmenter(), SYSTEMS["dtop"]))
        assert seen.count("index") == 2
        assert seen.count("tolist") == 2

    def test_a_loop_over_images(self, monkeypatch):
        model = toy_segmenter()
        run_blocks = model.backbone.run_blocks

        def run_and_count(tokens: PackedTokens, start: int, stop: int) -> PackedTokens:
            for length in tokens.segments.cu_seqlens.diff():
                assert length >= 0
            return run_blocks(tokens, start, stop)

        monkeypatch.setattr(model.backbone, "run_blocks", run_and_count)
        assert len(syncs_of(forward(model, Reduction()))) == 3
