import pytest
import torch

import stepseg.profile.parts as module
from stepseg.macs import count_macs, total_macs
from stepseg.profile.parts import profile_parts
from toys import SYSTEMS, toy_images, toy_segmenter

STEP_PARTS = [
    "policy",
    "merge and embed",
    "block_1",
    "exit_head_1",
    "exit_1",
    "block_2",
    "block_3",
    "exit_head_3",
    "exit_3",
    "block_4",
    "decoder",
    "assembly",
    "map",
]


def test_parts_in_order_with_their_tokens_and_macs():
    model, images = toy_segmenter(), toy_images(2)
    systems = {name: SYSTEMS[name] for name in ("dense", "step_budget")}
    profile = profile_parts(model, systems, images, warmup=0, iterations=2)

    step = {part["part"]: part for part in profile["step_budget"]}
    assert list(step) == STEP_PARTS
    assert [part["part"] for part in profile["dense"]] == [
        "merge and embed", "block_1", "block_2", "block_3", "block_4", "decoder", "assembly", "map",
    ]  # fmt: skip
    assert [step[f"block_{i}"]["tokens"] for i in (2, 3, 4)] == [9, 9, 4]
    assert step["map"]["gmacs"] is None
    with torch.no_grad():
        output = model(images, reduction=systems["step_budget"])
    total = sum(total_macs(count_macs(model, output))) / 2 / 1e9
    assert sum(part["gmacs"] or 0 for part in step.values()) == pytest.approx(total)


def test_parts_add_up_to_the_whole_call(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    profile = profile_parts(
        toy_segmenter(), {"step": SYSTEMS["step_budget"]}, toy_images(1), warmup=1, iterations=3
    )
    # Every border is one tick after the one before.
    assert [part["ms"] for part in profile["step"]] == [1000] * len(STEP_PARTS)


def test_shares_are_of_the_first_system_in_the_same_round(monkeypatch):
    """A machine that slows down from round to round changes no share."""
    now, rounds, model = [0], [1], toy_segmenter()

    def tick():
        now[0] += rounds[0]
        return now[0]

    monkeypatch.setattr(module.time, "process_time", tick)
    systems = {name: SYSTEMS[name] for name in ("dense", "step_budget")}
    run, calls = module._run, []

    def slowing(*arguments):
        rounds[0] = 3 ** (len(calls) // 2)
        calls.append(1)
        return run(*arguments)

    monkeypatch.setattr(module, "_run", slowing)
    profile = profile_parts(model, systems, toy_images(1), warmup=0, iterations=3)
    assert len(calls) == 6
    for parts in profile.values():
        assert {part["share"] for part in parts} == {1 / len(profile["dense"])}


def test_the_hooks_are_gone_afterwards():
    model = toy_segmenter()
    profile_parts(model, {"dense": SYSTEMS["dense"]}, toy_images(1), warmup=0, iterations=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
