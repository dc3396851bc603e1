"""How a detector's window is read out: along which axis, by which amplifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np

from webbkg.errors import InputError
from webbkg.exposure import Window

__all__ = ["Readout"]

_Scalar = TypeVar("_Scalar", bound=np.generic)
#: Instruments whose outputs read every fourth column, so that none has a region of its own.
_INTERLEAVED = frozenset({"MIRI"})


@dataclass(frozen=True)
class Readout:
    """
    Lines and amplifiers of a window.

    A line is what is read without a pause: a row of the image if the fast axis is horizontal, else
    a column.

    Parameters
    ----------
    horizontal : bool
        Whether lines are rows of the image.
    bounds : tuple of int
        Where amplifiers begin along a line, and where the last one ends [px].
    """

    horizontal: bool
    bounds: tuple[int, ...]

    @property
    def n_amplifiers(self) -> int:
        """Number of amplifiers with a region of their own."""
        return len(self.bounds) - 1

    @classmethod
    def of(cls, meta: Mapping[str, Any], window: Window, name: str) -> Self:
        """
        Read the layout from the header.

        Parameters
        ----------
        meta : mapping
            FITS keywords: FASTAXIS (1 or 2, negative if read backwards), NOUTPUTS, INSTRUME.
        window : Window
            Pixels of the image.
        name : str
            Name for messages.

        Returns
        -------
        Readout
            The layout. Several outputs share a line evenly; those of MIRI take turns, so that
            there is one region only.

        Raises
        ------
        InputError
            If the fast axis is missing or none, or the outputs do not fit the line.
        """
        axis = meta.get("FASTAXIS")
        if axis not in (1, 2, -1, -2):
            raise InputError(
                f"{name}: needs FASTAXIS of 1, 2, -1 or -2 to tell along which axis it was read, "
                f"got {axis}; set it in the header as the pipeline's stage 1 does"
            )
        horizontal = abs(int(axis)) == 1
        length = window.nx if horizontal else window.ny
        n = int(meta.get("NOUTPUTS") or 1)
        if str(meta.get("INSTRUME", "")).upper() in _INTERLEAVED:
            n = 1
        if n < 1 or length % n:
            raise InputError(
                f"{name}: {n} outputs (NOUTPUTS) cannot share {length} pixels of a line evenly; "
                "correct the header"
            )
        return cls(horizontal, tuple(range(0, length + 1, length // n)))

    def lines(
        self, image: np.ndarray[Any, np.dtype[_Scalar]]
    ) -> np.ndarray[Any, np.dtype[_Scalar]]:
        """
        Turn an image so that its lines are rows.

        Parameters
        ----------
        image : numpy.ndarray
            Image, shape ``(ny, nx)``.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_lines, length)``, contiguous; turning that again gives the image.
        """
        return np.ascontiguousarray(image if self.horizontal else image.T)

    def spread(
        self, levels: np.ndarray[Any, np.dtype[_Scalar]]
    ) -> np.ndarray[Any, np.dtype[_Scalar]]:
        """
        Give each pixel the level of its line and amplifier.

        Parameters
        ----------
        levels : numpy.ndarray
            Shape ``(n_lines, n_amplifiers)``.

        Returns
        -------
        numpy.ndarray
            Image, shape ``(ny, nx)``.
        """
        widths = [stop - start for start, stop in pairwise(self.bounds)]
        return self.lines(np.repeat(levels, widths, axis=1))
