"""Every promise of docs/guarantees.md names a test that exists."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"


def test_every_named_test_exists():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise")]
    assert len(promises) >= 20
    for promise in promises:
        named = re.findall(r"`([\w/]+\.py)::(?:\w+::)?(\w+)`", promise)
        assert len(named) == 1, promise
        file, test = named[0]
        assert re.search(rf"^ *def {test}\(", (TESTS / file).read_text(), re.M), f"{file}::{test}"
