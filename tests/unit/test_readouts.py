"""What models hold in mind is read at the right tokens, whatever shares a batch, and kept with the list it belongs to.

Compared with passes over one conversation at a time, whose tokens are counted by hand: the tiny tokenizer makes one of
every byte.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from affectome.activations import readouts
from affectome.activations.readout_store import read_readouts, write_readouts
from affectome.activations.readouts import collect_readouts, read_prompts
from affectome.corpus.prompt_lists import in_words, prompts_of
from affectome.errors import UserError
from affectome.models.chat import Prompt
from tests.helpers import CHAT_TEMPLATE, difference, tiny_model, tiny_tokenizer, write_manifest
from tests.planted import vector_file
from tests.project import ROOT

FIXTURE = ROOT / "tests/fixtures/readouts_v1.h5"
SHIPPED = ROOT / "resources/prompts"
TALK = [("user", "Hi there."), ("assistant", "Oh, hello!"), ("user", "A long day it was, and then some more of it.")]
BARE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def said(text: str) -> Prompt:
    return Prompt(messages(("user", text)))


def read(folder: Path, prompts: Sequence[Prompt], budget: int = 100, threads: int = 1) -> np.ndarray:
    """Readouts (layers, prompts, width) at layers 0 and 1."""
    return read_prompts(folder, prompts, [1, 0], "float32", "none", False, budget, threads)


def one_by_one(folder: Path, read: Sequence[tuple[str, int, int]], special: bool = False) -> np.ndarray:
    """The same, the slow way: texts as the model sees them, and the tokens [first, end) that count."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for text, first, end in read:
        ids = tokenizer(text, add_special_tokens=special, return_tensors="pt").input_ids
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        found.append(torch.stack([state[0, first:end].mean(dim=0) for state in states[1:3]]))
    return torch.stack(found, dim=1).numpy()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("chat") / "m", tokenizer=tiny_tokenizer(chat=CHAT_TEMPLATE))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "m", tokenizer=tiny_tokenizer(eos=True))


# ---------------------------------------------------------------- what is read


def test_the_last_token_before_the_reply(chat: Path) -> None:
    texts = ["Somebody is at the door.", "Yes!", "It rained; we waited, and nobody spoke for a long while."]
    wanted = []
    for text in texts:
        # <s>[user]…</s>[assistant]: the last is the bracket.
        size = 1 + 6 + len(text) + 1 + 11
        wanted.append((f"<s>[user]{text}</s>[assistant]", size - 1, size))
    found = read(chat, [said(text) for text in texts])
    assert found.shape == (2, 3, 16)
    assert found.dtype == np.float32
    assert difference(found, one_by_one(chat, wanted)) < 1e-5


@pytest.mark.parametrize(("budget", "threads"), [(1, 1), (60, 2), (10_000, 1)])
def test_every_turn_of_a_conversation_and_the_reply_to_it(chat: Path, budget: int, threads: int) -> None:
    whole, start = "<s>", 1
    wanted = []
    for role, content in TALK:
        start += len(f"[{role}]")
        wanted.append((start, start + len(content)))
        whole += f"[{role}]{content}</s>"
        start += len(content) + 1
    whole += "[assistant]"
    talk = messages(*TALK)
    prompts = [Prompt(talk, 2), Prompt(talk), Prompt(talk, 0), Prompt(talk, 1)]
    size = start + len("[assistant]")
    spans = [wanted[2], (size - 1, size), wanted[0], wanted[1]]
    found = read(chat, prompts, budget, threads)
    assert difference(found, one_by_one(chat, [(whole, *span) for span in spans])) < 1e-5
    torch.set_num_threads(1)


def test_what_follows_a_message_is_not_read_and_changes_nothing(chat: Path) -> None:
    talk = messages(*TALK)
    short, long = read(chat, [Prompt(talk[:2], 1), Prompt(talk, 1)]).swapaxes(0, 1)
    assert difference(short, long) < 1e-5


def test_the_first_token_of_a_sequence_is_never_read(tmp_path: Path) -> None:
    """Where the message opens the sequence, its first token is the attention sink."""
    folder = tiny_model(tmp_path / "m", tokenizer=tiny_tokenizer(chat=BARE))
    talk = messages(("user", "abcd"), ("assistant", "efg"))
    found = read(folder, [Prompt(talk, 0), Prompt(talk, 1)])
    assert difference(found, one_by_one(folder, [("abcdefg", 1, 4), ("abcdefg", 4, 7)])) < 1e-5
    with pytest.raises(UserError, match="prompt 1: message 0 has no tokens to read"):
        read(folder, [Prompt(messages(("user", "a"), ("assistant", "efg")), 0)])


def test_a_model_without_a_template_reads_a_transcript(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With one BOS and without the EOS that the tokenizer puts after a text, which would stand before the reply."""
    talk = messages(*TALK)
    text = "Person: Hi there.\n\nAI: Oh, hello!\n\nPerson: " + TALK[2][1] + "\n\nAI:"
    size = 1 + len(text)
    first = 1 + text.index("A long day")
    wanted = [("<s>" + text, size - 1, size), ("<s>" + text, first, first + len(TALK[2][1]))]
    found = read(base, [Prompt(talk), Prompt(talk, 2)])
    assert difference(found, one_by_one(base, wanted)) < 1e-5
    assert "no chat template; prompts are read as a transcript of Person and AI" in caplog.text


def test_a_transcript_has_a_system_message_in_front(base: Path) -> None:
    text = "Be kind.\n\nPerson: Hi.\n\nAI:"
    found = read(base, [Prompt(messages(("system", "Be kind."), ("user", "Hi.")))])
    assert difference(found, one_by_one(base, [("<s>" + text, len(text), len(text) + 1)])) < 1e-5


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (
            [("system", "Be kind."), ("user", "Hi.")],
            r"prompt 2: .* refuses a conversation of system, user \(roles must",
        ),
        ([("user", "Hi."), ("user", "Hi.")], r"refuses a conversation of user, user .* user and assistant in turn"),
        ([("user", " ")], "same vector"),
    ],
)
def test_conversations_that_a_template_refuses(chat: Path, turns: list[tuple[str, str]], words: str) -> None:
    first = said("Hello.") if words != "same vector" else said("")
    with pytest.raises(UserError, match=words):
        read(chat, [first, Prompt(messages(*turns))])


def test_a_template_that_leaves_texts_out_or_changes_them_is_refused(tmp_path: Path) -> None:
    deaf = tiny_model(tmp_path / "deaf", tokenizer=tiny_tokenizer(chat="<s>[user] says something"))
    with pytest.raises(UserError, match=r"block 0 gives all 2 prompts the same vector; .* leaves their text out"):
        read(deaf, [said("One."), said("Two.")])
    loud = tiny_model(tmp_path / "loud", tokenizer=tiny_tokenizer(chat="{{ messages[0].content | upper }}" + BARE))
    with pytest.raises(UserError, match="does not keep message 0, of the user, in one piece"):
        read(loud, [Prompt(messages(("user", "abc")), 0)])


def test_values_that_are_not_finite_are_refused() -> None:
    values = np.ones((2, 3, 4), np.float32)
    values[1, 2, 0] = np.inf
    with pytest.raises(UserError, match="block 7 gives values that are not finite for prompt 3"):
        readouts._check(values, [3, 7], [said("x")] * 3)


def test_a_prompt_leads_up_to_a_reply_or_has_the_turn() -> None:
    talk = messages(*TALK)
    for made in (lambda: Prompt(talk[:2]), lambda: Prompt([]), lambda: Prompt(talk, 3), lambda: Prompt(talk, -1)):
        with pytest.raises(ValueError, match=r"follows the user's message|no message"):
            made()


# ---------------------------------------------------------------- lists


def test_shipped_lists_are_read() -> None:
    names = set((ROOT / "resources/emotions/171.txt").read_text(encoding="utf-8").split("\n"))
    table, prompts = prompts_of("implicit", SHIPPED / "implicit_scenarios.jsonl")
    assert list(table) == ["emotion", "prompt"]
    assert table["emotion"].value_counts().tolist() == [2] * 24
    assert set(table["emotion"]) <= names
    assert [prompt.messages for prompt in prompts] == [messages(("user", text)) for text in table["prompt"]]
    # No message names its emotion.
    stems = {emotion: emotion[: max(4, len(emotion) - 3)] for emotion in table["emotion"]}
    assert not [row for row in table.itertuples() if stems[row.emotion] in row.prompt.lower()]

    table, prompts = prompts_of("intensity", SHIPPED / "intensity_templates.jsonl")
    assert list(table) == ["template", "wording", "unit", "value", "text", "rises", "falls"]
    assert len(prompts) == len(table) == 60
    assert set(";".join([*table["rises"], *table["falls"]]).split(";")) <= names
    assert table["template"].unique().tolist() == list(range(1, 11))
    assert [prompt.messages[0]["content"] for prompt in prompts] == table["text"].tolist()
    assert "The prize is 500,000 dollars." in table["text"][17]
    assert "temperature is 36.8 degrees" in table["text"][24]


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (9999, "9999"), (10_000, "10,000"), (500_000, "500,000"), (36.8, "36.8"), (37.0, "37.0")],
)
def test_numbers_as_people_write_them(value: float, text: str) -> None:
    assert in_words(value) == text


GOOD = {"template": "It is {x} m.", "unit": "m", "values": [1, 2], "rises": ["sad"], "falls": []}


@pytest.mark.parametrize(
    ("kind", "lines", "words"),
    [
        ("implicit", ['{"emotion": "sad", "prompt": "x"}', "{"], r"list\.jsonl line 2: is no JSON"),
        ("implicit", ["[1]"], r"list\.jsonl line 1: is no object but \[1\]"),
        ("implicit", [""], "line 1: is no JSON"),
        ("implicit", ['{"emotion": "sad"}'], "line 1: key 'prompt' is missing"),
        (
            "implicit",
            ['{"emotion": "sad", "prompt": "x", "y": 1}'],
            "line 1: unknown key .y.; allowed",
        ),
        ("implicit", ['{"emotion": "sad", "prompt": " "}'], "line 1: prompt: is empty"),
        ("implicit", ['{"emotion": 3, "prompt": "x"}'], "line 1: emotion: 3 should be a valid string"),
        ("implicit", ['{"emotion": "sad;mad", "prompt": "x"}'], "line 1: emotion: 'sad;mad' has"),
        ("implicit", ['{"emotion": "sad", "prompt": "x"}'] * 2, "line 2: prompt: is that of line 1"),
        ("intensity", [json.dumps(GOOD | {"template": "It is X m."})], r"template: has no \{x\}"),
        ("intensity", [json.dumps(GOOD | {"values": [1]})], "line 1: values"),
        ("intensity", [json.dumps(GOOD | {"values": [1, "2"]})], "line 1: values.1"),
        ("intensity", ['{"template": "{x}", "unit": "m", "values": [1, NaN], "rises": [], "falls": []}'], "values.1"),
        ("intensity", [json.dumps(GOOD | {"falls": ["sad"]})], "line 1: rises, falls: 'sad' stands twice"),
        ("other", ["{}"], "'other' is no kind of list; allowed: implicit, intensity, speakers, refusal"),
    ],
)
def test_mistakes_in_lists_are_named(kind: str, lines: list[str], words: str, tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=words) as refusal:
        prompts_of(kind, file)
    assert str(refusal.value).startswith(str(file))
    assert "\n" not in str(refusal.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read .* give the path"):
        prompts_of("implicit", tmp_path / "none.jsonl")


# ---------------------------------------------------------------- files


def collected(model: Path, folder: Path, code: str = "code", **settings: Any) -> Path:
    file = folder / "list.jsonl"
    rows = [{"emotion": "sad", "prompt": "She left."}, {"emotion": "calm", "prompt": "A cup of tea, naïvely."}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    spec = {"dtype": "float32", "quantization": "none", "trust_remote_code": False, "token_budget": 64} | settings
    output = folder / "r.h5"
    collect_readouts(write_manifest(model), file, output, "implicit", [2, 0], **spec, code=code, threads=1)
    return output


def test_a_job_writes_its_list_and_readouts(chat: Path, base: Path, tmp_path: Path) -> None:
    found = read_readouts(collected(chat, tmp_path))
    assert found.table.to_dict("list") == {
        "emotion": ["sad", "calm"],
        "prompt": ["She left.", "A cup of tea, naïvely."],
    }
    assert found.layers == (0, 2)
    assert found.template == "model"
    wanted = read_prompts(chat, [said(t) for t in found.table["prompt"]], [0, 2], "float32", "none", False, 64, 1)
    for layer, here in zip((0, 2), wanted, strict=True):
        assert np.array_equal(found.at(layer), here)
    with pytest.raises(UserError, match=r"r\.h5: holds no layer 1; it has 0, 2"):
        found.at(1)
    with h5py.File(found.path) as file:
        about = dict(file.attrs)
    assert about["model"] == "m"
    assert (about["dtype"], about["device"], about["list"]) == ("float32", "cpu", str(tmp_path / "list.jsonl"))
    assert "residual stream" in about["units"]
    first = about["fingerprint"]
    for code, same in (("code", True), ("other", False)):
        with h5py.File(collected(chat, tmp_path, code)) as file:
            assert (file.attrs["fingerprint"] == first) == same
    assert read_readouts(collected(base, tmp_path)).template == "plain"


def test_a_job_that_fails_leaves_nothing(tmp_path: Path) -> None:
    refusing = tiny_model(tmp_path / "m", tokenizer=tiny_tokenizer(chat="{{ raise_exception('no') }}"))
    with pytest.raises(UserError, match=r"prompt 1: .* refuses a conversation of user \(no\)"):
        collected(refusing, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.jsonl", "m"]


def fixture(path: Path) -> Path:
    """As `tests/fixtures/readouts_v1.h5` was made; see `tests/unit/test_store.py`."""
    table = pd.DataFrame({"emotion": ["naïve", "sad"], "turn": [0, 3], "share": [0.5, 1.0], "present": [True, False]})
    activations = {7: np.array([[1.0, 2, 3], [4, 5, 6]]), 3: np.array([[7.0, 8, 9], [10, 11, 12]])}
    about = {"model": "tiny", "dtype": "float32", "device": "cpu", "template": "plain", "list": "list.jsonl"}
    write_readouts(path, table, activations, "readouts", **about)
    return path


def test_archived_readouts_are_read() -> None:
    found = read_readouts(FIXTURE)
    assert list(found.table) == ["emotion", "turn", "share", "present"]
    assert found.table.to_dict("list") == {
        "emotion": ["naïve", "sad"],
        "turn": [0, 3],
        "share": [0.5, 1.0],
        "present": [True, False],
    }
    assert found.layers == (3, 7)
    assert found.at(7).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.at(3).dtype == np.float32
    assert found.template == "plain"


def test_the_format_changes_only_with_its_version(tmp_path: Path) -> None:
    shapes = []
    for path in (fixture(tmp_path / "r.h5"), FIXTURE):
        with h5py.File(path) as file:
            found = {f"@{name}": np.asarray(value).dtype.kind for name, value in file.attrs.items()}
            file.visititems(lambda name, item, found=found: found.update({name: str(getattr(item, "dtype", "group"))}))
            shapes.append((found, int(file.attrs["format_version"])))
    assert shapes[0] == shapes[1] or shapes[0][1] > shapes[1][1]


def test_vectors_and_readouts_of_other_layers_or_models_do_not_go_together(tmp_path: Path) -> None:
    from affectome.vectors.store import read_all

    found = read_readouts(fixture(tmp_path / "r.h5"))
    rng = np.random.default_rng(0)
    fits = vector_file(tmp_path / "v3.h5", 3, ["a", "b"], rng.normal(size=(2, 3)))
    other = vector_file(tmp_path / "v4.h5", 4, ["a", "b"], rng.normal(size=(2, 3)))
    wide = vector_file(tmp_path / "v7.h5", 7, ["a", "b"], rng.normal(size=(2, 5)))
    assert list(found.beside(read_all([fits, other]), 3)) == [3]
    with pytest.raises(
        UserError, match="layer 4 is wanted, and there are readouts of 3, 7 and vectors of 3, 4; choose"
    ):
        found.beside(read_all([fits, other]), 4)
    with pytest.raises(UserError, match="readouts are 3 wide, vectors 5; use those of one model"):
        found.beside(read_all([wide]), 7)
