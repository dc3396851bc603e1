"""Exposures of a flat sky, for tests of anything that needs no instrument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from webbkg.exposure import MemoryHandle, Window

__all__ = ["flat_exposures"]


def flat_exposures(
    n: int,
    *,
    shape: tuple[int, ...] = (32, 32),
    level: float = 10.0,
    sigma: float = 0.5,
    seed: int = 1,
    window: Window | None = None,
    meta: Mapping[str, Any] | None = None,
) -> tuple[MemoryHandle, ...]:
    """
    Simulate exposures of a flat sky with white noise, for any instrument.

    Parameters
    ----------
    n : int
        Number of exposures.
    shape : tuple of int, optional
        ``(ny, nx)`` or ``(nints, ny, nx)``.
    level : float, optional
        Sky level [DN/s].
    sigma : float, optional
        Noise of each pixel, Gaussian [DN/s].
    seed : int, optional
        Seed.
    window : Window, optional
        Place on the detector; the whole detector is the array if not given.
    meta : mapping, optional
        FITS keywords of every exposure.

    Returns
    -------
    tuple of MemoryHandle
        Handles named ``flat_00001_rate.fits`` and on; no pixel is flagged.
    """
    rng = np.random.default_rng(seed)
    return tuple(
        MemoryHandle(
            level + sigma * rng.standard_normal(shape),
            np.full(shape, sigma),
            window=window,
            name=f"flat_{index + 1:05d}_rate.fits",
            meta=meta,
        )
        for index in range(n)
    )
