"""One tiny run, built once a session with keys in the environment; tests plan on it and put back what they edit."""

import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import snakemake
from tests.unit.test_writing import FakeGemini
from tests.workflow.tiny import WRITTEN, tiny_project

_KEYS = ("GEMINI_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "AFFECTOME_API_KEY")


@pytest.fixture(scope="session")
def keys() -> dict[str, str]:
    """Values of every key that affectome reads, unlike anything else; they change where they are URL-encoded."""
    return {name: f"{secrets.token_hex(12)}/+{secrets.token_hex(12)}" for name in _KEYS}


@pytest.fixture(scope="session")
def gemini(keys: dict[str, str]) -> Iterator[FakeGemini]:
    """A service that knows the Gemini key, and an environment that leads there."""
    server = FakeGemini(keys["GEMINI_API_KEY"])
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def environment(keys: dict[str, str], gemini: FakeGemini) -> dict[str, str]:
    """What a user's shell holds: every key, and the way to the service."""
    address = f"http://127.0.0.1:{gemini.server_port}"
    return {**keys, "GOOGLE_GEMINI_BASE_URL": address, "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A project with the tiny run, the written corpus and the report of `snakemake --report`."""
    project = tiny_project(tmp_path_factory.mktemp("built") / "project")
    written = [f"results/corpora/{WRITTEN}/{kind}.parquet" for kind in ("stories", "neutral")]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GOOGLE_API_KEY", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        for arguments in (["all", *written], ["--report", "report.zip"]):
            done = snakemake(project, *arguments, "--configfile", "overlay.yaml")
            assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def project(built: Path) -> Iterator[Path]:
    """The built project, with whatever a test edits put back, times of change included."""
    saved = built.parent / "saved"
    shutil.copytree(built, saved, ignore=shutil.ignore_patterns("results", ".snakemake", "weights"))
    yield built
    shutil.copytree(saved, built, dirs_exist_ok=True)
    shutil.rmtree(saved)
