"""Reports of files that anybody may have written: a row, or a problem, and never a traceback."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import run_results
from stepseg.report.build import Options, build_report

NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 10**400, 1e308, 2**63])
WORDS = st.text(max_size=8) | st.sampled_from(["$", "$\\frac", "\ud800", "\0", "<b>", "a" * 300])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def whole_files():
    merge, leave = run_results.MERGE, run_results.EXIT
    rows = [
        run_results.accuracy_row(40.0, 1.5),
        run_results.accuracy_row(41.0, 1.2, merge, leave),
        run_results.accuracy_row(40.5, 1.1, merge, leave | {"rule": "random"}),
    ]
    slide = {"mode": "slide", "crop": [64, 64], "stride": [43, 43], "scales": [1.0], "flip": False}
    rows.append(run_results.accuracy_row(39.0, 1.0, merge, protocol=slide))
    return {
        "training": run_results.training(rows=rows[:2]),
        "evaluation": run_results.evaluation(rows),
        "benchmark": run_results.benchmark(),
    }


FILES = whole_files()
PLACES = [(name, path) for name, values in FILES.items() for path in run_results.places(values)]


def changed(values, path, new):
    """A copy with another value in one place; `...` takes the place away."""
    values = copy.deepcopy(values)
    *way, last = path
    inner = values
    for key in way:
        inner = inner[key]
    if new is ...:
        del inner[last]
    else:
        inner[last] = new
    return values


def report(folder, files, formats):
    for number, values in enumerate(files):
        run_results.write(folder / "runs" / str(number), values)
    return build_report([folder / "runs"], folder / "out", Options(formats=formats))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(PLACES), JSON | st.just(...)), min_size=1, max_size=2
    )
)
def test_any_value_anywhere(folder, changes):
    files = [FILES["evaluation"]]
    for (name, path), new in changes:
        files.append(changed(FILES[name], path, new))
    made = report(folder, files, ["csv", "md", "tex"])
    assert (folder / "out" / "rows.csv").read_text(encoding="utf-8").count("40.5")
    assert made.grids


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "word", ["$\\frac$", "\ud800", "a\0\nb", "<script>alert(1)</script>"], ids=ascii
)
def test_any_word_in_pictures(word, tmp_path):
    evaluation = changed(FILES["evaluation"], ("config", "data", "name"), word)
    evaluation = changed(evaluation, ("rows", 2, "reduction", "exit", "rule"), word)
    training = changed(FILES["training"], ("config", "backbone", "name"), word)
    timed = changed(FILES["benchmark"], ("rows", 2, "protocol", "device_name"), word)
    made = report(tmp_path, [evaluation, training, timed], ["png", "html"])
    assert not made.problems
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert list((tmp_path / "out" / "plots").glob("*.png"))


@given(value=JSON)
def test_any_json_is_a_problem_of_its_file(folder, value):
    made = report(folder, [FILES["evaluation"], value, json.dumps(value)[:-1]], ["csv"])
    assert len(made.problems) == 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\ufeff{}"])
def test_json_that_breaks_readers(text, tmp_path):
    made = report(tmp_path, [FILES["evaluation"], text], ["csv"])
    assert len(made.problems) == 1
