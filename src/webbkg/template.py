"""A background image with its error and its history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ShapeError
from webbkg.exposure import FlagArray, FloatArray, MaskArray, Window

__all__ = ["Template"]


@dataclass(frozen=True, eq=False)
class Template:
    """
    A background image on a window of the detector.

    Parameters
    ----------
    image : numpy.ndarray
        Background, float32, shape ``(ny, nx)``, unit of the inputs; NaN where it is undefined.
    err : numpy.ndarray
        Standard deviation of `image`, float32, same shape and unit; NaN where it is undefined or
        unknown.
    n_used : numpy.ndarray
        Number of values that went into each pixel, uint16, same shape. For rateints inputs this
        counts exposures, not integrations.
    dq : numpy.ndarray
        Data-quality bits, uint32, same shape; ``DO_NOT_USE`` where the image is undefined.
    window : Window
        Place on the detector.
    recipe : mapping
        Method, parameters and input names, as plain values that can be written as JSON.

    Raises
    ------
    ShapeError
        If the arrays or the window disagree in shape.
    """

    image: FloatArray
    err: FloatArray
    n_used: NDArray[np.uint16]
    dq: FlagArray
    window: Window
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label in ("image", "err", "n_used", "dq"):
            shape = getattr(self, label).shape
            if shape != self.window.shape:
                raise ShapeError(f"template: {label} has shape {shape}, window {self.window.shape}")

    @property
    def undefined(self) -> MaskArray:
        """True where there is no background value."""
        return np.isnan(self.image)

    @property
    def coverage(self) -> float:
        """Fraction of pixels with a background value."""
        return 1.0 - float(np.count_nonzero(self.undefined)) / self.image.size
