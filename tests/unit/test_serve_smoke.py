"""`affectome test-http` and the command line, against a real server on a real port whose engine really steers."""

import asyncio
import io
import json
import subprocess
import sys

import pytest

from affectome import cli
from affectome.errors import UserError
from affectome.serve.client import Client
from affectome.serve.plan import Refused
from affectome.serve.smoke import try_server
from affectome.serve.transformers_backend import TransformersBackend
from tests.unit.serving import EMOTIONS, running, tiny_catalogue


class Deaf(TransformersBackend):
    """An engine that forgets to steer, as hooks do that never fire."""

    async def complete(self, kind, body, plan, readout):  # noqa: ARG002
        return await super().complete(kind, body, (), readout)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return tiny_catalogue(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def url(catalogue):
    with running(catalogue, TransformersBackend(catalogue, dtype="float32")) as found:
        yield found.url


def test_every_emotion_is_tried(url):
    said = []
    trial = asyncio.run(try_server(url, "Hello", 8, said.append))
    assert trial.problems == []
    assert set(trial.replies) == set(EMOTIONS)
    assert trial.strengths == dict.fromkeys(EMOTIONS, 0.1)
    assert len(said) == 2 + len(EMOTIONS)


def test_an_engine_that_does_not_steer_is_found_out(catalogue):
    with running(catalogue, Deaf(catalogue, dtype="float32")) as found:
        trial = asyncio.run(try_server(found.url, "Hello", 8, lambda _: None))
    assert trial.changed == 0
    assert len(trial.problems) == 1
    assert "steering does not act" in trial.problems[0]


def test_the_command_says_so_by_its_exit_status(url, capsys):
    assert cli.main(["test-http", "--url", url, "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.endswith("unlike the baseline, 0 problems\n")


def test_no_server_is_one_line(capsys):
    assert cli.main(["test-http", "--url", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("affectome test-http: http://127.0.0.1:9 cannot be reached")
    assert said.count("\n") == 1


def test_a_client_streams_and_passes_refusals_on(url):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 6}

    async def ask():
        async with Client(url) as client:
            whole = await client.complete(body)
            chunks = [chunk async for chunk in client.stream(body)]
            with pytest.raises(Refused, match="near it: calm") as caught:
                await anext(client.stream({**body, "steering": [{"emotion": "clam"}]}))
            return whole, chunks, caught.value.status

    whole, chunks, status = asyncio.run(ask())
    streamed = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert streamed == whole["choices"][0]["message"]["content"]
    assert status == 400


def test_a_page_that_is_no_server_of_ours_is_said_to_be(tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/emotions").write_text("<html>")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().split("port ")[1].split()[0]

            async def ask():
                async with Client(f"http://127.0.0.1:{port}") as client:
                    await client.emotions()

            with pytest.raises(UserError, match="no affectome server"):
                asyncio.run(ask())
        finally:
            process.kill()


@pytest.mark.parametrize(
    "command", [[], *([name] for name in ("serve", "chat", "test", "test-http", "convert", "verify"))]
)
def test_help_teaches_by_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert f"affectome {' '.join(command)}".strip() in said
    assert not command or "examples:" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    said = capsys.readouterr().out
    for name in ("serve", "chat", "test-http", "--backend"):
        assert name in said


def test_bash_completes(tmp_path, capsys):
    cli.main(["completion", "bash"])
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    asked = (
        f"source {script}; COMP_WORDS=(affectome serve --ba); COMP_CWORD=2; _shtab_affectome; echo ${{COMPREPLY[@]}}"
    )
    said = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["--backend"], said.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--run", "nowhere"], "make it with: snakemake --config 'runs=[nowhere]'"),
        (["serve", "--run", "demo", "--model", "x"], "a run has a model of its own"),
        (["chat", "--vectors", "nowhere.safetensors"], "safetensors alone"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_vectors_are_looked_at(catalogue, capsys):
    folder = catalogue.model_folder
    assert cli.main(["test", str(folder.parent / "vectors.safetensors"), "--model", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []


def test_one_can_chat_without_a_server(catalogue, capsys, monkeypatch):
    vectors = str(catalogue.model_folder.parent / "vectors.safetensors")
    commands = ["/set temperature 0", "/set max_tokens 12", "/positions all", "/unsafe", "/steer calm 2", "/compare"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*commands, "Hello", "/steer clam\n"])))
    assert cli.main(["chat", "--vectors", vectors, "--model", str(catalogue.model_folder)]) == 0
    said = capsys.readouterr().out
    assert "tiny, 4 emotions. /help" in said
    plain, steered = said.partition("unsteered: ")[2].partition("\n> ")[0].split("\nsteered:   ")
    assert plain
    assert plain != steered
    assert "no emotion has 'clam'" in said


def test_one_can_chat_with_a_server(url, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("/set max_tokens 4\n/colour calm\nHello\n/curl\n"))
    assert cli.main(["chat", "--url", url]) == 0
    said = capsys.readouterr().out
    assert f"curl -sS {url}/v1/chat/completions" in said
    assert '"readout": {\n    "emotions": [\n      "calm"\n    ]\n  }' in said
