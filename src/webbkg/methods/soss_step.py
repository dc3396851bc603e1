"""Where the level of the SOSS sky jumps, and templates on the sub-arrays of SOSS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import ExposureHandle, FloatArray, Window
from webbkg.sky_reference import SkyReference

__all__ = ["FIT_END", "Templates", "find_edges"]

#: Columns among which the step is looked for: first, and one past the last.
SEARCH = (685, 725)
#: Right of the step, columns from here on do not tell the factor: sources cover them.
FIT_END = 951
#: Rows of SUBSTRIP256 and SUBSTRIP96, and the row of the first where the second begins.
_LARGE, _SMALL, _SMALL_START = 256, 96, 10
#: Sigma of the smoothing before the step is looked for, and how far it reaches [px].
_SMOOTHING, _REACH = 3, 14


def find_edges(template: FloatArray) -> NDArray[np.int64]:
    """
    Find the step of a template, as the JWST pipeline does.

    Parameters
    ----------
    template : numpy.ndarray
        Template, float32, shape ``(ny, nx)`` with at least 726 columns.

    Returns
    -------
    numpy.ndarray
        Column of the steepest rise of the smoothed template in each row, among columns 685 to 724,
        int64, shape ``(ny,)``. It belongs to the right side.
    """
    first, end = SEARCH[0] - _REACH, SEARCH[1] + _REACH
    smooth = ndimage.gaussian_filter(template[:, first:end], _SMOOTHING)
    rise = np.gradient(smooth, axis=1)[:, _REACH : _REACH + SEARCH[1] - SEARCH[0]]
    columns: NDArray[np.int64] = np.argmax(rise, axis=1).astype(np.int64) + SEARCH[0]
    return columns


class Templates:
    """
    The templates of a library on the sub-array of an exposure, one at a time.

    Parameters
    ----------
    library : sequence of SkyReference
        Templates.
    science : ExposureHandle
        Exposure.

    Raises
    ------
    InputError
        If the library is empty.
    """

    def __init__(self, library: Sequence[SkyReference], science: ExposureHandle) -> None:
        if not len(library):
            raise InputError(
                f"{science.name}: the library of sky templates is empty; give at least one template"
            )
        self._library = library
        self._science = science

    def __len__(self) -> int:
        """Number of templates."""
        return len(self._library)

    def __getitem__(self, index: int) -> SkyReference:
        """
        Give a template on the window of the exposure.

        Parameters
        ----------
        index : int
            Which one.

        Returns
        -------
        SkyReference
            The template; rows 10 to 105 of one of SUBSTRIP256 if the exposure is of SUBSTRIP96.

        Raises
        ------
        ShapeError
            If it has another shape.
        InputError
            If it has no value.
        """
        template, name = self._library[index], self._science.name
        ny, nx = self._science.window.shape
        rows, columns = template.image.shape
        if nx != columns or (rows != ny and (rows, ny) != (_LARGE, _SMALL)):
            raise ShapeError(
                f"{name}: it has {ny}x{nx} pixels and the sky template {template.name} has "
                f"{rows}x{columns}; give a template of the same sub-array, or one of SUBSTRIP256 "
                "for SUBSTRIP96"
            )
        if nx <= SEARCH[1] + _REACH:
            raise ShapeError(
                f"{name}: it has {nx} columns, but the step of the sky lies near column 700; give "
                "an exposure of SUBSTRIP256 or SUBSTRIP96"
            )
        first = _SMALL_START if rows != ny else 0
        cut = slice(first, first + ny)
        image = template.image[cut]
        if not np.any(np.isfinite(image) & (image != 0)):
            raise InputError(
                f"{name}: the sky template {template.name} has no value other than 0 there; give "
                "another"
            )
        window = Window(template.window.y0 + first, template.window.x0, ny, nx)
        return replace(
            template, image=image, err=template.err[cut], dq=template.dq[cut], window=window
        )
