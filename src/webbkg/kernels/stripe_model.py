"""
Stripes and sky of an image, estimated together by their power.

The means of short segments of lines are the sum of what the readout adds to each line in each
amplifier, and of a sky that changes slowly from segment to segment. Both are Gaussian fields of
known power in their cosine modes; the estimate is that of least squared error. Modes of the sky
that do not change along the lines cannot be told from stripes, and count as stripes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

__all__ = ["StripeFit", "StripePower", "solve_stripes"]

Image = NDArray[np.float32]
#: Relative error of the equations at which the solution is good enough.
_TOLERANCE = 1e-4
_MOST_STEPS = 100
#: The coupling of stripes and sky is taken a little weaker in preparing the equations, which keeps
#: what is prepared positive where pixels are missing.
_COUPLING = 0.999
_LEAST_POWER = 1e-14


@dataclass(frozen=True, eq=False)
class StripePower:
    """
    Variances of the modes.

    Parameters
    ----------
    common : numpy.ndarray
        Of the stripes that amplifiers share, by frequency along the lines' order, float64, shape
        ``(n_lines,)``, for the mode of constant value over amplifiers.
    separate : numpy.ndarray
        Of the stripes in which amplifiers differ, same shape.
    sky : numpy.ndarray
        Of the sky on its nodes, float64, shape ``(n_nodes, n_segments)``; the first column, of
        modes that do not change along lines, is 0.
    """

    common: NDArray[np.float64]
    separate: NDArray[np.float64]
    sky: NDArray[np.float64]


class StripeFit(NamedTuple):
    """
    What was found.

    Parameters
    ----------
    stripes : numpy.ndarray
        What is added to each line in each amplifier, float32, shape ``(n_lines, n_amplifiers)``.
    sky : numpy.ndarray
        Sky in each segment, float32, shape ``(n_lines, n_segments)``.
    sky_modes : numpy.ndarray
        Amplitudes of the sky's modes, float32, shape ``(n_nodes, n_segments)``.
    """

    stripes: Image
    sky: Image
    sky_modes: Image


def solve_stripes(means: Image, weights: Image, n_amplifiers: int, power: StripePower) -> StripeFit:
    """
    Estimate stripes and sky.

    Parameters
    ----------
    means : numpy.ndarray
        Means of segments of lines, float32, shape ``(n_lines, n_segments)``, about zero.
    weights : numpy.ndarray
        Their inverse variances, same shape; 0 where there is none.
    n_amplifiers : int
        Number of amplifiers, with equally many segments each.
    power : StripePower
        Variances of the modes, in the unit of the means squared.

    Returns
    -------
    StripeFit
        The estimate.

    Notes
    -----
    With x the amplitudes of all modes over the roots of their variances P, and A what makes means
    of amplitudes, (1 + sqrt(P) A' W A sqrt(P)) x = sqrt(P) A' W means is solved by conjugate
    gradients, prepared by the solution for equal weights. That couples, frequency by frequency,
    the amplifiers' amplitudes with the sky's modes along the line.
    """
    system = _System(means.shape, n_amplifiers, weights, power)
    solution = _conjugate_gradients(system, system.adjoint(weights * means))
    stripes, nodes = system.images(solution)
    return StripeFit(stripes, system.between @ nodes, system.root_sky * solution.sky)


class _Modes(NamedTuple):
    """Amplitudes of all modes over the roots of their variances."""

    stripes: Image
    sky: Image

    def dot(self, other: _Modes) -> float:
        return float(np.vdot(self.stripes, other.stripes)) + float(np.vdot(self.sky, other.sky))

    def plus(self, factor: float, other: _Modes) -> _Modes:
        scale = np.float32(factor)
        return _Modes(self.stripes + scale * other.stripes, self.sky + scale * other.sky)


class _System:
    """The equations, and what is nearly their inverse."""

    def __init__(
        self, shape: tuple[int, ...], n_amplifiers: int, weights: Image, power: StripePower
    ) -> None:
        n_lines, n_segments = shape
        n_nodes = power.sky.shape[0]
        self.weights = weights
        self.n_amplifiers, self.per = n_amplifiers, n_segments // n_amplifiers
        # Sparse, as threads of a dense product would wait for each other on a busy machine.
        self.between = _between(n_nodes, n_lines)
        self.onto = sparse.csr_array(self.between.T)
        # Means and differences of amplifiers.
        self.turn = _cosines(n_amplifiers)
        variances = np.stack([power.common] + [power.separate] * (n_amplifiers - 1), axis=1)
        variances = np.maximum(variances, _LEAST_POWER)
        self.root_stripes: Image = np.sqrt(variances).astype(np.float32)
        self.root_sky: Image = np.sqrt(power.sky).astype(np.float32)
        self._prepare(variances, power.sky, float(weights.mean()))

    def _prepare(
        self, stripes: NDArray[np.float64], sky: NDArray[np.float64], weight: float
    ) -> None:
        """Invert the equations that equal weights would give."""
        n_nodes, n_segments = sky.shape
        step = stripes.shape[0] / n_nodes
        # Interpolation between nodes weakens high frequencies.
        passed = np.sinc(np.arange(n_nodes) / (2 * n_nodes)) ** 2
        along = np.repeat(self.turn, self.per, axis=1) @ _cosines(n_segments).T
        of_stripes = 1.0 + stripes * weight * self.per
        of_sky = 1.0 + sky * weight * step * np.square(passed)[:, np.newaxis]
        coupling = (
            (weight * np.sqrt(step) * passed)[:, np.newaxis, np.newaxis]
            * along
            * np.sqrt(stripes[:n_nodes])[:, :, np.newaxis]
            * np.sqrt(sky)[:, np.newaxis, :]
        )
        left = -_COUPLING * np.einsum("kan,kn,kbn->kab", coupling, 1.0 / of_sky, coupling)
        own = range(self.n_amplifiers)
        left[:, own, own] += of_stripes[:n_nodes]
        self._inverse_left: NDArray[np.float32] = np.linalg.inv(left).astype(np.float32)
        self._inverse_stripes: Image = (1.0 / of_stripes).astype(np.float32)
        self._inverse_sky: Image = (1.0 / of_sky).astype(np.float32)
        self._coupling: NDArray[np.float32] = coupling.astype(np.float32)

    def images(self, modes: _Modes) -> tuple[Image, Image]:
        """Stripes of lines and amplifiers, and sky at the nodes."""
        stripes = fft.idct(self.root_stripes * modes.stripes, axis=0, norm="ortho") @ self.turn
        nodes: Image = fft.idctn(self.root_sky * modes.sky, norm="ortho")
        return stripes, nodes

    def adjoint(self, means: Image) -> _Modes:
        n_lines = means.shape[0]
        summed = means.reshape(n_lines, self.n_amplifiers, self.per).sum(axis=2)
        return _Modes(
            self.root_stripes * (fft.dct(summed, axis=0, norm="ortho") @ self.turn.T),
            self.root_sky * fft.dctn(self.onto @ means, norm="ortho"),
        )

    def apply(self, modes: _Modes) -> _Modes:
        stripes, nodes = self.images(modes)
        means: Image = self.between @ nodes
        means.reshape(-1, self.n_amplifiers, self.per)[...] += stripes[:, :, np.newaxis]
        means *= self.weights
        return modes.plus(1.0, self.adjoint(means))

    def prepare(self, modes: _Modes) -> _Modes:
        """Solve for equal weights."""
        n_nodes = modes.sky.shape[0]
        sky = modes.sky * self._inverse_sky
        stripes = modes.stripes * self._inverse_stripes
        low = modes.stripes[:n_nodes] - np.einsum("kan,kn->ka", self._coupling, sky)
        stripes[:n_nodes] = np.einsum("kab,kb->ka", self._inverse_left, low)
        sky -= self._inverse_sky * np.einsum("kan,ka->kn", self._coupling, stripes[:n_nodes])
        return _Modes(stripes, sky)


def _conjugate_gradients(system: _System, right: _Modes) -> _Modes:
    solution = _Modes(np.zeros_like(right.stripes), np.zeros_like(right.sky))
    residual = right
    step = system.prepare(residual)
    direction, size = step, residual.dot(step)
    wanted = _TOLERANCE**2 * size
    for _ in range(_MOST_STEPS):
        if not size > wanted:
            break
        image = system.apply(direction)
        length = size / direction.dot(image)
        solution = solution.plus(length, direction)
        residual = residual.plus(-length, image)
        step = system.prepare(residual)
        before, size = size, residual.dot(step)
        direction = step.plus(size / before, direction)
    return solution


def _cosines(n: int) -> Image:
    """Orthonormal cosine modes as rows, shape ``(n, n)``."""
    modes: Image = fft.dct(np.eye(n), axis=0, norm="ortho").astype(np.float32)
    return modes


def _between(n_nodes: int, n_lines: int) -> sparse.csr_array:
    """Weights of linear interpolation from nodes to lines, shape ``(n_lines, n_nodes)``."""
    at = (np.arange(n_lines) + 0.5) * n_nodes / n_lines - 0.5
    low = np.clip(np.floor(at).astype(int), 0, n_nodes - 1)
    high = np.minimum(low + 1, n_nodes - 1)
    part = np.clip(at - low, 0.0, 1.0)
    lines = np.arange(n_lines)
    values = np.concatenate([1.0 - part, part]).astype(np.float32)
    places = np.concatenate([lines, lines]), np.concatenate([low, high])
    return sparse.csr_array((values, places), shape=(n_lines, n_nodes))
