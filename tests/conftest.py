"""Tests that need a CUDA device are skipped where there is none; tests that share a slow build stay together.

`browser` is a headless Chromium for those that look at pages.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a chromium on the PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


# First, since pytest-xdist reads the groups in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_built = {item.path for item in items if "built" in getattr(item, "fixturenames", ())}
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        # With `--dist loadgroup` a group is one worker's: a module's tests, or those of all that look at one built run.
        item.add_marker(pytest.mark.xdist_group("built" if item.path in on_built else str(item.path)))
