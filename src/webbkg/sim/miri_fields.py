"""The fields of the MIRI imager's focal plane, and the light that passes through them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.masks.regions import MIRI_REGIONS, MIRI_SHAPE
from webbkg.sim.cameras import Setup
from webbkg.sim.crds import Reference
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Grid, Image, Layer, Source

__all__ = [
    "MIRI_FIELDS",
    "FieldOffsets",
    "FieldRegion",
    "FocalPlane",
    "Vignetted",
    "VignettedSources",
    "flat_reference",
    "through",
]

#: Relative response below which the flat field flags a pixel.
DARKEST = 0.5


@dataclass(frozen=True, kw_only=True)
class FieldRegion:
    """
    A part of the focal plane with its own transmission.

    Parameters
    ----------
    name : str
        Name.
    label : int
        Number in maps of regions; 0 for structure that is not lit.
    x, y : tuple of float
        First and last edge along columns and rows of the full-size detector [px], where a pixel's
        centre is a whole number, counted from 0.
    angle : float, optional
        Angle by which it is turned about its centre, counter-clockwise [deg].
    is_disc : bool, optional
        Whether it is the ellipse within the rectangle.
    transmission : float, optional
        Fraction of the light that arrives.
    offset : float, optional
        Light of the instrument itself there, the same in all exposures [DN/s].
    is_imaged : bool, optional
        Whether the flat field lets mosaics use it.
    """

    name: str
    label: int
    x: tuple[float, float]
    y: tuple[float, float]
    angle: float = 0.0
    is_disc: bool = False
    transmission: float = 1.0
    offset: float = 0.0
    is_imaged: bool = False

    def coverage(self, y: Grid, x: Grid, edge: float) -> Grid:
        """
        Tell how much of it is seen where.

        Parameters
        ----------
        y, x : numpy.ndarray
            Rows and columns of the full-size detector, shapes ``(ny, 1)`` and ``(1, nx)``.
        edge : float
            Width of the edges, which are out of focus [px].

        Returns
        -------
        numpy.ndarray
            1 inside, 0 outside, one half on the edge, shape ``(ny, nx)``.
        """
        (x0, x1), (y0, y1) = self.x, self.y
        cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        dx, dy = x - (x0 + x1) / 2, y - (y0 + y1) / 2
        along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
        half_x, half_y = (x1 - x0) / 2, (y1 - y0) / 2
        if self.is_disc:
            radius = np.hypot(along / half_x, across / half_y)
            return _step((1.0 - radius) * min(half_x, half_y), edge)
        return _step(half_x - np.abs(along), edge) * _step(half_y - np.abs(across), edge)


#: What is seen of the sky in each region of the focal plane: transmissions and offsets are of the
#: right kind, not measured.
_SEEN: dict[str, dict[str, Any]] = {
    "imager": {"is_imaged": True},
    "knife edge": {"transmission": 0.004},
    "slit": {"transmission": 0.9},
    "Lyot": {"transmission": 0.92, "offset": 1.5, "is_imaged": True},
    "Lyot spot": {"transmission": 0.004, "offset": 1.5},
    "4QPM 1065": {"transmission": 0.78, "offset": 1.0},
    "4QPM 1140": {"transmission": 0.80, "offset": 1.2},
    "4QPM 1550": {"transmission": 0.84, "offset": 0.8},
}
#: Later ones lie on earlier ones.
MIRI_FIELDS = tuple(
    FieldRegion(**dataclasses.asdict(region), **_SEEN[region.name]) for region in MIRI_REGIONS
)


@dataclass(frozen=True, kw_only=True)
class FocalPlane:
    """
    What of the light arrives where on the detector.

    Parameters
    ----------
    regions : tuple of FieldRegion, optional
        Parts of the focal plane; later ones lie on earlier ones.
    dark_transmission, dark_offset : float, optional
        Transmission and offset [DN/s] of the structure between them.
    edge : float, optional
        Width of the edges [px].
    detector_shape : tuple of int, optional
        Rows and columns of the detector. A smaller one shows the whole focal plane on a smaller
        scale.

    Raises
    ------
    ParameterError
        If the width is not positive.
    """

    regions: tuple[FieldRegion, ...] = MIRI_FIELDS
    dark_transmission: float = 0.004
    dark_offset: float = 0.3
    edge: float = 5.0
    detector_shape: tuple[int, int] = MIRI_SHAPE

    def __post_init__(self) -> None:
        if not self.edge > 0:
            raise ParameterError(f"the edges of a focal plane need a width > 0, got {self.edge}")

    def transmission(self, window: Window) -> Image:
        """
        Give the fraction of the light that arrives.

        Parameters
        ----------
        window : Window
            Pixels of the detector wanted.

        Returns
        -------
        numpy.ndarray
            Float32 fractions, shape ``window.shape``, read-only.
        """
        return _maps(self)[0][Window(0, 0, *self.detector_shape).slices(window)]

    def offsets(self, window: Window) -> Image:
        """
        Give the light of the instrument itself.

        Parameters
        ----------
        window : Window
            Pixels of the detector wanted.

        Returns
        -------
        numpy.ndarray
            Float32 rates [DN/s], shape ``window.shape``, read-only.
        """
        return _maps(self)[1][Window(0, 0, *self.detector_shape).slices(window)]

    def labels(self, window: Window) -> NDArray[np.int8]:
        """
        Map the regions.

        Parameters
        ----------
        window : Window
            Pixels of the detector wanted.

        Returns
        -------
        numpy.ndarray
            Label of the region that covers more than half of each pixel, 0 for none, int8, shape
            ``window.shape``, read-only.
        """
        return _labels(self)[Window(0, 0, *self.detector_shape).slices(window)]

    def coverages(self) -> Iterator[tuple[FieldRegion, Grid]]:
        """
        Go through the regions.

        Yields
        ------
        tuple
            A region and how much of it is seen where, shape of the detector.
        """
        full_y, full_x = MIRI_SHAPE
        ny, nx = self.detector_shape
        y = ((np.arange(ny) + 0.5) * full_y / ny - 0.5)[:, np.newaxis]
        x = ((np.arange(nx) + 0.5) * full_x / nx - 0.5)[np.newaxis, :]
        for region in self.regions:
            yield region, region.coverage(y, x, self.edge)


@dataclass(frozen=True, kw_only=True)
class FieldOffsets(Layer):
    """
    Light of the instrument itself, which differs from region to region and never changes.

    Parameters
    ----------
    plane : FocalPlane, optional
        The focal plane.
    """

    name: str = "offsets"
    plane: FocalPlane = FocalPlane()

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        return self.plane.offsets(window)


@dataclass(frozen=True, kw_only=True)
class Vignetted(Layer):
    """
    A layer of light as it is seen through the focal plane.

    Parameters
    ----------
    layer : Layer
        Light in front of the instrument that is no source.
    plane : FocalPlane
        The focal plane.

    See Also
    --------
    through : Makes it, or `VignettedSources`, as the layer needs.
    """

    layer: Layer
    plane: FocalPlane

    def render(self, pointing: Pointing, window: Window) -> Image:
        """Make the image of this layer; see `Layer.render`."""
        return self.layer.render(pointing, window) * self.plane.transmission(window)

    def sources(self) -> Iterator[Source]:
        """List the sources with their fluxes in front of the instrument; see `Layer.sources`."""
        yield from self.layer.sources()

    def throughput(self, x: Grid, y: Grid) -> Grid:
        """Tell what fraction of a source's light reaches the detector; see `Layer.throughput`."""
        ny, nx = self.plane.detector_shape
        rows, columns = (np.clip(np.rint(at), 0, n - 1).astype(int) for at, n in ((y, ny), (x, nx)))
        full = self.plane.transmission(Window(0, 0, ny, nx))
        return np.asarray(full[rows, columns], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class VignettedSources(Vignetted):
    """
    Sources as they are seen through the focal plane.

    Parameters
    ----------
    layer : Layer
        Layer of sources.
    plane : FocalPlane
        The focal plane.
    """

    is_source: ClassVar[bool] = True


def through(plane: FocalPlane, layer: Layer) -> Vignetted:
    """
    Put a layer behind the focal plane.

    Parameters
    ----------
    plane : FocalPlane
        The focal plane.
    layer : Layer
        Light in front of the instrument.

    Returns
    -------
    Vignetted
        The layer, of the same name and sources.
    """
    kind = VignettedSources if layer.is_source else Vignetted
    return kind(name=layer.name, layer=layer, plane=plane)


def flat_reference(plane: FocalPlane, setup: Setup) -> Reference:
    """
    Describe the flat field of an imaging exposure.

    Parameters
    ----------
    plane : FocalPlane
        The focal plane.
    setup : Setup
        How the exposures are taken.

    Returns
    -------
    Reference
        Flat field of the full detector: the transmission. As in flight, the structure between
        the fields and the phase masks are flagged DO_NOT_USE; mosaics show imager and Lyot field.
    """
    match = {"INSTRUMENT.DETECTOR": setup.camera.detector, "EXPOSURE.TYPE": setup.exp_type}

    def write(path: Path) -> None:
        from stdatamodels.jwst import datamodels

        from webbkg.sim.references import describe

        ny, nx = plane.detector_shape
        window = Window(0, 0, ny, nx)
        transmission, labels = plane.transmission(window), plane.labels(window)
        imaged = [region.label for region in plane.regions if region.is_imaged]
        good = np.isin(labels, imaged) & (transmission >= DARKEST)
        with datamodels.FlatModel((ny, nx)) as model:
            model.data = np.where(good, transmission, np.float32(1.0))
            model.err = np.zeros((ny, nx), dtype=np.float32)
            model.dq = np.where(good, np.uint32(0), np.uint32(FLAG_BITS["DO_NOT_USE"]))
            rows = [(0, FLAG_BITS["DO_NOT_USE"], "DO_NOT_USE", "Not lit")]
            model.dq_def = np.array(rows, dtype=model.get_dtype("dq_def"))
            describe(model, setup, "flat")
            model.meta.subarray.name = "FULL"
            model.meta.subarray.xstart = model.meta.subarray.ystart = 1
            model.meta.subarray.xsize, model.meta.subarray.ysize = nx, ny
            model.meta.subarray.fastaxis, model.meta.subarray.slowaxis = setup.camera.axes
            model.save(path)

    return Reference(setup.camera.instrument, "flat", match, "fits", write)


def _step(distance: Grid, edge: float) -> Grid:
    """Rise smoothly from 0 to 1 where a distance goes through zero, within a given width."""
    t = np.clip(distance / edge + 0.5, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


@lru_cache(maxsize=4)
def _maps(plane: FocalPlane) -> tuple[Image, Image]:
    """Paint transmission and offset once for all exposures."""
    transmission = np.full(plane.detector_shape, plane.dark_transmission)
    offsets = np.full(plane.detector_shape, plane.dark_offset)
    for region, part in plane.coverages():
        transmission += part * (region.transmission - transmission)
        offsets += part * (region.offset - offsets)
    return _frozen(transmission.astype(np.float32)), _frozen(offsets.astype(np.float32))


@lru_cache(maxsize=4)
def _labels(plane: FocalPlane) -> NDArray[np.int8]:
    labels = np.zeros(plane.detector_shape, dtype=np.int8)
    for region, part in plane.coverages():
        labels[part > 0.5] = region.label
    labels.flags.writeable = False
    return labels


def _frozen(image: Image) -> Image:
    image.flags.writeable = False
    return image
