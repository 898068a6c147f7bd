"""What surrounds an encoder, for one with class token, registers, rotary positions and the rest.

Whatever holds for plain encoders holds for foundation ViTs: the same claims, on a toy that has all
that a plain one lacks. That the encoder itself is right stands in `vit/test_families.py`.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from counters import counts_of_all_agree
from stepseg.dcts.merge import MergeRule
from stepseg.explorer.plan import make_plan
from stepseg.explorer.recording import record
from stepseg.export.static import StaticSegmenter
from stepseg.grid import segment_all
from stepseg.heads.exit import BudgetExit
from stepseg.lit.optim import OptimConfig, parameter_groups
from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction, StepSegmenter
from stepseg.packed import PackedTokens
from stepseg.profile.parts import profile_parts
from stepseg.runtime.apply import stand_in
from stepseg.runtime.stages import CompiledStages
from stepseg.vit.architecture import RopeNumbers
from toys import EXIT_BLOCKS, FOUNDATION, SYSTEMS, toy_images, toy_segmenter, toy_vit

SOME = ("dense", "dcts", "dtop", "step", "step_all_leave")


@pytest.fixture(scope="module")
def model() -> StepSegmenter:
    torch.manual_seed(0)
    return toy_segmenter(backbone=toy_vit(**FOUNDATION))


@pytest.fixture(scope="module")
def batches(model) -> list[PackedTokens]:
    """Rows after some exits: many, none but the prefix, and of one image only."""
    images, tokens = toy_images(2, 80, 112), []
    layout = model.merge(images, {}, None)
    whole = model.embed(images, layout, None)
    for share in (1.0, 0.6, 0.0):
        tokens.append(whole.select(torch.rand(70) < share))
    return tokens


@pytest.mark.parametrize("system", SOME)
@torch.no_grad()
def test_a_batch_equals_its_images_alone(model, system):
    images, reduction = toy_images(3), SYSTEMS[system]
    together = model(images, reduction=reduction)
    for index, image in enumerate(images):
        alone = model(image[None], reduction=reduction)
        torch.testing.assert_close(together.scores()[index], alone.scores()[0])
        counts = [stage[index] for stage in together.tokens_per_stage]
        assert counts == [stage[0] for stage in alone.tokens_per_stage]
    if system == "step_all_leave":
        assert together.tokens_per_stage[-1] == (0, 0, 0)


@torch.no_grad()
def test_a_grid_walk_equals_single_runs(model):
    images, points = toy_images(2), [SYSTEMS[system] for system in SOME]
    for result, reduction in zip(segment_all(model, points, images), points, strict=True):
        torch.testing.assert_close(result.scores(), model(images, reduction=reduction).scores())


@pytest.mark.parametrize("system", SOME)
def test_multiply_accumulates_equal_both_counters(model, system):
    counts_of_all_agree(model, toy_images(1)[0], SYSTEMS[system])


def test_parts_of_a_profile_add_up_to_the_count(model):
    images, reduction = toy_images(1), SYSTEMS["step"]
    rows = profile_parts(model, {"step": reduction}, images, iterations=1)["step"]
    with torch.no_grad():
        expected = total_macs(count_macs(model, model(images, reduction=reduction)))[0]
    found = sum(row["gmacs"] or 0 for row in rows)
    assert found * 1e9 == pytest.approx(expected)


@torch.inference_mode()
def test_compiled_stages_equal_eager_ones(model, batches):
    for rope in (RopeNumbers(), RopeNumbers(places="index", halves=False)):
        vit = toy_vit(**FOUNDATION | {"rope": rope}).eval()
        expected = [vit.run_blocks(tokens, 0, 4).values_TD for tokens in batches]
        counter = CompileCounter()
        stand_in(vit, "run_blocks", CompiledStages(vit, backend=counter))
        for tokens, eager in zip(batches, expected, strict=True):
            torch.testing.assert_close(vit.run_blocks(tokens, 0, 4).values_TD, eager)
        assert counter.frame_count == 1


@torch.no_grad()
def test_the_explorer_records_what_the_model_does(model):
    """All that its page shows of a run: tokens, operations, exits and map."""
    pixels = (toy_images(1, 77, 110)[0] * 255).byte().permute(1, 2, 0).numpy()
    images = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    plan = make_plan(model, (0.8,), SYSTEMS["step"])
    runs = iter(record(model, "image", pixels, plan).runs)
    for level in plan.levels:
        for exit_ in (None, *plan.exits):
            blocks = plan.exit_blocks if exit_ else ()
            output = model(
                images, reduction=Reduction(merge=level.rule, exit=exit_, exit_blocks=blocks)
            )
            run = next(runs)
            assert list(run.tokens) == [lengths[0] for lengths in output.tokens_per_stage]
            assert run.macs == {part: macs[0] for part, macs in count_macs(model, output).items()}
            assert run.exit_T0.tolist() == output.exit_T0.tolist()
            assert run.map_HW.tolist() == output.prediction()[0].tolist()
    assert next(runs, None) is None


BUDGET = {"exit": BudgetExit((12, 9)), "exit_blocks": EXIT_BLOCKS}
MERGE = MergeRule(windows=(2, 4), thresholds=None, top_k=(1, 1))


@pytest.mark.parametrize("learned", [True, False], ids=["positions", "no positions"])
@pytest.mark.parametrize(
    "reduction",
    [Reduction(), Reduction(merge=MERGE), Reduction(merge=MERGE, **BUDGET)],
    ids=["dense", "cts", "step"],
)
@torch.no_grad()
def test_an_exported_model_equals_the_packed_one(learned, reduction):
    numbers = FOUNDATION | {"pos_grid": 4 if learned else None}
    model = toy_segmenter(backbone=toy_vit(**numbers)).prepare_for_inference()
    images = toy_images(2, 77, 110)
    labels, scores = StaticSegmenter(model, reduction, (77, 110), scores=True)(images)
    expected = model(images, reduction=reduction)
    torch.testing.assert_close(scores, expected.scores(), rtol=0, atol=2e-6)
    assert torch.equal(labels, expected.prediction())


def test_settings_of_the_optimiser(model):
    found = {}
    for group in parameter_groups(model, OptimConfig(lr=1.0, layer_decay=0.5, weight_decay=0.1)):
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    vit, block = model.backbone, model.backbone.blocks[1]
    assert found[id(vit.prefix)] == found[id(vit.norm_pre.weight)] == (0.0625, 0)
    assert found[id(block.ls1.gamma)] == found[id(block.attn.q_bias)] == (0.25, 0)
    assert found[id(block.mlp.fc1.weight)] == (0.25, 0.1)
    assert found[id(vit.norm.weight)] == (1.0, 0)
