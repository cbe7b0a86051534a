"""What the rules ask of the configuration: which files exist, and which settings each rule reads.

Every rule's parameters are a method here that returns only what changes that rule's numbers, so that Snakemake reruns
just the rules that read a changed setting. Plain Python over the config, importable and testable without Snakemake.
"""

import fcntl
import os
import re
import sys
from collections.abc import Callable, Iterable
from copy import copy
from itertools import combinations
from pathlib import Path
from typing import Any

from affectome.config import Config, CostTrial, FileCorpus, PromptLists, Run, WrittenCorpus, load_config, read_words
from affectome.errors import UserError
from affectome.figures import FIGURES, STEERING_FIGURES
from affectome.questions import ANSWER_FIGURES, QUESTIONS, category
from affectome.scheduling.requests import requests
from affectome.steering.sets import read_set

# Every table and list of numbers of a run.
ANALYSES = (
    "geometry.parquet",
    "geometry.json",
    "norm_correlations.json",
    "similarity.parquet",
    "similarity.json",
    "clusters.parquet",
    "clusters.json",
    "layer_profile.parquet",
)

# Emotions that two runs must share to be compared layer by layer.
_SHARED = 5

# What a corpus is like, in numbers and to be read.
_CARD = ("corpus_card.html", "corpus_card.json")


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint that matches exactly `names`; matches nothing where there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


class Workflow:
    """The configuration as the rules see it; methods take Snakemake's wildcards."""

    def __init__(self, data: dict[str, Any], files: list[str]) -> None:
        """Validate the merged config `data`; prints its mistakes, a line each, and exits where it is wrong."""
        try:
            self.config: Config = load_config(data, files)
        except UserError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(1)

    # ------------------------------------------------------------ names

    def _corpora_of(self, kind: type) -> list[str]:
        return [name for name, corpus in self.config.corpora.items() if isinstance(corpus, kind)]

    @property
    def constraints(self) -> dict[str, str]:
        """Constraints of the wildcards that stand for names in config."""
        return {
            "model": one_of(self.config.models),
            "corpus": one_of(self.config.corpora),
            "reading": one_of(self.config.readings),
            "run": one_of(self.config.run_definitions),
            "comparison": rf"(?:{one_of(self.config.run_definitions)})(?:\+(?:{one_of(self.config.run_definitions)}))+",
            "trial": one_of(self.config.trials),
            "figure": one_of(
                dict.fromkeys(
                    [*FIGURES, *ANSWER_FIGURES, *(name for some in STEERING_FIGURES.values() for name in some)]
                )
            ),
            "prompts": one_of(PromptLists.model_fields),
            "texts": one_of(self.config.texts),
        }

    @property
    def lexical_runs(self) -> str:
        """Runs that have ratings of the words that stories are made of."""
        return one_of(name for name, run in self.config.run_definitions.items() if run.lexicon)

    @property
    def external_runs(self) -> str:
        """Runs that lay their vectors over texts from elsewhere."""
        return one_of(name for name, run in self.config.run_definitions.items() if run.external)

    @property
    def run_figures(self) -> str:
        """Figures of the tables that every run has."""
        return one_of(FIGURES)

    @property
    def answer_figures(self) -> str:
        """Figures of the questions that a run asks."""
        return one_of(ANSWER_FIGURES)

    @property
    def file_corpora(self) -> str:
        return one_of(self._corpora_of(FileCorpus))

    @property
    def written_corpora(self) -> str:
        return one_of(self._corpora_of(WrittenCorpus))

    @property
    def service_corpora(self) -> str:
        """Corpora that a service writes, which a job only asks."""
        return one_of(name for name in self._corpora_of(WrittenCorpus) if self.config.corpora[name].model is None)

    @property
    def model_corpora(self) -> str:
        """Corpora that a model writes that runs in the job."""
        return one_of(name for name in self._corpora_of(WrittenCorpus) if self.config.corpora[name].model is not None)

    def trials_of(self, *kinds: str) -> str:
        """A wildcard constraint that matches the trials of `kinds`."""
        return one_of(name for name, trial in self.config.trials.items() if trial.kind in kinds)

    def modules(self, kind: str) -> list[str]:
        """Environment modules of a site, for jobs of `kind` cpu or gpu; Snakemake loads them on request."""
        return getattr(self.config.envmodules, kind)

    # ------------------------------------------------------------ files

    def targets(self) -> list[str]:
        """What `rule all` asks for: every file below the folders of the selected runs.

        Naming more than the last ones makes a deleted vector or table come back with the next call.
        """
        return [*self.report(), *self.cards(), *self.vectors(), *self.analyses(), *self.steering()]

    def corpora(self) -> list[str]:
        """The corpora of the selected runs, as they are read."""
        return self._of_corpora("stories.parquet", "neutral.parquet", "screening.json", *_CARD)

    def cards(self) -> list[str]:
        """What the corpora of the selected runs are like, in numbers and to be read."""
        return self._of_corpora(*_CARD)

    def _of_corpora(self, *files: str) -> list[str]:
        names = dict.fromkeys(self.config.run_definitions[run].corpus for run in self.config.runs)
        return [f"results/corpora/{name}/{file}" for name in names for file in files]

    def activations(self) -> list[str]:
        """The activations of the layers that the selected runs analyse; runs that read the same share them."""
        files = (self._layer_file(run, layer) for run in self.config.runs for layer in self.config.run_layers(run))
        return list(dict.fromkeys(files))

    def vectors(self) -> list[str]:
        """The vectors of the selected runs, per layer and exported."""
        return self._of_runs(
            lambda run: [
                *(f"vectors/layer_{layer}.h5" for layer in self.config.run_layers(run)),
                "vectors/vectors.safetensors",
                "vectors/vectors.npz",
                "vectors/gguf",
            ]
        )

    def analyses(self) -> list[str]:
        """Every table and list of numbers of the selected runs."""
        return self._of_runs(
            lambda run: [
                *(f"analyses/{name}" for name in ANALYSES),
                *(
                    f"analyses/{name}"
                    for q in self.config.questions(run)
                    for name in (f"{q}.json", *QUESTIONS[q].files)
                ),
            ]
        )

    def steering(self) -> list[str]:
        """What the trials of the selected runs found, in numbers."""
        own = {"cost": ["safe_ranges.json"], "preference": ["verdict.json", "effects.parquet", "preferences.json"]}
        return self._of_trials(lambda kind: ["items.parquet", *own.get(kind, ["verdict.json", "effects.parquet"])])

    def report(self) -> list[str]:
        """Pages, summaries, manifests and pictures of the selected runs, those of their trials among them."""
        forms = ("svg", "png", "txt")

        def of_run(run: str) -> list[str]:
            pictures = [*FIGURES, *self._answer_figures(run)]
            return [
                *("summary.html", "overview.rst", "summary.json", "manifest.json", "figures/interactive.html"),
                *(f"figures/{name}.{form}" for name in pictures for form in forms),
                *(f"figures/{name}" for name in self._answer_pages(run)),
            ]

        return [
            *(f"results/comparisons/{'+'.join(pair)}/comparison.html" for pair in self.config.compare),
            *self._of_runs(of_run),
            *self._of_trials(
                lambda kind: [
                    *(f"figures/{name}.{form}" for name in STEERING_FIGURES[kind] for form in forms),
                    "generations.html",
                ]
            ),
        ]

    def _answer_figures(self, run: str) -> list[str]:
        return [figure for question in self.config.questions(run) for figure in QUESTIONS[question].figures]

    def _answer_pages(self, run: str) -> list[str]:
        return [page for question in self.config.questions(run) if (page := QUESTIONS[question].page)]

    def bundles(self) -> list[str]:
        """The archives of the selected runs."""
        return self._of_runs(lambda _: ["bundle.zip"])

    def bundle_files(self, wildcards: Any) -> list[str]:
        """What a run's archive holds of the run: all but vector files by layer and tables of items.

        The exports hold the vectors, and pages show the items. What is the corpus's stays there, texts and all.
        """
        alone = copy(self)
        alone.config = self.config.model_copy(update={"runs": [wildcards.run]})
        kept_out = re.compile(r"/vectors/layer_\d+\.h5$|/items\.parquet$")
        own = [file for file in alone.targets() if file.startswith(f"results/{wildcards.run}/")]
        return [file for file in own if not kept_out.search(file)]

    def corpus_tables(self, wildcards: Any) -> list[str]:
        """The screened texts of a run."""
        folder = f"results/corpora/{self.config.run_definitions[wildcards.run].corpus}"
        return [f"{folder}/stories.parquet", f"{folder}/neutral.parquet"]

    def named_files(self, wildcards: Any) -> list[str]:
        """Files that the configuration of a run names: lists of words, tables of texts, ratings, trial sets."""
        run = self.config.run_definitions[wildcards.run]
        corpus = self.config.corpora[run.corpus]
        words = [words for words in (corpus.emotions, getattr(corpus, "topics", None)) if isinstance(words, str)]
        sources = [getattr(corpus, kind, None) for kind in ("stories", "neutral")]
        tables = [file for source in sources if source is not None for file in source.files]
        prompts = corpus.prompts.model_dump().values() if isinstance(corpus, WrittenCorpus) else ()
        words += [*filter(None, [getattr(corpus, "contrasts", None)]), *prompts]
        sets = [self.config.trials[trial].set_ for trial in run.trials]
        inside = [file for name in sets for file in read_set(name).files]
        words += [run.relations, *self.config.prompts.model_dump().values(), *self.reference_clusters(wildcards)]
        tables += [file for name in run.external for file in self.config.texts[name].source.files]
        norms = [*self.norm_files(wildcards), *self.lexicon_file(wildcards)]
        named = [*words, *tables, *norms, *sets, *inside]
        return list(dict.fromkeys(map(str, named)))

    def _of_runs(self, names: Callable[[str], list[str]]) -> list[str]:
        return [f"results/{run}/{name}" for run in self.config.runs for name in names(run)]

    def _of_trials(self, names: Callable[[str], list[str]]) -> list[str]:
        return [
            f"{self._trial_folder(run, trial)}/{name}"
            for run in self.config.runs
            for trial in self._trials(run)
            for name in names(self.config.trials[trial].kind)
        ]

    def _trials(self, run: str) -> list[str]:
        return self.config.run_definitions[run].trials

    def _trial_folder(self, run: str, trial: str) -> str:
        return f"results/{run}/steering/{trial}"

    def model_files(self, wildcards: Any) -> list[str]:
        """Local files whose change means that a model must be fetched again."""
        source = self.config.models[wildcards.model].source
        return [str(Path(source.path, "config.json"))] if hasattr(source, "path") else []

    def corpus_files(self, wildcards: Any) -> list[str]:
        """The files an existing corpus is read from."""
        corpus = self.config.corpora[wildcards.corpus]
        return [file for source in (corpus.stories, corpus.neutral) if source is not None for file in source.files]

    def plan_files(self, wildcards: Any) -> list[str]:
        """What the plan of a corpus is made from besides its settings."""
        corpus = self.config.corpora[wildcards.corpus]
        return list(filter(None, [corpus.prompts.dialogue_topics, corpus.contrasts]))

    def story_prompts(self, wildcards: Any) -> list[str]:
        """The templates that texts with emotions are asked for with."""
        return list(self._story_prompts(wildcards).values())

    def dialogue_prompt(self, wildcards: Any) -> str:
        """The template that neutral dialogues are asked for with."""
        return self.config.corpora[wildcards.corpus].prompts.dialogue

    def _story_prompts(self, wildcards: Any) -> dict[str, str]:
        corpus = self.config.corpora[wildcards.corpus]
        if corpus.contrasts is not None:
            return {"contrast": corpus.prompts.contrast}
        if corpus.kind == "speakers":
            return {"speakers": corpus.prompts.speakers}
        several = corpus.writer.stories_per_request > 1
        return {"story": corpus.prompts.story, **({"several": corpus.prompts.several} if several else {})}

    def writer_files(self, wildcards: Any) -> list[str]:
        """The model that a writing job runs."""
        model = self.config.corpora[wildcards.corpus].model
        return [] if model is None else [f"resources/models/{model}/manifest.json"]

    def writer_environment(self, wildcards: Any) -> str:
        """The conda environment of a job that runs the model that writes."""
        served = hasattr(self.config.corpora[wildcards.corpus].writer, "serve_with")
        return f"../envs/{'vllm' if served else 'gpu'}.yaml"

    def raw_stories(self, wildcards: Any) -> list[str]:
        """The texts with emotions of a corpus before screening; those it is added to have been screened before."""
        return self._raw(wildcards.corpus, "stories")

    def raw_neutral(self, wildcards: Any) -> list[str]:
        """The neutral texts of a corpus before screening."""
        return self._raw(wildcards.corpus, "neutral")

    def writing_reports(self, wildcards: Any) -> list[str]:
        """What became of the texts that a corpus was to have."""
        corpus = self.config.corpora[wildcards.corpus]
        if isinstance(corpus, FileCorpus):
            return []
        written = [*self._written(wildcards.corpus, "stories"), *self._written(wildcards.corpus, "neutral")]
        return [file.removesuffix("parquet") + "json" for file in written]

    def _raw(self, name: str, kind: str) -> list[str]:
        corpus = self.config.corpora[name]
        if isinstance(corpus, FileCorpus):
            return [f"results/corpora/{name}/raw_{kind}.parquet"]
        base = [f"results/corpora/{corpus.base}/{kind}.parquet"] if corpus.base else []
        return [*base, *self._written(name, kind)]

    def _written(self, name: str, kind: str) -> list[str]:
        jobs = self.config.corpora[name].jobs
        shards = [f"stories_{shard}" for shard in range(jobs)] if kind == "stories" else ["neutral"]
        return [f"results/corpora/{name}/written/{shard}.parquet" for shard in shards]

    def shard_files(self, wildcards: Any) -> list[str]:
        """Activation shards behind one layer file, in order."""
        folder = f"results/activations/{wildcards.model}/{wildcards.corpus}/{wildcards.reading}/shards"
        return [f"{folder}/{shard}.h5" for shard in range(self.config.corpora[wildcards.corpus].shards)]

    def layer_file(self, wildcards: Any) -> str:
        """The activations behind one vector file."""
        return self._layer_file(wildcards.run, wildcards.layer)

    def vector_files(self, wildcards: Any) -> list[str]:
        """All vector files of a run, by layer."""
        return [f"results/{wildcards.run}/vectors/layer_{layer}.h5" for layer in self.config.run_layers(wildcards.run)]

    def model_manifest(self, wildcards: Any) -> str:
        """The manifest of a run's model."""
        return f"resources/models/{self.config.run_definitions[wildcards.run].model}/manifest.json"

    def screening(self, wildcards: Any) -> str:
        """What was dropped from a run's corpus."""
        return f"results/corpora/{self.config.run_definitions[wildcards.run].corpus}/screening.json"

    def headline_layer_files(self, wildcards: Any) -> list[str]:
        """The activations of a run's headline layer, or of all among which its sweep chooses."""
        return [self._layer_file(wildcards.run, layer) for layer in self.config.headline_layers(wildcards.run)]

    def swept_layer_files(self, wildcards: Any) -> list[str]:
        """The activations of all layers of a run that are stored per text."""
        run = self.config.run_definitions[wildcards.run]
        stored = set(self.config.stored_layers(run.model))
        return [
            self._layer_file(wildcards.run, layer) for layer in self.config.run_layers(wildcards.run) if layer in stored
        ]

    def headline_vector_files(self, wildcards: Any) -> list[str]:
        """The vectors of a run's headline layer, or of all among which its sweep chooses."""
        return [
            f"results/{wildcards.run}/vectors/layer_{layer}.h5" for layer in self.config.headline_layers(wildcards.run)
        ]

    def chosen_layer(self, wildcards: Any) -> list[str]:
        """Where the headline layer of a run is found, if config does not say it."""
        return [self._sweep(wildcards.run)] if self.config.swept(wildcards.run) else []

    def _sweep(self, run: str) -> str:
        return f"results/{run}/analyses/layer_sweep.json"

    def _layer(self, run: str) -> int | str:
        """The headline layer of a run, or the file in which it is found (see `affectome.layers.headline_layer`)."""
        return self._sweep(run) if self.config.swept(run) else self.config.headline_layers(run)[0]

    def headline(self, wildcards: Any) -> int | str:
        """The headline layer of a run, or the sweep that chooses it."""
        return self._layer(wildcards.run)

    def prompt_list(self, wildcards: Any) -> str:
        """The file of a list of prompts."""
        return str(getattr(self.config.prompts, wildcards.prompts))

    def readouts(self, prompts: str) -> Callable[[Any], str]:
        """An input function: what a run's model made of the list `prompts`."""
        return lambda wildcards: f"results/readouts/{self.config.run_definitions[wildcards.run].model}/{prompts}.h5"

    def probed_layer_files(self, wildcards: Any) -> list[str]:
        """The activations of the layers that a run probes."""
        return [self._layer_file(wildcards.run, layer) for layer in self.config.probed_layers(wildcards.run)]

    def reading_variants(self, wildcards: Any) -> list[str]:
        """The headline layer under the other readings of a run."""
        run = self.config.run_definitions[wildcards.run]
        return [
            f"results/activations/{run.model}/{run.corpus}/{reading}/layer_{layer}.h5"
            for reading in run.variants.readings
            for layer in self.config.headline_layers(wildcards.run)
        ]

    def model_variants(self, wildcards: Any) -> list[str]:
        """The headline layer of other entries of a run's model."""
        run = self.config.run_definitions[wildcards.run]
        return [
            f"results/activations/{model}/{run.corpus}/{run.reading}/layer_{layer}.h5"
            for model in run.variants.models
            for layer in self.config.headline_layers(wildcards.run)
        ]

    def relations_file(self, wildcards: Any) -> str:
        """The synonyms and antonyms that a run looks for."""
        return str(self.config.run_definitions[wildcards.run].relations)

    def reference_clusters(self, wildcards: Any) -> list[str]:
        """Groups found elsewhere, if a run compares its own with some."""
        reference = self.config.run_definitions[wildcards.run].clusters.reference
        return [reference] if reference else []

    def lexicon_file(self, wildcards: Any) -> list[str]:
        """The ratings of the words that stories are made of, if a run has some."""
        lexicon = self.config.run_definitions[wildcards.run].lexicon
        return [self.config.norms[lexicon].file] if lexicon else []

    def before(self, wildcards: Any) -> list[str]:
        """How the run recognised stories whose weakest emotions a run had further stories for."""
        other = self.config.run_definitions[wildcards.run].holdout.before
        return [f"results/{other}/analyses/story_holdout.{form}" for form in ("json", "parquet")] if other else []

    def published_answers(self, wildcards: Any) -> list[str]:
        """The answers of a run that figures published elsewhere are put beside."""
        compared = {"story_holdout", "probes", "logit_lens", "implicit_scenarios"}
        asked = self.config.questions(wildcards.run)
        return [f"results/{wildcards.run}/analyses/{name}.json" for name in asked if name in compared]

    def neutral(self, wildcards: Any) -> str:
        """The neutral texts of a run's corpus."""
        return f"results/corpora/{self.config.run_definitions[wildcards.run].corpus}/neutral.parquet"

    def external_files(self, wildcards: Any) -> list[str]:
        """The files that texts from elsewhere are read from."""
        return self.config.texts[wildcards.texts].source.files

    def projections(self, form: str) -> Callable[[Any], list[str]]:
        """An input function: the projections of a run's external texts as `form` parquet or json."""
        return lambda wildcards: [
            f"results/{wildcards.run}/external/{name}.{form}"
            for name in self.config.run_definitions[wildcards.run].external
        ]

    def answers(self, wildcards: Any) -> list[str]:
        """The answers to a run's questions, in numbers."""
        return [f"results/{wildcards.run}/analyses/{name}.json" for name in self.config.questions(wildcards.run)]

    def answer_tables(self, wildcards: Any) -> list[str]:
        """What a figure of an answer is drawn from."""
        question = ANSWER_FIGURES[wildcards.figure]
        return [f"results/{wildcards.run}/analyses/{question}.{form}" for form in ("json", "parquet")]

    def answer_pictures(self, wildcards: Any) -> list[str]:
        """The figures and pages of a run's answers."""
        folder = f"results/{wildcards.run}/figures"
        pictures = [f"{folder}/{name}.svg" for name in self._answer_figures(wildcards.run)]
        return [*pictures, *(f"{folder}/{name}" for name in self._answer_pages(wildcards.run))]

    def answer_captions(self, wildcards: Any) -> list[str]:
        """The captions of the figures of a run's answers."""
        return [f"results/{wildcards.run}/figures/{name}.txt" for name in self._answer_figures(wildcards.run)]

    def _layer_file(self, run: str, layer: int | str) -> str:
        read = self.config.run_definitions[run]
        return f"results/activations/{read.model}/{read.corpus}/{read.reading}/layer_{layer}.h5"

    def steered_vectors(self, wildcards: Any) -> list[str]:
        """The vector files of the layers that a trial steers."""
        layers = self.config.trial_layers(wildcards.run, wildcards.trial)
        return [f"results/{wildcards.run}/vectors/layer_{layer}.h5" for layer in layers]

    def steered_activations(self, wildcards: Any) -> list[str]:
        """The activations of the layers that a trial steers."""
        layers = self.config.trial_layers(wildcards.run, wildcards.trial)
        return [self._layer_file(wildcards.run, layer) for layer in layers]

    def stories(self, wildcards: Any) -> str:
        """The stories of a run's corpus."""
        return f"results/corpora/{self.config.run_definitions[wildcards.run].corpus}/stories.parquet"

    def trial_set(self, wildcards: Any) -> str:
        """The set of a trial."""
        return self.config.trials[wildcards.trial].set_

    def trial_set_files(self, wildcards: Any) -> list[str]:
        """Files that the set of a trial names; none are asked of a set that cannot be read yet."""
        return list(read_set(self.trial_set(wildcards)).files)

    def safe_ranges(self, wildcards: Any) -> list[str]:
        """Safe ranges that a run measures at the layers of a trial."""
        layers = self.config.trial_layers(wildcards.run, wildcards.trial)
        return [
            f"{self._trial_folder(wildcards.run, trial)}/safe_ranges.json"
            for trial in self._trials(wildcards.run)
            if isinstance(self.config.trials[trial], CostTrial)
            and self.config.trial_layers(wildcards.run, trial) == layers
        ]

    def trial_findings(self, wildcards: Any) -> list[str]:
        """The verdicts and safe ranges of a run's trials, in their order."""
        return [self._finding(wildcards.run, trial) for trial in self._trials(wildcards.run)]

    def trial_figures(self, wildcards: Any) -> list[str]:
        """The figures of a run's trials."""
        return [
            f"{self._trial_folder(wildcards.run, trial)}/figures/{name}.svg"
            for trial in self._trials(wildcards.run)
            for name in STEERING_FIGURES[self.config.trials[trial].kind]
        ]

    def trial_pages(self, wildcards: Any) -> list[str]:
        """The pages on which the items of a run's trials are looked up."""
        return [f"{self._trial_folder(wildcards.run, trial)}/generations.html" for trial in self._trials(wildcards.run)]

    def trial_captions(self, wildcards: Any) -> list[str]:
        """The captions of the figures of a run's trials."""
        return [figure.removesuffix("svg") + "txt" for figure in self.trial_figures(wildcards)]

    def verdicts(self, wildcards: Any) -> list[str]:
        """The verdicts of a run's trials that have some, in their order."""
        return [finding for finding in self.trial_findings(wildcards) if finding.endswith("/verdict.json")]

    def effects(self, wildcards: Any) -> list[str]:
        """The tables of effects behind `verdicts`."""
        return [verdict.removesuffix("verdict.json") + "effects.parquet" for verdict in self.verdicts(wildcards)]

    def figure_tables(self, wildcards: Any) -> list[str]:
        """What the figures of a trial are drawn from."""
        folder, kind = self._trial_folder(wildcards.run, wildcards.trial), self.config.trials[wildcards.trial].kind
        if kind == "cost":
            return [f"{folder}/safe_ranges.json"]
        names = ["verdict.json", "effects.parquet"] + ["preferences.json"] * (kind == "preference")
        return [f"{folder}/{name}" for name in names]

    def _finding(self, run: str, trial: str) -> str:
        name = "safe_ranges.json" if isinstance(self.config.trials[trial], CostTrial) else "verdict.json"
        return f"{self._trial_folder(run, trial)}/{name}"

    def norm_files(self, wildcards: Any) -> list[str]:
        """Files of a run's norms, in the order of its list."""
        return [norm["file"] for norm in self.norms(wildcards).values()]

    def first_norm_file(self, wildcards: Any) -> str:
        """File of the norm that orients a run's axes."""
        return self.norm_files(wildcards)[0]

    # ------------------------------------------------------------ settings

    def model_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `fetch_model`."""
        model = self.config.models[wildcards.model]
        source = model.source.model_dump(mode="json")
        return {"source": source, **model.model_dump(include={"blocks", "width", "trust_remote_code"})}

    def import_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `import_corpus`."""
        return self.config.corpora[wildcards.corpus].model_dump(mode="json", include={"stories", "neutral"})

    def plan_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `plan_corpus`."""
        corpus = self.config.corpora[wildcards.corpus]
        return {
            **corpus.model_dump(include={"kind", "stories_per_topic", "contrasts", "jobs", "seed"}),
            "emotions": read_words(corpus.emotions),
            "topics": read_words(corpus.topics)[: corpus.topic_count],
            "count": corpus.neutral_dialogues,
            "topics_file": corpus.prompts.dialogue_topics,
        }

    def stories_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `write_stories`."""
        return {"prompts": self._story_prompts(wildcards), **self._writing(wildcards)}

    def dialogues_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `write_dialogues`."""
        return {"prompts": {"dialogue": self.dialogue_prompt(wildcards)}, **self._writing(wildcards, several=False)}

    def _writing(self, wildcards: Any, several: bool = True) -> dict[str, Any]:
        corpus = self.config.corpora[wildcards.corpus]
        return {
            "writer": self.config.writer_spec(wildcards.corpus),
            "attempts": corpus.writer.attempts,
            "stories_per_request": corpus.writer.stories_per_request if several else 1,
            "rules": corpus.screening.model_dump(),
        }

    def requests(self, rule: str) -> dict[str, Callable[..., int]]:
        """What jobs of `rule` ask a scheduler for."""
        return requests(self.config, rule)

    def screening_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `screen_corpus`."""
        corpus = self.config.corpora[wildcards.corpus]
        return {"emotions": read_words(corpus.emotions), "rules": corpus.screening.model_dump()}

    def card_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `corpus_card`."""
        corpus = self.config.corpora[wildcards.corpus]
        description = corpus.model_dump(mode="json", exclude={"emotions", "topics", "shards", "jobs", "screening"})
        if isinstance(corpus, WrittenCorpus):
            description["writer"] = self.config.writer_spec(wildcards.corpus)
        return {
            "title": wildcards.corpus,
            "emotions": read_words(corpus.emotions),
            "seed": getattr(corpus, "seed", 0),
            "description": description,
        }

    def activation_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `collect_activations`."""
        model, reading = self.config.models[wildcards.model], self.config.readings[wildcards.reading]
        return {
            "layers": list(self.config.collected_layers(wildcards.model)),
            "stored": list(self.config.stored_layers(wildcards.model)),
            **model.model_dump(include={"dtype", "quantization", "token_budget", "trust_remote_code"}),
            **reading.model_dump(by_alias=True),
            "shards": self.config.corpora[wildcards.corpus].shards,
        }

    def vector_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `emotion_vectors`."""
        run = self.config.run_definitions[wildcards.run]
        return {
            "emotions": read_words(self.config.corpora[run.corpus].emotions),
            "reference": run.reference,
            "denoising": run.denoising.model_dump() if run.denoising else None,
        }

    def norms(self, wildcards: Any) -> dict[str, dict[str, Any]]:
        """A run's norms, by name, in the order of its list."""
        run = self.config.run_definitions[wildcards.run]
        return {name: self.config.norms[name].model_dump(exclude={"source"}) for name in run.norms}

    def geometry_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `geometry`."""
        return {**self._first_norm(wildcards), "components": self.config.run_definitions[wildcards.run].components}

    def _first_norm(self, wildcards: Any) -> dict[str, Any]:
        name, norm = next(iter(self.norms(wildcards).items()))
        return {"norm": norm, "norm_name": name}

    def correlation_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `norm_correlations`."""
        statistics = self.config.run_definitions[wildcards.run].statistics
        return {"norms": self.norms(wildcards), **statistics.model_dump()}

    def similarity_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `similarity`."""
        return {"pairs": self.config.run_definitions[wildcards.run].pairs}

    def cluster_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `clusters`."""
        run = self.config.run_definitions[wildcards.run]
        return {**run.clusters.model_dump(include={"k", "k_max"}), "seed": run.statistics.seed}

    def _loading(self, model: str) -> dict[str, Any]:
        """How `model` is loaded where it is run."""
        return self.config.models[model].model_dump(
            include={"dtype", "quantization", "token_budget", "trust_remote_code"}
        )

    def readout_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `readouts`."""
        layers = list(self.config.collected_layers(wildcards.model))
        return {"kind": wildcards.prompts, "layers": layers, **self._loading(wildcards.model)}

    def _resampling(self, wildcards: Any, *names: str) -> dict[str, Any]:
        return self.config.run_definitions[wildcards.run].statistics.model_dump(include={*names, "seed"})

    def resampled_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of questions that need to know nothing but how often to resample."""
        return self._resampling(wildcards, "bootstrap", "permutations")

    def layer_similarity_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `layer_similarity`."""
        return self._resampling(wildcards, "permutations")

    def published_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `published`."""
        return {"norms": self.norms(wildcards)}

    def _held_out(self, wildcards: Any) -> dict[str, Any]:
        """How vectors are made and which stories take no part in them."""
        return {**self.vector_spec(wildcards), "folds": self.config.run_definitions[wildcards.run].holdout.folds}

    def story_holdout_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `story_holdout`."""
        return {**self._held_out(wildcards), **self.resampled_spec(wildcards)}

    def layer_sweep_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `layer_sweep`."""
        window = self.config.run_definitions[wildcards.run].holdout.window
        return {**self._held_out(wildcards), "window": window, **self._resampling(wildcards, "bootstrap")}

    def recognition_sweeps_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `recognition_sweeps`."""
        swept = {"draws": 10, "shares": [0.25, 0.5, 0.75, 0.9]}
        return {**self._held_out(wildcards), **swept, **self._resampling(wildcards, "bootstrap")}

    def weakest_emotions_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `weakest_emotions`."""
        count = self.config.run_definitions[wildcards.run].holdout.weakest
        return {"count": count, "unlike": 2, **self._resampling(wildcards, "bootstrap")}

    def probes_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `probes`."""
        run = self.config.run_definitions[wildcards.run]
        return {
            "emotions": read_words(self.config.corpora[run.corpus].emotions),
            "folds": 3,
            **run.probes.model_dump(include={"n_train", "n_val"}),
            **self.resampled_spec(wildcards),
        }

    def robustness_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `robustness`."""
        return {
            **self._held_out(wildcards),
            **self._first_norm(wildcards),
            "splits": 50,
            **self._resampling(wildcards, "bootstrap"),
        }

    def cluster_stability_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `cluster_stability`."""
        run = self.config.run_definitions[wildcards.run]
        often = {"bootstrap": 100, "rotations": 99}
        return {"reference": run.reference, **often, **self._resampling(wildcards, "permutations")}

    def emotion_maps_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `emotion_maps`."""
        return {"stress_draws": 99, **self.resampled_spec(wildcards)}

    def arousal_check_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `arousal_check`."""
        lexicon = self.config.run_definitions[wildcards.run].lexicon
        return {
            "lexicon": self.config.norms[lexicon].model_dump(exclude={"source"}),
            "lexicon_name": lexicon,
            "norms": self.norms(wildcards),
            **self.resampled_spec(wildcards),
        }

    def logit_lens_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `logit_lens`."""
        model = self.config.models[self.config.run_definitions[wildcards.run].model]
        shown = {"layers": 5, "tokens": 8, "trust_remote_code": model.trust_remote_code}
        return {**shown, **self.resampled_spec(wildcards)}

    def external_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `external_projections`."""
        texts = self.config.texts[wildcards.texts].model_dump(mode="json")
        return {**texts, **self._loading(self.config.run_definitions[wildcards.run].model)}

    def external_text_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `external_text`."""
        run = self.config.run_definitions[wildcards.run]
        return {"corpora": run.external, "passages": 3, **self.resampled_spec(wildcards)}

    def coloured_passages_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `coloured_passages`."""
        run = self.config.run_definitions[wildcards.run]
        loading = self._loading(run.model)
        del loading["token_budget"]
        shown = {"title": run.title, "corpora": run.external, "emotions": 12, "max_tokens": 256}
        return {**shown, **loading, **self._resampling(wildcards)}

    def directions_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `steering_directions`."""
        trial = self.config.trials[wildcards.trial]
        swept = trial.layers == "auto" and self.config.swept(wildcards.run)
        return {
            "emotions": trial.vectors,
            "controls": trial.controls.model_dump(),
            "seed": trial.seed,
            "layer": self._sweep(wildcards.run) if swept else None,
        }

    def trial_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `steering_trial`."""
        trial = self.config.trials[wildcards.trial]
        model = self.config.models[self.config.run_definitions[wildcards.run].model]
        common = {"kind", "strengths", "n", "seed", "positions", "generation"}
        settings = common | {"judge", "texts", "questions", "choices"}
        return {
            "positions": "all",
            **trial.model_dump(include=settings),
            "layer": self._layer(wildcards.run),
            "token_budget": model.trial_budget,
            **model.model_dump(include={"dtype", "quantization", "trust_remote_code"}),
        }

    def safety_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `safe_ranges`."""
        trial = self.config.trials[wildcards.trial]
        statistics = self.config.run_definitions[wildcards.run].statistics
        return {
            "trial": wildcards.trial,
            "gates": trial.gates.model_dump(),
            "bootstrap": statistics.bootstrap,
            "seed": trial.seed,
        }

    def verdict_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `trial_verdicts`."""
        trial = self.config.trials[wildcards.trial]
        content = read_set(trial.set_)
        statistics = self.config.run_definitions[wildcards.run].statistics
        rate = trial.kind == "behaviour"
        outcome = content.outcome.name if rate else {"expression": "logprob:{}"}.get(trial.kind, trial.kind)
        endpoints = [
            {
                "vector": vector,
                "outcome": outcome.format(vector),
                "sign": sign,
                "smallest_effect": trial.smallest_effect,
                "bounds": [0, 1] if rate else None,
            }
            for vector, sign in self.config.trial_predictions(wildcards.trial).items()
        ]
        return {
            "described": {
                "trial": wildcards.trial,
                "kind": trial.kind,
                "title": content.about,
                "unit": "rate" if rate else "nats",
            },
            "endpoints": endpoints,
            "alpha": trial.alpha,
            "bootstrap": statistics.bootstrap,
            "permutations": statistics.permutations,
            "seed": trial.seed,
        }

    def preference_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `preferences`."""
        statistics = self.config.run_definitions[wildcards.run].statistics
        return statistics.model_dump(include={"bootstrap", "permutations", "seed"})

    def trial_figure_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `trial_figures`."""
        return {"dpi": self.config.run_definitions[wildcards.run].figures.dpi}

    def generations_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `generations`."""
        return {"title": f"{wildcards.run}, trial {wildcards.trial}"}

    def trial_plan(self, _wildcards: Any) -> str:
        """What the trials of the selected runs will take and can show, in words."""
        from affectome.steering.plan_report import plan_trials

        return plan_trials(self.config)

    def figure_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `figures`."""
        run = self.config.run_definitions[wildcards.run]
        return {"layer": self._layer(wildcards.run), **self._first_norm(wildcards), **run.figures.model_dump()}

    def answer_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `answer_figures`."""
        run = self.config.run_definitions[wildcards.run]
        return {"layer": self._layer(wildcards.run), "dpi": run.figures.dpi}

    def answer_category(self, wildcards: Any) -> str:
        """Where Snakemake's report files a figure of an answer."""
        return category(QUESTIONS[ANSWER_FIGURES[wildcards.figure]].category)

    def answer_labels(self, wildcards: Any) -> dict[str, str]:
        """What Snakemake's report lists a figure of an answer by."""
        return {"figure": QUESTIONS[ANSWER_FIGURES[wildcards.figure]].figures[wildcards.figure], "run": wildcards.run}

    def figure_category(self, wildcards: Any) -> str:
        """The question that a figure of a run answers, under which Snakemake's report files it."""
        return category(FIGURES[wildcards.figure].category)

    def figure_labels(self, wildcards: Any) -> dict[str, str]:
        """What Snakemake's report lists a figure of a run by."""
        return {"figure": FIGURES[wildcards.figure].title, "run": wildcards.run}

    def trial_figure_labels(self, wildcards: Any) -> dict[str, str]:
        """What Snakemake's report lists a figure of a trial by.

        The trial comes first: of further labels, the report makes a switch where one has two values, each on half of
        the entries, and fails if an entry lacks one of them, as figures that only one of two trials has would.
        """
        titles = STEERING_FIGURES[self.config.trials[wildcards.trial].kind]
        return {"trial": wildcards.trial, "figure": titles[wildcards.figure].title}

    def comparison(self, _wildcards: Any) -> str:
        """The page that compares the selected runs; says so and exits where there are fewer than two."""
        if len(self.config.runs) < 2:
            sys.stderr.write(
                "compare: takes at least two runs; select them, e.g. --config 'runs=[demo,demo-literary]'\n"
            )
            sys.exit(1)
        return f"results/comparisons/{'+'.join(self.config.runs)}/comparison.html"

    def compared(self, name: str) -> Callable[[Any], list[str]]:
        """An input function: the file `name` of every run of a comparison."""
        return lambda wildcards: [f"results/{run}/{name}" for run in wildcards.comparison.split("+")]

    def compared_verdicts(self, wildcards: Any) -> list[str]:
        """The verdicts of all trials of the runs of a comparison."""
        return [verdict for _run, verdict in self._compared_verdicts(wildcards)]

    def _compared_verdicts(self, wildcards: Any) -> list[tuple[str, str]]:
        found = {
            run: [self._finding(run, trial) for trial in self._trials(run)] for run in wildcards.comparison.split("+")
        }
        return [(run, file) for run, files in found.items() for file in files if file.endswith("/verdict.json")]

    @property
    def pairs(self) -> str:
        """Comparisons of two runs."""
        runs = one_of(self.config.run_definitions)
        return rf"(?:{runs})\+(?:{runs})"

    def vectors_of(self, place: int) -> Callable[[Any], list[str]]:
        """An input function: the vectors of the run at `place` in a comparison."""

        def files(wildcards: Any) -> list[str]:
            run = wildcards.comparison.split("+")[place]
            return [f"results/{run}/vectors/layer_{layer}.h5" for layer in self.config.run_layers(run)]

        return files

    def headlines(self, wildcards: Any) -> list[int | str]:
        """The headline layers of the runs of a comparison, or the sweeps that choose them."""
        return [self._layer(run) for run in wildcards.comparison.split("+")]

    def chosen_layers(self, wildcards: Any) -> list[str]:
        """Where the headline layers of a comparison are found, of those that config does not say."""
        return [file for file in self.headlines(wildcards) if isinstance(file, str)]

    def comparison_dpi(self, wildcards: Any) -> int:
        """The resolution of a comparison's figures, its first run's."""
        return self.config.run_definitions[wildcards.comparison.split("+")[0]].figures.dpi

    def compared_geometries(self, form: str) -> Callable[[Any], list[str]]:
        """An input function: how every two runs of a comparison that share words enough arrange them, as `form`."""

        def words(run: str) -> set[str]:
            return set(read_words(self.config.corpora[self.config.run_definitions[run].corpus].emotions))

        return lambda wildcards: [
            f"results/comparisons/{a}+{b}/run_geometry.{form}"
            for a, b in combinations(wildcards.comparison.split("+"), 2)
            if len(words(a) & words(b)) >= _SHARED
        ]

    def run_geometry_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `run_geometry`; those of statistics are the first run's."""
        runs = wildcards.comparison.split("+")
        statistics = self.config.run_definitions[runs[0]].statistics
        return {
            "names": runs,
            "norm": self._comparison_norm(wildcards)[1],
            **statistics.model_dump(include={"bootstrap", "permutations", "seed"}),
        }

    def _comparison_norm(self, wildcards: Any) -> tuple[str, dict[str, Any]]:
        first = self.config.run_definitions[wildcards.comparison.split("+")[0]].norms[0]
        return first, self.config.norms[first].model_dump(exclude={"source"})

    def comparison_norm_file(self, wildcards: Any) -> str:
        """File of the norm over whose ratings the planes of a comparison are laid: the first of its first run."""
        return self._comparison_norm(wildcards)[1]["file"]

    def comparison_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `compare_runs`; those of statistics and figures are the first run's."""
        runs = wildcards.comparison.split("+")
        first = self.config.run_definitions[runs[0]]
        norm_name, norm = self._comparison_norm(wildcards)
        return {
            "titles": {run: self.config.run_definitions[run].title for run in runs},
            "judged": [run for run, _verdict in self._compared_verdicts(wildcards)],
            "norm": norm,
            "norm_name": norm_name,
            "permutations": first.statistics.permutations,
            "seed": first.statistics.seed,
            "dpi": first.figures.dpi,
        }

    def interactive_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `interactive_figures`."""
        title = self.config.run_definitions[wildcards.run].title
        return {"title": title, "layer": self._layer(wildcards.run), **self._first_norm(wildcards)}

    def summary_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `summary`."""
        run = self.config.run_definitions[wildcards.run]
        return {"run": wildcards.run, "corpus": run.corpus, "layer": self._layer(wildcards.run)}

    def page_spec(self, wildcards: Any) -> dict[str, Any]:
        """Settings of `summary_page`."""
        run = self.config.run_definitions[wildcards.run]
        return {"title": run.title, "norms": {name: self.config.norms[name].source for name in run.norms}}

    def manifest_spec(self, wildcards: Any) -> dict[str, Any]:
        """Everything config says of a run but how its figures look, for its manifest."""
        run = self.config.run_definitions[wildcards.run]
        dump = {"mode": "json", "by_alias": True}
        return {
            "run": {"name": wildcards.run, **run.model_dump(**dump, exclude={"figures"})},
            "model": {"name": run.model, **self.config.models[run.model].model_dump(**dump)},
            "corpus": {"name": run.corpus, **self.config.corpora[run.corpus].model_dump(**dump)},
            "reading": {"name": run.reading, **self.config.readings[run.reading].model_dump(**dump)},
            "norms": {name: self.config.norms[name].model_dump(**dump) for name in self._norms_of(run)},
            "trials": {name: self.config.trials[name].model_dump(**dump) for name in run.trials},
            "prompts": self.config.prompts.model_dump(**dump),
            "texts": {name: self.config.texts[name].model_dump(**dump) for name in run.external},
        }

    def bundle_spec(self, wildcards: Any) -> dict[str, Any]:
        """The configuration of a run alone, complete, in the form of workflow_config.yaml."""
        dump = {"mode": "json", "by_alias": True}
        runs = {name: self.config.run_definitions[name] for name in self._with_before(wildcards.run)}
        corpora = dict.fromkeys(run.corpus for run in runs.values())
        bases = [getattr(self.config.corpora[name], "base", None) for name in corpora]
        named = {
            "models": [model for run in runs.values() for model in (run.model, *run.variants.models)],
            "corpora": [*filter(None, bases), *corpora],
            "readings": [reading for run in runs.values() for reading in (run.reading, *run.variants.readings)],
            "norms": [norm for run in runs.values() for norm in self._norms_of(run)],
            "trials": [trial for run in runs.values() for trial in run.trials],
            "texts": [text for run in runs.values() for text in run.external],
        }
        return {
            "runs": [wildcards.run],
            **{
                kind: {name: getattr(self.config, kind)[name].model_dump(**dump) for name in dict.fromkeys(names)}
                for kind, names in named.items()
            },
            "prompts": self.config.prompts.model_dump(**dump),
            "run_definitions": {name: run.model_dump(**dump) for name, run in runs.items()},
        }

    def _with_before(self, run: str) -> list[str]:
        """`run`, and those before it that it is put beside."""
        found = [run]
        while (before := self.config.run_definitions[found[-1]].holdout.before) and before not in found:
            found.append(before)
        return found

    @staticmethod
    def _norms_of(run: Run) -> list[str]:
        return [*run.norms, *filter(None, [run.lexicon])]


def share_sources() -> None:
    """Let jobs import this package whichever interpreter runs them: conda, a container, a compute node."""
    sources = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))


class WorkingDirectory:
    """Holds a working directory for one snakemake at a time.

    Snakemake's own lock is a file that outlives a killed process and then wants `--unlock`; the profile turns it off.
    This one is an operating system lock that ends with its process, however that ends.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def hold(self, folder: str | Path = ".snakemake") -> None:
        """Take the lock until this process ends; prints who has it and exits where it is taken."""
        Path(folder).mkdir(exist_ok=True)
        self._handle = open(Path(folder) / "affectome.lock", "a+", encoding="utf-8")  # noqa: SIM115 - held until exit
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.seek(0)
            owner = self._handle.read().strip()
            sys.stderr.write(f"another snakemake (process {owner}) is working here; wait for it to end\n")
            sys.exit(1)
        self._handle.truncate(0)
        self._handle.write(str(os.getpid()))
        self._handle.flush()
