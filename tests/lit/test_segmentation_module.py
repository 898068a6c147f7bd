"""The training module beside a trainer that only counts."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from stepseg.lit import segmentation_module
from stepseg.lit.callbacks.last import is_boundary
from stepseg.lit.callbacks.opening import parameters
from stepseg.lit.metrics import is_logging_step, sum_over_ranks
from stepseg.lit.optim import OptimConfig, build_optimizer
from stepseg.lit.schedule import ReductionSchedule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.model_config import ModelConfig
from stepseg.protocol import Protocol
from toys import CLASSES, HEAD_BLOCKS, SYSTEMS, toy_images, toy_labels, toy_policy, toy_segmenter

SPEC = SimpleNamespace(num_classes=CLASSES, ignore_index=255)


def module_of(system="step", **options):
    """A module of the toy model in training, attached to a trainer at step 3 of 8."""
    parts = {"policy": options.pop("policy", None), "frozen": options.pop("frozen", False)}
    model = toy_segmenter(reduction=SYSTEMS[system], **parts)
    module = SegmentationModule(
        config=ModelConfig(num_classes=CLASSES), spec=SPEC, model=model,
        **({"protocol": Protocol()} | options),
    )  # fmt: skip
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=3, max_steps=8, log_every_n_steps=1000, accumulate_grad_batches=4
    )
    return module.train()


def batch_of(height=80, width=112, images=2):
    torch.manual_seed(0)
    pixels = (toy_images(images, height, width) * 255).to(torch.uint8)
    return {"image": pixels, "label": toy_labels(images, height, width)}


def test_the_schedule_counts_steps_and_not_batches():
    schedule = ReductionSchedule(merge_from=0.5, exit_from=0.5)
    for step, merges in ((3, False), (4, True)):
        module = module_of("dcts", schedule=schedule)
        module.trainer.global_step = step  # of four batches each
        module.training_step(batch_of(), batch_index=4 * step + 1)
        counted = module.train_tokens.compute()["superpatches"]
        assert (counted["2"] + counted["4"] > 0) == merges


def test_pixels_beyond_the_image_are_no_class():
    """With a border that says so the same loss; class 0 there would be another one."""
    module, batch = module_of(), batch_of(72, 104)
    labels = batch["label"]
    output = module.model(batch["image"].float() / 255, labels)
    border = torch.full((2, 80, 112), 255)
    border[:, :72, :104] = labels
    bare, padded = module.losses(output, labels), module.losses(output, border)
    for name in (name for name in bare if name != "policy"):
        assert torch.equal(bare[name], padded[name]), name


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("system", ["step_all_leave", "dense"])
def test_every_parameter_has_a_gradient_whatever_the_batch_is(system, frozen):
    """Processes wait for each other's gradients: one that lacks some would have them wait."""
    module = module_of(system, frozen=frozen)
    module.training_step(batch_of(), 0).backward()
    trained = {name: p for name, p in module.model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []


def test_heads_of_a_frozen_encoder_learn_alone(monkeypatch):
    """No graph reaches what heads read, no drop-path falls, no weight moves."""
    module = module_of(frozen=True)
    model, before = module.model, {k: v.clone() for k, v in module.model.state_dict().items()}
    read, seen = model.backbone.read, []

    def spy(tokens):
        seen.append(read(tokens))
        return seen[-1]

    monkeypatch.setattr(model.backbone, "read", spy)
    optimizer, _ = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5), 10)
    assert {group["name"].split()[0] for group in optimizer.param_groups} == {"heads", "policy"}
    module.training_step(batch_of(), 0).backward()
    optimizer.step()
    assert len(seen) == len(HEAD_BLOCKS) + 1
    assert not any(tokens.values_TD.requires_grad for tokens in seen)
    assert model.training
    assert not any(part.training for part in model.backbone.modules())
    kept = {key: torch.equal(value, before[key]) for key, value in model.state_dict().items()}
    assert all(same for key, same in kept.items() if key.startswith("backbone."))
    learnt = [key for key, _ in model.named_parameters() if not key.startswith("backbone.")]
    assert not any(kept[key] for key in learnt)
    assert "backbone 0.06 frozen" in parameters(module)


def test_the_policy_s_loss_is_there_when_it_learns_and_when_it_is_judged():
    frozen = toy_policy(training="frozen")
    for policy, training in ((toy_policy(), ["policy"]), (frozen, [])):
        module, batch = module_of(policy=policy), batch_of()
        images, labels = batch["image"].float() / 255, batch["label"]
        terms = module.losses(module.model(images, labels), labels)
        heads = [*(f"exit_head_{block}" for block in HEAD_BLOCKS), "decoder"]
        expected = [f"{head}/{term}" for head in heads for term in ("classes", "focal", "dice")]
        assert list(terms) == [*expected, *training]
        module.eval()
        assert "policy" in module.losses(module.model(images, labels), labels)


def test_validation_losses_are_of_images_seen_whole():
    slide = Protocol(mode="slide", crop=(64, 64), stride=(64, 64))
    module = module_of(protocol=slide).eval()
    module.on_validation_epoch_start()
    for size, counted in (((64, 64), 2), ((64, 128), 2), ((64, 48), 4)):
        module.validation_step(batch_of(*size), 0)
        assert module.val_losses.compute()["loss_images"] == counted
    flipped = module_of(protocol=replace(slide, flip=True)).eval()
    flipped.validation_step(batch_of(64, 64), 0)
    assert flipped.val_losses.compute() == {"loss_images": 0}


def test_rows_are_written_where_a_step_is_complete():
    module = module_of()
    module.trainer.log_every_n_steps = 2
    logged = []
    for batch in range(16):  # of four to a step
        module.trainer.global_step = batch // 4
        if is_logging_step(module, batch):
            logged.append(batch)
    assert logged == [7, 15]


def test_a_row_is_of_the_batches_since_the_last(monkeypatch):
    module, rows = module_of("dense"), []
    monkeypatch.setattr(module, "log", lambda *args, **options: None)
    logger = SimpleNamespace(log_metrics=lambda row, step: rows.append(row))
    module.trainer.loggers, module.trainer.log_every_n_steps = [logger], 4
    for height in (80, 64):
        module.training_step(batch_of(height, 112), batch_index=3)
    assert [row["train/tokens_stage_1"] for row in rows] == [35, 28]


def test_ranks_meet_in_training_only(monkeypatch):
    """In validation they have different numbers of batches; sums are loaded by one of them."""
    asked = []
    monkeypatch.setattr(
        segmentation_module, "mean_over_ranks", lambda count: asked.append(count) or count
    )
    module = module_of()
    module.eval().validation_step(batch_of(), 0)
    assert not asked
    module.train().training_step(batch_of(), 0)
    assert len(asked) == 2 * (len(HEAD_BLOCKS) + 1) + 1  # masks and classes of heads, windows
    sums = sum_over_ranks(module.train_tokens)
    for first in (True, False):
        module.train_tokens.reset()
        module.trainer.is_global_zero = first
        module.on_load_checkpoint({"train_tokens": sums})
        assert int(module.train_tokens.images) == (2 if first else 0)


def test_an_infinite_loss_has_no_finite_gradient(monkeypatch):
    module = module_of()
    weight = module.model.decoder.query_Cd
    monkeypatch.setattr(module, "losses", lambda *of: {"dice": weight.sum() + float("inf")})
    module.training_step(batch_of(), 0).backward()
    assert weight.grad is not None
    assert not weight.grad.isfinite().any()


def test_checkpoints_wait_for_the_step_and_the_validation():
    trainer = SimpleNamespace(accumulate_grad_batches=2, val_check_batch=6, enable_validation=True)
    assert [b for b in range(12) if is_boundary(trainer, b)] == [1, 3, 7, 9]
    trainer.enable_validation = False
    assert [b for b in range(12) if is_boundary(trainer, b)] == [1, 3, 5, 7, 9, 11]
