"""`affectome serve` and `affectome chat`: from the options of the command line to a server, or a conversation."""

import argparse
import asyncio
import logging
import os
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

from affectome.errors import UserError
from affectome.serve.backend import Backend
from affectome.serve.catalogue import Catalogue, open_file, open_run
from affectome.serve.chat import converse
from affectome.serve.client import KEY, Client

log = logging.getLogger(__name__)


def serve(options: argparse.Namespace) -> None:
    """Serve until a signal ends it; see `affectome serve --help` for the options."""
    _check_packages()
    from affectome.serve.server import run
    from affectome.serve.service import Limits, Service

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "httpx2", "httpcore", "nicegui"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns of every client that hangs up.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    catalogue = _catalogue(options)
    limits = Limits(
        max_tokens=options.max_tokens,
        concurrency=options.concurrency,
        queue=options.queue,
        timeout_s=options.timeout,
        api_key=os.environ.get(KEY, "").strip(),
    )
    run(Service(catalogue, _backend(options, catalogue), limits), options.host, options.port)


def chat(options: argparse.Namespace) -> None:
    """Talk in the terminal, with the server at `options.url` or with the model of `options.run` or `.vectors`."""
    with asyncio.Runner() as runner:
        if options.run is None and options.vectors is None:
            client = Client(options.url)
            runner.run(client.__aenter__())
            try:
                converse(runner, client)
            finally:
                runner.run(client.__aexit__(None, None, None))
            return
        _check_packages()
        from affectome.serve.transformers_backend import TransformersBackend

        catalogue = _catalogue(options)
        backend = TransformersBackend(catalogue, dtype=_dtype("auto"))
        runner.run(backend.start())
        try:
            converse(runner, _Here(catalogue, backend))
        finally:
            runner.run(backend.stop())


class _Here:
    """An engine of this process as a source of replies."""

    url = "http://127.0.0.1:8000"

    def __init__(self, catalogue: Catalogue, backend: Backend) -> None:
        from affectome.serve.service import Limits, Service

        self._service = Service(catalogue, backend, Limits())

    async def emotions(self) -> dict[str, Any]:
        return self._service.catalogue.as_json()

    def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        return self._service.stream("chat", body)


def _catalogue(options: argparse.Namespace) -> Catalogue:
    if options.run is not None:
        if options.model is not None:
            raise UserError("--model goes with --vectors; a run has a model of its own")
        return open_run(options.run, options.results)
    return open_file(options.vectors, options.model)


def _backend(options: argparse.Namespace, catalogue: Catalogue) -> Backend:
    from affectome.corpus.writers.serving import find_vllm
    from affectome.serve.transformers_backend import TransformersBackend
    from affectome.serve.vllm_backend import VllmBackend

    chosen = options.backend
    if chosen is None:
        try:
            find_vllm()
            chosen = "vllm"
        except UserError as error:
            log.info("serving with Transformers, as there is no vLLM (%s)", error)
            chosen = "transformers"
    if chosen == "vllm":
        return VllmBackend(catalogue, options.gpus, options.max_model_len, _dtype(options.dtype))
    return TransformersBackend(catalogue, dtype=_dtype(options.dtype))


def _dtype(asked: str) -> str:
    """`asked`, or what suits the machine.

    That is float32 on a CPU: in bfloat16 sums differ with what else is in a batch, and the likeliest token with them.
    """
    import torch

    return "float32" if asked == "auto" and not torch.cuda.is_available() else asked


def _check_packages() -> None:
    absent = [name for name in ("fastapi", "nicegui", "prometheus_client", "uvicorn") if find_spec(name) is None]
    if absent:
        raise UserError(f"serving needs the package {absent[0]}; pip install 'affectome[serve]'")
