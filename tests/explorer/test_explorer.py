"""The explorer computes in the browser what the model computes here, and says where it cannot."""

import base64
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from browser import chromium, open_page
from stepseg.build import ModelConfig, build_segmenter
from stepseg.dcts.merge import MergeRule, merge_windows
from stepseg.explorer import write_explorer
from stepseg.explorer.costs import cost_constants
from stepseg.explorer.encoding import pack
from stepseg.explorer.page import describe_rule
from stepseg.explorer.plan import make_plan, widen
from stepseg.heads.exit import ConfidenceExit
from stepseg.macs import count_macs, macs_of_stages, policy_macs
from stepseg.model import Reduction
from stepseg.packed import PackedTokens, Segments
from toys import CLASSES, DCTS, EXIT_BLOCKS, SYSTEMS, toy_images, toy_oracle, toy_segmenter

NAMES = ["road", "</script><b>", "sky", "car", "tree"]
PALETTE = [(40 * c, 0, 255 - 40 * c) for c in range(CLASSES)]
SIZE = (150, 205)  # neither side is a multiple of a patch


def pictures(count: int = 2) -> dict[str, np.ndarray]:
    images = (toy_images(count, *SIZE) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return {f"image {index}": image for index, image in enumerate(images)}


def as_input(picture: np.ndarray) -> torch.Tensor:
    return torch.tensor(picture).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return toy_segmenter(reduction=SYSTEMS["step"])


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return pictures()


@pytest.fixture(scope="module")
def file(toy, images, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    thresholds = (0.8, 0.87)
    return write_explorer(
        toy, images, path, NAMES, PALETTE, title="Toy & co.", exit_thresholds=thresholds
    )


@pytest.fixture(scope="module")
def opened(browser, file):
    return open_page(browser, file)


@pytest.fixture
def page(opened):
    """The page in its initial state; it must stay free of errors and of requests."""
    page, problems = opened
    page.evaluate("location.hash = `#fresh=${performance.now()}`")
    settle(page)
    yield page
    assert problems == []


def settle(page) -> None:
    """Wait until the page has drawn its state."""
    page.evaluate(
        """async () => {
          const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
          do await frame(); while (window.explorer.page.busy);
        }"""
    )


def result(page) -> dict:
    return page.evaluate(
        """() => {
          const {result, image} = window.explorer.page.view;
          return {
            tokens: result.tokens, macs: result.macs, exit: [...result.exit],
            side: [...result.layout.side], exact: result.exactStages,
            run: image.runs.indexOf(result.run),
          };
        }"""
    )


def run_model(toy, picture, reduction) -> dict:
    with torch.no_grad():
        output = toy(as_input(picture), reduction=reduction)
    return {
        "tokens": [lengths[0] for lengths in output.tokens_per_stage],
        "macs": {part: macs[0] for part, macs in count_macs(toy, output).items()},
        "exit": output.exit_T0.tolist(),
        "side": output.layout.window_BYX.flatten().tolist(),
        "map": output.prediction()[0].flatten().tolist(),
    }


# The computations of the page


def random_rule(
    rng: np.random.Generator, windows: tuple[int, ...], values: np.ndarray
) -> MergeRule:
    if rng.random() < 0.3:
        counts = tuple(int(n) for n in rng.integers(0, 9, len(windows)))
        cells = int(rng.integers(50, 400)) if rng.random() < 0.5 else None
        return MergeRule(windows=windows, thresholds=None, top_k=counts, top_k_cells=cells)
    thresholds = tuple(float(v) for v in rng.choice([0.0, 1.0, *values], len(windows)))
    weight = float(rng.choice([0, 0, 0.7, -1.3]))
    return MergeRule(windows=windows, thresholds=thresholds, edge_weight=weight)


def test_merging_is_the_same_with_ties_and_scores_on_the_threshold(page):
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for _ in range(150):
        rows, columns = (int(n) for n in rng.integers(1, 21, 2))
        windows = ((2, 4, 8, 16), (2, 4), (3, 6), (4,))[int(rng.integers(4))]
        values = rng.random(3).round(int(rng.integers(1, 4)))  # few: ties, and equal to thresholds
        pool = np.concatenate([values, rng.random(2), [0, 1]]).astype(np.float32)
        draw = {
            key: {w: rng.choice(pool, (rows // w, columns // w)) for w in windows}
            for key in ("scores", "edges")
        }
        rule = random_rule(rng, windows, values)
        tensors = {
            key: {w: torch.tensor(grid)[None] for w, grid in grids.items()}
            for key, grids in draw.items()
        }
        edges = tensors["edges"] if rule.edge_weight else None
        merged = merge_windows(tensors["scores"], rule, 1, (rows, columns), edges)
        expected.append(merged.flatten().tolist())
        flat = {k: [g.flatten().tolist() for g in grids.values()] for k, grids in draw.items()}
        policy = {"windows": windows, "edgeWeight": rule.edge_weight, **flat}
        cases.append([describe_rule(rule), policy, rows, columns])
    actual = page.evaluate(
        "cases => cases.map(([rule, policy, rows, columns]) => "
        "[...window.explorer.mergeWindows(rule, policy, rows, columns)])",
        cases,
    )
    assert actual == expected
    assert sum(max(sides) > 1 for sides in expected) > 50


def test_exits_are_the_same_with_ties_and_confidences_on_the_threshold(page):
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for _ in range(60):
        count, exits = int(rng.integers(0, 40)), int(rng.integers(1, 4))
        threshold, k = float(rng.choice([0.0, 0.3, 0.9])), int(rng.integers(0, 4))
        p = rng.choice(np.float32([0.2, 0.3, 0.31, 0.9, 0.95]), (exits, count, 3))
        rule = ConfidenceExit(threshold, k)
        alive = np.arange(count)
        exit_T = np.full(count, exits)
        for index in range(exits):
            segments = Segments.from_lengths([len(alive)], "cpu")
            ids = torch.zeros(len(alive), dtype=torch.int64)
            tokens = PackedTokens(torch.zeros(len(alive), 1), segments, ids, ids)
            keep = rule.keep(torch.tensor(p[index][alive]), tokens, index).numpy()
            exit_T[alive[~keep]] = index
            alive = alive[keep]
        expected.append(exit_T.tolist())
        confidence, classes = torch.tensor(p).max(-1)
        cases.append([confidence.tolist(), classes.tolist(), threshold, k, count])
    actual = page.evaluate(
        "cases => cases.map(([confidence, klass, threshold, keep, count]) => "
        "[...window.explorer.walkExits(confidence, klass, threshold, keep, count).exit])",
        cases,
    )
    assert actual == expected
    assert any(0 in stages and 1 in stages for stages in expected)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("vit_base", "atm"), ("vit_large", "atm1"), ("eva02_base_patch14_448", "linear"),
        ("vit_pe_spatial_base_patch16_512", "atm"),
    ],
)  # fmt: skip
def test_multiply_accumulates_are_the_same_to_the_digit(name, head, page):
    numbers = {
        "num_classes": 150,
        "backbone": {"name": name},
        "policy": None,
        "heads": {"exit": head},
        "reduction": {"exit": {"blocks": [6, 8], "heads": [3, 6, 8]}},
    }
    with torch.device("meta"):
        model = build_segmenter(ModelConfig.from_dict(numbers))
    depth = model.backbone.depth
    cases = [
        [(6, 8192), (8, 4000), (depth, 1)],
        [(3, 1023), (6, 1023), (8, 77), (depth, 0)],
        [(depth, 4096)],
    ]
    costs = cost_constants(model)
    index = {head["block"]: place for place, head in enumerate(costs["heads"])}
    stages = [[{"head": index[block], "tokens": n} for block, n in case] for case in cases]
    actual = page.evaluate(
        "([costs, cases]) => cases.map(stages => window.explorer.countMacs(costs, stages, 123))",
        [costs, stages],
    )
    assert actual == [{"policy": 123, **macs_of_stages(model, case)} for case in cases]


# The page against the model


def set_slider(page, label: str, value: float) -> None:
    """As a hand would: the slider moves, and the page hears of it."""
    page.get_by_role("slider", name=label, exact=True).evaluate(
        "(input, value) => { input.value = value; "
        "input.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def test_sliders_are_filled_on_the_side_that_merges_or_leaves(page):
    def sides(label):
        return page.get_by_role("slider", name=label, exact=True).evaluate(
            "input => ['--first', '--second', '--accent'].map("
            "name => getComputedStyle(input).getPropertyValue(name).trim())"
        )

    for label in ("2 × 2 patches", "Exit threshold"):
        set_slider(page, label, 0.25)
        below, above, accent = sides(label)
        assert (above, below != accent) == (accent, True)
        slider = page.get_by_role("slider", name=label, exact=True)
        assert float(slider.evaluate("input => input.style.getPropertyValue('--at')")) == 0.25
    below, above, accent = sides("Kept per class")
    assert (below, above != accent) == (accent, True)


def test_counts_follow_the_sliders(page, toy, images):
    rng = np.random.default_rng(0)
    seen = set()
    for step in range(12):
        picture = images[f"image {step % 2}"]
        page.get_by_role("button", name=f"image {step % 2}").click()
        thresholds = [round(float(v), 2) for v in rng.uniform(0.2, 0.95, 2)]
        for window, threshold in zip((2, 4), thresholds, strict=True):
            set_slider(page, f"{window} × {window} patches", threshold)
        settle(page)
        rule = MergeRule(windows=(2, 4), thresholds=tuple(thresholds))
        expected = run_model(toy, picture, Reduction(merge=rule))
        actual = result(page)
        assert actual["side"] == expected["side"], thresholds
        assert actual["tokens"][0] == expected["tokens"][0]
        assert page.locator("#headline strong").first.inner_text() == str(actual["tokens"][0])
        assert actual["macs"]["policy"] == policy_macs(toy.policy, SIZE)
        seen.add(actual["tokens"][0])
    assert len(seen) > 6


def test_number_of_windows_follows_its_sliders(page, toy, images):
    page.get_by_label("by").select_option("counts")
    settle(page)
    for k in (60, 103):
        set_slider(page, "2 × 2 patches", k)
        settle(page)
        rule = widen(
            MergeRule(windows=(2,), thresholds=None, top_k=k, top_k_cells=1024), toy.policy.windows
        )
        expected = run_model(toy, images["image 0"], Reduction(merge=rule))
        assert result(page)["side"] == expected["side"]


def test_the_first_exit_is_exact_where_the_merging_was_recorded(page, toy, images):
    left = []
    for threshold in (0.5, 0.7, 0.75, 0.82, 0.9):
        set_slider(page, "Exit threshold", threshold)
        settle(page)
        actual = result(page)
        exit_ = ConfidenceExit(threshold, 1)
        reduction = Reduction(merge=DCTS, exit=exit_, exit_blocks=EXIT_BLOCKS)
        expected = run_model(toy, images["image 0"], reduction)
        assert actual["exact"] >= 2
        assert actual["tokens"][:2] == expected["tokens"][:2]
        left.append(actual["tokens"][0] - actual["tokens"][1])
    assert len(set(left)) > 2
    # and with a single exit that is all there is: operations are exact as well
    page.get_by_label("after block 3").uncheck()
    page.get_by_role("slider", name="Kept per class", exact=True).evaluate(
        "input => { input.value = 3; input.dispatchEvent(new Event('input')); }"
    )
    settle(page)
    reduction = Reduction(merge=DCTS, exit=ConfidenceExit(0.9, 3), exit_blocks=(1,))
    expected = run_model(toy, images["image 0"], reduction)
    actual = result(page)
    assert actual["tokens"] == expected["tokens"]
    assert actual["macs"] == expected["macs"]
    assert actual["exact"] == len(expected["tokens"])


def test_exact_runs_are_what_the_model_does(page, toy, images):
    plan = make_plan(toy, (0.8, 0.87))
    buttons = page.locator("#run-rows button")
    assert buttons.count() == len(plan) == 18
    for index in range(buttons.count()):
        buttons.nth(index).click()
        settle(page)
        level, place = divmod(index, 3)
        rule = plan.levels[level].rule
        exit_ = None if place == 0 else replace(plan.exit, threshold=(0.8, 0.87)[place - 1])
        reduction = Reduction(merge=rule, exit=exit_, exit_blocks=EXIT_BLOCKS if exit_ else ())
        expected = run_model(toy, images["image 0"], reduction)
        shown = page.evaluate("[...window.explorer.page.view.result.run.map]")
        actual = result(page)
        assert shown == expected.pop("map")
        assert {key: actual[key] for key in expected} == expected
        assert (actual["run"], actual["exact"]) == (index, len(expected["tokens"]))
        total = f"{sum(expected['macs'].values()) / 1e9:.4g}"
        assert float(buttons.nth(index).locator("b").inner_text()) == float(total)
        assert buttons.nth(index).get_attribute("aria-pressed") == "true"
    assert "exact run" in page.locator("#nearest-name").inner_text()


def test_estimates_are_marked(page):
    assert page.locator(".estimate").count() == 0
    set_slider(page, "2 × 2 patches", 0.15)
    set_slider(page, "Exit threshold", 0.7)
    settle(page)
    assert page.locator("#headline strong").nth(1).inner_text().startswith("≈")
    assert page.locator(".estimate").count() >= 3
    assert "Nearest exact run" in page.locator("#nearest-name").inner_text()
    page.get_by_role("button", name="Go there").click()
    settle(page)
    assert page.locator(".estimate").count() == 0


# Use


def test_the_address_keeps_the_state(page, browser, file):
    set_slider(page, "4 × 4 patches", 0.35)
    set_slider(page, "Exit threshold", 0.755)
    page.locator("label[for=layer-exits]").click()
    page.get_by_label("Swipe against").select_option("dense")
    page.get_by_role("button", name="image 1").click()
    settle(page)
    page.wait_for_function("() => location.hash.includes('exit=0.755')")
    state = page.evaluate("window.explorer.page.state")
    again, problems = open_page(browser, file, page.evaluate("location.hash"))
    assert again.evaluate("window.explorer.page.state") == state
    assert (state["image"], state["layer"], state["swipe"]) == (1, "exits", "dense")
    assert problems == []
    again.close()


@pytest.mark.parametrize(
    "hash_",
    [
        "#image=7&thresholds=a,b&exit=2&layer=nothing&cell=99999&split=-3&cells=x&blocks=77",
        "#thresholds=0.5&counts=-1,2&keep=1.5&%%%",
    ],
)
def test_a_broken_address_does_no_harm(hash_, browser, file):
    page, problems = open_page(browser, file, hash_)
    assert page.evaluate("window.explorer.page.state.image") == 0
    assert page.evaluate("window.explorer.page.state.thresholds") == list(DCTS.thresholds)
    assert problems == []
    page.close()


def test_resets(page):
    page.get_by_role("button", name="Reset to the paper's thresholds").click()
    settle(page)
    state = page.evaluate("window.explorer.page.state")
    assert (state["thresholds"], state["exit"], state["keep"]) == ([0.6, 0.8], 0.9, 5)
    page.get_by_role("button", name="Reset to the start").click()
    settle(page)
    state = page.evaluate("window.explorer.page.state")
    assert (state["thresholds"], state["exit"], state["keep"]) == ([0.7, 0.75], 0.87, 1)


def test_numbers_can_be_typed_and_nonsense_is_refused(page):
    field = page.get_by_role("spinbutton", name="2 × 2 patches, number")
    field.fill("0.123")
    settle(page)
    assert page.evaluate("window.explorer.page.state.thresholds[0]") == 0.123
    field.fill("7")
    settle(page)
    assert page.evaluate("window.explorer.page.state.thresholds[0]") == 0.123
    assert field.get_attribute("aria-invalid") == "true"


def test_cells_by_keyboard_and_by_pointer(page):
    canvas = page.locator("#canvas")
    canvas.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    settle(page)
    page.wait_for_function(
        "() => document.querySelector('#cell-status').textContent.startsWith('Row 2, column 2')"
    )
    text = page.locator("#cell").inner_text()
    assert all(word in text for word in ("2 × 2", "4 × 4", "exit head 1", "decoder"))
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 3)
    settle(page)
    assert page.locator("#cell h3").inner_text().startswith("Row 1, column 13")
    page.keyboard.press("Escape")
    settle(page)
    assert "Point at the image" in page.locator("#cell").inner_text()


def test_the_summary_is_announced(page):
    set_slider(page, "2 × 2 patches", 0.31)
    settle(page)
    count = result(page)["tokens"][0]
    page.wait_for_function(
        "count => document.querySelector('#summary').textContent.startsWith(`${count} of 130 `)",
        arg=count,
    )


def test_every_layer_draws_something_of_its_own(page):
    pictures_seen = set()
    for layer in ("superpatches", "exits", "step", "dense", "difference", "image"):
        page.locator(f"label[for=layer-{layer}]").click()
        settle(page)
        pictures_seen.add(page.evaluate("document.querySelector('#canvas').toDataURL()"))
    assert len(pictures_seen) == 6
    page.get_by_label("Swipe against").select_option("dense")
    settle(page)
    page.get_by_label("Swipe position").evaluate(
        "input => { input.value = 0; input.dispatchEvent(new Event('input')); }"
    )
    settle(page)
    swiped = page.evaluate("document.querySelector('#canvas').toDataURL()")
    page.get_by_label("Swipe against").select_option("none")
    page.locator("label[for=layer-dense]").click()
    settle(page)
    assert page.evaluate("document.querySelector('#canvas').toDataURL()") == swiped


CHECKS = """() => {
  const bad = [];
  const named = (node) => (node.getAttribute('aria-label') || node.labels?.length
    || node.getAttribute('aria-labelledby') || node.textContent.trim()
    || node.querySelector('img')?.alt);
  for (const node of document.querySelectorAll('input, select, button, canvas, [role]'))
    if (!named(node) && !['status', 'alert'].includes(node.getAttribute('role')))
      bad.push(node.outerHTML.slice(0, 80));
  for (const image of document.images) if (!image.alt) bad.push('no alt');
  const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  if (new Set(ids).size !== ids.length) bad.push('ids twice');
  if (!document.documentElement.lang) bad.push('no language');
  if (document.documentElement.scrollWidth > innerWidth) bad.push('wider than the window');
  const levels = [...document.querySelectorAll('h1, h2, h3')].map((node) => node.tagName);
  if (levels[0] !== 'H1') bad.push('starts with ' + levels[0]);
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    const clear = colour === 'rgba(0, 0, 0, 0)' && node.parentElement;
    return clear ? behind(node.parentElement) : colour;
  };
  const texts = 'p, td, th, span, label, button, summary, code, h1, h2, h3, li';
  for (const node of document.querySelectorAll(texts)) {
    if (!node.textContent.trim() || !node.checkVisibility()) continue;
    const pair = [getComputedStyle(node).color, behind(node)].map(luminance);
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) bad.push(`contrast: ${node.outerHTML.slice(0, 80)}`);
  }
  return bad;
}"""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 1300), ("light", 360)])
def test_accessibility(scheme, width, browser, file):
    size = {"width": width, "height": 800}
    page, problems = open_page(browser, file, "#cell=20", color_scheme=scheme, viewport=size)
    page.locator("summary").last.click()
    assert page.evaluate(CHECKS) == []
    assert problems == []
    page.close()


# Other models


def open_for(browser, model, path, names=NAMES, palette=PALETTE, images=None):
    file = write_explorer(
        model, images or pictures(1), path, names, palette, exit_thresholds=(0.8,)
    )
    return open_page(browser, file)


def test_without_a_policy(browser, tmp_path):
    model = toy_segmenter(reduction=SYSTEMS["dtop"])
    for policy in (None, toy_oracle()):  # by labels, which images to explore do not have
        model.policy = policy
        page, problems = open_for(browser, model, tmp_path / "page.html")
        assert page.locator("#merging").is_hidden()
        assert page.locator("#exits").is_visible()
        assert page.locator("#run-rows tr").count() == 1
        assert "reduction.merge" not in page.locator("#command").inner_text()
        assert problems == []
        page.close()


def test_without_exits(browser, tmp_path):
    model = toy_segmenter(exit_heads={}, reduction=SYSTEMS["dcts"])
    page, problems = open_for(browser, model, tmp_path / "page.html")
    assert page.locator("#exits").is_hidden()
    set_slider(page, "2 × 2 patches", 0.43)
    settle(page)
    assert result(page)["exact"] == 1
    assert page.locator(".estimate").count() == 0  # nothing to estimate
    assert problems == []
    page.close()


def test_neither(browser, tmp_path):
    model = toy_segmenter(exit_heads={})
    model.policy = None
    page, problems = open_for(browser, model, tmp_path / "page.html")
    assert page.locator("#presets").is_hidden()
    assert page.locator("#command").inner_text() == ""
    assert problems == []
    page.close()


@pytest.mark.parametrize("system", ["cts", "dcts_edges", "dcts_area"])
def test_other_rules_of_merging(system, browser, tmp_path):
    model = toy_segmenter(reduction=SYSTEMS[system])
    images = pictures(1)
    page, problems = open_for(browser, model, tmp_path / "page.html", images=images)
    expected = run_model(model, images["image 0"], SYSTEMS[system])
    actual = result(page)
    assert actual["side"] == expected["side"]
    assert actual["macs"] == expected["macs"]
    assert page.evaluate("[...window.explorer.page.view.result.run.map]") == expected["map"]
    assert problems == []
    page.close()


# The file


def test_large_images_are_shown_smaller(toy, tmp_path, monkeypatch, browser):
    monkeypatch.setattr("stepseg.explorer.page.MAX_PIXELS", 150 * 205 // 4)
    page, problems = open_for(browser, toy, tmp_path / "page.html")
    assert page.evaluate("window.explorer.page.view.image.shown") == [50, 69]
    assert page.evaluate("window.explorer.page.view.image.runs[0].map.length") == 50 * 69
    page.locator("label[for=layer-dense]").click()
    settle(page)
    assert problems == []
    page.close()


def test_nothing_is_written_when_a_run_fails(toy, tmp_path, images):
    path = tmp_path / "page.html"

    def fail(done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_explorer(toy, images, path, NAMES, PALETTE, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_all_runs(toy, tmp_path, images):
    seen = []
    write_explorer(
        toy,
        images,
        tmp_path / "page.html",
        NAMES,
        PALETTE,
        exit_thresholds=(0.8,),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(index, 36) for index in range(1, 37)]  # 2 images, 6 rules, 2 thresholds + none


def test_kind_errors(toy, tmp_path, images):
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match="5 classes, got 4 class names"):
        write_explorer(toy, images, path, NAMES[:4], PALETTE)
    with pytest.raises(ValueError, match="at least one image"):
        write_explorer(toy, {}, path, NAMES, PALETTE)
    with pytest.raises(ValueError, match=r"'grey' must be uint8 RGB.*float64 \(8, 8\)"):
        write_explorer(toy, {"grey": np.zeros((8, 8))}, path, NAMES, PALETTE)
    with pytest.raises(ValueError, match="evaluation mode"):
        write_explorer(toy_segmenter().train(), images, path, NAMES, PALETTE)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_arrays_come_back(dtype):
    values = (np.random.default_rng(0).random((3, 5)) * 200).astype(dtype)
    unpacked = zlib.decompress(base64.b64decode(pack(values)))
    little = np.dtype(dtype).newbyteorder("<")
    assert (np.frombuffer(unpacked, little) == values.flatten()).all()


def test_a_rule_over_all_windows_merges_the_same():
    scores = {w: torch.rand(1, 16 // w, 16 // w) for w in (2, 4, 8)}
    for rule in (
        MergeRule(windows=(2, 8), thresholds=(0.5, 0.4)),
        MergeRule(windows=(4,), thresholds=None, top_k=3),
    ):
        wide = widen(rule, (2, 4, 8))
        assert wide.windows == (2, 4, 8)
        expected = merge_windows(scores, rule, 1, (16, 16))
        assert (merge_windows(scores, wide, 1, (16, 16)) == expected).all()


def test_the_configured_settings_are_among_the_runs():
    model = toy_segmenter(reduction=SYSTEMS["step_random"])
    plan = make_plan(model)
    assert [level.name for level in plan.levels][:2] == ["no merging", "as configured"]
    assert plan.levels[1].rule == DCTS
    assert (plan.exit.threshold, plan.exit.keep_per_class) == (0.87, 1)
    assert plan.exit_thresholds == (0.8, 0.87, 0.9, 0.95)
    assert plan.exit_blocks == EXIT_BLOCKS
    assert plan.heads == (1, 2, 3)
    assert make_plan(model, reduction=SYSTEMS["dense"]).own_merge is None
    assert make_plan(model, reduction=SYSTEMS["cts"]).levels[1].rule.top_k == (3, 0)
