import re
import shutil
from pathlib import Path

import pytest

from run_results import EXIT, MERGE, accuracy_row, benchmark, evaluation, training, write
from stepseg.report.build import Options, build_report
from stepseg.report.published import load_published

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of some runs, one of them with a hostile name."""
    folder = tmp_path_factory.mktemp("runs")
    entries = [
        accuracy_row(33.0, 6.0),
        accuracy_row(34.0, 9.5, MERGE),
        accuracy_row(None, 10.0, MERGE, EXIT),
    ]
    write(folder / "eval", evaluation(entries, overrides=["name=<script>alert('x')</script>"]))
    (folder / "eval/evaluate.log").touch()
    write(folder / "bench", benchmark())
    write(folder / "failed", training(status="failed", error="ValueError: it <b>broke</b>"))
    write(folder / "half", '{"status": "comp')
    (folder / "running/.hydra").mkdir(parents=True)
    options = Options(title="A <report> & more", formats=["html"])
    build_report([folder], folder / "out", options, load_published(EXPERIMENTS), made="now")
    return folder / "out/index.html"


def test_everything_is_inside(page):
    text = page.read_text()
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "@import" not in text
    assert "url(http" not in text
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]


def test_results_come_first_and_warnings_are_folded_below(page):
    text = page.read_text()
    first_table, reading = text.index("<table"), text.index('<details class="notice" id="reading">')
    assert first_table < reading < text.index('<h2 id="runs">')
    assert "GMACs are multiply-accumulates" in text[reading:]
    assert "Left out: " in text[reading:]
    assert 'class="notice"' not in text[text.index("<body>") : first_table]


def test_nothing_that_was_typed_becomes_markup(page):
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<b>broke" not in text
    assert "<title>A &lt;report&gt; &amp; more</title>" in text


def test_runs_are_described_with_what_makes_them_repeatable(page):
    text = page.read_text()
    for fact in ("stepseg-eval", "a" * 40, "torch 2.15.0", "<dd>12.5</dd>", "<dd>completed</dd>"):
        assert fact in text
    assert '<a href="../eval/evaluate.log">evaluate.log</a>' in text
    assert "Runs that did not end" in text
    assert "Files left out" in text
    assert '<a href="../running">running</a>' in text


def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium or Chrome on this system")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = chromium()
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    arguments += ["--disable-quic", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, page):
    """The page, opened; closing checks that it asked for nothing and complained of nothing."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    requests, complaints = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(page.as_uri())
    yield tab
    tab.close()
    assert requests == [page.as_uri()]
    assert complaints == []


def column(tab, index):
    return (
        tab.locator("table.sortable")
        .first.locator(f"tbody td:nth-child({index})")
        .all_inner_texts()
    )


def test_sorting(tab):
    table = tab.locator("table.sortable").first
    heads = table.locator("th").all_inner_texts()
    cost, accuracy = (1 + heads.index(name) for name in ("GMACs", "mIoU"))
    button = table.locator(f"th:nth-child({cost}) button")
    button.click()
    assert column(tab, cost) == ["6.000", "9.500", "10.000"]  # as numbers, not as text
    button.click()
    assert column(tab, cost) == ["10.000", "9.500", "6.000"]
    assert table.locator(f"th:nth-child({cost})").get_attribute("aria-sort") == "descending"
    for order in (["33.00", "34.00", "-"], ["34.00", "33.00", "-"]):
        table.locator(f"th:nth-child({accuracy}) button").click()
        assert column(tab, accuracy) == order  # what is missing comes last either way


def test_filter(tab):
    rows = tab.locator("table.sortable tbody tr")
    points = tab.locator(".point")
    tab.fill("#filter", "6,8 STEP")
    visible = tab.locator("table.sortable tbody tr:not(.hidden)").all_inner_texts()
    assert visible
    assert [text for text in visible if "STEP@[6,8]" not in text] == []
    assert tab.locator("#count").inner_text() == f"{len(visible)} of {rows.count()} rows"
    assert 0 < tab.locator(".point.dim").count() < points.count()
    tab.fill("#filter", "")
    assert tab.locator("tr.hidden").count() == tab.locator(".point.dim").count() == 0


def test_points_say_what_they_are(tab):
    point = tab.locator(".point").first
    assert not tab.locator("#tip").is_visible()
    point.focus()
    assert tab.locator("#tip").inner_text() == "dense: mIoU 33.00, 6 GMACs, 690 tokens in, 690 out"


def test_light_and_dark(tab):
    root, body = tab.locator("html"), "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(body)
    tab.click("#theme")
    assert root.get_attribute("data-theme") == "dark"
    assert tab.evaluate(body) != light
    tab.emulate_media(media="print")
    assert tab.evaluate(body) == "rgb(255, 255, 255)"
    assert not tab.locator("#filter").is_visible()


def test_narrow_screens_scroll_tables_and_not_the_page(tab):
    tab.set_viewport_size({"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
