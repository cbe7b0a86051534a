"""The page that asks for the API key. Until it is given nothing else is made, on the server either."""

import hmac
import time
from collections import deque
from collections.abc import Callable

from nicegui import ui

from affectome.serve.service import Service

_WINDOW_S = 60.0
_PER_ADDRESS, _IN_ALL = 5, 100


class Attempts:
    """Wrong keys of the last minute, by address: so few that guessing leads nowhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: deque[tuple[float, str]] = deque()

    def allowed(self, address: str) -> bool:
        while self._wrong and self._wrong[0][0] <= self._clock() - _WINDOW_S:
            self._wrong.popleft()
        from_there = sum(other == address for _, other in self._wrong)
        return len(self._wrong) < _IN_ALL and from_there < _PER_ADDRESS

    def wrong(self, address: str) -> None:
        self._wrong.append((self._clock(), address))


def ask_for_key(service: Service, attempts: Attempts, enter: Callable[[], None]) -> None:
    """A form for the key, in whose place `enter` puts the page."""
    client = ui.context.client

    def check() -> None:
        if not attempts.allowed(client.ip):
            field.props('error error-message="Too many wrong keys: wait a minute"')
        elif hmac.compare_digest(str(field.value or "").encode(), service.limits.api_key.encode()):
            frame.delete()
            with client.content:
                enter()
        else:
            attempts.wrong(client.ip)
            field.props('error error-message="This is not the key"')

    with ui.element("div").classes("login") as frame:
        ui.label("affectome").classes("brand")
        ui.label("This server asks for its API key.").classes("quiet")
        field = ui.input("API key", password=True, password_toggle_button=True)
        field.props('outlined autofocus autocomplete="current-password"').on("keydown.enter", check)
        ui.button("Continue", on_click=check).props("unelevated no-caps")
