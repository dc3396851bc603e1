"""Layers made by the electronics and by cosmic rays: stripes, column offsets, snowballs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Grid, Image, Layer

__all__ = ["AlternatingColumns", "Readout", "Snowballs", "Stripes"]

#: Length of the periodic series that stripes are cut from, in units of the number of rows: its
#: longest period is longer than the frame, so that the ends of a frame do not match.
_PERIOD = 4
#: Radius of a snowball's centre, in units of that of its halo.
_CORE = 0.35


@dataclass(frozen=True, kw_only=True)
class Readout(Layer):
    """
    A layer that comes with reading the pixels, and covers only what is read.

    Rows, as the word is used here, are the lines that are read one after the other: rows of the
    image if the fast axis is x, columns of the image if it is y. Amplifiers lie side by side along
    the fast axis and share it equally.

    Parameters
    ----------
    seed : tuple of int
        Seed; every exposure has its own.
    read_window : Window
        What is read: the whole detector or a sub-array, which is read in its own way and is no
        cut-out of the whole detector.
    axes : tuple of int, optional
        Header values of FASTAXIS and SLOWAXIS: 1 is x, 2 is y, negative if read backwards.
    n_outputs : int, optional
        Number of amplifiers.

    Raises
    ------
    ParameterError
        If the axes are not two different ones, or there are more amplifiers than pixels of a row.
    """

    seed: tuple[int, ...]
    read_window: Window
    axes: tuple[int, int] = (1, 2)
    n_outputs: int = 4

    def __post_init__(self) -> None:
        if {abs(axis) for axis in self.axes} != {1, 2}:
            raise ParameterError(
                f"{self.name}: the fast and slow axis must be 1 or 2 and differ, negative if read "
                f"backwards, got {self.axes}"
            )
        if not 1 <= self.n_outputs <= self._read_shape[1]:
            raise ParameterError(
                f"{self.name}: n_outputs must be from 1 to the {self._read_shape[1]} pixels of a "
                f"row, got {self.n_outputs}"
            )

    def amplifiers(self) -> NDArray[np.intp]:
        """
        Tell which amplifier reads a pixel.

        Returns
        -------
        numpy.ndarray
            Number of the amplifier along the fast axis of `read_window`, from 0 on.
        """
        n_fast = self._read_shape[1]
        return np.arange(n_fast) * self.n_outputs // n_fast

    @property
    def _read_shape(self) -> tuple[int, int]:
        """Pixels along the slow and along the fast axis."""
        ny, nx = self.read_window.shape
        return (ny, nx) if abs(self.axes[0]) == 1 else (nx, ny)

    def _wanted(self, window: Window) -> tuple[slice, slice]:
        """Pixels of a window along the slow and the fast axis."""
        read = self.read_window
        inside = (
            read.y0 <= window.y0 <= window.y1 <= read.y1
            and read.x0 <= window.x0 <= window.x1 <= read.x1
        )
        if not inside:
            raise ParameterError(
                f"{self.name}: {window} was asked for, but only {read} is read; make the layer "
                "with the window of the exposure"
            )
        rows, columns = read.slices(window)
        return (rows, columns) if abs(self.axes[0]) == 1 else (columns, rows)

    def _on_detector(self, image: Grid) -> Image:
        """Turn (..., slow, fast) into (..., y, x)."""
        if abs(self.axes[0]) == 2:
            image = np.swapaxes(image, -1, -2)
        return np.ascontiguousarray(image, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Stripes(Readout):
    """
    1/f noise of the readout: every amplifier adds a constant to each row.

    One part is common to all amplifiers, another separate in each. Stripes have mean zero over
    the frame, so that they leave the level of the sky as it is.

    Parameters
    ----------
    rms : float
        Scatter of the means of rows within amplifiers [DN/s], about their mean in each amplifier:
        the root of the expected variance within a frame as long as `read_window`.
    slope : float, optional
        Exponent of the power spectrum along the slow axis, ``P(f) ~ f ** -slope``.
    separate : float, optional
        Fraction of the variance that is separate in each amplifier; the rest is common. Rows of
        two amplifiers are correlated with the coefficient ``1 - separate``.
    offset_rms : float, optional
        Scatter of the levels of amplifiers [DN/s].
    n_integrations : int, optional
        Number of integrations, each with stripes of its own; the image is 3-D then.

    Raises
    ------
    ParameterError
        If a value is negative or `separate` above one.

    Notes
    -----
    The series of means is a cut of a periodic one, four times as long, whose Fourier coefficients
    are Gaussian with the variance p_k. A mode of frequency f contributes
    ``p (1 - D^2)``, with ``D = sin(pi f n) / (n sin(pi f))``, to the expected variance within n
    rows, by which the sum is normalised. With a slope of 1.013 and 2048 rows, 46 % of the variance
    is left when the means smoothed by a Gaussian of 20 rows are taken off them.

    These are the stripes that are left in the rates after reference pixels were used. The layer
    covers reference pixels as any others, but rates have no value there, and simulated ramps give
    them no part of any layer.
    """

    name: str = "stripes"
    rms: float
    slope: float = 1.013
    separate: float = 0.19
    offset_rms: float = 0.0
    n_integrations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rms >= 0 and self.offset_rms >= 0 and 0 <= self.separate <= 1):
            raise ParameterError(
                f"{self.name}: rms and offset_rms must be at least 0 and separate from 0 to 1, got "
                f"{self.rms}, {self.offset_rms} and {self.separate}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """
        Make the image of this layer.

        Parameters
        ----------
        pointing : Pointing
            Not used.
        window : Window
            Pixels of the detector wanted, within `read_window`.

        Returns
        -------
        numpy.ndarray
            Float32 rates [DN/s], shape ``window.shape``, or ``(n_integrations, *window.shape)``
            if that is given.

        Raises
        ------
        ParameterError
            If pixels are wanted that are not read.
        """
        slow, fast = self._wanted(window)
        image = self.levels()[..., slow, :][..., self.amplifiers()[fast]]
        return self._on_detector(image)

    def levels(self) -> Grid:
        """
        Draw what is added to each row by each amplifier.

        Returns
        -------
        numpy.ndarray
            Levels [DN/s], shape ``(n_rows, n_outputs)``, or ``(n_integrations, n_rows, n_outputs)``
            if that is given; mean zero over each integration.
        """
        rng = np.random.default_rng(self.seed)
        levels = np.stack([self._frame(rng) for _ in range(self.n_integrations or 1)])
        return levels[0] if self.n_integrations is None else levels

    def _frame(self, rng: np.random.Generator) -> Grid:
        series = power_law_series(rng, self.n_outputs + 1, self._read_shape[0], self.slope)
        share = self.separate
        levels = math.sqrt(1.0 - share) * series[0] + math.sqrt(share) * series[1:]
        # Time runs along the slow axis.
        levels = self.rms * levels[:, :: 1 if self.axes[1] > 0 else -1].T
        offsets = rng.standard_normal(self.n_outputs)
        if self.n_outputs > 1:
            offsets *= math.sqrt(self.n_outputs / (self.n_outputs - 1))
        # The sky keeps its level: the mean over all pixels, amplifiers being equally wide.
        return np.asarray(levels + self.offset_rms * (offsets - offsets.mean()))


@dataclass(frozen=True, kw_only=True)
class AlternatingColumns(Readout):
    """
    Offset between odd and even pixels of a row, of another size in each amplifier.

    Parameters
    ----------
    rms : float
        Scatter of the offset, half of the step from pixel to pixel [DN/s].

    Raises
    ------
    ParameterError
        If `rms` is negative.
    """

    name: str = "columns"
    rms: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rms >= 0:
            raise ParameterError(f"{self.name}: rms must be at least 0, got {self.rms}")

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        slow, fast = self._wanted(window)
        rng = np.random.default_rng(self.seed)
        half_step = self.rms * rng.standard_normal(self.n_outputs)
        pixel = np.arange(self._read_shape[1])
        row = half_step[self.amplifiers()] * (1.0 - 2.0 * (pixel % 2))
        shape = (slow.stop - slow.start, fast.stop - fast.start)
        return self._on_detector(np.broadcast_to(row[fast], shape))


@dataclass(frozen=True, kw_only=True)
class Snowballs(Layer):
    """
    What large cosmic-ray hits leave after the jumps were taken out: faint round patches.

    Each has a halo brighter than its surroundings, and a centre that is brighter or, with the
    same probability, darker. Numbers are Poisson distributed.

    Parameters
    ----------
    seed : tuple of int
        Seed; every exposure has its own.
    density : float
        Mean number on the whole detector.
    peak : float
        Typical brightness of a halo [DN/s].
    radii : tuple of float, optional
        Smallest and largest radius of a halo [px].
    detector_shape : tuple of int
        Rows and columns of the whole detector.

    Raises
    ------
    ParameterError
        If a number is negative or the radii are not positive and rising.

    Notes
    -----
    Halo ``h (1 - (r/R)^2)^2`` out to the radius R, centre ``+-2 h exp(-r^2 / (2 (0.35 R / 2)^2))``
    cut at R; h is uniform from half to one and a half times `peak`.
    """

    name: str = "snowballs"
    seed: tuple[int, ...]
    density: float
    peak: float
    radii: tuple[float, float] = (8.0, 45.0)
    detector_shape: tuple[int, int]

    def __post_init__(self) -> None:
        if not (self.density >= 0 and self.peak >= 0 and 0 < self.radii[0] <= self.radii[1]):
            raise ParameterError(
                f"{self.name}: density and peak must be at least 0 and radii positive and rising, "
                f"got {self.density}, {self.peak} and {self.radii}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        rng = np.random.default_rng(self.seed)
        image = np.zeros(window.shape)
        for _ in range(rng.poisson(self.density)):
            y, x = rng.uniform(0.0, self.detector_shape) - 0.5
            # Small ones are more frequent: even in the logarithm of the radius.
            radius = math.exp(rng.uniform(*np.log(self.radii)))
            halo = self.peak * rng.uniform(0.5, 1.5)
            centre = 2.0 * halo * rng.choice((-1.0, 1.0))
            side = math.ceil(2 * radius) + 2
            box = Window(math.floor(y - radius), math.floor(x - radius), side, side)
            if not window.overlaps(box):
                continue
            box = window.intersection(box)
            rows = np.arange(box.y0, box.y1)[:, np.newaxis] - y
            squared = (rows**2 + (np.arange(box.x0, box.x1) - x) ** 2) / radius**2
            patch = halo * (1.0 - squared) ** 2 + centre * np.exp(-2.0 * squared / _CORE**2)
            image[window.slices(box)] += np.where(squared < 1.0, patch, 0.0)
        return image.astype(np.float32)


def power_law_series(rng: np.random.Generator, number: int, n: int, slope: float) -> Grid:
    """
    Draw series with a power-law spectrum.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    number : int
        Number of independent series.
    n : int
        Length.
    slope : float
        Exponent; 0 is white noise, 1 is 1/f.

    Returns
    -------
    numpy.ndarray
        Series of mean zero whose variance is one on average, shape ``(number, n)``; zero if there
        is but one value.
    """
    if n < 2:
        return np.zeros((number, n))
    length = _PERIOD * n
    order = np.arange(1.0, length // 2 + 1)
    power = order**-slope
    angle = math.pi * order / length
    kernel = np.sin(angle * n) / (n * np.sin(angle))
    # Real and imaginary part of a mode each have the variance ``power``. The last mode is real and
    # has no counterpart of negative frequency.
    weight = np.where(order < length / 2, 1.0, 0.25)
    expected = float(np.sum(4.0 * weight * power * (1.0 - kernel**2)))
    spectrum = np.zeros((number, length // 2 + 1), dtype=np.complex128)
    spectrum[:, 1:] = rng.standard_normal((number, len(order)))
    spectrum[:, 1:] += 1j * rng.standard_normal((number, len(order)))
    spectrum[:, 1:] *= np.sqrt(power)
    spectrum[:, -1] = spectrum[:, -1].real
    series = np.fft.irfft(spectrum, length, axis=1)[:, :n] * length
    return np.asarray((series - series.mean(axis=1, keepdims=True)) / math.sqrt(expected))
