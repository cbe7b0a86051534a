"""What jobs are expected to take and what they ask for, by hand and against what they took; the table of a plan."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from affectome.config import Config
from affectome.prices import prices
from affectome.scheduling import plan as planning
from affectome.scheduling.dry_run import Job
from affectome.scheduling.needs import Need, Needs
from affectome.scheduling.plan import Row, measured, read_benchmark, rows, table
from affectome.scheduling.requests import requests
from affectome.scheduling.speed import weight_bytes
from tests.project import ROOT

SHIPPED = yaml.safe_load((ROOT / "workflow_config.yaml").read_text())
CONFIG = Config.model_validate(SHIPPED)

# What the demo took on 2 cores (AMD EPYC, avx512_bf16) when nothing else ran: seconds and MB.
TAKEN = {
    ("collect_activations", "model=smollm2-135m,corpus=starter,reading=from-50,shard=0"): (75.4, 1115),
    ("emotion_vectors", "run=demo,layer=20"): (0.65, 137),
    ("layer_activations", "model=smollm2-135m,corpus=starter,reading=from-50,layer=20"): (0.68, 122),
    ("norm_correlations", "run=demo"): (33.3, 203),
    ("clusters", "run=demo"): (12.1, 254),
    ("similarity", "run=demo"): (0.76, 206),
    ("summary", "run=demo"): (1.7, 156),
    ("manifest", "run=demo"): (1.6, 301),
    ("steering_directions", "run=demo,trial=cost"): (0.63, 127),
    ("steering_trial", "run=demo,trial=expression"): (93.4, 1555),
    ("steering_trial", "run=demo,trial=cost"): (167.8, 1629),
    ("steering_trial", "run=demo-steering,trial=preference"): (461.0, 1260),
}


def wildcards(text: str) -> SimpleNamespace:
    return SimpleNamespace(**dict(part.split("=") for part in text.split(",")))


def needs_of(rule: str, text: str, **model: Any) -> Need:
    data = {**SHIPPED, "models": {name: {**entry, **model} for name, entry in SHIPPED["models"].items()}}
    return Needs(Config.model_validate(data))(rule, wildcards(text))


# ---------------------------------------------------------------- needs


@pytest.mark.parametrize(("job", "taken"), TAKEN.items(), ids=[f"{rule} {text}" for rule, text in TAKEN])
def test_needs_are_within_a_factor_of_two_of_what_the_demo_took(
    job: tuple[str, str], taken: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    need = Needs(CONFIG)(job[0], wildcards(job[1]))
    assert taken[0] / 2 <= need.seconds <= taken[0] * 2
    assert taken[1] / 2 <= need.memory <= taken[1] * 2


def test_a_large_model_by_hand() -> None:
    # 60 blocks of width 5,376 at 4 bits, twice as slow as without; 171 × 100 × 10 stories and 1,000 dialogues of 200
    # tokens, 64 shards, 11 layers.
    need = Needs(CONFIG)(
        "collect_activations", wildcards("model=gemma4-31b,corpus=gemini-171x100x10,reading=from-50,shard=3")
    )
    blocks, head = 12 * 60 * 5376**2, 128_000 * 5376
    texts = (171 * 100 * 10 + 1000) / 64
    assert need.gpus == 1
    assert need.disk == pytest.approx(texts * 11 * 5376 * 4)
    weights = (blocks + head) / 2
    assert need.seconds == pytest.approx(5 + weights * 1e-9 + 2 * 2 * blocks * texts * 200 / 320e12)
    assert need.memory == pytest.approx(700 + 4000 + weights / 1e6)


@pytest.mark.parametrize(
    ("setting", "more"),
    [
        ({"blocks": 120}, ("seconds", "memory", "disk")),
        ({"width": 8192}, ("seconds", "memory", "disk")),
        ({"quantization": "none"}, ("memory",)),
        ({"quantization": "8bit"}, ("memory",)),
    ],
    ids=str,
)
def test_needs_grow_with_the_model(setting: dict[str, Any], more: tuple[str, ...]) -> None:
    job = ("collect_activations", "model=gemma4-31b,corpus=gemini-171x100x10,reading=from-50,shard=0")
    before, after = needs_of(*job, layers="all"), needs_of(*job, layers="all", **setting)
    for name in more:
        assert getattr(after, name) > getattr(before, name), name


def test_needs_grow_with_the_corpus_and_shrink_with_shards() -> None:
    def need(**corpus: Any) -> Need:
        data = {**SHIPPED, "corpora": {**SHIPPED["corpora"], "c": {**SHIPPED["corpora"]["gemini-40x50"], **corpus}}}
        job = wildcards("model=gemma4-e2b,corpus=c,reading=from-50,shard=0")
        return Needs(Config.model_validate(data))("collect_activations", job)

    # 40 × 50 stories and 100 dialogues against twice the stories and the same dialogues.
    assert need(stories_per_topic=2).disk / need().disk == pytest.approx(4100 / 2100)
    assert need(shards=4).disk / need().disk == pytest.approx(1 / 4)


def test_tokens_and_dollars_by_hand() -> None:
    need = Needs(CONFIG)("write_stories", wildcards("corpus=gemini-40x50"))
    assert (need.read, need.written) == (40 * 50 * 350, 40 * 50 * 200)
    assert prices()["gemini-2.5-flash"] == (0.30, 2.50)
    assert need.dollars == pytest.approx((0.30 * 700_000 + 2.50 * 400_000) / 1e6)
    assert Need(1.0, service="a-model-of-tomorrow").dollars is None
    assert Need(1.0).dollars == 0


def test_a_judge_elsewhere_costs_and_one_at_home_does_not() -> None:
    bought = Needs(CONFIG)("steering_trial", wildcards("run=gemma4-31b,trial=blackmail"))
    assert bought.dollars > 0.1
    assert Needs(CONFIG)("steering_trial", wildcards("run=demo,trial=expression")).dollars == 0


def test_weights_by_hand() -> None:
    model = CONFIG.models["smollm2-135m"]
    parameters = 12 * 30 * 576**2 + 128_000 * 576
    assert weight_bytes(model) == 2 * parameters
    assert weight_bytes(model.model_copy(update={"dtype": "float32"})) == 4 * parameters
    assert weight_bytes(model.model_copy(update={"quantization": "4bit"})) == parameters / 2


# ---------------------------------------------------------------- requests


def rules_with_jobs() -> list[str]:
    text = "\n".join(file.read_text() for file in sorted((ROOT / "rules").glob("*.smk")))
    found = re.findall(r"^rule (\w+):\n((?:    .*\n|\n(?=    |\n    ))+)", text, flags=re.MULTILINE)
    return [name for name, body in found if "benchmark:" in body]


@pytest.mark.parametrize("rule", rules_with_jobs())
def test_every_rule_asks_for_what_it_needs(rule: str) -> None:
    text = "\n".join(file.read_text() for file in sorted((ROOT / "rules").glob("*.smk")))
    assert f'**WORKFLOW.requests("{rule}")' in text
    some = wildcards(
        "run=demo,trial=cost,model=smollm2-135m,corpus=gemini-40x50,reading=from-50,shard=0,layer=3,prompts=speakers,texts=pile"
    )
    asked = requests(CONFIG, rule)
    assert 300 < asked["mem_mb"](some, attempt=1) < 5000
    assert 10 < asked["runtime"](some, attempt=1) < 200


def test_each_attempt_asks_for_more() -> None:
    asked = requests(CONFIG, "collect_activations")
    job = wildcards("model=smollm2-135m,corpus=starter,reading=from-50,shard=0")
    for name in ("mem_mb", "runtime"):
        first, second, third = (asked[name](job, attempt=attempt) for attempt in (1, 2, 3))
        assert (second, third) == (2 * first, 3 * first)


def test_gpus_are_those_of_the_model() -> None:
    job = wildcards("model=gemma4-31b,corpus=gemini-171x100x10,reading=from-50,shard=0")
    trial = wildcards("run=gemma4-31b,trial=blackmail")
    for rule, of in (("collect_activations", job), ("steering_trial", trial)):
        asked = requests(CONFIG, rule)
        assert (asked["gpu"](of), asked["gpu_percent"](of)) == (1, 100)
    assert "gpu" not in requests(CONFIG, "geometry")
    data = {**SHIPPED, "models": {"gemma4-31b": {**SHIPPED["models"]["gemma4-31b"], "gpus": 4}}}
    several = Config.model_construct(
        models=Config.model_validate({**SHIPPED, "models": {**SHIPPED["models"], **data["models"]}}).models
    )
    assert requests(several, "collect_activations")["gpu_percent"](job) == 400


@pytest.mark.parametrize(("jobs", "percent"), [(1, 100), (2, 50), (3, 33), (6, 16)])
def test_jobs_that_share_a_gpu_take_their_part(jobs: int, percent: int) -> None:
    models = {**SHIPPED["models"], "gemma4-e2b": {**SHIPPED["models"]["gemma4-e2b"], "jobs_per_gpu": jobs}}
    asked = requests(Config.model_validate({**SHIPPED, "models": models}), "collect_activations")
    assert asked["gpu_percent"](wildcards("model=gemma4-e2b")) == percent


# ---------------------------------------------------------------- the plan


HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def benchmark(file: Path, seconds: str, memory: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEADER + f"{seconds}\t0:00:00\t{memory}\t1\t1\t1\t0\t0\t0\t0\n")


def job(rule: str, file: Path, threads: int = 1, **names: str) -> Job:
    return Job(rule, SimpleNamespace(**names), threads, str(file))


def test_what_a_job_took_before_counts_and_else_its_siblings(tmp_path: Path) -> None:
    for shard, seconds in enumerate((10, 20, 90)):
        benchmark(tmp_path / f"collect/{shard}.tsv", str(seconds), str(1000 + shard))
    assert measured(job("collect_activations", tmp_path / "collect/2.tsv", shard="2")) == (90, 1002)
    assert measured(job("collect_activations", tmp_path / "collect/7.tsv", shard="7")) == (20, 1001)
    # Another run's geometry may be of another size.
    benchmark(tmp_path / "geometry/demo.tsv", "3", "200")
    assert measured(job("geometry", tmp_path / "geometry/mine.tsv", run="mine")) is None
    assert measured(job("geometry", tmp_path / "geometry/demo.tsv", run="demo")) == (3, 200)


@pytest.mark.parametrize("content", ["", HEADER, HEADER + "0.2\t0:00:00\t-\t-\t-\t-\t-\t-\t0\t0\n", "nonsense\n1\n"])
def test_a_benchmark_that_says_nothing_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.tsv").write_text(content)
    assert read_benchmark(tmp_path / "a.tsv") is None


def test_rows_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        planning, "Needs", lambda _config: lambda rule, _wildcards: Need(3600, 500, 1e9, gpus=2 * (rule == "a"))
    )
    benchmark(tmp_path / "a/0.tsv", "1800", "900")
    jobs = [
        job("a", tmp_path / "a/0.tsv", threads=4, shard="0"),
        job("b", tmp_path / "b/x.tsv", run="x"),
        job("a", tmp_path / "a/1.tsv", threads=4, shard="1"),
    ]
    first, second = rows(jobs, CONFIG)
    assert (first.rule, len(first.seconds), first.measured) == ("a", 2, 2)
    assert (first.gpu_hours, first.cpu_hours, first.memory, first.disk) == (2.0, 4.0, 900, 2e9)
    assert (second.gpu_hours, second.cpu_hours, second.memory, second.measured) == (0.0, 1.0, 500, 0)


def test_the_table_by_hand() -> None:
    first = Row("write_stories", [7200.0], 0.0, 2.0, 220, 5e6, 550_000, 1.5, True, 0)
    second = Row("collect_activations", [90.0, 30.0], 0.5, 12.0, 15_400, 2e9, 0, 0, True, 1)
    lines = table([first, second], ["mine"]).splitlines()
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert lines[0] == "What is left to do for mine:"
    assert cells[4] == ["write_stories", "1", "2.0 h", "–", "2.00", "220.0 MB", "5.0 MB", "0.6 M", "1.50", "estimates"]
    assert cells[5] == ["collect_activations", "2", "60 s", "0.50", "12", "15.4 GB", "2.0 GB", "–", "–", "1 measured"]
    assert cells[7] == ["total", "3", "0.50", "14", "15.4 GB", "2.0 GB", "0.6 M", "1.50"]
    assert "nothing would run" in table([], ["mine"])
    assert "api_prices.csv" not in table([first], ["mine"])
    unpriced = Row("write_stories", [1.0], tokens=10, priced=False)
    assert "0.00 + ?" in table([unpriced], ["mine"])
    assert "api_prices.csv" in table([unpriced], ["mine"])
