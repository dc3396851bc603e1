"""A small striped exposure, in memory, for tests of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.destripe import Destriped, DestripeParams, destripe

SHAPE = (96, 128)
NOISE = 1.0
SKY = 20.0
META = {"FASTAXIS": 1, "NOUTPUTS": 4, "INSTRUME": "NIRCAM", "BUNIT": "DN/s"}


def source_mask() -> NDArray[np.bool_]:
    """A round source."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(np.hypot(y - 50.0, x - 40.0) < 12.0)


def striped(n: int | None = None, seed: int = 1, **options: Any) -> MemoryHandle:
    """Sky, a source and stripes of an rms of 1, in `n` integrations."""
    rng = np.random.default_rng(seed)
    shape = SHAPE if n is None else (n, *SHAPE)
    stripes = rng.normal(0.0, 1.0, (*shape[:-1], 1)) + rng.normal(0.0, 0.3, (*shape[:-1], 4))
    data = SKY + rng.normal(0.0, NOISE, shape) + np.repeat(stripes, SHAPE[1] // 4, axis=-1)
    data = data + 50.0 * source_mask()
    options = {"name": "a_rate.fits", "meta": META, "window": Window(8, 16, *SHAPE)} | options
    return MemoryHandle(data, np.full(shape, NOISE), **options)


def cleaned(
    science: MemoryHandle | None = None, mask: NDArray[np.bool_] | None = None, **options: Any
) -> Destriped:
    """Its stripes removed, by means of lines and amplifiers unless told otherwise."""
    params = DestripeParams(**{"method": "amplifiers"} | options)
    mask = source_mask() if mask is None else mask
    return destripe(striped() if science is None else science, params, mask=mask)
