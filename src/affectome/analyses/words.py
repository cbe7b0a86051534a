"""What the words alone give away: emotions named from which words occur in a text, on the splits that vectors face.

The classifier is that of corpus cards (`affectome.corpus.surface`): the emotion whose centroid has the highest cosine
with the text's binary tf-idf vector. Vocabulary, weights and centroids come from the texts that are learned from alone.
A corpus that carries its labels on the surface is named as well by this as by any vector; a vector that does no better
shows no more than that the model reads words.
"""

from pathlib import Path

import numpy as np
from scipy import sparse

from affectome.analyses.recognition import Recognition, recognition
from affectome.corpus.surface import centroids, occurrence, weighted, words_of
from affectome.errors import UserError
from affectome.files import read_table


def texts_of(stories: str | Path, ids: np.ndarray) -> list[str]:
    """The texts with these `ids` of a table of stories, in the order of `ids`.

    Raises UserError where one is missing.
    """
    table = read_table(stories, columns=["id", "text"]).drop_duplicates("id").set_index("id")["text"]
    found = table.reindex(ids)
    if found.isna().any():
        missing = ids[found.isna().to_numpy()][0]
        raise UserError(f"{stories}: has no story {missing}, of which there are activations; collect them again")
    return found.tolist()


def occurring(texts: list[str]) -> sparse.csr_array:
    """Which words occur in `texts`: ones in an array (texts, vocabulary)."""
    return occurrence(words_of(texts), np.arange(len(texts)))


def words_held_out(
    texts: list[str], emotions: np.ndarray, folds: np.ndarray, learned: np.ndarray | None = None
) -> Recognition:
    """`occurring_held_out` of `texts`."""
    return occurring_held_out(occurring(texts), emotions, folds, learned)


def occurring_held_out(
    occurs: sparse.csr_array, emotions: np.ndarray, folds: np.ndarray, learned: np.ndarray | None = None
) -> Recognition:
    """Recognise each text of a fold by the words of the other folds' texts; `occurs` is what `occurring` gives.

    `emotions`, `folds` and `learned` (texts,) are as in `affectome.analyses.recognition.held_out`, and so is what is
    not tested. `scores` are cosines. A text without a word that was learned has all emotions in one place.
    """
    learned = emotions if learned is None else np.where(emotions >= 0, learned, -1)
    count = int(emotions.max(initial=-1)) + 1
    scores = np.full((len(emotions), count), np.nan)
    for fold in range(int(folds.max(initial=-1)) + 1):
        known = np.flatnonzero((learned >= 0) & (folds != fold))
        tested = np.flatnonzero((emotions >= 0) & (folds == fold))
        vectors = weighted(occurs, known)
        middles = centroids(vectors[known], learned[known], count).toarray()
        found = vectors[tested] @ middles.T
        found[:, np.bincount(learned[known], minlength=count) == 0] = np.nan
        scores[tested] = found
    return recognition(scores, emotions, folds)
