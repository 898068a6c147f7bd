"""The GPU script: all of it runs with toy models on a CPU, and its rows become tables."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fake_cuda
from fake_cuda import Graph
from stepseg.runtime.choice import RUNTIMES

pytestmark = pytest.mark.timeout(900)  # one fixture runs all of it
FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu():
    """The script's package, beside which `paper_style` lies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(FOLDER)])
        from gpu import render, run_all

        yield run_all, render
        for name in [
            n for n in sys.modules if n.split(".")[0] in ("gpu", "paper_style", "training_loss")
        ]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def toy(gpu, tmp_path_factory):
    """Rows of a whole toy run."""
    run_all, _ = gpu
    out = tmp_path_factory.mktemp("gpu") / "rows.jsonl"
    assert run_all.main(["--toy", "--device", "cpu", "--out", str(out)]) == 0
    return out


def test_every_section_leaves_rows_that_say_where_they_come_from(gpu, toy):
    run_all, _ = gpu
    rows = [json.loads(line) for line in toy.read_text().splitlines()]
    setting = run_all.Setting(torch.device("cpu"), toy=True)
    assert {row["section"] for row in rows} == set(run_all.sections(setting))
    assert not [row for row in rows if "failed" in row]
    for row in rows:
        assert {"commit", "device", "torch", "triton", "time"} < row.keys()
    alike = [row for row in rows if row["section"] == "agreement"]
    for row in alike:
        assert row["tokens_alike"]
        assert row["pixels_alike"] > (0.999 if row["dtype"] == "torch.float32" else 0.5)
        assert row["warnings"] == []
    systems = {row.get("system") for row in rows if row["section"] == "large_1024_eager"}
    assert systems == {"none", "cts", "dcts", "dtop", "step", None}


def test_runtimes_that_want_a_gpu_are_rehearsed(gpu, tmp_path, monkeypatch):
    """Graphs by the stand-in, and compiled functions without the compiler."""
    run_all, render = gpu
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(run_all.truth, "runtimes", lambda setting: RUNTIMES)
    monkeypatch.setattr("stepseg.runtime.graph.torch.compile", lambda function, **_: function)
    out = tmp_path / "rows.jsonl"
    names = ["static", "runtimes_agree", "base_graphs", "base_compile", "dinov3_graphs", "reverse"]
    assert run_all.main(["--toy", "--device", "cpu", "--out", str(out), "--only", *names]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["section"] for row in rows} == set(names)
    compared = [row for row in rows if "pixels_alike" in row]
    assert {row.get("compared", "static") for row in compared} == {*RUNTIMES, "static"}
    for row in compared:
        alike = row["pixels_alike"]
        assert min(alike if isinstance(alike, list) else [alike]) > 0.95
        assert row.get("warnings", []) == []
    assert Graph.made > 6
    flown = [row for row in rows if "in_flight" in row and row["runtime"] == "graphs"]
    assert {row["system"] for row in flown} == {"none", "step"}
    text = render.render(rows)
    assert f"{flown[0]['in_flight']}: {flown[0]['images_per_s']:.1f}" in text
    assert "not as asked for" not in text
    # a runtime that was given up is no row of that runtime
    for row in rows:
        if "latency_ms_p50" in row and row["runtime"] == "graphs":
            row["warnings"] = ["runtime=graphs is not used for 2 x 64 x 64 px: a reason"]
    text = render.render(rows)
    assert "step (not as asked for)" in text
    assert "base_graphs, step: runtime=graphs is not used" in text


def test_tables_hold_what_was_measured(gpu, toy, tmp_path, capsys):
    _, render = gpu
    assert render.main([str(toy)]) == 0
    text = capsys.readouterr().out
    for part in ("1024 x 1024, batch 2, ragged counts", "| step |", "**policy CNN**", "own_tests"):
        assert part in text or part == "**policy CNN**"
    assert "in reverse" in text
    rows = [json.loads(line) | {"toy": False} for line in toy.read_text().splitlines()]
    measured = tmp_path / "rows.jsonl"
    measured.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"section": "kil')
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- gpu -->\nnothing\n<!-- /gpu -->\nafter\n")
    assert render.main([str(measured), "--into", str(tmp_path)]) == 0
    written = page.read_text()
    assert written.startswith("before\n<!-- gpu -->\n")
    assert written.endswith("<!-- /gpu -->\nafter\n")
    assert "nothing\n" not in written
    assert (tmp_path / "gpu.jsonl").is_file()
    with pytest.raises(SystemExit):
        render.main([str(toy), "--into", str(tmp_path)])
    assert "toy run" in capsys.readouterr().err


def test_own_tests_are_those_that_want_a_gpu(gpu, tmp_path, monkeypatch):
    """Not all: the others import what is missing where only the library is."""
    run_all, _ = gpu
    asked = []

    def answer(command, **options):
        asked.append(command)
        assert options["timeout"] < 120
        assert Path(options["env"]["PYTHONPATH"], "stepseg", "model.py").is_file()
        return SimpleNamespace(returncode=0, stdout="4 passed")

    monkeypatch.setattr(run_all.truth.subprocess, "run", answer)
    setting = SimpleNamespace(device=torch.device("cuda"))
    found = []
    run_all.truth.own_tests(setting, SimpleNamespace(add=lambda **row: found.append(row)))
    files = {Path(argument).name for argument in asked[0] if argument.endswith(".py")}
    assert {"test_attention.py", "test_upsample.py", "test_speed.py"} <= files
    assert "test_train.py" not in files
    assert found == [{"passed": True, "last_lines": ["4 passed"]}]


def test_a_section_that_fails_stops_no_other(gpu, tmp_path, monkeypatch):
    run_all, _ = gpu

    def fails(setting, rows):
        rows.add(first=1)
        raise RuntimeError("no such kernel")

    found = {
        "bad": run_all.Section(1, fails, 9),
        "good": run_all.Section(1, lambda setting, rows: rows.add(second=2), 9),
    }
    monkeypatch.setattr(run_all, "sections", lambda setting: found)
    out = tmp_path / "rows.jsonl"
    assert run_all.main(["--toy", "--device", "cpu", "--out", str(out)]) == run_all.FAILED
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["first"] == rows[2]["second"] - 1 == 1
    assert rows[1]["failed"] == "RuntimeError: no such kernel"


def test_parts_end_in_time_whatever_their_sections_do(gpu, tmp_path, monkeypatch):
    run_all, render = gpu
    limits, clock = [], [0.0]

    def hangs(command, timeout=None, **options):
        if timeout is None:  # git
            return SimpleNamespace(stdout="abc")
        limits.append(timeout)
        clock[0] += timeout
        raise run_all.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(run_all.subprocess, "run", hangs)
    monkeypatch.setattr(run_all.time, "monotonic", lambda: clock[0])
    out = tmp_path / "rows.jsonl"
    assert run_all.main(["--device", "cpu", "--part", "1", "--out", str(out)]) == run_all.FAILED
    assert sum(limits) <= run_all.PART_SECONDS
    left = render.render(list(render.read_rows(out)))
    assert "place: stopped after 60 s" in left
    assert "no time left in this part" in left


def test_what_is_asked_of_it_is_known(gpu, capsys):
    run_all, _ = gpu
    with pytest.raises(SystemExit):
        run_all.main(["--toy", "--device", "cpu", "--only", "plaice"])
    assert "unknown plaice; known: place" in capsys.readouterr().err
    assert run_all.main(["--device", "cpu", "--list", "--part", "2"]) == 0
    assert "large_1024_eager" in capsys.readouterr().out
