"""The questions that a run asks, in the order in which its report answers them.

A question is a rule, a script and a module of `affectome.analyses` of one name, which write
`results/{run}/analyses/{question}.json` and further tables; `affectome.figures.answers` says in words and pictures what
came out. A run chooses among them under `analyses`. Geometry, agreement with ratings, similarity and clusters are what
every summary rests on and always asked.
"""

from dataclasses import dataclass, field

# Where results are filed in Snakemake's report and on the page of a run. That report's menu sorts, hence the numbers.
_CATEGORIES = (
    "Summary",
    "Corpora",
    "Geometry",
    "Agreement with ratings",
    "Layers",
    "Similarity and clusters",
    "Recognition",
    "Probes",
    "Logit lens",
    "Implicit scenarios",
    "Intensity",
    "External text",
    "Speakers",
    "Refusal",
    "Robustness",
    "Steering",
    "Comparison",
)


def category(name: str) -> str:
    """What Snakemake's report calls the category `name`; raises ValueError for one that is not known."""
    return f"{_CATEGORIES.index(name):02d} {name}"


def in_order(name: str) -> int:
    """The place of the category `name` among all; raises ValueError for one that is not known."""
    return _CATEGORIES.index(name)


@dataclass(frozen=True)
class Question:
    """One question: how the page of a run puts it, its `category`, and what is made to answer it.

    `figures` are titles by file name; `files` what it writes under `analyses/` beside its JSON; `page` a page for
    people under `figures/`.
    """

    asks: str
    category: str
    figures: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    page: str | None = None
    # What must be there: "texts" are activations of the headline layer per text, "words" a lexicon, "external" texts.
    needs: str | None = None


QUESTIONS = {
    "published": Question(
        "How does this compare with what others found?",
        "Agreement with ratings",
        {"published": "Beside published figures"},
        ("published.parquet",),
    ),
    "arousal_check": Question(
        "Is it the model's arousal, or the arousal of the stories' words?",
        "Agreement with ratings",
        {"arousal_check": "Arousal without the stories' words"},
        ("arousal_check.parquet",),
        needs="words",
    ),
    "layer_sweep": Question(
        "Which layer tells emotions apart best?",
        "Layers",
        {"layer_sweep": "Recognition and agreement by layer"},
        ("layer_sweep.parquet",),
        needs="texts",
    ),
    "layer_similarity": Question(
        "Does the geometry change with depth?",
        "Layers",
        {"layer_similarity": "Layers against layers"},
        ("layer_similarity.parquet",),
    ),
    "relations": Question(
        "Are synonyms alike and opposites opposed?",
        "Similarity and clusters",
        {"relations": "Synonyms, opposites and other pairs"},
        ("relations.parquet",),
    ),
    "cluster_stability": Question(
        "Do the groups survive other stories?",
        "Similarity and clusters",
        {"cluster_stability": "Stability of the groups"},
        ("cluster_stability.parquet",),
        needs="texts",
    ),
    "emotion_maps": Question(
        "What do maps that keep neighbours show?",
        "Similarity and clusters",
        {"emotion_maps": "Emotions by MDS and UMAP"},
        ("emotion_maps.parquet",),
    ),
    "story_holdout": Question(
        "Do the vectors recognise stories they were not made from?",
        "Recognition",
        {"recognition": "Held-out recognition", "confusions": "What is taken for what"},
        ("story_holdout.parquet",),
        needs="texts",
    ),
    "recognition_sweeps": Question(
        "What does recognition depend on?",
        "Recognition",
        {"recognition_sweeps": "Recognition by stories, denoising and pooling"},
        ("recognition_sweeps.parquet",),
        needs="texts",
    ),
    "weakest_emotions": Question(
        "Which emotions need more stories?",
        "Recognition",
        {"weakest_emotions": "The emotions told apart worst"},
        ("weakest_emotions.parquet", "weakest_emotions.csv"),
        needs="texts",
    ),
    "probes": Question(
        "Can a trained probe read each emotion?",
        "Probes",
        {"probes": "Probes by layer", "calibration": "Calibration of the probes"},
        ("probes.parquet",),
        needs="texts",
    ),
    "logit_lens": Question(
        "Which words do the vectors promote?",
        "Logit lens",
        {"logit_lens": "Rank of the emotion's own word"},
        ("logit_lens.parquet",),
    ),
    "implicit_scenarios": Question(
        "Does the model read emotion that is not said?",
        "Implicit scenarios",
        {"implicit_scenarios": "Scenarios against emotions"},
        ("implicit_scenarios.parquet",),
    ),
    "intensity": Question(
        "Does the readout follow how serious a matter is?",
        "Intensity",
        {"intensity": "Readout by number"},
        ("intensity.parquet",),
    ),
    "external_text": Question(
        "Which emotions stand out in other text?",
        "External text",
        {"external_text": "Emotions of external texts"},
        ("external_text.parquet",),
        needs="external",
    ),
    "coloured_passages": Question(
        "Where in a text does an emotion show?",
        "External text",
        page="passages.html",
    ),
    "speakers": Question(
        "Does the model tell its own emotion from the other's?",
        "Speakers",
        {"speakers": "Present and other speaker"},
        ("speakers.parquet",),
    ),
    "refusal": Question(
        "Are risk, refusal and its manner directions too?",
        "Refusal",
        {"refusal": "The refusal family"},
        ("refusal.parquet", "refusal.safetensors"),
    ),
    "robustness": Question(
        "How much hangs on choices that could have been others?",
        "Robustness",
        {"robustness": "Vectors and headline numbers under other choices"},
        ("robustness.parquet",),
        needs="texts",
    ),
}

# Every figure of an answer, with its question.
ANSWER_FIGURES = {figure: question for question, entry in QUESTIONS.items() for figure in entry.figures}
