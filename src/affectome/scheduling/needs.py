"""What a job of each rule is expected to take: seconds, memory, disk and paid tokens, from config alone.

Seconds of jobs that run a model come from `affectome.scheduling.speed` and, for trials, from their plan. The other
figures are those of the demo on 2 cores (SmolLM2-135M, 171 emotions, 30 layers), scaled by what they grow with. Good to
about a factor of two; `affectome.scheduling.plan` prefers what jobs took before, and `affectome.scheduling.requests`
adds what a scheduler should be asked for on top.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from affectome.config import Config, Corpus, FileCorpus, LocalWriter, Model, Run, read_words
from affectome.corpus.contrasts import read_contrasts
from affectome.prices import prices
from affectome.scheduling import speed

# Tokens of a text that a language model writes, of the prompt for it, and seconds a request takes.
STORY = 200
PROMPT = 350
REQUEST_S = 8.0

# Of a request for several texts, tokens that each adds to the prompt; seconds that a batch usually takes.
PLANNED = 20
BATCH_S = 7200.0

# Rows of a data set of unknown size.
_HUB_ROWS = 50_000

# Small models are asked for much of what they write twice; rows that an engine writes at once; seconds until it is up.
_AGAIN = 2.0
_ROWS = 256
_ENGINE_S = 60.0

# Tokens that a judge reads besides a reply, and writes.
RUBRIC = 200
RATING = 20

# Bytes of a stored number, and of a table of texts per token.
_NUMBER = 4
_TEXT = 6

# MB of Python with the libraries that a job imports: few, those of analyses and figures, and torch.
_LEAST_MB, _PLAIN_MB, _TORCH_MB = 120.0, 220.0, 700.0

# Seconds to start a job that imports torch, and to load a model from disk, per byte.
_START_S = 5.0
_LOAD_S_PER_BYTE = 1e-9
_READ_S_PER_BYTE = 0.5e-9
_DOWNLOAD_BYTES_PER_S = 50e6

# Times that a dialogue is read, and texts that are coloured or stand beside those, of which the mean is taken.
_TURNS = 4
_COLOURED = 100

# Emotions for which a run asks for further stories, unless it says otherwise.
_WEAKEST = 10

# Of the demo, to which other runs are compared.
_EMOTIONS, _LAYERS, _TEXTS, _WIDTH = 171, 30, 1098, 576


@dataclass(frozen=True)
class Need:
    """What a job takes: `seconds`, `memory` (MB resident), `disk` (bytes it leaves), and tokens it pays for.

    `read` and `written` are tokens of a service's `service` model, which costs `price_share` of the listed price;
    `gpus` are held for all the seconds.
    """

    seconds: float
    memory: float = _PLAIN_MB
    disk: float = 0.0
    gpus: int = 0
    read: float = 0.0
    written: float = 0.0
    service: str | None = None
    price_share: float = 1.0

    @property
    def dollars(self) -> float | None:
        """US dollars of the paid tokens; None where nobody has written down the price."""
        if self.service is None:
            return 0.0
        price = prices().get(self.service)
        return None if price is None else self.price_share * (price[0] * self.read + price[1] * self.written) / 1e6


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
            sizes = [self._size(source) for source in (corpus.stories, corpus.neutral) if source is not None]
            tokens = sum(sizes)
            return tokens / STORY, tokens
        texts = float(self.stories(corpus) + corpus.neutral_dialogues)
        base = self.texts(corpus.base) if corpus.base else (0.0, 0.0)
        return texts + base[0], texts * STORY + base[1]

    @staticmethod
    def _size(source: Any) -> float:
        """Tokens of an existing table of texts; a data set of the hub is not known before it is fetched."""
        files = [Path(file) for file in source.files]
        if files:
            return sum(file.stat().st_size for file in files if file.exists()) / speed.CHARACTERS
        return (source.limit or _HUB_ROWS) * STORY

    @staticmethod
    def stories(corpus: Any) -> int:
        """Stories that a written corpus asks for."""
        emotions = read_words(corpus.emotions)
        told = len(emotions)
        if corpus.contrasts:
            # What a run will ask for is not known before it is there.
            there = Path(corpus.contrasts).exists()
            told = len(read_contrasts(corpus.contrasts, emotions)) if there else min(told, _WEAKEST)
        return told * len(read_words(corpus.topics)[: corpus.topic_count]) * corpus.stories_per_topic

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

    def _import(self, wildcards: Any) -> Need:
        need = self._corpus(wildcards)
        corpus = self._config.corpora[wildcards.corpus]
        # The library that reads data sets keeps much of them in memory, and fetches those of the hub.
        sets = [source for source in vars(corpus).values() if hasattr(source, "dataset")]
        return replace(need, memory=need.memory + 800, seconds=need.seconds + 60) if sets else need

    def _stories(self, wildcards: Any) -> Need:
        corpus = self._config.corpora[wildcards.corpus]
        return self._written(corpus, self.stories(corpus) / corpus.jobs, corpus.writer.stories_per_request)

    def _dialogues(self, wildcards: Any) -> Need:
        corpus = self._config.corpora[wildcards.corpus]
        return self._written(corpus, corpus.neutral_dialogues, 1)

    def _written(self, corpus: Any, texts: float, per_request: int) -> Need:
        writer = corpus.writer
        several = PLANNED if per_request > 1 else 0
        read, written = texts * (PROMPT / per_request + several), texts * STORY
        if corpus.model is not None:
            return self._generated(corpus, texts, _AGAIN * read, _AGAIN * written)
        batch = getattr(writer, "batch", False)
        seconds = texts / per_request * REQUEST_S / writer.concurrency
        if writer.requests_per_minute:
            seconds = max(seconds, 60 * texts / per_request / writer.requests_per_minute)
        return Need(
            seconds=_START_S + (BATCH_S if batch else seconds),
            disk=2 * texts * STORY * _TEXT,
            read=read,
            written=written,
            service=writer.service,
            price_share=writer.price_share,
        )

    def _generated(self, corpus: Any, texts: float, read: float, written: float) -> Need:
        """Of a model that runs in the job: by an engine that writes many texts at once, or by Transformers."""
        model = self._config.models[corpus.model]
        local = isinstance(corpus.writer, LocalWriter)
        # In float32, for the sake of texts that do not depend on batches, where there is no GPU.
        slower = 3.0 if local and not model.gpus else 1.0
        steps = round(written / (_ROWS if model.gpus else 64))
        start = self._load(model) + (0 if local else _ENGINE_S)
        return Need(
            seconds=start + slower * speed.seconds_of(model, read, written, steps),
            memory=self._resident(model) * (1.5 if local else 3.0),
            disk=2 * texts * STORY * _TEXT,
            gpus=model.gpus,
        )

    def _card(self, wildcards: Any) -> Need:
        texts, tokens = self.texts(wildcards.corpus)
        # The classifier reads a sample, the counts every text.
        return Need(5.0 + min(texts, 20_000) * 2e-3 + texts * 2e-4, 400.0 + 8 * tokens * _TEXT / 1e6, 1e6)

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
        memory = _LEAST_MB + 20 * kept / 1e6 + 3 * model.width**2 * 8 / 1e6
        return Need(0.6 + layer * _READ_S_PER_BYTE, memory, 4 * kept)

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
        return Need(2 + 31 * layers * len(run.norms) / 2 * run.statistics.permutations / 1000)

    def _readouts(self, wildcards: Any) -> Need:
        model = self._config.models[wildcards.model]
        size = Path(getattr(self._config.prompts, wildcards.prompts)).stat().st_size
        # A dialogue is read once for each of its turns.
        tokens = _TURNS * size / speed.CHARACTERS
        layers = len(self._config.collected_layers(wildcards.model))
        return Need(
            seconds=self._load(model) + speed.seconds_of(model, tokens, 0),
            memory=self._resident(model),
            disk=tokens / STORY * layers * model.width * _NUMBER,
            gpus=model.gpus,
        )

    def _external(self, wildcards: Any) -> Need:
        model = self._config.models[self._config.run_definitions[wildcards.run].model]
        texts = self._config.texts[wildcards.texts]
        tokens = texts.samples * texts.max_tokens
        return Need(
            seconds=self._load(model) + speed.seconds_of(model, tokens, 0),
            memory=self._resident(model) + 8 * tokens * _TEXT / 1e6,
            disk=tokens * _TEXT,
            gpus=model.gpus,
        )

    def _coloured(self, wildcards: Any) -> Need:
        model = self._config.models[self._config.run_definitions[wildcards.run].model]
        seconds = self._load(model) + speed.seconds_of(model, _COLOURED * STORY, 0)
        return Need(seconds, self._resident(model), 1e6, model.gpus)

    def _lens(self, wildcards: Any) -> Need:
        _run, model, _corpus = self._run(wildcards)
        head = 4 * speed.head_parameters(model) / 1e6
        return Need(_START_S + 20 * self._share(wildcards) ** 0.5, _TORCH_MB + 2 * head, 1e6)

    def _held_out(self, seconds: float, wildcards: Any) -> Need:
        """Of a question about all texts of a run, which takes so many `seconds` with those of the demo."""
        run, model, _corpus = self._run(wildcards)
        texts, tokens = self.texts(run.corpus)
        share = texts * model.width / (_TEXTS * _WIDTH)
        memory = _PLAIN_MB + 2 * texts * model.width * _NUMBER / 1e6 + 10 * tokens * _TEXT / 1e6
        return Need(1.5 + seconds * share, memory, 1e6)

    def _trial(self, wildcards: Any) -> Need:
        # NumPy, which planning takes, is imported only where there are trials.
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


def _of_stories(seconds: float, by_layer: bool = False) -> Callable[[Needs, Any], Need]:
    """Of a question for which every text counts: a second or two to start, the rest by texts, width and layers."""

    def need(needs: Needs, wildcards: Any) -> Need:
        layers = len(needs._config.run_layers(wildcards.run)) / _LAYERS if by_layer else 1.0
        return needs._held_out(seconds * layers, wildcards)

    return need


_RULES: dict[str, Callable[[Needs, Any], Need]] = {
    "fetch_model": Needs._fetch,
    "import_corpus": Needs._import,
    "plan_corpus": _fixed(1.0),
    "write_stories": Needs._stories,
    "write_dialogues": Needs._dialogues,
    "generate_stories": Needs._stories,
    "generate_dialogues": Needs._dialogues,
    "corpus_card": Needs._card,
    "screen_corpus": Needs._corpus,
    "collect_activations": Needs._collect,
    "layer_activations": _fixed(0.7, _LEAST_MB, 4e5),
    "emotion_vectors": Needs._vectors,
    "export_vectors": Needs._export,
    "geometry": _growing(1.2),
    "norm_correlations": Needs._correlations,
    "similarity": _growing(1.0),
    "clusters": _growing(15.0),
    "layer_profile": _fixed(0.7),
    "readouts": Needs._readouts,
    "external_projections": Needs._external,
    "coloured_passages": Needs._coloured,
    "logit_lens": Needs._lens,
    "story_holdout": _of_stories(14.0),
    "recognition_sweeps": _of_stories(9.0),
    "layer_sweep": _of_stories(30.0, by_layer=True),
    "probes": _of_stories(35.0),
    "robustness": _of_stories(3.0),
    "cluster_stability": _of_stories(27.0),
    "weakest_emotions": _fixed(1.5),
    "published": _fixed(4.0),
    "arousal_check": _growing(8.0),
    "layer_similarity": _growing(12.0, 270),
    "relations": _growing(22.0, 480),
    "emotion_maps": _fixed(32.0, 420),
    "implicit_scenarios": _growing(1.2),
    "intensity": _growing(2.5),
    "speakers": _growing(22.0, 290),
    "refusal": _growing(4.0, 240),
    "external_text": _fixed(10.0, 500),
    "answer_figures": _fixed(4.0, 220, 5e5),
    "steering_directions": _fixed(0.7, _LEAST_MB, 3e5),
    "steering_trial": Needs._trial,
    "safe_ranges": _fixed(1.3),
    "trial_verdicts": _fixed(1.4),
    "preferences": _fixed(3.3),
    "trial_figures": _fixed(1.2),
    "generations": _fixed(0.8),
    "figures": _growing(2.0, disk=2e6),
    "run_geometry": _fixed(30.0, 400, 2e6),
    "compare_runs": _fixed(4.0, disk=4e6),
    "interactive_figures": _fixed(2.5, disk=6e6),
    "summary": _fixed(1.2, 160),
    "summary_page": _fixed(0.8, disk=3e6),
    "manifest": _fixed(1.8, 320),
    "bundle_run": Needs._bundle,
}
