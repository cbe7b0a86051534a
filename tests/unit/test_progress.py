"""What a job says of how far it is, on a terminal and in a log."""

import logging
import sys

import pytest

from affectome import progress as bars
from affectome.progress import progress


class Terminal:
    """Standard error as a terminal shows it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_a_log_has_rate_time_left_and_note(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Ten of 110 units were done before; 40 more in 2 s are 20 a second, and 60 are left."""
    clock = [100.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bars, "LOG_INTERVAL_S", 2.0)
    monkeypatch.setattr(sys, "stderr", type("Pipe", (Terminal,), {"isatty": lambda _self: False})())
    with caplog.at_level(logging.INFO), progress("activations", 110, "tokens", initial=10) as bar:
        clock[0] += 1
        bar.update(10)
        assert not caplog.messages
        clock[0] += 1
        bar.update(30, "9 GiB")
        assert caplog.messages == ["activations: 50 of 110 tokens (45 %), 20 tokens/s, 3 s left; 9 GiB"]
        bar.update(1)
    assert caplog.messages[1:] == ["activations: 51 of 110 tokens (46 %), 20 tokens/s, 3 s left"]


def test_a_terminal_has_a_bar_with_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("activations", 100, "tokens") as bar:
        bar.update(50, "98.0% of them real")
        bar.refresh()
    for words in ("activations:", "50%", "50.0/100", "tokens/s", "98.0% of them real"):
        assert words in terminal.text
