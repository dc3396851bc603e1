"""Where the level of the SOSS sky jumps, and templates on the sub-arrays of SOSS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import ExposureHandle, FloatArray, Window
from webbkg.masks.flags import DO_NOT_USE
from webbkg.sky_reference import SkyReference

__all__ = ["FIT_END", "SEARCH", "Templates", "filled", "find_edges"]

#: Columns among which the step is looked for: first, and one past the last.
SEARCH = (685, 725)
#: Right of the step, columns from here on do not tell the factor: sources cover them.
FIT_END = 951
#: Rows of SUBSTRIP256 and SUBSTRIP96, and the row of the first where the second begins.
_LARGE, _SMALL, _SMALL_START = 256, 96, 10
#: Sigma of the smoothing before the step is looked for, and how far it reaches [px].
_SMOOTHING, _REACH = 3, 14
#: Columns on either side of these that are looked at [px].
_NEAR = 60
#: How much further off a pixel of the same row is than one of the same column.
_ALONG = 8


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


def filled(template: FloatArray) -> FloatArray:
    """
    Fill a template near its step where it has no value.

    Parameters
    ----------
    template : numpy.ndarray
        Template, float32, shape ``(ny, nx)``; NaN where it has no value.

    Returns
    -------
    numpy.ndarray
        The template with the values of the nearest pixels there, rather of the same column than of
        the same row, so that its step stays where it is. Columns without a value are interpolated.
    """
    near = slice(SEARCH[0] - _NEAR, SEARCH[1] + _NEAR)
    part = template[:, near]
    unknown = ~np.isfinite(part)
    if unknown.all() or not unknown.any():
        return template
    nearest = ndimage.distance_transform_edt(
        unknown, sampling=(1, _ALONG), return_distances=False, return_indices=True
    )
    values: FloatArray = part[tuple(nearest)]
    empty = unknown.all(axis=0)
    if empty.any():
        known = np.flatnonzero(~empty)
        for row in values:
            row[empty] = np.interp(np.flatnonzero(empty), known, row[known])
    whole = template.copy()
    whole[:, near] = values
    return whole


class Templates:
    """
    The templates of a library on the sub-array of an exposure, one at a time.

    Parameters
    ----------
    library : sequence of SkyReference
        Templates.
    science : ExposureHandle
        Exposure.
    with_holes : bool, optional
        Whether pixels that are 0 or flagged ``DO_NOT_USE`` in a template have no value: they become
        NaN.

    Raises
    ------
    InputError
        If the library is empty.
    """

    def __init__(
        self,
        library: Sequence[SkyReference],
        science: ExposureHandle,
        *,
        with_holes: bool = False,
    ) -> None:
        if not len(library):
            raise InputError(
                f"{science.name}: the library of sky templates is empty; give at least one template"
            )
        self._library = library
        self._science, self._with_holes = science, with_holes

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
        if self._with_holes:
            holes = (image == 0) | ((template.dq[cut] & np.uint32(DO_NOT_USE)) != 0)
            image = np.where(holes, np.float32(np.nan), image) if holes.any() else image
        window = Window(template.window.y0 + first, template.window.x0, ny, nx)
        return replace(
            template, image=image, err=template.err[cut], dq=template.dq[cut], window=window
        )

    def refuse_empty(self) -> None:
        """
        Check that a template has a value.

        Raises
        ------
        InputError
            If none has.
        """
        images = (self[k].image for k in range(len(self)))
        if any(np.any(np.isfinite(image) & (image != 0)) for image in images):
            return
        raise InputError(
            f"{self._science.name}: the sky template {self._library[0].name} has no value other "
            "than 0 there; give another"
        )
