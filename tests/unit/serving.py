"""What tests of the server share: tiny models with something to steer along, and the server in front of them."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from affectome.identity import model_fingerprint
from affectome.serve import server as server_module
from affectome.serve.catalogue import Catalogue, open_file
from affectome.serve.service import Limits, Service
from tests.echo import Echo
from tests.helpers import CHAT_TEMPLATE, tiny_model, tiny_tokenizer, write_manifest

EMOTIONS = ("calm", "afraid", "proud", "sad")


def write_vectors(path: Path, width: int, layers: int, model: Path | None = None, **said: str) -> Path:
    """An export of random vectors of four emotions at every one of `layers`, with norms 10, 11, …"""
    rng = np.random.default_rng(0)
    arrays = {}
    for layer in range(layers):
        raw = rng.normal(size=(len(EMOTIONS), width)).astype(np.float32)
        arrays |= {f"layer_{layer}/raw": raw, f"layer_{layer}/denoised": raw}
        arrays[f"layer_{layer}/unit"] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    metadata = {
        "format": "affectome.vectors",
        "emotions": json.dumps(EMOTIONS),
        "residual_norm": json.dumps({layer: 10.0 + layer for layer in range(layers)}),
        "reliability": json.dumps({layer: [0.9, 0.8, 0.7, None] for layer in range(layers)}),
    }
    if model is not None:
        manifest = json.loads((model / "manifest.json").read_text())
        metadata |= {"model": model.name, "model_fingerprint": model_fingerprint(manifest)}
    save_file(arrays, path, metadata | said)
    return path


def tiny_catalogue(
    folder: Path,
    architecture: str = "llama",
    blocks: int = 3,
    width: int = 16,
    chat: str = CHAT_TEMPLATE,
    **settings: Any,
) -> Catalogue:
    """A random model in `folder` and directions of its width: four emotions, and random ones beside them.

    `calm` may be steered from −0.2 to 0.3, as if measured; the others have the range of what was not measured.
    """
    model = folder / "tiny"
    tiny_model(model, architecture, blocks, width, tokenizer=tiny_tokenizer(chat=chat), **settings)
    write_manifest(model)
    vectors = write_vectors(folder / "vectors.safetensors", width, blocks, model)
    return open_file(vectors, model, title="tiny run", safe={"calm": (-0.2, 0.3)})


class Running:
    """A server in a thread of its own, on a real port."""

    def __init__(self, service, server, thread, address):
        self.service, self.engine, self.server, self.thread = service, service.backend, server, thread
        self.host, self.port = address
        self.url = f"http://127.0.0.1:{self.port}"

    def until(self, condition, seconds=60.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.service.running, self.service.waiting, vars(self.engine))
            time.sleep(0.005)

    def idle(self):
        self.until(lambda: not (self.service.running or self.service.waiting or getattr(self.engine, "open", 0)))

    def connect(self, send=b""):
        connection = socket.create_connection((self.host, self.port), timeout=10)
        connection.sendall(send)
        return connection


@contextmanager
def running(catalogue, engine=None, **limits):
    """A server with `engine`, by default one that says the prompt again; it has to be idle in the end."""
    service = Service(catalogue, engine or Echo(), Limits(**limits))
    listening = socket.create_server(("127.0.0.1", 0))
    ready: Future[Any] = Future()

    async def serve():
        try:
            await service.backend.start()
            server = server_module._Server(service, True, server_module._Signals())
            serving = asyncio.ensure_future(server.serve([listening]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.005)
            ready.set_result(server)
            await serving
            await service.backend.stop()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    server = ready.result(60)
    found = Running(service, server, thread, listening.getsockname())
    try:
        yield found
        found.idle()
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
