"""The dashboard: a page at `/` to steer by hand, side by side with the reply that is not steered.

NiceGUI keeps what a page shows on the server, and the page only draws it: a page without the key has nothing to draw,
and nothing to press. All its assets come from this server.
"""

from pathlib import Path
from typing import Any

import nicegui
from fastapi import FastAPI
from nicegui import ui
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

from affectome.serve.dashboard.login import Attempts, ask_for_key
from affectome.serve.dashboard.page import Page
from affectome.serve.service import Service

_HERE = Path(__file__).parent
_SERVICE = "affectome.service"
_OURS = ("/_nicegui/", "/_nicegui_ws/")

# How long a page that lost its connection may take to come back to what it showed.
_RECONNECT_S = 15.0

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="13" fill="none" '
    'stroke="#2b6a86" stroke-width="3"/><circle cx="20.500" cy="11.500" r="4" fill="#2b6a86"/></svg>'
)


def mount(app: FastAPI, service: Service) -> None:
    """Put the dashboard of `service` at `/` of `app`, whose other paths stay as they are."""
    # NiceGUI's app is one per process; what an earlier call added to it would be added twice.
    nicegui.app.middleware_stack = None
    nicegui.app.user_middleware.clear()
    ui.page("/")(_index)
    ui.run_with(
        app,
        title=f"affectome: {service.catalogue.title}",
        favicon=_ICON,
        dark=None,
        language="en-US",
        tailwind=False,
        reconnect_timeout=_RECONNECT_S,
        show_welcome_message=False,
    )
    attempts = Attempts()
    nicegui_app = app.routes.pop().app

    async def only_the_page(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        if scope["type"] == "http" and path not in ("/", "/favicon.ico") and not path.startswith(_OURS):
            raise HTTPException(404)
        await nicegui_app({**scope, _SERVICE: (service, attempts)}, receive, send)

    app.router.routes.append(Mount("/", app=only_the_page))


def _index(request: Request) -> None:
    service, attempts = request.scope[_SERVICE]
    ui.add_css(_HERE / "style.css")
    ui.add_head_html(f"<script>{(_HERE / 'keys.js').read_text(encoding='utf-8')}</script>")
    ui.colors(primary="#2b6a86", negative="#b3402e", positive="#2f7d5b", warning="#a35b08")
    base = str(request.base_url).rstrip("/")
    asked = request.query_params.get("request")

    def show() -> None:
        Page(service, base, asked)

    if service.limits.api_key:
        ask_for_key(service, attempts, show)
    else:
        show()
