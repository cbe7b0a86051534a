"""What came out of every question, in pictures and words; one module a question.

A module has, for each figure of its question in `affectome.questions`, `draw_{figure}(found, table, layer)` and
`numbers_{figure}(found, table, layer)`, the second line of its caption; and `said(found, layer)`, the answer in a
sentence or two. `found` is the question's JSON, `table` its Parquet, `layer` the headline layer.
"""

from affectome.figures.answers import (
    arousal_check,
    cluster_stability,
    coloured_passages,
    emotion_maps,
    external_text,
    implicit_scenarios,
    intensity,
    layer_similarity,
    layer_sweep,
    logit_lens,
    probes,
    published,
    recognition_sweeps,
    refusal,
    relations,
    robustness,
    speakers,
    story_holdout,
    weakest_emotions,
)

MODULES = {
    "published": published,
    "arousal_check": arousal_check,
    "layer_sweep": layer_sweep,
    "layer_similarity": layer_similarity,
    "relations": relations,
    "cluster_stability": cluster_stability,
    "emotion_maps": emotion_maps,
    "story_holdout": story_holdout,
    "recognition_sweeps": recognition_sweeps,
    "weakest_emotions": weakest_emotions,
    "probes": probes,
    "logit_lens": logit_lens,
    "implicit_scenarios": implicit_scenarios,
    "intensity": intensity,
    "external_text": external_text,
    "coloured_passages": coloured_passages,
    "speakers": speakers,
    "refusal": refusal,
    "robustness": robustness,
}
