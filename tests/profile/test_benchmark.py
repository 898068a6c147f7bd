import math
from functools import partial

import pytest
import torch

import stepseg.profile.benchmark as module
from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction
from stepseg.profile.benchmark import (
    Rounds,
    benchmark,
    compare_costs,
    environment,
    measured_cost,
    prescribed_cost,
)
from stepseg.profile.speed import Timing, in_turn
from stepseg.profile.tokens import prescribe
from toys import SYSTEMS, toy_images, toy_segmenter


def test_prescribed_cost_is_what_running_would_count():
    model, images = toy_segmenter(), toy_images(2)
    for system in ("dense", "cts", "dcts", "dtop", "step"):
        reduction = prescribe(SYSTEMS[system], (5, 7), [20, 11, 3])
        assert prescribed_cost(model, reduction, (80, 112)) == measured_cost(
            model, reduction, [images]
        )


def test_measured_cost_is_the_mean_and_deviation_over_all_images():
    model, images, reduction = toy_segmenter(), toy_images(4), SYSTEMS["step"]
    with torch.no_grad():
        output = model(images, reduction=reduction)
    totals = total_macs(count_macs(model, output))
    assert len(set(totals)) > 1

    row = measured_cost(model, reduction, [images[:2], images[2:]])

    assert row["gmacs"] == pytest.approx(sum(totals) / 4 / 1e9)
    deviation = torch.tensor(totals, dtype=torch.float64).std(correction=0) / 1e9
    assert row["gmacs_std"] == pytest.approx(float(deviation))
    assert row["tokens_per_stage"] == [sum(stage) / 4 for stage in output.tokens_per_stage]
    assert sum(row["gmacs_by_part"].values()) == pytest.approx(row["gmacs"])


def test_thresholds_prescribe_nothing():
    with pytest.raises(ValueError, match="as the image decides"):
        prescribed_cost(toy_segmenter(), SYSTEMS["dcts"], (80, 112))
    with pytest.raises(ValueError, match="as the image decides"):
        prescribed_cost(toy_segmenter(), SYSTEMS["dtop"], (80, 112))


def test_rows_of_systems_timed_in_turns(monkeypatch):
    times = {"none": (2.0, 4.0) * 3, "step": (1.0, 3.0) * 3}

    def fake(calls, *, warmup, iterations, device, progress):
        assert (warmup, iterations) == (2, 6)  # one pass and three, over two batches
        for call in calls.values():
            call()
        return {
            name: Timing(seconds=times[name], cpu_seconds=times[name], peak_memory_mb=7.0)
            for name in calls
        }

    monkeypatch.setattr(module, "time_interleaved", fake)
    images = toy_images(4)
    systems = {"none": Reduction(), "step": prescribe(SYSTEMS["step"], (5, 7), [20, 11, 3])}
    rows = benchmark(
        toy_segmenter(), systems, [images[:2], images[2:]], Rounds(warmup=1, iterations=5)
    )

    dense, step = rows.values()
    assert dense["speedup"] == dense["macs_ratio"] == dense["realisation"] == 1
    assert step["speedup"] == pytest.approx(6 / 4)
    assert step["macs_ratio"] == pytest.approx(dense["gmacs"] / step["gmacs"])
    assert step["realisation"] == pytest.approx(1.5 * step["gmacs"] / dense["gmacs"])
    assert step["realisation_cpu"] == pytest.approx(step["realisation"])
    assert step["latency_ms_p50"] == step["cpu_ms_p50"] == 2000
    assert step["images_per_s"] == 1
    assert step["peak_memory_mb"] == 7
    assert step["tokens_per_stage"] == [20, 11, 3]


def test_without_the_baseline_nothing_is_compared():
    rows = {"step": {"gmacs": 2.0}}
    compare_costs(rows)
    assert rows["step"] == {
        "gmacs": 2.0,
        "macs_ratio": None,
        "speedup": None,
        "realisation": None,
        "speedup_cpu": None,
        "realisation_cpu": None,
    }


def test_the_calls_go_through_all_batches_and_the_map_is_optional():
    model, images = toy_segmenter(), toy_images(3)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made = []
    for with_map in (True, False):
        segment = partial(module._segment, model, Reduction(), with_map)
        call = in_turn(segment, images.split(1))
        made.append([call() for _ in range(4)])
    assert [int((images == x).flatten(1).all(1).nonzero()) for x in seen] == [0, 1, 2, 0] * 2
    assert made[0][0].shape == (1, 80, 112)
    assert made[1][0].shape == (1, 5, 5, 7)


def test_preparing_for_inference_gives_the_same_answers_without_batch_norm():
    model, images = toy_segmenter(), toy_images(2)
    with torch.no_grad():
        expected = model(images, reduction=SYSTEMS["step"])
        ready = model.prepare_for_inference()
        output = ready(images, reduction=SYSTEMS["step"])
    assert ready is model
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert output.tokens_per_stage == expected.tokens_per_stage
    torch.testing.assert_close(output.scores(), expected.scores(), rtol=1e-4, atol=1e-5)


def test_the_environment_names_device_threads_and_kernels():
    place = environment(torch.device("cpu"), toy_segmenter(), torch.float32)
    assert place["device"] == "cpu"
    assert place["device_name"]
    assert place["threads"] == torch.get_num_threads()
    assert place["attention_backend"] == {"uniform": "dense", "ragged": "loop"}


def test_a_real_run_fills_every_column():
    rows = benchmark(
        toy_segmenter().prepare_for_inference(),
        {"none": Reduction(), "step": SYSTEMS["step"]},
        [toy_images(2)],
        Rounds(warmup=0, iterations=1),
    )
    for row in rows.values():
        numbers = [row[key] for key in ("latency_ms_p50", "latency_ms_p95", "images_per_s")]
        numbers += [row[key] for key in ("peak_memory_mb", "speedup", "macs_ratio", "realisation")]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert row["device_ms_p50"] is None
