"""Results of strangers: whatever stands in any field is text in every file that a report writes."""

import copy
import csv
import re
from html import unescape
from html.parser import HTMLParser

import pytest

import run_results
from stepseg.report.build import Options, build_report

MARKUP = "\"'><zz9 onzz9=1>{{ zz9 }}</script><script>zz9()</script>](javascript:zz9)`<!--"
FORMULA = "=cmd|'/c zz9'!A1"


def hostile(values, word):
    """The file with one string, or one key, replaced: every place once."""
    for path in list(run_results.places(values)):
        for part in ("key", "value"):
            changed = copy.deepcopy(values)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            if part == "value" and isinstance(inner[path[-1]], str):
                inner[path[-1]] = word
                yield changed
            elif part == "key" and isinstance(path[-1], str):
                inner[word] = inner.pop(path[-1])
                yield changed


def whole_files():
    environment = {"environment": {"device_name": "a machine", "threads": 2}}
    row = run_results.accuracy_row(41.0, 1.2, run_results.MERGE, run_results.EXIT, note="words")
    yield run_results.training(error="it broke", **environment)
    yield run_results.training(status="failed", error="it broke")
    yield run_results.evaluation([run_results.accuracy_row(40.0, 1.5), row], **environment)
    yield run_results.benchmark(**environment)


class Markup(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.names, self.links = [], set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.names |= {name for name, _ in attributes}
        self.links += [value for name, value in attributes if name in ("href", "src")]


@pytest.fixture(scope="module", params=[MARKUP, FORMULA], ids=["markup", "formula"])
def out(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for number, values in enumerate(whole_files()):
        for place, changed in enumerate(hostile(values, request.param)):
            run_results.write(folder / "runs" / f"{number}_{place}", changed)
    name = request.param.replace("/", "_")
    run_results.write(folder / "runs" / name, next(whole_files()))
    made = build_report(
        [folder / "runs"],
        folder / "out",
        Options(title=request.param, formats=["html", "csv", "md"]),
    )
    assert made.grids
    return folder / "out"


def test_no_field_becomes_markup(out):
    text = (out / "index.html").read_text()
    assert text.count("zz9") > 200
    found = Markup()
    found.feed(text)
    assert "zz9" not in found.tags
    assert found.tags.count("script") == 1
    assert not [name for name in found.names if name.startswith("on") or "zz9" in name]
    assert [link for link in found.links if re.match(r"\s*\w+:", link)] == ["data:,"]


def test_no_cell_is_a_formula(out):
    for name in ("rows.csv", "table.csv"):
        with (out / name).open(newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert any("zz9" in cell for cell in cells)
        assert [cell for cell in cells if re.match(r"[=+@\t\r]|-\D", cell)] == []


def test_no_cell_is_markdown(out):
    text = (out / "table.md").read_text()
    assert "zz9" in text
    assert re.findall(r"<zz9|(?<!\\)\]\(|(?<!\\)`", text) == []


def test_the_page_runs_its_own_script_alone(out):
    text = (out / "index.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    policy = unescape(policy)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]+';", policy)
    assert "unsafe" not in policy.split("style-src")[0]
