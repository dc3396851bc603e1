"""Templates of the sky that are scaled to an exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from webbkg.errors import NoOverlapError, ShapeError
from webbkg.exposure import FlagArray, FloatArray, Window

__all__ = ["SkyReference"]


@dataclass(frozen=True, eq=False)
class SkyReference:
    """
    A template of the sky on a window of the detector.

    Arrays of another type, byte order or layout are copied.

    Parameters
    ----------
    name : str
        Name of its file, and of the template in it where there are several.
    image : numpy.ndarray
        Template, float32, shape ``(ny, nx)``, any unit; NaN where it is unknown.
    err : numpy.ndarray
        Its standard deviation, float32, same shape and unit; 0 where it is unknown.
    dq : numpy.ndarray
        Data-quality bits, uint32, same shape.
    window : Window
        Place on the detector.
    meta : mapping
        FITS keywords.

    Raises
    ------
    ShapeError
        If the arrays or the window disagree in shape.
    """

    name: str
    image: FloatArray
    err: FloatArray
    dq: FlagArray
    window: Window
    meta: Mapping[str, Any]

    def __post_init__(self) -> None:
        for label, kind in (("image", np.float32), ("err", np.float32), ("dq", np.uint32)):
            array = np.asarray(getattr(self, label))
            if array.shape != self.window.shape:
                raise ShapeError(
                    f"{self.name}: {label} has shape {array.shape}, its window {self.window.shape}"
                )
            object.__setattr__(self, label, np.ascontiguousarray(array, kind))

    def without(self, bits: int) -> SkyReference:
        """
        Leave out pixels with flags.

        Parameters
        ----------
        bits : int
            Data-quality bits.

        Returns
        -------
        SkyReference
            The template, NaN where it has one of these flags.
        """
        flagged = (self.dq & np.uint32(bits)) != 0
        if not flagged.any():
            return self
        return replace(self, image=np.where(flagged, np.float32(np.nan), self.image))

    def on(self, window: Window, science: str) -> SkyReference:
        """
        Cut out what lies on another window.

        Parameters
        ----------
        window : Window
            Window of a science exposure.
        science : str
            Name of that exposure, for messages.

        Returns
        -------
        SkyReference
            The template on that window; NaN where it does not reach.

        Raises
        ------
        NoOverlapError
            If it reaches nowhere.
        """
        if window == self.window:
            return self
        if not window.overlaps(self.window):
            raise NoOverlapError(
                f"{science}: it lies at {window} and the sky template {self.name} at {self.window} "
                "of the detector, which do not overlap; give a template of that sub-array or of "
                "the whole detector"
            )
        here, there = window.overlap(self.window)
        image = np.full(window.shape, np.nan, np.float32)
        err = np.zeros(window.shape, np.float32)
        dq = np.zeros(window.shape, np.uint32)
        for whole, part in ((image, self.image), (err, self.err), (dq, self.dq)):
            whole[here] = part[there]
        return replace(self, image=image, err=err, dq=dq, window=window)
