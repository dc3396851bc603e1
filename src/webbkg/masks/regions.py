"""Parts of a detector that see the sky each in its own way: the fields of the MIRI imager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import Window

__all__ = ["MIRI_REGIONS", "MIRI_SHAPE", "Region", "region_map", "region_names"]

MIRI_SHAPE = (1024, 1032)


@dataclass(frozen=True)
class Region:
    """
    A part of the MIRI imager's focal plane.

    Parameters
    ----------
    name : str
        Name.
    label : int
        Number in maps of regions; 0 for what is not lit.
    x, y : tuple of float
        First and last edge along columns and rows of the detector [px], where a pixel's centre is
        a whole number, counted from 0.
    is_disc : bool, optional
        Whether it is the ellipse within the rectangle.
    """

    name: str
    label: int
    x: tuple[float, float]
    y: tuple[float, float]
    is_disc: bool = False


#: Corners: the regions MIRIM_ILLUM, MIRIM_KNIFE, MIRIM_SLIT, MIRIM_CORONLYOT and MIRIM_CORON1065,
#: 1140 and 1550 of the SIAF (PRDOPSSOC-075). The Lyot spot has a radius of 2.16 arcsec (Boccaletti
#: et al. 2015). Later ones lie on earlier ones.
MIRI_REGIONS = (
    Region("imager", 1, (358.5, 1026.5), (-0.5, 1023.5)),
    Region("knife edge", 0, (348.5, 416.5), (316.5, 380.5)),
    Region("slit", 6, (303.8, 346.5), (297.4, 302.0)),
    Region("Lyot", 2, (4.5, 276.5), (747.5, 1019.5)),
    Region("Lyot spot", 0, (121.1, 159.9), (864.1, 902.9), is_disc=True),
    Region("4QPM 1065", 3, (10.5, 226.5), (23.5, 239.5)),
    Region("4QPM 1140", 4, (10.5, 226.5), (246.5, 462.5)),
    Region("4QPM 1550", 5, (10.5, 226.5), (467.5, 683.5)),
)


def region_map(meta: Mapping[str, Any], window: Window) -> NDArray[np.uint8]:
    """
    Map the regions of a detector.

    Parameters
    ----------
    meta : mapping
        FITS keywords of an exposure.
    window : Window
        Its place on the detector.

    Returns
    -------
    numpy.ndarray
        Label of each pixel's region, uint8, shape ``window.shape``: 1 everywhere but on the MIRI
        imager, where 0 is structure between the regions that is not lit. A full frame of another
        size shows the whole focal plane on another scale.

    Examples
    --------
    >>> import numpy as np
    >>> labels = region_map({"DETECTOR": "MIRIMAGE"}, Window(0, 0, 1024, 1032))
    >>> np.unique(labels).tolist(), int(labels[500, 700]), int(labels[900, 50])
    ([0, 1, 2, 3, 4, 5, 6], 1, 2)
    """
    labels = np.ones(window.shape, np.uint8)
    if str(meta.get("DETECTOR", "")).upper() != "MIRIMAGE":
        return labels
    labels[:] = 0
    is_full = str(meta.get("SUBARRAY", "FULL")).upper() == "FULL"
    full_y, full_x = window.shape if is_full else MIRI_SHAPE
    y = ((np.arange(window.ny) + window.y0 + 0.5) * MIRI_SHAPE[0] / full_y - 0.5)[:, np.newaxis]
    x = ((np.arange(window.nx) + window.x0 + 0.5) * MIRI_SHAPE[1] / full_x - 0.5)[np.newaxis, :]
    for region in MIRI_REGIONS:
        labels[_inside(region, y, x)] = region.label
    return labels


def region_names(labels: NDArray[np.uint8]) -> dict[int, str]:
    """
    Name the regions of a map.

    Parameters
    ----------
    labels : numpy.ndarray
        What `region_map` gives.

    Returns
    -------
    dict of str
        Name by label, of the labels that occur.
    """
    found = [int(label) for label in np.unique(labels)]
    if found == [1]:
        return {1: "frame"}
    names = {region.label: region.name for region in MIRI_REGIONS if region.label}
    return {label: names.get(label, "not lit") for label in found}


def _inside(region: Region, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
    (x0, x1), (y0, y1) = region.x, region.y
    dx, dy = (x - (x0 + x1) / 2) / ((x1 - x0) / 2), (y - (y0 + y1) / 2) / ((y1 - y0) / 2)
    if region.is_disc:
        inside: NDArray[np.bool_] = np.hypot(dx, dy) < 1.0
        return inside
    return (np.abs(dx) < 1.0) & (np.abs(dy) < 1.0)
