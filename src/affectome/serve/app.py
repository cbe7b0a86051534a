"""The HTTP side of the server: OpenAI's routes, and what keeps hostile requests from doing harm.

Middleware here is plain ASGI: starlette's `BaseHTTPMiddleware` hides a client's hanging up from what it wraps.
"""

import asyncio
import contextlib
import hmac
import importlib.util
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affectome import __version__
from affectome.serve import schema
from affectome.serve.backend import Kind
from affectome.serve.dashboard import mount
from affectome.serve.plan import Refused
from affectome.serve.service import Service

log = logging.getLogger(__name__)

# A body of 1 MiB takes a second on a line of 10 Mbit/s.
BODY_S = 30.0
_MOST_DIGITS = 20
_PROTECTED = ("/v1", "/metrics")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

# The dashboard's framework compiles its templates in the browser and puts styles in elements.
_DASHBOARD_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ABOUT = """\
OpenAI's API, with requests that may be steered along the model's own emotion directions: see `steering`, `readout` and
`allow_unsafe`. With OpenAI's Python client these three go into `extra_body`. `GET /v1/emotions` lists the directions
and how far each can be pushed. Errors have OpenAI's shape.
"""
_ERRORS = {
    400: "The request is malformed, or asks for what this server cannot do.",
    401: "The API key is missing or wrong.",
    403: "Asked for by another site's page, or under another host's name.",
    404: "There is no such model, or no such path.",
    405: "The path has other methods, which `Allow` lists.",
    500: "The server failed; the request's id stands in its log.",
    503: "The server is shutting down, or its engine has died.",
}
_POSTED = {
    408: "The body did not come whole in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "No room is left; `Retry-After` says in how many seconds to try again.",
    504: "The reply took too long.",
}
_EVENT = {
    "type": "object",
    "description": "a chunk in JSON, an error that ends the stream, or `[DONE]`",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}
_DOCS_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>affectome: API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body><div id="api"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_DOCS_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null});\n'


def create_app(service: Service, loopback: bool = True) -> FastAPI:
    """The server's routes. `loopback`: it listens to this machine only, and takes no requests for other names.

    A page that another site's name leads to (DNS rebinding) could drive the server through its reader's browser if it
    took them.
    """
    app = FastAPI(
        title="affectome serve",
        description=_ABOUT,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses=_documented(_ERRORS),
    )
    document = _Document(app, service)
    app.openapi = document.make  # type: ignore[method-assign]
    _add_generation(app, service)
    _add_reading(app, service)
    _add_docs(app)
    mount(app, service)
    app.add_exception_handler(Refused, _answer_refused)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_middleware(_Guard, service=service, loopback=loopback)
    return app


def _add_generation(app: FastAPI, service: Service) -> None:
    def documented(request: str, reply: type) -> dict[str, Any]:
        return {
            "openapi_extra": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}},
                }
            },
            "responses": {
                200: {"model": reply, "content": {"text/event-stream": {"schema": _EVENT}}},
                **_documented(_POSTED),
            },
        }

    @app.post("/v1/chat/completions", summary="Reply to a conversation", **documented("ChatRequest", schema.ChatReply))
    async def chat_completions(request: Request) -> Response:
        return await _Reply.to(request, service, "chat")

    @app.post("/v1/completions", summary="Continue a text", **documented("TextRequest", schema.TextReply))
    async def completions(request: Request) -> Response:
        return await _Reply.to(request, service, "text")


def _add_reading(app: FastAPI, service: Service) -> None:
    catalogue, backend = service.catalogue, service.backend
    started = int(time.time())
    card = {"id": catalogue.model, "object": "model", "created": started, "owned_by": "affectome"}

    @app.get("/v1/models", summary="The model that is served", responses={200: {"model": schema.ModelList}})
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{model}", summary="One model", responses={200: {"model": schema.ModelCard}})
    async def model(model: str) -> Response:
        if model != catalogue.model:
            raise Refused(404, f"the model {model[:100]!r} does not exist", "model", "model_not_found")
        return JSONResponse(card)

    @app.get("/v1/emotions", summary="What can be steered along", responses={200: {"model": schema.Emotions}})
    async def emotions() -> Response:
        return JSONResponse(catalogue.as_json() | {"backend": backend.name, "limits": service.limits.as_json()})

    @app.get(
        "/health",
        summary="Whether requests are answered",
        responses={200: {"model": schema.Health}, 503: {"model": schema.Health}},
    )
    async def health() -> Response:
        well = await service.healthy()
        content = {"status": "ok" if well else "unavailable", "backend": backend.name, "model": catalogue.model}
        return JSONResponse(content, 200 if well else 503)

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_docs(app: FastAPI) -> None:
    """Swagger's page, with assets from a package: FastAPI's own loads them from another host."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_DOCS_PAGE)

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name == "start.js":
            return Response(_DOCS_START, media_type="text/javascript")
        # The package is a folder of files to us: its code is not run.
        package = importlib.util.find_spec("fastapi_offline")
        if name not in ("swagger-ui-bundle.js", "swagger-ui.css") or not package or not package.origin:
            raise HTTPException(404)
        return FileResponse(Path(package.origin).parent / "static" / name)


class _GoneError(Exception):
    """The client has hung up."""


class _Reply(Response):
    """What the service answers to one request; ended when the client hangs up."""

    def __init__(self, service: Service, kind: Kind, body: dict[str, Any]) -> None:
        super().__init__()
        self._service, self._kind, self._asked = service, kind, body

    @classmethod
    async def to(cls, request: Request, service: Service, kind: Kind) -> "_Reply":
        return cls(service, kind, await _read_json(request, service.limits.max_body_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._asked.get("stream") is True:
            await _unless_gone(receive, self._stream(send))
        else:
            reply = await _unless_gone(receive, self._service.complete(self._kind, self._asked))
            await JSONResponse(reply)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._service.stream(self._kind, self._asked)) as chunks:
            # The status waits for the first chunk, as most refusals come before it.
            first = await anext(chunks, None)
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for event in _events(first, chunks):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _events(first: dict[str, Any] | None, chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """`first` and `chunks` as OpenAI sends them; a failure on the way is an event too, and the last."""
    try:
        if first is not None:
            yield _event(first)
        async for chunk in chunks:
            yield _event(chunk)
    except Refused as refused:
        yield _event(_error(refused.status, refused.message, refused.param, refused.code))
    except Exception:
        name = uuid.uuid4().hex
        log.exception("stream %s failed", name)
        yield _event(_failure(name))
    else:
        yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns; it is cancelled when the client hangs up, for which _GoneError is raised."""
    tasks = job, watch = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return job.result()
        raise _GoneError
    finally:
        job.cancel()
        watch.cancel()
        # Until the generation has ended.
        await asyncio.wait(tasks)
        if not job.cancelled():
            # Looked at, or asyncio complains of it.
            job.exception()
        # A task has the exception that it ends with, whose traceback has this frame: as a cycle they would keep the
        # request's body until Python looks for cycles.
        del tasks, job, watch


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_json(request: Request, most: int) -> dict[str, Any]:
    """The body, an object; Refused for anything else, before more than `most` bytes of it are kept."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" or request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "send JSON, with Content-Type: application/json and no Content-Encoding", None, "not_json")
    too_large = Refused(413, f"the body is too large; at most {most} bytes", None, "body_too_large")
    # Longer numbers are no sizes: Python would not read them either.
    said = request.headers.get("content-length", "")
    if len(said) > _MOST_DIGITS or (said.isdecimal() and int(said) > most):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                body += message.get("body", b"")
                if len(body) > most:
                    raise too_large
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise Refused(408, f"the body did not come whole within {BODY_S:g} s", None, "body_too_slow") from None
    try:
        content = json.loads(
            body.decode(),
            object_pairs_hook=_no_twice,
            parse_constant=_no_constant,
            parse_int=_short_int,
            parse_float=_finite,
        )
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8", None, "invalid_json") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply", None, "invalid_json") from None
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}"[:300], None, "invalid_json") from None
    if not isinstance(content, dict):
        raise Refused(400, "the body has to be a JSON object", None, "invalid_json")
    return content


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object has the same key twice")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _short_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has more than {_MOST_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


class _Guard:
    """Who may ask, headers of every answer, and what is left of a failure.

    Host and Origin are looked at before anything else, for websockets too: browsers let any page open one.
    """

    def __init__(self, app: ASGIApp, service: Service, loopback: bool) -> None:
        self._app, self._metrics, self._loopback = app, service.metrics, loopback
        self._key = service.limits.api_key.encode()
        self._wait_s = max(1, round(service.limits.timeout_s / 60))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        refused = self._refused(Headers(scope=scope), scope)
        if scope["type"] == "websocket":
            if not refused:
                return await self._app(scope, receive, send)
            return await send({"type": "websocket.close", "code": 1008})
        name, status = uuid.uuid4().hex, 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(scope["path"], status, name, MutableHeaders(raw=message.setdefault("headers", [])))
            await send(message)

        try:
            if refused:
                return await _refusal(refused)(scope, receive, answer)
            return await self._app(scope, receive, answer)
        except _GoneError:
            status = status or 499
        except Exception:
            log.exception("request %s failed: %s", name, scope["method"])
            # Where an answer has begun, the server breaks the connection off: the client sees that it is not whole.
            if not status:
                await JSONResponse(_failure(name), 500)(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route or "other", str(status or 499)).inc()

    def _refused(self, headers: Headers, scope: Scope) -> Refused | None:
        host = headers.get("host", "")
        if self._loopback and _name(f"//{host}") not in _LOOPBACK:
            return Refused(403, "this server answers requests for localhost only", None, "wrong_host")
        origins = headers.getlist("origin")
        if any(urlsplit(origin).netloc.lower() != host.lower() for origin in map(_sane, origins)):
            return Refused(403, "pages of other sites may not use this server", None, "wrong_origin")
        path = scope["path"]
        needed = any(path == one or path.startswith(f"{one}/") for one in _PROTECTED)
        if self._key and needed and not self._knows_key(headers):
            return Refused(401, "send the server's API key as `Authorization: Bearer KEY`", None, "invalid_api_key")
        return None

    def _knows_key(self, headers: Headers) -> bool:
        given = [value for name, value in headers.raw if name.lower() == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        return hmac.compare_digest(key.strip(), self._key) and scheme.lower() == b"bearer"

    def _dress(self, path: str, status: int, name: str, headers: MutableHeaders) -> None:
        for key, value in _HEADERS.items():
            headers[key] = value
        headers["x-request-id"] = name
        docs = path == "/docs" or path.startswith("/docs/")
        dashboard = path == "/" or path.startswith("/_nicegui")
        headers["content-security-policy"] = _DOCS_POLICY if docs else _DASHBOARD_POLICY if dashboard else _POLICY
        if not (docs or dashboard):
            headers["cache-control"] = "no-store"
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if status == 408:
            headers["connection"] = "close"
        if status in (429, 503):
            headers["retry-after"] = str(self._wait_s)


def _name(url: str) -> str:
    """The host that `url` names, or "" where it names none."""
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def _sane(origin: str) -> str:
    """`origin`, or "" where it is no origin."""
    return origin if _name(origin) else ""


def _error(status: int, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _failure(name: str) -> dict[str, Any]:
    return _error(500, f"the server failed; its log says why, at {name}", None, "internal_error")


def _refusal(refused: Refused) -> Response:
    return JSONResponse(_error(refused.status, refused.message, refused.param, refused.code), refused.status)


async def _answer_refused(_: Request, refused: Exception) -> Response:
    return _refusal(refused)  # type: ignore[arg-type]


async def _answer_http(request: Request, error: Exception) -> Response:
    """Starlette's own answers, to unknown paths and methods, in OpenAI's shape."""
    status, detail = error.status_code, error.detail  # type: ignore[attr-defined]
    path, headers = request.url.path, error.headers  # type: ignore[attr-defined]
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    methods = {method for route in routes if route.path_regex.match(path) for method in route.methods}
    # The dashboard is mounted at `/`, so that what no route takes, for its method too, ends there.
    if status == 404 and methods and request.method not in methods:
        status, headers = 405, {"allow": ", ".join(sorted(methods))}
    if status == 404:
        detail, code = f"there is no {path[:200]!r}; GET /docs lists what there is", "unknown_path"
    else:
        code = "method_not_allowed" if status == 405 else "invalid_request"
    return JSONResponse(_error(status, str(detail), None, code), status, headers=headers)


def _documented(errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schema.ErrorReply, "description": text} for status, text in errors.items()}


class _Document:
    """The OpenAPI document, with this server's own names in it."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        self._generate, self._service, self._made = app.openapi, service, {}

    def make(self) -> dict[str, Any]:
        if not self._made:
            self._made = self._complete(self._generate())
        return self._made

    def _complete(self, document: dict[str, Any]) -> dict[str, Any]:
        catalogue, limits = self._service.catalogue, self._service.limits
        requests = [(model, "validation") for model in (schema.ChatRequest, schema.TextRequest)]
        _, made = models_json_schema(requests, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        models = made["$defs"]
        calm = catalogue.directions[0]
        item, read = models["SteeringItem"]["properties"], models["ReadoutItem"]["properties"]
        item["emotion"]["enum"] = list(dict.fromkeys(direction.name for direction in catalogue.directions))
        item["family"]["enum"] = list(catalogue.families)
        read["emotions"]["items"]["enum"] = catalogue.names("emotion")
        for branch in (*item["layers"]["anyOf"], *read["layer"]["anyOf"]):
            if branch["type"] != "string":
                branch.get("items", branch)["enum"] = list(catalogue.norms)
        strength = calm.safe[1] / 2
        alpha = strength * catalogue.norms[catalogue.headline] / float(catalogue.stored[catalogue.headline][0])
        steering = [{"emotion": calm.name, "strength": float(f"{strength:.2g}")}]
        common = {"model": catalogue.model, "max_tokens": min(64, limits.max_tokens)}
        for name, content in (
            ("ChatRequest", {"messages": [{"role": "user", "content": "How was your day?"}]}),
            ("TextRequest", {"prompt": "She opened the door and"}),
        ):
            for field in ("max_tokens", "max_completion_tokens"):
                for branch in models[name]["properties"].get(field, {}).get("anyOf", ()):
                    if branch.get("type") == "integer":
                        branch["maximum"] = limits.max_tokens
            models[name]["properties"]["model"]["anyOf"][0]["enum"] = [catalogue.model]
            readout = {"emotions": [calm.name]}
            models[name]["examples"] = [
                common | content | {"steering": steering},
                common | content | {"steering": steering, "readout": readout, "stream": True},
                common | content | {"steering": [0, float(f"{alpha:.2g}")]},
            ]
        components = document["components"]
        components["schemas"] = {
            key: value
            for key, value in (components["schemas"] | models).items()
            if key not in ("HTTPValidationError", "ValidationError")
        }
        for path in document["paths"].values():
            for operation in path.values():
                # FastAPI says so of every route with a parameter; ours answer 400 or 404.
                operation["responses"].pop("422", None)
                for parameter in operation.get("parameters", ()):
                    parameter["schema"]["enum"] = [catalogue.model]
        if limits.api_key:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["security"] = [{"key": []}] if path.startswith(_PROTECTED) else []
        return document
