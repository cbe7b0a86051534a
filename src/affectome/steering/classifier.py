"""Which emotion does a text convey to the unsteered model? A classifier made of the pipeline's own stories.

Multinomial logistic regression on the mean residual of one block over a text's tokens, standardised. It learns from as
many tokens of a story as it will read of a generated text. Its accuracy is cross-validated by topic, so that a topic
never stands on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from affectome.activations.tokens import plan_batches, tokenize
from affectome.errors import UserError
from affectome.steering import passes

# Stories per emotion that are read; more change little and cost passes.
_STORIES = 50
_FOLDS = 5


@dataclass(frozen=True)
class EmotionClassifier:
    """Log-odds of emotions for mean residuals; `notes` say how it was made and how well it does."""

    emotions: tuple[str, ...]
    pipeline: Pipeline
    notes: dict[str, Any]

    def log_odds(self, pooled: np.ndarray | None) -> list[float]:
        """Log-odds (nats) of each emotion against all others for one mean residual (width,); NaN without one."""
        if pooled is None:
            return [float("nan")] * len(self.emotions)
        logs = self.pipeline.predict_log_proba(pooled[None])[0]
        of = dict(zip(self.pipeline.classes_, logs, strict=True))
        # log(1 − p) from log p, and no infinity where p rounds to 1.
        return [float(of[emotion] - np.log(-np.expm1(min(of[emotion], -1e-9)))) for emotion in self.emotions]


def train(
    model: nn.Module,
    tokenizer: Any,
    stories: pd.DataFrame,
    emotions: Sequence[str],
    layer: int,
    tokens: int,
    token_budget: int,
) -> EmotionClassifier:
    """A classifier of `emotions` from `stories` (emotion, topic, text), read by `model` up to token number `tokens`.

    Emotions to tell apart are those named, or all of the corpus where fewer than three are. Raises UserError where an
    emotion has no story.
    """
    classes = list(emotions) if len(emotions) > 2 else sorted(set(stories["emotion"]) | set(emotions))
    absent = [emotion for emotion in classes if not (stories["emotion"] == emotion).any()]
    if absent:
        raise UserError(f"the corpus has no story about {', '.join(absent)}, so none can be recognised")
    chosen = stories[stories["emotion"].isin(classes)].groupby("emotion", sort=False).head(_STORIES)
    rows = [passes.Row(text.ids) for text in tokenize(tokenizer, chosen["text"].tolist(), tokens)]
    found = _read(model, rows, layer, token_budget)
    pooled = np.stack([found[number] for number in range(len(rows))])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    labels, topics = chosen["emotion"].to_numpy(), chosen["topic"].to_numpy()
    folds = min(_FOLDS, len(set(topics)))
    accuracy = None
    if folds > 1:
        predicted = cross_val_predict(pipeline, pooled, labels, groups=topics, cv=GroupKFold(folds))
        accuracy = float(np.mean(predicted == labels))
    notes = {"layer": layer, "stories": len(rows), "accuracy": accuracy, "chance": 1 / len(classes), "folds": folds}
    return EmotionClassifier(tuple(emotions), pipeline.fit(pooled, labels), notes)


def _read(model: nn.Module, rows: list[passes.Row], layer: int, token_budget: int) -> dict[int, np.ndarray]:
    found = {}
    budget = passes.reading_budget(model, token_budget)
    for batch in plan_batches([len(row.ids) for row in rows], budget):
        readings = passes.read(model, [rows[i] for i in batch], [1] * len(batch), layer)
        found |= {number: reading.pooled for number, reading in zip(batch, readings, strict=True)}
    return found
