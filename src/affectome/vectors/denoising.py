"""What neutral text varies along is not emotion: find those directions and take them out."""

from collections.abc import Callable

import numpy as np

from affectome.errors import UserError


class NeutralTexts:
    """The activations of neutral texts, taken in a few rows at a time, and the directions in which they vary.

    Holds at most about as many rows as they are wide, and their scatter matrix (width, width) beyond that.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[np.ndarray] = []
        self._waiting = 0
        self._shift = np.zeros(width)
        self._scatter: np.ndarray | None = None
        self._sum = np.zeros(width)
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        """Take in `rows` (texts, width)."""
        if not len(rows):
            return
        self.count += len(rows)
        self._sum += rows.sum(axis=0, dtype=np.float64)
        self._rows.append(rows)
        self._waiting += len(rows)
        if self._waiting > self._width:
            self._fold()

    @property
    def mean(self) -> np.ndarray:
        """Their mean (width,)."""
        return self._sum / self.count

    def basis(self, variance: float | None = None, components: int | None = None) -> np.ndarray:
        """Orthonormal rows (k, width): the leading principal components of the texts.

        k is the fewest components that explain at least the share `variance` of the variance, or `components`. Each row
        is oriented so that its entry of largest magnitude is positive. Raises UserError where the texts have fewer.
        """
        squared, directions = self._spectrum()
        # 1e-6: what the rounding of float32 leaves of a direction in which the texts do not differ.
        rank = int(np.sum(squared > 1e-12 * (squared.sum() + self.count * self.mean @ self.mean))) if self.count else 0
        if rank < (components or 1):
            raise UserError(
                f"denoising needs at least {components or 1} components and the {self.count} neutral texts have "
                f"{rank}; add some or turn it off"
            )
        explained = np.cumsum(squared) / np.sum(squared)
        # 1e-12: a share that is reached exactly must not need one component more for a rounding error.
        basis = directions(components or int(np.searchsorted(explained, variance - 1e-12) + 1))
        largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
        return basis * np.sign(largest)

    def _spectrum(self) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
        """Squared singular values, descending, of the centred texts, and what gives the first k right singular vectors.

        By way of the smaller of the two matrices of products, which costs a fraction of a singular value decomposition.
        """
        if self._scatter is not None:
            self._fold()
            off = self.mean - self._shift
            values, columns = np.linalg.eigh(self._scatter - self.count * np.outer(off, off))
            return np.clip(values[::-1], 0, None), lambda k: columns[:, ::-1][:, :k].T
        centred = self._waiting_rows() - (self.mean if self.count else 0.0)
        values, columns = np.linalg.eigh(centred @ centred.T)

        def directions(k: int) -> np.ndarray:
            # Orthonormal by construction but for rounding, which is large in directions of little variance.
            return np.linalg.qr(centred.T @ columns[:, ::-1][:, :k])[0].T

        return np.clip(values[::-1], 0, None), directions

    def _waiting_rows(self) -> np.ndarray:
        return np.concatenate([np.zeros((0, self._width)), *self._rows])

    def _fold(self) -> None:
        """Add the waiting rows to the scatter around their first mean, near which no digits are lost."""
        rows = self._waiting_rows()
        if self._scatter is None:
            self._shift = rows.mean(axis=0)
            self._scatter = np.zeros((self._width, self._width))
        rows -= self._shift
        self._scatter += rows.T @ rows
        self._rows, self._waiting = [], 0


def project_out(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The component of `vectors` (n, width) outside the span of orthonormal `basis` (k, width)."""
    return vectors - (vectors @ basis.T) @ basis
