"""`stepseg-benchmark` from configuration to result, on models of milliseconds."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from commands import compose_config, write_camvid
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import describe
from stepseg.cli.benchmark import job
from stepseg.cli.benchmark.job import run
from stepseg.data.specs import get_spec
from stepseg.profile.charts import table_of_rows

SMALL = [
    "backbone=vit_tiny",
    "backbone.depth=4",
    "backbone.exit_blocks=[1,3]",
    "policy=lcnet_050",
    "resolution=[96,128]",
    "num_classes=5",
    "warmup=0",
    "iterations=2",
    "device=cpu",
]
"""48 cells, 2 x 2 and 4 x 4 windows fit."""

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def bench(output, *overrides):
    run(compose_config("benchmark", [*SMALL, *overrides], output))
    return json.loads((output / "result.json").read_text())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A segmenter as `stepseg-train` writes it, untrained."""
    values = {
        "num_classes": 11,
        "backbone": {"name": "vit_tiny", "depth": 4},
        "policy": {"name": "lcnet_050", "windows": [2, 4]},
        "reduction": {
            "merge": {"windows": [2, 4], "thresholds": [0.3, 0.6]},
            "exit": {"blocks": [2], "heads": [1, 2], "threshold": 0.25},
        },
    }
    config = ModelConfig.from_dict(values)
    torch.manual_seed(0)
    state = {f"model.{k}": v for k, v in build_segmenter(config).state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    entry = describe(config, get_spec("camvid"))
    torch.save({"state_dict": state, "stepseg": entry, "global_step": 1}, path)
    return path


def test_several_runtimes_on_the_same_weights(tmp_path, monkeypatch):
    from stepseg.cli.benchmark import options

    applied = []
    monkeypatch.setattr(job, "apply_runtime", lambda model, runtime: applied.append(runtime))
    monkeypatch.setattr(options, "choose_runtime", lambda name, device: name)
    result = bench(tmp_path, "runtimes=[eager,graphs]", "reductions=[none,step]", "iterations=1")
    rows = [(row["name"], row["protocol"]["runtime"]) for row in result["rows"]]
    assert rows == [(name, runtime) for runtime in applied for name in ("none", "step")]
    assert applied == ["eager", "graphs"]
    shown = table_of_rows(result["rows"]).columns[0].cells
    assert "dense, graphs" in list(shown)


def test_rows_have_the_promised_figures(tmp_path):
    result = bench(tmp_path, "batch_sizes=[1,2]", "tokens=paper", "in_flight=[1,2]")
    assert (result["status"], result["command"]) == ("completed", "stepseg-benchmark")
    assert (result["device"], result["dtype"], result["seed"]) == ("cpu", "fp32", 0)
    rows = result["rows"]
    assert [(r["name"], r["batch_size"]) for r in rows] == [
        (name, size) for size in (1, 2) for name in ("none", "dcts", "step")
    ]
    for row in rows:
        assert row["resolution"] == [96, 128]
        assert row["latency_ms_p95"] >= row["latency_ms_p50"] > 0
        seconds = row["latency_ms_p50"] / 1000
        assert row["images_per_s"] == pytest.approx(row["batch_size"] / seconds)
        assert row["peak_memory_mb"] > 0
        assert list(row["throughput"]) == ["1", "2"]
        assert min(row["throughput"].values()) > 0
        assert row["realisation"] == pytest.approx(row["speedup"] / row["macs_ratio"])
        assert sum(row["gmacs_by_part"].values()) == pytest.approx(row["gmacs"])
        protocol = row["protocol"]
        assert (protocol["warmup"], protocol["iterations"]) == (0, 2)
        assert (protocol["dtype"], protocol["runtime"]) == ("float32", "eager")
        assert protocol["attention_backend"] == {"uniform": "dense", "ragged": "loop"}
        assert "maps of class ids" in protocol["clock"]
        assert protocol["tokens"] == "paper"
    dense, dcts, step = rows[:3]
    assert dense["speedup"] == dense["macs_ratio"] == dense["realisation"] == 1
    assert dense["macs_ratio"] < dcts["macs_ratio"] < step["macs_ratio"]
    assert [row["tokens_per_stage"] for row in (dense, dcts)] == [[48], [33]]
    assert step["tokens_per_stage"] == [33, 21, 20]  # 33 * (1 - 245 / 701.3), (1 - 269 / 701.3)
    assert step["exit_blocks"] == [1, 3]


def test_table_csv_and_plot(tmp_path, capsys):
    bench(tmp_path, "iterations=1")
    shown = "".join(capsys.readouterr())
    for text in ("STEP@[1,3]", "33>21>20", "realised", "96 x 128 px", "result.json"):
        assert text in shown
    with open(tmp_path / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["none", "dcts", "step"]
    assert rows[2]["tokens_per_stage"] == "33.0 21.0 20.0"
    assert float(rows[2]["gmacs_by_part.exit_head_3"]) > 0
    with Image.open(tmp_path / "benchmark.png") as plot:
        assert np.asarray(plot).std() > 0


def test_counting_alone_gives_the_published_number_of_a_large_model(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_model", lambda *_: pytest.fail("built a model"))
    overrides = ["backbone=vit_large", "speed=false", "num_classes=150", "resolution=640"]
    overrides += ["reductions=[none,cts,step@8+16,step@18]"]
    run(compose_config("benchmark", overrides, tmp_path))
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert rows[0]["gmacs"] == pytest.approx(617.0, rel=0.005)
    assert [row["exit_blocks"] for row in rows] == [[], [], [8, 16], [18]]
    assert rows[1]["tokens_per_stage"] == [1600 - 3 * 161]
    for row in rows:
        assert row["latency_ms_p50"] is row["realisation"] is row["batch_size"] is None
        assert row["macs_ratio"] == pytest.approx(rows[0]["gmacs"] / row["gmacs"])


def test_counts_per_stage_can_be_prescribed(tmp_path):
    result = bench(tmp_path, "tokens=[30,20,10]", "reductions=[dcts,dtop,step]", "iterations=1")
    tokens = {row["name"]: row["tokens_per_stage"] for row in result["rows"]}
    assert tokens == {"dcts": [30], "dtop": [48, 20, 10], "step": [30, 20, 10]}
    # without the baseline in the run there is nothing to relate to
    assert all(row["speedup"] is row["realisation"] is None for row in result["rows"])


def test_with_and_without_the_map_and_in_half_precision(tmp_path):
    rows = bench(tmp_path, "map=both", "dtype=bf16", "reductions=[none,step]")["rows"]
    assert [(row["name"], "no map" in row["protocol"]["clock"]) for row in rows] == [
        ("none", False), ("step", False), ("none", True), ("step", True),
    ]  # fmt: skip
    assert {row["protocol"]["dtype"] for row in rows} == {"bfloat16"}


def test_parts_of_every_system(tmp_path):
    result = bench(tmp_path, "parts=true", "reductions=[none,step@2]", "iterations=1")
    parts = {part["part"]: part for part in result["parts"]["step@2"]}
    assert {"policy", "block_2", "exit_head_2", "exit_2", "block_4", "decoder", "map"} <= set(parts)
    assert parts["block_2"]["tokens"] == 33
    assert parts["block_3"]["tokens"] == 20  # 33 * (1 - 273 / 701.3)
    total = sum(part["gmacs"] or 0 for part in parts.values())
    assert total == pytest.approx(result["rows"][1]["gmacs"])
    with open(tmp_path / "parts.csv", newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"none", "step@2"}
    assert (tmp_path / "parts.png").is_file()


def test_real_images_and_measured_counts_of_a_checkpoint(checkpoint, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(5):
        noise = generator.integers(0, 40 * index + 1, (100, 150, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    small = [
        o for o in SMALL if o.split("=")[0] in ("resolution", "warmup", "iterations", "device")
    ]
    overrides = [f"ckpt_path={checkpoint}", f"images={folder}", "batch_sizes=[2]"]
    names = ["none", "dcts", "step", "step@1"]
    overrides += [f"reductions=[{','.join(names)}]", "num_images=5"]

    run(compose_config("benchmark", [*small, *overrides], tmp_path / "out"))

    rows = json.loads((tmp_path / "out" / "result.json").read_text())["rows"]
    assert [row["name"] for row in rows] == names
    assert {row["images"] for row in rows} == {4}, "two whole batches"
    assert {row["protocol"]["tokens"] for row in rows} == {"measured"}
    # thresholds and exits are the checkpoint's own
    assert [row["exit_blocks"] for row in rows] == [[], [], [2], [1]]
    dense, dcts, step, _ = rows
    assert dcts["reduction"]["merge"]["thresholds"] == [0.3, 0.6]
    assert dense["gmacs_std"] == 0
    assert dcts["tokens_per_stage"][0] == step["tokens_per_stage"][0] < 48


def test_counts_of_a_batch_may_differ(tmp_path):
    overrides = ["reductions=[none,step]", "batch_sizes=[3]", "iterations=1", "tokens_spread=0.5"]
    dense, step = bench(tmp_path, *overrides, "num_images=3")["rows"]
    assert dense["gmacs_std"] == 0 < step["gmacs_std"]


def test_what_a_checkpoint_decides_cannot_be_said_again(checkpoint, tmp_path):
    cfg = compose_config("benchmark", [f"ckpt_path={checkpoint}", "num_classes=5"], tmp_path)
    with pytest.raises(ValueError, match=r"num_classes=5: the checkpoint .* decides that"):
        run(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reductions=[none,stepp]"], "did you mean 'step'"),
        (["reductions=[step,step]"], "each system once"),
        (["reductions=[dcts@2]"], "dcts has no exits to place"),
        (["reductions=[step@2-3]"], r"placed as in step@6\+8"),
        (["reductions=[step@4]"], "exit block 4 is outside 1..3"),
        (["reductions=[step@1+2+3]"], "not for 3"),
        (["backbone.exit_blocks=[2,12]"], "exit block 12 is outside 1..3"),
        (["policy.windows=[2]"], "policy scores windows"),
        (["systems.dcts.merge.thresholds=[0.5,1.5,0.5,0.5]"], r"got 1\.5"),
        (["tokens=[5]", "reductions=[dcts]"], r"reductions=dcts: .* cannot leave 5 tokens"),
        (["tokens=[30]", "reductions=[step]"], "make 3 stages"),
        (["tokens=[30,40,10]", "reductions=[step]"], "only become fewer"),
        (["tokens=measured"], "needs trained weights"),
        (["tokens=many"], "paper, measured or a list"),
        (["resolution=0"], "resolution is a number of pixels"),
        (["resolution=[1,2,3]"], "resolution is a number of pixels"),
        (["batch_sizes=[]"], "batch_sizes are positive"),
        (["batch_sizes=[1,0]"], "batch_sizes are positive"),
        (["map=maybe"], "true, false or both"),
        (["dtype=fp16"], "choose one of auto, fp32, bf16"),
        (["in_flight=[2,0]"], "in_flight are positive numbers"),
        (["tokens_spread=1"], r"tokens_spread is a share in \[0, 1\)"),
        (["runtime=graphs"], "needs device=cuda"),
        (["runtimes=[eager,graphs]"], "needs device=cuda"),
        (["runtimes=[eager,compile]", "parts=true"], "runtime=eager,compile has no borders"),
        (["iterations=0"], "iterations must be at least 1"),
        (["threads=-1"], "threads must be at least 1, or null for PyTorch's choice, got -1"),
        (["threads=all"], "threads must be at least 1, .* got 'all'"),
        (["device=tpu9"], "choose auto, cpu, cuda"),
        pytest.param(["device=cuda"], "sees no CUDA device here; use device=cpu", marks=NO_GPU),
        (["images=/nowhere/photos"], "'/nowhere/photos' is not a folder"),
        (["ckpt_path=/nowhere/best.ckpt"], "decides that|does not exist"),
        (["num_classes=1"], "at least 2"),
        (["backbone.checkpoint=/nowhere/vit.pth"], "'/nowhere/vit.pth' is not a file"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_timed(
    overrides, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(job, "benchmark", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ValueError, match=message):
        bench(tmp_path, *overrides)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["error"]


def test_too_few_images_for_a_batch(tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="holds 1 image"):
        bench(tmp_path / "out", f"images={tmp_path}", "batch_sizes=[1,2]")


def test_loader_beside_training_steps(tmp_path):
    root = write_camvid(tmp_path / "camvid", train=4, val=1)
    result = bench(
        tmp_path / "out", "data=camvid", f"data.root={root}", "data.crop_size=[64,96]",
        "data.batch_size=2", "data.num_workers=1", "reductions=[none,step]",
    )  # fmt: skip
    figures = result["data"]
    assert figures["loader"]["images"] == 24
    assert figures["loader"]["num_workers"] == 1
    assert [row["name"] for row in figures["training"]] == ["none", "step"]
    for row in figures["training"]:
        needed = row["images_per_s"] / figures["loader"]["images_per_s_per_worker"]
        assert row["workers_needed"] == math.ceil(needed) >= 1
        assert row["step_ms_p50"] == pytest.approx(2000 / row["images_per_s"])
        assert row["peak_memory_mb"] > 1
    none, step = figures["training"]
    assert none["realisation"] == none["speedup"] == 1
    # In training every exit head runs, also where nobody may leave: few operations are saved.
    ratio = none["forward_gmacs"] / step["forward_gmacs"]
    assert 1 < ratio < result["rows"][1]["macs_ratio"] * 2
    assert step["realisation"] == pytest.approx(step["speedup"] / ratio)
    # the classes are the data set's: the rows count their queries
    assert result["rows"][0]["gmacs"] != bench(tmp_path / "five", "speed=false")["rows"][0]["gmacs"]
