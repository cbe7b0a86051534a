"""One function per figure: tables in, figure out. `draw` reads the tables of a run and writes all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Filed:
    """Where a figure stands in Snakemake's report and on the page of a run."""

    title: str
    category: str


# Every figure of a run by file name, in the order in which they are shown.
FIGURES = {
    "pc_scatter": Filed("Emotions on PC1 and PC2", "Geometry"),
    "circumplex": Filed("Against the human circumplex", "Agreement with ratings"),
    "spectrum": Filed("Spectrum of components", "Geometry"),
    "layer_profile": Filed("Profile over layers", "Layers"),
    "similarity": Filed("Cosine similarity", "Similarity and clusters"),
    "dendrogram": Filed("Hierarchy of emotions", "Similarity and clusters"),
}

_DOSE_RESPONSE = {"dose_response": Filed("Effect by strength of steering", "Steering")}

# Every figure of a trial by its kind and by file name, in the order in which they are shown.
STEERING_FIGURES = {
    "expression": _DOSE_RESPONSE | {"specificity": Filed("Own words against those of other emotions", "Steering")},
    "behaviour": _DOSE_RESPONSE,
    "preference": _DOSE_RESPONSE | {"preference": Filed("What is preferred, and what steering changes", "Steering")},
    "cost": {"cost_curves": Filed("What steering costs, by strength", "Steering")},
}
# Every figure of a comparison of runs by file name, in the order in which they are shown.
COMPARISON_FIGURES = {
    "compared_agreement": "Agreement with human ratings",
    "compared_layers": "Profiles over relative depth",
    "compared_planes": "Planes over the same ratings",
}
# Beside the words of verdicts and never instead of them.
VERDICT_MARKS = {"supported": "✓", "not supported": "✗", "inconclusive": "?"}
