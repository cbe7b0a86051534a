"""Tests that need a CUDA device are skipped where there is none; tests that share a slow build stay together."""

import pytest
import torch


# First, since pytest-xdist reads the groups in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_built = {item.path for item in items if "built" in getattr(item, "fixturenames", ())}
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        # With `--dist loadgroup` a group is one worker's: a module's tests, or those of all that look at one built run.
        item.add_marker(pytest.mark.xdist_group("built" if item.path in on_built else str(item.path)))
