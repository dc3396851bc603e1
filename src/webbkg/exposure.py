"""Exposures, their place on the detector, and handles that load them piece by piece."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from webbkg.errors import NoOverlapError, ShapeError

__all__ = ["Exposure", "ExposureHandle", "MemoryHandle", "Scratch", "ScratchLoader", "Window"]

FloatArray = NDArray[np.float32]
FlagArray = NDArray[np.uint32]
MaskArray = NDArray[np.bool_]

_NO_META: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Window:
    """
    A rectangle of detector pixels, 0-based and half-open.

    Parameters
    ----------
    y0, x0 : int
        First row and column on the detector.
    ny, nx : int
        Number of rows and columns, at least 1 each.

    Examples
    --------
    >>> full, sub = Window(0, 0, 8, 8), Window(6, 2, 4, 4)
    >>> full.overlap(sub)
    ((slice(6, 8, None), slice(2, 6, None)), (slice(0, 2, None), slice(0, 4, None)))
    """

    y0: int
    x0: int
    ny: int
    nx: int

    def __post_init__(self) -> None:
        if self.ny < 1 or self.nx < 1:
            raise ShapeError(f"a window needs at least one row and one column, got {self}")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.ny, self.nx

    @property
    def y1(self) -> int:
        """One past the last row."""
        return self.y0 + self.ny

    @property
    def x1(self) -> int:
        """One past the last column."""
        return self.x0 + self.nx

    def overlaps(self, other: Window) -> bool:
        """Whether the two windows share at least one pixel."""
        return (
            self.y0 < other.y1 and other.y0 < self.y1 and self.x0 < other.x1 and other.x0 < self.x1
        )

    def intersection(self, other: Window) -> Window:
        """
        Find the pixels that both windows hold.

        Parameters
        ----------
        other : Window
            The other window, on the same detector.

        Returns
        -------
        Window
            The shared rectangle.

        Raises
        ------
        NoOverlapError
            If they share no pixel.
        """
        if not self.overlaps(other):
            raise NoOverlapError(f"the windows {self} and {other} share no pixel of the detector")
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Window(y0, x0, min(self.y1, other.y1) - y0, min(self.x1, other.x1) - x0)

    def slices(self, inner: Window) -> tuple[slice, slice]:
        """
        Index of a rectangle inside this window.

        Parameters
        ----------
        inner : Window
            A window that lies wholly inside this one.

        Returns
        -------
        tuple of slice
            Row and column slice that cut `inner` out of an array of this window's shape.
        """
        y, x = inner.y0 - self.y0, inner.x0 - self.x0
        return slice(y, y + inner.ny), slice(x, x + inner.nx)

    def overlap(self, other: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """
        Index the shared pixels from either side.

        Parameters
        ----------
        other : Window
            The other window, on the same detector.

        Returns
        -------
        tuple of tuple of slice
            Row and column slices into an array of this window, and into one of the other.

        Raises
        ------
        NoOverlapError
            If they share no pixel.
        """
        shared = self.intersection(other)
        return self.slices(shared), other.slices(shared)


@dataclass(frozen=True, eq=False)
class Exposure:
    """
    Pixels of one exposure, or of some rows or integrations of it.

    Parameters
    ----------
    data : numpy.ndarray
        Rate or calibrated image, float32, shape ``(ny, nx)`` or ``(nints, ny, nx)``. NaN means
        no value.
    err : numpy.ndarray
        Standard deviation in the unit of `data`, float32, same shape. NaN means unknown.
    dq : numpy.ndarray
        JWST data-quality bits, uint32, same shape.
    window : Window
        Place on the detector; its shape is that of the last two axes.
    name : str
        File name or label used in messages.
    meta : mapping
        FITS keywords of the exposure, read-only.
    mask : numpy.ndarray, optional
        True where a pixel must not be used beyond what `dq` says, bool, same shape.

    Raises
    ------
    ShapeError
        If the arrays or the window disagree in shape.
    """

    data: FloatArray
    err: FloatArray
    dq: FlagArray
    window: Window
    name: str = "exposure"
    meta: Mapping[str, Any] = field(default_factory=lambda: _NO_META)
    mask: MaskArray | None = None

    def __post_init__(self) -> None:
        if self.data.ndim not in (2, 3):
            raise ShapeError(
                f"{self.name}: an exposure needs 2 or 3 axes, got shape {self.data.shape}"
            )
        others = {"ERR": self.err, "DQ": self.dq, "window": None, "mask": self.mask}
        for label, array in others.items():
            if array is not None and array.shape != self.data.shape:
                raise ShapeError(
                    f"{self.name}: {label} has shape {array.shape} but SCI has {self.data.shape}"
                )
        if self.data.shape[-2:] != self.window.shape:
            raise ShapeError(
                f"{self.name}: SCI has {self.data.shape[-2]}x{self.data.shape[-1]} pixels but its "
                f"window is {self.window.ny}x{self.window.nx}"
            )

    @property
    def n_integrations(self) -> int:
        """Number of integrations, 1 for a 2-D exposure."""
        return int(self.data.shape[0]) if self.data.ndim == 3 else 1


class Scratch:
    """
    Memory that is used again and again, by one thread.

    Fresh memory for every band of every exposure would cost as much time as the arithmetic: the
    system hands it out page by page.

    Examples
    --------
    >>> scratch = Scratch()
    >>> first = scratch.array("SCI", (2, 3), np.float32)
    >>> first[:] = 1.0
    >>> scratch.array("SCI", (6,), np.float32)
    array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self) -> None:
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """
        Give an array whose values are whatever was there before.

        Parameters
        ----------
        name : str
            Arrays of one name share their memory; a new one ends those given before.
        shape : tuple of int
            Shape.
        dtype : data type
            Type of the values.

        Returns
        -------
        numpy.ndarray
            C-contiguous array.
        """
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._memory or self._memory[name].size < n_bytes:
            self._memory[name] = np.empty(n_bytes, np.uint8)
        return self._memory[name][:n_bytes].view(dtype).reshape(shape)


@runtime_checkable
class ExposureHandle(Protocol):
    """
    An exposure that can be loaded, whole or in parts.

    Methods that use many exposures take handles, so that not all pixels are held at once.
    ``load`` gives the whole exposure, ``load_rows`` some of its rows (all integrations),
    ``load_integration`` one plane as a 2-D exposure. A handle may be loaded from several threads
    at once, and what it loaded before is not changed by a later load.
    """

    @property
    def name(self) -> str:
        """File name or label used in messages."""

    @property
    def window(self) -> Window:
        """Place on the detector."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """FITS keywords, read-only."""

    @property
    def n_integrations(self) -> int | None:
        """Number of integrations, None for a 2-D exposure."""

    def is_same(self, other: ExposureHandle) -> bool:
        """Whether the other handle is on the same exposure."""

    def load(self) -> Exposure:
        """Load the whole exposure."""

    def load_rows(self, start: int, stop: int) -> Exposure:
        """Load rows ``start`` to ``stop`` (0-based in the exposure, half-open)."""

    def load_integration(self, index: int) -> Exposure:
        """Load one integration as a 2-D exposure (index 0 of a 2-D exposure is itself)."""


@runtime_checkable
class ScratchLoader(Protocol):
    """A handle that can load into memory that is used again."""

    def load_rows_into(self, scratch: Scratch, start: int, stop: int) -> Exposure:
        """Load rows into scratch memory; they are valid until that is used again."""


class MemoryHandle:
    """
    Handle on arrays that are already in memory.

    Parameters
    ----------
    data : array_like
        Shape ``(ny, nx)`` or ``(nints, ny, nx)``; NaN means no value.
    err : array_like, optional
        Standard deviation in the unit of `data`; unknown if not given.
    dq : array_like, optional
        JWST data-quality bits; 0 if not given.
    mask : array_like, optional
        True where a pixel must not be used.
    window : Window, optional
        Place on the detector; the whole detector is assumed to be the array if not given.
    name : str, optional
        Label used in messages.
    meta : mapping, optional
        FITS keywords.

    Raises
    ------
    ShapeError
        If the arrays or the window disagree in shape.

    Examples
    --------
    >>> handle = MemoryHandle([[1.0, 2.0], [3.0, 4.0]], name="demo")
    >>> handle.load_rows(1, 2).data
    array([[3., 4.]], dtype=float32)
    """

    def __init__(
        self,
        data: ArrayLike,
        err: ArrayLike | None = None,
        dq: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        window: Window | None = None,
        name: str = "array",
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self._source = data
        values = np.asarray(data, dtype=np.float32)
        if values.ndim not in (2, 3):
            raise ShapeError(f"{name}: an exposure needs 2 or 3 axes, got shape {values.shape}")
        shape = values.shape
        self._exposure = Exposure(
            data=values,
            # Arrays of one repeated value take no memory.
            err=np.broadcast_to(np.float32(np.nan), shape)
            if err is None
            else np.asarray(err, dtype=np.float32),
            dq=np.broadcast_to(np.uint32(0), shape)
            if dq is None
            else np.asarray(dq).astype(np.uint32, copy=False),
            window=Window(0, 0, shape[-2], shape[-1]) if window is None else window,
            name=name,
            meta=MappingProxyType(dict(meta or {})),
            mask=None if mask is None else np.asarray(mask, dtype=np.bool_),
        )

    @classmethod
    def of(cls, exposure: Exposure) -> Self:
        """
        Handle on an exposure that is loaded already.

        Parameters
        ----------
        exposure : Exposure
            The exposure.

        Returns
        -------
        MemoryHandle
            Its handle.
        """
        return cls(
            exposure.data,
            exposure.err,
            exposure.dq,
            mask=exposure.mask,
            window=exposure.window,
            name=exposure.name,
            meta=exposure.meta,
        )

    @property
    def name(self) -> str:
        """File name or label used in messages."""
        return self._exposure.name

    @property
    def window(self) -> Window:
        """Place on the detector."""
        return self._exposure.window

    @property
    def meta(self) -> Mapping[str, Any]:
        """FITS keywords, read-only."""
        return self._exposure.meta

    @property
    def n_integrations(self) -> int | None:
        """Number of integrations, None for a 2-D exposure."""
        data = self._exposure.data
        return int(data.shape[0]) if data.ndim == 3 else None

    def is_same(self, other: ExposureHandle) -> bool:
        """Whether the other handle was made from the same object."""
        return isinstance(other, MemoryHandle) and self._source is other._source

    def load(self) -> Exposure:
        """Load the whole exposure."""
        return self._exposure

    def load_rows(self, start: int, stop: int) -> Exposure:
        """Load rows ``start`` to ``stop`` (0-based in the exposure, half-open)."""
        window = self.window
        part = Window(window.y0 + start, window.x0, stop - start, window.nx)
        return self._cut((..., slice(start, stop), slice(None)), part)

    def load_integration(self, index: int) -> Exposure:
        """Load one integration as a 2-D exposure (index 0 of a 2-D exposure is itself)."""
        if self.n_integrations is None:
            return self._exposure
        return self._cut((index,), self.window)

    def _cut(self, index: tuple[Any, ...], window: Window) -> Exposure:
        whole = self._exposure
        return Exposure(
            data=whole.data[index],
            err=whole.err[index],
            dq=whole.dq[index],
            window=window,
            name=whole.name,
            meta=whole.meta,
            mask=None if whole.mask is None else whole.mask[index],
        )
