"""What neutral text varies along is not emotion: find those directions and take them out."""

import numpy as np

from affectome.errors import UserError


def neutral_basis(neutral: np.ndarray, variance: float | None = None, components: int | None = None) -> np.ndarray:
    """Orthonormal rows (k, width): leading principal components of neutral activations (texts, width).

    k is the fewest components that explain at least the share `variance` of the variance, or `components`. Each row is
    oriented so that its entry of largest magnitude is positive. Raises UserError where the texts are too few.
    """
    centred = neutral.astype(np.float64) - neutral.mean(axis=0, dtype=np.float64)
    if len(neutral) < 2:
        raise UserError(f"denoising needs at least 2 neutral texts, {len(neutral)} were read; add some or turn it off")
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    if components is not None:
        rank = min(len(neutral) - 1, neutral.shape[1])
        if components > rank:
            raise UserError(f"denoising asks for {components} components, {len(neutral)} neutral texts have {rank}")
        k = components
    else:
        explained = np.cumsum(singular**2) / np.sum(singular**2)
        # 1e-12: a share that is reached exactly must not need one component more for a rounding error.
        k = int(np.searchsorted(explained, variance - 1e-12) + 1)
    basis = rows[:k]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
    return basis * np.sign(largest)


def project_out(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The component of `vectors` (n, width) outside the span of orthonormal `basis` (k, width)."""
    return vectors - (vectors @ basis.T) @ basis
