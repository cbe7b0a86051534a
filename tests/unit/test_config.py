"""The shipped configuration is valid, means what it says, and its schema is the one in the repository."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from affectome.config import ROOT, SCHEMA_FILE, Config, json_schema, load_config, read_words
from affectome.errors import UserError


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.chdir(ROOT)
    return yaml.safe_load(Path("workflow_config.yaml").read_text(encoding="utf-8"))


def test_schema_in_the_repository_is_generated_from_the_models() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == json_schema(), "run `make schema`"


def test_shipped_configuration_satisfies_the_schema_and_the_models(shipped: dict) -> None:
    jsonschema.validate(shipped, yaml.safe_load(json_schema()))
    load_config(shipped)


def test_schema_refuses_what_the_models_refuse(shipped: dict) -> None:
    shipped["run_definitions"]["demo"]["denoisng"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(shipped, yaml.safe_load(json_schema()))


def test_every_key_of_the_models_stands_in_the_shipped_file() -> None:
    """The file is the reference of what can be set: a key that is nowhere in it would stay unknown."""
    text = (ROOT / "workflow_config.yaml").read_text(encoding="utf-8")
    named = {"member_sha256", "topic_count", "table", "quantization", "dtype", "gpus", "concurrency"}
    for model in ("Run", "Screening", "Statistics", "Clusters", "Figures"):
        properties = yaml.safe_load(json_schema())["$defs"][model]["properties"]
        named |= set(properties)
    missing = {name for name in named if name not in text}
    assert not missing


@pytest.mark.parametrize(
    ("run", "model", "layers", "layer", "stories"),
    [
        ("demo", "smollm2-135m", tuple(range(30)), 20, None),
        ("demo-literary", "smollm2-135m", tuple(range(30)), 20, None),
        ("gemma4-e2b", "gemma4-e2b", tuple(range(35)), 23, 40 * 50),
        ("gemma4-e4b-medium", "gemma4-e4b", tuple(range(42)), 28, 20 * 100 * 12),
        ("gemma4-e4b-full", "gemma4-e4b", tuple(range(42)), 28, 171 * 100 * 12),
        ("gemma4-31b", "gemma4-31b", tuple(range(5, 60, 5)), 40, 171 * 100 * 10),
        ("apertus-8b", "apertus-8b", tuple(range(32)), 21, 171 * 9),
        ("qwen3-8b", "qwen3-8b", tuple(range(36)), 24, 6 * 100 * 12),
    ],
)
def test_named_runs_are_what_their_sources_ran(
    shipped: dict, run: str, model: str, layers: tuple, layer: int, stories: int | None
) -> None:
    config = load_config({**shipped, "runs": [run]})
    assert config.run_definitions[run].model == model
    assert config.run_layers(run) == layers
    assert config.headline_layers(run) == (layer,)
    if stories is not None:
        corpus = config.corpora[config.run_definitions[run].corpus]
        topics = read_words(corpus.topics)[: corpus.topic_count]
        assert len(read_words(corpus.emotions)) * len(topics) * corpus.stories_per_topic == stories


def test_4bit_is_asked_for_where_the_source_used_it(shipped: dict) -> None:
    assert load_config(shipped).models["gemma4-31b"].quantization == "4bit"


def test_one_run_may_stand_without_a_list(shipped: dict) -> None:
    assert load_config({**shipped, "runs": "demo"}).runs == ["demo"]


@pytest.mark.parametrize("off", [False, "off"])
def test_denoising_off_as_yaml_and_people_write_it(shipped: dict, off: object) -> None:
    shipped["run_definitions"]["demo"]["denoising"] = off
    assert load_config(shipped).run_definitions["demo"].denoising is False


def test_several_mistakes_give_a_line_each(shipped: dict) -> None:
    shipped["models"]["smollm2-135m"]["blocks"] = "thirty"
    shipped["corpora"]["starter"]["shards"] = 0
    with pytest.raises(UserError) as caught:
        load_config(shipped)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["models.smollm2-135m.blocks", "corpora.starter.shards"]


def test_emotions_of_a_written_corpus_are_checked_against_the_known_words(shipped: dict) -> None:
    shipped["corpora"]["gemini-ekman"]["emotions"] = ["happy", "sad", "surprized"]
    with pytest.raises(UserError, match="'surprized' is known; did you mean 'surprised'"):
        load_config({**shipped, "runs": ["qwen3-8b"]})


def test_emotions_listed_in_the_users_own_file_are_taken_as_they_are(shipped: dict, tmp_path: Path) -> None:
    words = tmp_path / "mine.txt"
    words.write_text("saudade\nfernweh\nhygge\n", encoding="utf-8")
    shipped["corpora"]["gemini-ekman"]["emotions"] = str(words)
    load_config({**shipped, "runs": ["qwen3-8b"]})


def test_files_of_runs_that_are_not_selected_may_be_absent(shipped: dict) -> None:
    shipped["corpora"]["literary"]["stories"]["file"] = "not/here.jsonl"
    load_config(shipped)
    with pytest.raises(UserError, match=r"corpora\.literary\.stories\.file"):
        load_config({**shipped, "runs": ["demo-literary"]})


def test_configuration_is_loaded_without_heavy_packages() -> None:
    import subprocess
    import sys

    code = (
        "import sys, affectome.config, affectome.workflow, affectome.identity;"
        "print([m for m in ('torch', 'numpy', 'pandas', 'h5py', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_config_is_frozen(shipped: dict) -> None:
    config: Config = load_config(shipped)
    with pytest.raises(ValueError, match="frozen"):
        config.runs = []
