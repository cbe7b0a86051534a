"""What a job of each rule is expected to take: seconds, memory, disk and paid tokens, from config alone.

Seconds of jobs that run a model come from `affectome.scheduling.speed` and, for trials, from their plan. The other
figures are those of the demo on 2 cores (SmolLM2-135M, 171 emotions, 30 layers), scaled by what they grow with. Good to
about a factor of two; `affectome.scheduling.plan` prefers what jobs took before, and `affectome.scheduling.requests`
adds what a scheduler should be asked for on top.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from affectome.config import ROOT, Config, Corpus, FileCorpus, Model, Run, read_words
from affectome.scheduling import speed

# Tokens of a text that a language model writes, of the prompt for it, and seconds a request takes.
STORY = 200
PROMPT = 350
REQUEST_S = 8.0

# Tokens that a judge reads besides a reply, and writes.
RUBRIC = 200
RATING = 20

# Bytes of a stored number, and of a table of texts per token.
_NUMBER = 4
_TEXT = 6

# MB of Python with the libraries that a job imports.
_PLAIN_MB, _TORCH_MB = 220.0, 700.0

# Seconds to start a job that imports torch, and to load a model from disk, per byte.
_START_S = 5.0
_LOAD_S_PER_BYTE = 1e-9
_READ_S_PER_BYTE = 0.5e-9
_DOWNLOAD_BYTES_PER_S = 50e6

# Of the demo, to which other runs are compared.
_EMOTIONS, _LAYERS = 171, 30


@dataclass(frozen=True)
class Need:
    """What a job takes: `seconds`, `memory` (MB resident), `disk` (bytes it leaves), and tokens it pays for.

    `read` and `written` are tokens of a service's `service` model; `gpus` are held for all the seconds.
    """

    seconds: float
    memory: float = _PLAIN_MB
    disk: float = 0.0
    gpus: int = 0
    read: float = 0.0
    written: float = 0.0
    service: str | None = None

    @property
    def dollars(self) -> float | None:
        """US dollars of the paid tokens; None where nobody has written down the price."""
        if self.service is None:
            return 0.0
        price = prices().get(self.service)
        return None if price is None else (price[0] * self.read + price[1] * self.written) / 1e6


@cache
def prices() -> dict[str, tuple[float, float]]:
    """US dollars per million tokens read and written, by the service's model (`resources/api_prices.csv`)."""
    with open(ROOT / "resources" / "api_prices.csv", encoding="utf-8", newline="") as file:
        return {row["model"]: (float(row["input"]), float(row["output"])) for row in csv.DictReader(file)}


class Needs:
    """The needs of the jobs of `config`; call it with a rule's name and its wildcards (attributes by name)."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, rule: str, wildcards: Any) -> Need:
        """What the job of `rule` with `wildcards` takes; raises KeyError for a rule that is not known here."""
        return _RULES[rule](self, wildcards)

    # ------------------------------------------------------------ sizes

    def texts(self, name: str) -> tuple[float, float]:
        """Texts of the corpus `name`, neutral ones included, and their tokens."""
        corpus = self._config.corpora[name]
        if isinstance(corpus, FileCorpus):
            files = [Path(table.file) for table in (corpus.stories, corpus.neutral) if table is not None]
            tokens = sum(file.stat().st_size for file in files if file.exists()) / speed.CHARACTERS
            return tokens / STORY, tokens
        texts = self.stories(corpus) + corpus.neutral_dialogues
        return texts, texts * STORY

    @staticmethod
    def stories(corpus: Any) -> int:
        """Stories that a written corpus asks for."""
        topics = len(read_words(corpus.topics)[: corpus.topic_count])
        return len(read_words(corpus.emotions)) * topics * corpus.stories_per_topic

    def _run(self, wildcards: Any) -> tuple[Run, Model, Corpus]:
        run = self._config.run_definitions[wildcards.run]
        return run, self._config.models[run.model], self._config.corpora[run.corpus]

    def _share(self, wildcards: Any) -> float:
        """Layers × emotions of a run, of those of the demo."""
        _run, _model, corpus = self._run(wildcards)
        return len(self._config.run_layers(wildcards.run)) * len(read_words(corpus.emotions)) / (_LAYERS * _EMOTIONS)

    # ------------------------------------------------------------ rules

    def _fetch(self, wildcards: Any) -> Need:
        model = self._config.models[wildcards.model]
        if hasattr(model.source, "path"):
            # A folder is linked, not copied.
            return Need(_START_S, _TORCH_MB)
        # Weights are quantised when they are loaded, not before.
        size = 2.0 * (speed.block_parameters(model) + speed.head_parameters(model))
        return Need(_START_S + size / _DOWNLOAD_BYTES_PER_S, _TORCH_MB, size)

    def _corpus(self, wildcards: Any) -> Need:
        texts, tokens = self.texts(wildcards.corpus)
        return Need(0.5 + texts * 2e-4, _PLAIN_MB + 4 * tokens * _TEXT / 1e6, tokens * _TEXT)

    def _stories(self, wildcards: Any) -> Need:
        corpus = self._config.corpora[wildcards.corpus]
        return self._written(corpus.writer, self.stories(corpus))

    def _dialogues(self, wildcards: Any) -> Need:
        corpus = self._config.corpora[wildcards.corpus]
        return self._written(corpus.writer, corpus.neutral_dialogues)

    @staticmethod
    def _written(writer: Any, texts: int) -> Need:
        return Need(
            seconds=_START_S + texts * REQUEST_S / writer.concurrency,
            disk=texts * STORY * _TEXT,
            read=texts * PROMPT,
            written=texts * STORY,
            service=writer.gemini,
        )

    def _collect(self, wildcards: Any) -> Need:
        model = self._config.models[wildcards.model]
        shards = self._config.corpora[wildcards.corpus].shards
        texts, tokens = (each / shards for each in self.texts(wildcards.corpus))
        return Need(
            seconds=self._load(model) + speed.seconds_of(model, tokens, 0),
            memory=self._resident(model),
            disk=texts * len(self._config.stored_layers(wildcards.model)) * model.width * _NUMBER,
            gpus=model.gpus,
        )

    @staticmethod
    def _load(model: Model) -> float:
        return _START_S + speed.weight_bytes(model) * _LOAD_S_PER_BYTE

    @staticmethod
    def _resident(model: Model) -> float:
        """MB of a process that runs `model`; on a GPU its weights pass through memory, pinned copies stay there."""
        return _TORCH_MB + (4000 if model.gpus else 300) + speed.weight_bytes(model) / 1e6

    def _vectors(self, wildcards: Any) -> Need:
        run, model, corpus = self._run(wildcards)
        texts, _tokens = self.texts(run.corpus)
        emotions = len(read_words(corpus.emotions))
        layer = texts * model.width * _NUMBER
        kept = emotions * model.width * _NUMBER
        # The principal components of a thousand neutral texts hold a square of the width.
        memory = _TORCH_MB / 2 + 20 * kept / 1e6 + 3 * model.width**2 * 8 / 1e6
        return Need(1.5 + layer * _READ_S_PER_BYTE, memory, 4 * kept)

    def _export(self, wildcards: Any) -> Need:
        _run, model, corpus = self._run(wildcards)
        layers = len(self._config.run_layers(wildcards.run))
        kept = layers * len(read_words(corpus.emotions)) * model.width * _NUMBER
        return Need(1.0 + kept * 1e-8, _PLAIN_MB + 4 * kept / 1e6, 7 * kept)

    def _bundle(self, wildcards: Any) -> Need:
        kept = self._export(wildcards).disk
        return Need(2.0 + kept * 3e-8, _PLAIN_MB + 2 * kept / 1e6, kept + 2e7)

    def _correlations(self, wildcards: Any) -> Need:
        run, _model, _corpus = self._run(wildcards)
        layers = len(self._config.run_layers(wildcards.run)) / _LAYERS
        return Need(2 + 54 * layers * len(run.norms) / 2 * run.statistics.permutations / 1000)

    def _trial(self, wildcards: Any) -> Need:
        # Numpy, which planning takes, is imported only where there are trials.
        from affectome.steering.planning import plan_trial

        trial = self._config.trials[wildcards.trial]
        _run, model, _corpus = self._run(wildcards)
        plan = plan_trial(self._config, wildcards.run, wildcards.trial)
        service = getattr(getattr(trial, "judge", None), "gemini", None)
        judged = plan.work.texts if service else 0
        return Need(
            seconds=self._load(model) + plan.seconds,
            # Logits of a batch in float32, of which two copies live at once.
            memory=self._resident(model) + (0 if model.gpus else 8 * speed.VOCABULARY * 256 / 1e6),
            disk=plan.all_items * 400 + plan.work.written * speed.CHARACTERS,
            gpus=model.gpus,
            read=judged * (RUBRIC + plan.work.longest),
            written=judged * RATING,
            service=service,
        )


def _fixed(seconds: float, memory: float = _PLAIN_MB, disk: float = 0.0) -> Callable[[Needs, Any], Need]:
    return lambda _needs, _wildcards: Need(seconds, memory, disk)


def _growing(seconds: float, memory: float = _PLAIN_MB, disk: float = 0.0) -> Callable[[Needs, Any], Need]:
    """Of a run: half a second to start, the rest by layers × emotions."""

    def need(needs: Needs, wildcards: Any) -> Need:
        share = needs._share(wildcards)
        return Need(0.5 + (seconds - 0.5) * share, memory + 30 * share, disk * share)

    return need


_RULES: dict[str, Callable[[Needs, Any], Need]] = {
    "fetch_model": Needs._fetch,
    "import_corpus": Needs._corpus,
    "write_stories": Needs._stories,
    "write_dialogues": Needs._dialogues,
    "screen_corpus": Needs._corpus,
    "collect_activations": Needs._collect,
    "layer_activations": _fixed(1.7, 320, 4e5),
    "emotion_vectors": Needs._vectors,
    "export_vectors": Needs._export,
    "geometry": _growing(1.2),
    "norm_correlations": Needs._correlations,
    "similarity": _growing(1.0),
    "clusters": _growing(15.0),
    "layer_profile": _fixed(0.7),
    "steering_directions": _fixed(2.0, 320, 3e5),
    "steering_trial": Needs._trial,
    "safe_ranges": _fixed(1.3),
    "trial_verdicts": _fixed(1.4),
    "preferences": _fixed(3.3),
    "trial_figures": _fixed(1.2),
    "generations": _fixed(0.8),
    "figures": _growing(2.0, disk=2e6),
    "compare_runs": _fixed(4.0, disk=4e6),
    "interactive_figures": _fixed(2.5, disk=6e6),
    "summary": _fixed(1.9, 330),
    "summary_page": _fixed(0.8, disk=3e6),
    "manifest": _fixed(1.8, 320),
    "bundle_run": Needs._bundle,
}
