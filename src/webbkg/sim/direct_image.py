"""The direct image of a grism observation: image, segmentation map and source catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.sim.cameras import Setup
from webbkg.sim.catalog import write_catalog
from webbkg.sim.dispersed import DispersedSources, blur, radial, scatter
from webbkg.sim.geometry import Pointing, tangent_plane
from webbkg.sim.grism_references import blocking_filter
from webbkg.sim.layers import Image
from webbkg.sim.references import photmjsr, pixel_area
from webbkg.sim.scene import Attachment

__all__ = ["DirectImage", "undistorted"]

#: Fewest pixels of a source that counts as detected.
_FEWEST_PIXELS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class DirectImage:
    """
    What the pipeline makes of the direct images of a field.

    Parameters
    ----------
    setup : Setup
        How the exposures through the grism are taken.
    layers : tuple of DispersedSources
        Sources; the image shows all, the map and the catalogue those that are to be catalogued.
    frame : Pointing
        The image, without distortion.
    noise : float
        Noise of a pixel [DN/s].
    threshold : float
        Surface brightness that ends a source in the segmentation map, in units of the noise.
    seed : tuple of int
        Seed of the noise.
    stem : str
        Begin of the names of the files.

    Notes
    -----
    A pixel belongs to the source that is brightest there, so that segments touch but do not
    overlap. Labels count the detected sources from 1, and are the same in map and catalogue; boxes
    of the catalogue are those of the segments. Magnitudes are those of the true total fluxes.
    """

    setup: Setup
    layers: tuple[DispersedSources, ...]
    frame: Pointing
    noise: float
    threshold: float
    seed: tuple[int, ...]
    stem: str

    def attachments(self, exposures: tuple[str, ...]) -> tuple[Attachment, ...]:
        """
        Describe the three files.

        Parameters
        ----------
        exposures : tuple of str
            Stems of the exposures whose associations list them.

        Returns
        -------
        tuple of Attachment
            Image, segmentation map and catalogue.
        """
        kinds = (
            ("i2d.fits", "direct_image", self.write_image),
            ("segm.fits", "segmap", self.write_map),
            ("cat.ecsv", "sourcecat", self.write_catalog),
        )
        return tuple(
            Attachment(f"{self.stem}_{ending}", kind, write, exposures)
            for ending, kind, write in kinds
        )

    @cached_property
    def segments(self) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """
        Segmentation map, and the numbers of the labelled sources.

        The numbers index the catalogued sources of all layers, one after the other.
        """
        ny, nx = self.frame.aperture.shape
        faintest = self.threshold * self.noise
        brightest = np.full((ny, nx), faintest, dtype=np.float32)
        owner = np.zeros((ny, nx), dtype=np.int32)
        number = 0
        for layer in self.layers:
            if not layer.catalogued:
                continue
            x, y = self.frame.to_pixels(layer.ra, layer.dec)
            for at_x, at_y, flux, kind in zip(x, y, layer.flux, layer.profile, strict=True):
                number += 1
                # The catalogue lists sources whose centres are in the image.
                if not (-0.5 < at_x < nx - 0.5 and -0.5 < at_y < ny - 0.5):
                    continue
                shape = layer.profiles[kind]
                reach = _isophote(shape, faintest / flux)
                y0, x0 = max(0, math.floor(at_y - reach)), max(0, math.floor(at_x - reach))
                y1, x1 = math.ceil(at_y + reach) + 1, math.ceil(at_x + reach) + 1
                box = (slice(y0, max(y1, 0)), slice(x0, max(x1, 0)))
                rows = np.arange(ny)[box[0], np.newaxis]
                light = flux * radial(shape, np.hypot(rows - at_y, np.arange(nx)[box[1]] - at_x))
                mine = light > brightest[box]
                brightest[box][mine] = light[mine]
                owner[box][mine] = number
        counts = np.bincount(owner.ravel(), minlength=number + 1)[1:]
        kept = np.flatnonzero(counts >= _FEWEST_PIXELS)
        labels = np.zeros(number + 1, dtype=np.uint32)
        labels[kept + 1] = np.arange(1, len(kept) + 1)
        return labels[owner], kept

    def image(self) -> Image:
        """
        Make the image.

        Returns
        -------
        numpy.ndarray
            Float32 image with noise [DN/s], background subtracted.
        """
        ny, nx = self.frame.aperture.shape
        rng = np.random.default_rng(self.seed)
        total = np.float32(self.noise) * rng.standard_normal((ny, nx), dtype=np.float32)
        for layer in self.layers:
            canvases = {
                int(index): np.zeros((ny, nx), dtype=np.float32)
                for index in np.unique(layer.profile)
            }
            x, y = self.frame.to_pixels(layer.ra, layer.dec)
            for index, canvas in canvases.items():
                mine = layer.profile == index
                scatter(canvas, x[mine], y[mine], layer.flux[mine])
            total += blur(canvases, layer)
        return total

    def write_image(self, path: Path) -> None:
        """
        Write the image as a mosaic of the third stage.

        Parameters
        ----------
        path : pathlib.Path
            Target.
        """
        from stdatamodels.jwst import datamodels

        scale = photmjsr(self._band)
        with datamodels.ImageModel() as model:
            model.data = np.float32(scale) * self.image()
            model.err = np.full(model.data.shape, scale * self.noise, dtype=np.float32)
            self._describe(model, "i2d", "MJy/sr")
            model.meta.photometry.pixelarea_steradians = pixel_area(self.frame.aperture)
            model.meta.photometry.pixelarea_arcsecsq = self.frame.aperture.scale**2
            model.meta.photometry.conversion_megajanskys = scale
            model.to_fits(path, overwrite=True)

    def write_map(self, path: Path) -> None:
        """
        Write the segmentation map.

        Parameters
        ----------
        path : pathlib.Path
            Target.
        """
        from stdatamodels.jwst import datamodels

        with datamodels.SegmentationMapModel(self.segments[0]) as model:
            self._describe(model, "segm", None)
            model.to_fits(path, overwrite=True)

    def write_catalog(self, path: Path) -> None:
        """
        Write the source catalogue.

        Parameters
        ----------
        path : pathlib.Path
            Target.
        """
        from scipy import ndimage

        labels, kept = self.segments
        listed = [source for layer in self.layers for source in layer.sources()]
        boxes = np.array(
            [
                (rows.start, rows.stop, columns.start, columns.stop)
                for rows, columns in ndimage.find_objects(labels.astype(np.int32))
            ]
        ).reshape(-1, 4)
        jansky = photmjsr(self._band) * 1e6 * pixel_area(self.frame.aperture)
        write_catalog(path, [listed[i] for i in kept], self.frame, jansky, boxes=boxes)

    @property
    def _band(self) -> str:
        return blocking_filter(self.setup)

    def _describe(self, model: Any, suffix: str, unit: str | None) -> None:
        setup = self.setup
        clear = "CLEAR" if setup.camera.instrument == "NIRCAM" else self._band
        values = {
            "telescope": "JWST",
            "filename": f"{self.stem}_{suffix}.fits",
            "instrument.name": setup.camera.instrument,
            "instrument.detector": setup.camera.detector,
            "instrument.filter": self._band if setup.camera.instrument == "NIRCAM" else "CLEAR",
            "instrument.pupil": clear,
            "exposure.type": setup.exp_type.replace("WFSS", "IMAGE"),
            "wcs": _wcs(self.frame),
            **({"bunit_data": unit, "bunit_err": unit} if unit else {}),
        }
        for name, value in values.items():
            model[f"meta.{name}"] = value


def undistorted(pointing: Pointing, shape: tuple[int, int], margin: float) -> Pointing:
    """
    Lay an undistorted image over a detector and what surrounds it.

    Parameters
    ----------
    pointing : Pointing
        Where the detector looks.
    shape : tuple of int
        Rows and columns of the detector.
    margin : float
        Width of the frame around it [px].

    Returns
    -------
    Pointing
        Image with north up.
    """
    ny, nx = shape
    scale = pointing.aperture.scale
    ra, dec = pointing.to_sky((nx - 1) / 2, (ny - 1) / 2)
    plane = Pointing(aperture=tangent_plane((1, 1), scale), ra=float(ra), dec=float(dec))
    corners = pointing.to_sky(
        np.array([-margin, -margin, nx + margin, nx + margin]),
        np.array([-margin, ny + margin, -margin, ny + margin]),
    )
    x, y = plane.to_pixels(*corners)
    height, width = (2 * math.ceil(np.abs(values).max()) + 3 for values in (y, x))
    return Pointing(aperture=tangent_plane((height, width), scale), ra=plane.ra, dec=plane.dec)


def _isophote(shape: tuple[tuple[float, float], ...], level: float) -> float:
    """Find the radius at which a profile of unit flux falls below a level [px]."""
    low, high = 0.0, 6.0 * max(sigma for sigma, _ in shape)
    for _ in range(30):
        middle = 0.5 * (low + high)
        is_above = float(radial(shape, np.array([middle]))[0]) > level
        low, high = (middle, high) if is_above else (low, middle)
    return high


def _wcs(frame: Pointing) -> Any:
    """Make the WCS of an undistorted image, as the pipeline's mosaics have it."""
    from astropy import coordinates, units
    from astropy.modeling.models import Pix2Sky_TAN, RotateNative2Celestial, Scale, Shift
    from gwcs import coordinate_frames, wcs

    aperture = frame.aperture
    (x0, y0), scale = aperture.reference, aperture.scale / 3600.0
    to_sky = (
        Shift(1.0 - x0) & Shift(1.0 - y0)
        | Scale(-scale) & Scale(scale)
        | Pix2Sky_TAN()
        | RotateNative2Celestial(frame.ra, frame.dec, 180.0)
    )
    detector = coordinate_frames.Frame2D(name="detector", unit=(units.pix, units.pix))
    world = coordinate_frames.CelestialFrame(
        name="world", reference_frame=coordinates.ICRS(), unit=(units.deg, units.deg)
    )
    made = wcs.WCS([(detector, to_sky), (world, None)])
    ny, nx = aperture.shape
    made.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return made
