"""What neutral text varies along is not emotion: find those directions and take them out."""

import numpy as np

from affectome.errors import UserError


def neutral_basis(neutral: np.ndarray, variance: float | None = None, components: int | None = None) -> np.ndarray:
    """Orthonormal rows (k, width): leading principal components of neutral activations (texts, width).

    k is the fewest components that explain at least the share `variance` of the variance, or `components`. Each row is
    oriented so that its entry of largest magnitude is positive. Raises UserError where the texts have fewer.
    """
    centred = neutral.astype(np.float64) - neutral.mean(axis=0, dtype=np.float64)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    # 1e-6: what the rounding of float32 leaves of a direction in which the texts do not differ.
    rank = int(np.sum(singular > 1e-6 * np.linalg.norm(neutral)))
    if rank < (components or 1):
        raise UserError(
            f"denoising needs at least {components or 1} components and the {len(neutral)} neutral texts have {rank}; "
            f"add some or turn it off"
        )
    explained = np.cumsum(singular**2) / np.sum(singular**2)
    # 1e-12: a share that is reached exactly must not need one component more for a rounding error.
    basis = rows[: components or int(np.searchsorted(explained, variance - 1e-12) + 1)]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
    return basis * np.sign(largest)


def project_out(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The component of `vectors` (n, width) outside the span of orthonormal `basis` (k, width)."""
    return vectors - (vectors @ basis.T) @ basis
