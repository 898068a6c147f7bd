"""A Chromium of the system, for tests that open our HTML pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = """
--no-sandbox --disable-gpu --disable-background-networking --disable-quic
--disable-component-update --disable-sync
""".split()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome is installed on this system")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser: Any, file: Path, hash_: str = "", **options: Any) -> tuple[Any, list[str]]:
    """Open a file; returns the page and a list of what goes wrong on it from now on."""
    page = browser.new_page(**options)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: (
            problems.append(f"request: {request.url[:80]}")
            if not request.url.startswith(("file:", "data:"))
            else None
        ),
    )
    page.goto(file.as_uri() + hash_)
    page.wait_for_selector("body[data-ready]")
    return page, problems
