"""What a steering strength means, in one place.

**The convention.** A strength is a fraction of the mean residual norm of the layer that is steered: strength `s` adds a
vector of length `s × norm` along a unit vector (Sofroniew et al. 2026). `norm` is the layer's mean L2 norm of a token's
residual, as vector files store it (`affectome.vectors.store`). An *alpha* is another unit, common elsewhere: a multiple
of the vector as it is stored, whose length differs by emotion and layer.
"""

import numpy as np


def added_length(strength: float, residual_norm: float) -> float:
    """Length of what `strength` adds to a residual of mean norm `residual_norm`; negative against the direction."""
    return strength * residual_norm


def strength_of_alpha(alpha: float, vector: np.ndarray, residual_norm: float) -> float:
    """The strength that adds `alpha` times `vector` (width,), where residuals have mean norm `residual_norm`."""
    return alpha * float(np.linalg.norm(vector)) / residual_norm
