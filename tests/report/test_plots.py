from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from run_results import EXIT, MERGE, accuracy_row, benchmark, evaluation
from stepseg.pictures.looks import INK, window_hex
from stepseg.report.plots.collection import plots_of_arena, plots_of_parts, plots_of_policies
from stepseg.report.plots.parts import kind_of
from stepseg.report.plots.placement import placements
from stepseg.report.plots.style import new_figure, place_labels
from stepseg.report.plots.thresholds import only_2x2
from stepseg.report.rows import rows_of_runs
from stepseg.report.runs import Run
from stepseg.report.summaries import summarise


def arena_of(values):
    rows, problems = rows_of_runs([Run(Path("run/result.json"), values)])
    assert problems == []
    (arena,), _ = summarise(rows)
    return arena


def two_by_two(threshold):
    return {**MERGE, "windows": [2], "thresholds": [threshold]}


CTS = {**MERGE, "windows": [2], "thresholds": None, "top_k": 103}


@pytest.fixture(scope="module")
def arena():
    speeds = {"images_per_s": 8.0}
    entries = [accuracy_row(33.0, 6.0, **speeds), accuracy_row(34.0, 4.0, CTS)]
    entries += [accuracy_row(30 + 8 * t, 3 + t, two_by_two(t)) for t in (0.2, 0.4, 0.6)]
    for cost, blocks in ((4.9, [4]), (5.5, [6]), (4.7, [4, 6])):
        leave = {**EXIT, "blocks": blocks}
        entries.append(accuracy_row(32.0, cost, None, leave, images_per_s=12 - cost))
    return arena_of(evaluation(entries))


@pytest.fixture(scope="module")
def plots(arena):
    return {plot.name: plot for plot in plots_of_arena(arena, "p")}


def test_each_plot_is_made_when_its_data_are_there(plots):
    assert set(plots) == {
        "p-accuracy-cost", "p-accuracy-speed", "p-thresholds", "p-placement", "p-exits",
        "p-tokens", "p-superpatches",
    }  # fmt: skip
    lonely = arena_of(evaluation([accuracy_row(33.0, 6.0)]))
    assert plots_of_arena(lonely, "p") == []


def test_missing_figures_do_not_stop_the_others():
    entries = [
        accuracy_row(None, 6.0),
        accuracy_row(33.0, None, MERGE),
        accuracy_row(31.0, 2.0, CTS),
    ]
    names = [plot.name for plot in plots_of_arena(arena_of(evaluation(entries)), "p")]
    assert names == ["p-superpatches"]


def points_of(plot, kind=0):
    """Positions of the points with tips in one of the axes."""
    lines = plot.figure.axes[kind].lines
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines if line.get_gid()]


def test_points_stand_at_their_figures(plots):
    found = points_of(plots["p-accuracy-cost"])
    assert (6.0, 33.0) in found
    assert (pytest.approx(3.4), pytest.approx(33.2)) in found
    assert len(found) == 8
    front = next(
        line for line in plots["p-accuracy-cost"].figure.axes[0].lines
        if line.get_label().startswith("not beaten")
    )  # fmt: skip
    assert list(front.get_xdata()) == pytest.approx([3.6, 3.4, 3.2])


def test_thresholds_are_drawn_in_order_and_cts_as_a_star(plots):
    figure = plots["p-thresholds"].figure
    assert list(figure.axes[0].lines[0].get_xdata()) == [0.2, 0.4, 0.6]
    assert list(figure.axes[1].lines[0].get_ydata()) == [3.2, 3.4, 3.6]
    stars = [line for line in figure.axes[2].lines if line.get_marker() == "*"]
    assert [(s.get_xdata()[0], s.get_ydata()[0]) for s in stars] == [(4.0, 34.0)]


def test_only_2x2_means_that_nothing_else_merges():
    entries = [accuracy_row(1.0, 1.0, {**MERGE, "thresholds": [0.4, 1.0, 1.0, 1.0]})]
    entries += [accuracy_row(1.0, 1.0, MERGE), accuracy_row(1.0, 1.0, two_by_two(0.3), EXIT)]
    found = [only_2x2(s) for s in arena_of(evaluation(entries)).summaries]
    assert sorted(map(str, found)) == ["0.4", "None", "None"]


def test_placements_have_the_baseline_that_merges_alike(arena):
    ((base, summaries),) = placements(arena)
    assert base.system.kind == "dense"
    assert [s.system.exit_blocks for s in summaries] == [(4,), (4, 6), (6,)]


def test_the_shaded_region_begins_at_ten_percent_fewer_operations(plots):
    axes = plots["p-placement"].figure.axes[0]
    (region,) = axes.patches
    assert region.get_x() + region.get_width() == pytest.approx(5.4)
    words = {text.get_text() for text in axes.texts}
    assert words == {"no exits", "4", "6", "4,6"}


def test_shares_of_tokens_that_leave(plots):
    bars = [p for p in plots["p-exits"].figure.axes[-1].patches if p.get_gid()]
    heights = {p.get_gid(): p.get_height() for p in bars}
    assert heights["p-exits-left-0-0"] == pytest.approx(100 * 90 / 690)
    assert heights["p-exits-left-1-2"] == pytest.approx(100 * 10 / 690)


def test_shares_of_the_image_by_size_of_superpatch(plots):
    bars = [p for p in plots["p-superpatches"].figure.axes[0].patches if p.get_gid()]
    sides = [int(bar.get_gid().rpartition("-")[2]) for bar in bars]
    colours = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colours == [window_hex(side) for side in sides]  # those of the pictures
    first = [p.get_width() for p in bars[:3]]
    assert first == [pytest.approx(100 * 402 / 690), pytest.approx(100 * 288 / 690), 0.0]


def test_labels_cover_neither_points_nor_each_other():
    figure = new_figure()
    axes = figure.subplots()
    points = [(x, x % 3 / 9) for x in range(20)]  # closer than labels are wide
    axes.plot(*zip(*points, strict=True), "o")
    placed = place_labels(axes, [(*p, f"a label {i}") for i, p in enumerate(points)], points)
    assert 8 <= placed == len(axes.texts) <= 20
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        for point in points:
            assert not box.contains(*axes.transData.transform(point))


def test_placements_are_drawn_without_the_cost_of_their_baseline():
    placed = [(4.9, [4]), (5.5, [6]), (4.7, [4, 6])]
    entries = [accuracy_row(32.0, cost, None, {**EXIT, "blocks": b}) for cost, b in placed]
    arena = arena_of(evaluation([accuracy_row(33.0, None), *entries]))
    assert "p-placement" in [plot.name for plot in plots_of_arena(arena, "p")]


def test_files_are_written_and_the_same_each_time(plots, tmp_path):
    plot = plots["p-accuracy-cost"]
    png, svg = (tmp_path / f"{plot.name}.{kind}" for kind in ("png", "svg"))
    plot.save(tmp_path, ("png", "svg"))
    assert Image.open(png).size == (1050, 690)
    text = svg.read_text()
    ElementTree.fromstring(text)
    plot.save(tmp_path, ("png", "svg"))
    assert svg.read_text() == text


def test_inline_plots_take_the_colour_of_the_page_and_carry_tips(plots):
    plot = plots["p-accuracy-cost"]
    svg = plot.inline()
    root = ElementTree.fromstring(
        svg.replace(' xmlns:xlink="', ' xmlns:unused="').replace("xlink:", "")
    )
    assert INK not in svg
    assert "currentColor" in svg
    assert root.get("role") == "img"
    tips = [element.get("data-tip") for element in root.iter() if element.get("data-tip")]
    assert len(tips) == 8
    assert "dense: mIoU 33.00, 6 GMACs, 8 images/s, 690 tokens in, 690 out" in tips


def test_blocks_heads_and_exits_are_told_apart():
    kinds = [kind_of(p) for p in ("block_3", "exit_head_6", "decoder", "exit_6", "map", "policy")]
    assert kinds == ["block", "head", "head", "exit rule", "around", "around"]


def parts(*milliseconds):
    names = ("policy", "block_1", "exit_head_6", "exit_6", "assembly")
    return [
        {"part": name, "ms": ms, "gmacs": 1.0, "tokens": 1.0}
        for name, ms in zip(names, milliseconds, strict=True)
    ]


def test_profile_of_parts():
    values = benchmark(parts={"none": parts(1.0, 10.0, 2.0, 0.1, 0.001)})
    values["config"]["batch_sizes"] = 1  # a command takes it so
    (plot,), problems = plots_of_parts([Run(Path("run/result.json"), values)])
    assert problems == []
    assert plot.tips["parts-1-1-speed-1"] == "block 1: 1 GMACs, 10 ms, 100 images/s"
    lower = plot.figure.axes[1]
    labels = [label.get_text() for label in lower.get_xticklabels()]
    assert labels == ["policy", "block 1", "exit head 6", "exit 6"]
    assert "assembly" in lower.get_xlabel()


@pytest.mark.parametrize("bad", [[1], {"none": [{"part": "x"}]}, {"other": parts(1, 1, 1, 1, 1)}])
def test_parts_that_cannot_be_drawn_are_named(bad):
    run = Run(Path("run/result.json"), benchmark(parts=bad))
    drawn, (problem,) = plots_of_parts([run])
    assert drawn == []
    assert str(problem).startswith("run/result.json: its parts cannot be drawn")


def calibration(share: float) -> dict:
    empty = {"count": 0, "confidence": None, "accuracy": None}
    full = {"count": 8, "confidence": 0.75, "accuracy": share}
    return {"2": {"ece": abs(0.75 - share), "bins": [full, empty]}, "16": {"ece": None, "bins": []}}


def test_reliability_of_policies():
    """Two trainings, and an evaluation of one of them that says the same."""
    shares = {"a": 0.5, "b": 0.7, "c": 0.5}
    runs = [
        Run(Path(f"{name}/result.json"), benchmark(policy_calibration=calibration(share)))
        for name, share in shares.items()
    ]
    (plot,), problems = plots_of_policies([*runs, Run(Path("d/result.json"), benchmark())])
    assert problems == []
    assert list(plot.tips.values()) == [
        "a, 2 x 2: score 0.75, 50 % of 8 windows are homogeneous",
        "b, 2 x 2: score 0.75, 70 % of 8 windows are homogeneous",
    ]
    assert plot.figure.axes[0].get_title(loc="left") == "2 x 2\nECE 0.250, 0.050"
    assert plots_of_policies([]) == ([], [])


@pytest.mark.parametrize("bad", [[1], {"2": 1}, {"2": {"bins": [3]}}, {"x": {"bins": []}}])
def test_a_calibration_that_cannot_be_drawn_is_named(bad):
    run = Run(Path("run/result.json"), benchmark(policy_calibration=bad))
    drawn, (problem,) = plots_of_policies([run])
    assert drawn == []
    assert str(problem).startswith("run/result.json: its calibration cannot be drawn")
