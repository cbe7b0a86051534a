"""Tests that need a CUDA device are skipped where there is none; tests that share a slow build stay together."""

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        # With `--dist loadgroup` a group is one worker's: a module's tests, or all that look at the run built for them.
        group = "built" if "built" in getattr(item, "fixturenames", ()) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
