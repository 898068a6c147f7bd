"""Every promise of docs/guarantees.md and docs/security.md names tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


@pytest.mark.parametrize(("page", "least"), [("guarantees.md", 20), ("security.md", 8)])
def test_every_named_test_exists(page, least):
    _, _, table = (DOCS / page).read_text().partition("| promise ")
    rows = [line for line in table.splitlines()[2:] if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise ")]
    assert len(promises) >= least
    for promise in promises:
        named = re.findall(r"`([\w/]+\.py)::(?:\w+::)?(\w+)`", promise)
        assert named, promise
        for file, test in named:
            found = re.search(rf"^ *def {test}\(", (TESTS / file).read_text(), re.M)
            assert found, f"{file}::{test}"
