"""The detector of the MIRI imager: what it adds by itself, and what of the sky reaches it."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Grid, Image, Layer

__all__ = [
    "SHORTED_COLUMNS",
    "EdgeGlow",
    "FixedPattern",
    "Gradients",
    "HotPixels",
    "LinePattern",
    "OddEven",
    "PixelPattern",
    "ShortedColumns",
    "TreeRings",
    "shorted_columns",
]

MIRI_SHAPE = (1024, 1032)
#: The columns 385 and 386 of the instrument's documentation count from 1 and include the
#: reference columns: the detector's bad-pixel map flags columns 384 and 385 counted from 0.
SHORTED_COLUMNS = (384, 385)


@dataclass(frozen=True, kw_only=True)
class FixedPattern(Layer):
    """
    Structure that is the same in every exposure, of mean zero and a given rms over the detector.

    Parameters
    ----------
    rms : float
        Scatter over all pixels of the detector [DN/s].
    seed : int, optional
        Seed; the same seed is the same detector.
    detector_shape : tuple of int, optional
        Rows and columns of the whole detector.

    Raises
    ------
    ParameterError
        If the rms is negative.
    """

    rms: float
    seed: int = 0
    detector_shape: tuple[int, int] = MIRI_SHAPE

    def __post_init__(self) -> None:
        if not self.rms >= 0:
            raise ParameterError(f"{self.name}: rms must be at least 0, got {self.rms}")

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        # Exposures share what is costly; a pattern differs from its unit only by its rms.
        unit = _unit(replace(self, rms=1.0))
        part = unit[Window(0, 0, *self.detector_shape).slices(window)]
        return np.multiply(part, self.rms, dtype=np.float64).astype(np.float32)

    def of_rms(self, rms: float) -> Self:
        """
        Make the same pattern stronger or weaker.

        Parameters
        ----------
        rms : float
            New scatter [DN/s].

        Returns
        -------
        FixedPattern
            The pattern.
        """
        return replace(self, rms=rms)

    @abstractmethod
    def _draw(self) -> Grid:
        """Make the structure of the whole detector, of any mean and rms but zero."""


@dataclass(frozen=True, kw_only=True)
class PixelPattern(FixedPattern):
    """
    Differences from pixel to pixel, in part correlated over a few pixels.

    Parameters
    ----------
    white_share : float, optional
        Share of the variance that is white; with 1 neighbours have nothing in common.
    correlation : float, optional
        Sigma of the Gaussian that makes the correlated part from white noise [px].

    Raises
    ------
    ParameterError
        If the share is not in [0, 1] or the correlation not positive.

    Notes
    -----
    The correlated part has the autocorrelation ``exp(-d^2 / (4 correlation^2))`` at a distance d,
    on a detector whose opposite edges meet.
    """

    name: str = "pixels"
    white_share: float = 0.4
    correlation: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.white_share <= 1 and self.correlation > 0):
            raise ParameterError(
                f"{self.name}: white_share must be in [0, 1] and correlation positive, got "
                f"{self.white_share} and {self.correlation}"
            )

    def _draw(self) -> Grid:
        from scipy.ndimage import gaussian_filter

        rng = np.random.default_rng([self.seed, 1])
        white = _standardised(rng.standard_normal(self.detector_shape))
        if self.white_share == 1:
            return white
        noise = rng.standard_normal(self.detector_shape)
        smooth = _standardised(gaussian_filter(noise, self.correlation, mode="wrap"))
        mixed = math.sqrt(self.white_share) * white
        mixed += math.sqrt(1.0 - self.white_share) * smooth
        return mixed


@dataclass(frozen=True, kw_only=True)
class Gradients(FixedPattern):
    """
    Large-scale structure.

    Parameters
    ----------
    n_orders : int, optional
        Number of orders along each axis; the highest one has ``n_orders / 2`` periods across the
        detector.

    Notes
    -----
    A sum of products of cosines with Gaussian amplitudes that fall with the square of the order.
    """

    name: str = "gradients"
    n_orders: int = 6

    def _draw(self) -> Grid:
        rng = np.random.default_rng([self.seed, 2])
        order = np.arange(self.n_orders)
        falling = 1.0 / (1.0 + order[:, np.newaxis] ** 2 + order**2)
        # The constant is no structure.
        falling[0, 0] = 0.0
        amplitude = rng.standard_normal(falling.shape) * falling
        along_y, along_x = (
            np.cos(np.pi * np.outer((np.arange(n) + 0.5) / n, order)) for n in self.detector_shape
        )
        return np.asarray(along_y @ amplitude @ along_x.T, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class TreeRings(FixedPattern):
    """
    Concentric arcs of uneven spacing, as they stay from the growth of the crystal.

    Parameters
    ----------
    centre : tuple of float, optional
        Centre of the rings in units of the detector's rows and columns, ``(y, x)``.
    spacing : float, optional
        Typical distance from one ring to the next [px].

    Raises
    ------
    ParameterError
        If the spacing is below 4 px.
    """

    name: str = "rings"
    centre: tuple[float, float] = (-0.2, 1.15)
    spacing: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.spacing >= 4:
            raise ParameterError(f"{self.name}: spacing must be at least 4 px, got {self.spacing}")

    def _draw(self) -> Grid:
        from scipy.ndimage import gaussian_filter1d

        rng = np.random.default_rng([self.seed, 3])
        ny, nx = self.detector_shape
        y = np.arange(ny)[:, np.newaxis] - self.centre[0] * ny
        x = np.arange(nx) - self.centre[1] * nx
        radius = np.hypot(y, x)
        # Noise between two widths, so that there are neither single pixels nor gradients in it.
        noise = rng.standard_normal(int(radius.max()) + 2)
        sigma = self.spacing / 6.0
        profile = gaussian_filter1d(noise, sigma) - gaussian_filter1d(noise, 3.0 * sigma)
        values = np.interp(radius.ravel(), np.arange(len(profile)), profile)
        return np.asarray(values.reshape(ny, nx), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class OddEven(FixedPattern):
    """
    Difference between odd and even rows, and between odd and even columns.

    Parameters
    ----------
    row_share : float, optional
        Share of the variance that the rows have.

    Notes
    -----
    Amplifiers read every fourth column, and rows are reset in pairs.
    """

    name: str = "odd_even"
    row_share: float = 0.5

    def _draw(self) -> Grid:
        rows, columns = (
            _standardised(np.asarray(np.arange(n) % 2, dtype=np.float64))
            for n in self.detector_shape
        )
        return np.asarray(
            math.sqrt(self.row_share) * rows[:, np.newaxis]
            + math.sqrt(1.0 - self.row_share) * columns
        )


@dataclass(frozen=True, kw_only=True)
class LinePattern(FixedPattern):
    """
    An offset of each row and of each column.

    Parameters
    ----------
    row_share : float, optional
        Share of the variance that the rows have.
    """

    name: str = "lines"
    row_share: float = 0.3

    def _draw(self) -> Grid:
        rng = np.random.default_rng([self.seed, 4])
        rows, columns = (_standardised(rng.standard_normal(n)) for n in self.detector_shape)
        return np.asarray(
            math.sqrt(self.row_share) * rows[:, np.newaxis]
            + math.sqrt(1.0 - self.row_share) * columns
        )


@dataclass(frozen=True, kw_only=True)
class EdgeGlow(Layer):
    """
    Glow that falls off from a point at the edge of the detector.

    Parameters
    ----------
    level : float
        Rate at `centre` [DN/s].
    centre : tuple of float, optional
        Brightest point in units of the detector's rows and columns less one, ``(y, x)``: (0, 0)
        is the pixel at the lower left.
    reach : tuple of float, optional
        Distances along rows and columns over which it falls by a factor e, ``(y, x)``, in the
        same units.
    detector_shape : tuple of int, optional
        Rows and columns of the whole detector.

    Raises
    ------
    ParameterError
        If the reach is not positive.
    """

    name: str = "glow"
    level: float
    centre: tuple[float, float] = (0.0, 0.0)
    reach: tuple[float, float] = (0.35, 0.2)
    detector_shape: tuple[int, int] = MIRI_SHAPE

    def __post_init__(self) -> None:
        if not min(self.reach) > 0:
            raise ParameterError(f"{self.name}: reach must be positive, got {self.reach}")

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        spans = ((window.y0, window.y1), (window.x0, window.x1))
        y, x = (
            (np.arange(*span) / (n - 1) - middle) / reach
            for span, n, middle, reach in zip(
                spans, self.detector_shape, self.centre, self.reach, strict=True
            )
        )
        distance = np.hypot(y[:, np.newaxis], x)
        return (self.level * np.exp(-distance)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ShortedColumns(Layer):
    """
    Columns far off the others.

    Parameters
    ----------
    columns : tuple of int, optional
        Columns of the detector, 0-based.
    levels : tuple of float, optional
        Offset of each [DN/s].

    Raises
    ------
    ParameterError
        If columns and levels differ in number.
    """

    name: str = "shorted"
    columns: tuple[int, ...] = SHORTED_COLUMNS
    levels: tuple[float, ...] = (-25.0, 40.0)

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.levels):
            raise ParameterError(
                f"{self.name}: {len(self.columns)} columns do not fit {len(self.levels)} levels"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        image = np.zeros(window.shape, dtype=np.float32)
        for column, level in zip(self.columns, self.levels, strict=True):
            if window.x0 <= column < window.x1:
                image[:, column - window.x0] = level
        return image


@dataclass(frozen=True, kw_only=True)
class HotPixels(Layer):
    """
    Single bright pixels that no bad-pixel map knows.

    Parameters
    ----------
    fraction : float
        Fraction of all pixels; their number is this to the nearest pixel.
    levels : tuple of float, optional
        Faintest and brightest rate [DN/s]; there are as many in each factor of brightness.
    seed : int, optional
        Seed.
    detector_shape : tuple of int, optional
        Rows and columns of the whole detector.

    Raises
    ------
    ParameterError
        If the fraction is not in [0, 1] or the levels are not positive and in order.
    """

    name: str = "hot"
    fraction: float
    levels: tuple[float, float] = (3.0, 100.0)
    seed: int = 0
    detector_shape: tuple[int, int] = MIRI_SHAPE

    def __post_init__(self) -> None:
        if not (0 <= self.fraction <= 1 and 0 < self.levels[0] <= self.levels[1]):
            raise ParameterError(
                f"{self.name}: fraction must be in [0, 1] and levels positive and in order, got "
                f"{self.fraction} and {self.levels}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        ny, nx = self.detector_shape
        rng = np.random.default_rng([self.seed, 5])
        n = round(self.fraction * ny * nx)
        places = rng.choice(ny * nx, n, replace=False)
        image = np.zeros(ny * nx, dtype=np.float32)
        low, high = self.levels
        image[places] = low * (high / low) ** rng.random(n)
        return image.reshape(ny, nx)[Window(0, 0, ny, nx).slices(window)]


def shorted_columns(shape: tuple[int, int]) -> tuple[int, ...]:
    """
    Find the shorted columns of a smaller detector.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    tuple of int
        Two neighbouring columns, 0-based, at the same fraction of the width.
    """
    first = round(SHORTED_COLUMNS[0] * shape[1] / MIRI_SHAPE[1])
    return tuple(first + column - SHORTED_COLUMNS[0] for column in SHORTED_COLUMNS)


@lru_cache(maxsize=16)
def _unit(pattern: FixedPattern) -> Image:
    """Make a pattern of rms 1 once for all exposures; a value that never changes becomes zero."""
    unit = _standardised(pattern._draw()).astype(np.float32)
    unit.flags.writeable = False
    return unit


def _standardised(values: Grid) -> Grid:
    """Shift and scale to mean zero and rms one."""
    values = values - values.mean()
    return values / max(float(values.std()), np.finfo(np.float64).tiny)
