"""
Rows of two NRCA3 frames with real noise after their stripes were removed.

Both are frames of a defocused bright star, 256x2048 pixels read by four amplifiers, without errors
and flags. Row medians of an amplifier scatter 5 to 7 times as much as those of white noise.

What "after the correction" means needs care, as the levels are made of the same pixels: a median
minus itself is zero, however wrong it is. So both are asked for. Medians of all pixels must not
scatter by more than white noise. Pixels are then held out in squares of 4 like a chequerboard, the
method is shown the rest, and the medians of those that it was not shown must scatter by what is
expected of them, white noise and the error that the method itself gives to its levels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from astropy.io import fits

from webbkg.exposure import MemoryHandle
from webbkg.methods.destripe import DestripeParams, destripe
from webbkg.validate.robust import MEDIAN_ERROR, robust_rms

pytestmark = pytest.mark.real

NAMES = (
    "jw01185016001_01101_00001-seg005_nrca3_rateints_I01530.fits",
    "jw01366002001_01101_00001-seg004_nrca3_rateints_I00372.fits",
)
SHAPE, WIDTH = (256, 2048), 512
#: A median of fewer pixels is not looked at.
FEWEST = 100
KEYWORDS = ("INSTRUME", "DETECTOR", "FASTAXIS", "SLOWAXIS", "NOUTPUTS")


@cache
def read(path):
    """Pixels, where they are bad (no value, or the 0 of a reference pixel), and keywords."""
    with fits.open(path) as hdus:
        header = hdus[0].header
        data = hdus[0].data.astype(np.float32).reshape(SHAPE)
        return data, ~np.isfinite(data) | (data == 0), {key: header[key] for key in KEYWORDS}


def run(data, bad, meta, mask=None):
    handle = MemoryHandle(data, dq=bad.astype(np.uint32), meta=meta)
    return destripe(handle, DestripeParams(), mask=mask)


def amplifiers(image):
    """Parts of the four amplifiers, shape (4, rows, columns)."""
    return image.reshape(SHAPE[0], 4, WIDTH).transpose(1, 0, 2)


def medians(image, use):
    """Medians of rows, and their expected scatter from the noise of the pixels, by amplifier."""
    found, expected = np.full((2, 4, SHAPE[0]), np.nan)
    for k, (part, used) in enumerate(zip(amplifiers(image), amplifiers(use), strict=True)):
        rows = np.flatnonzero(used.sum(axis=1) >= FEWEST)
        if not rows.size:
            continue
        values = [part[row, used[row]] for row in rows]
        found[k, rows] = [np.median(one) for one in values]
        off = np.concatenate([one - np.median(one) for one in values])
        expected[k, rows] = MEDIAN_ERROR * robust_rms(off) / np.sqrt([one.size for one in values])
    return found, expected


def scatter(values):
    """Scatter of all amplifiers, each about its own mean."""
    return float(np.sqrt(np.nanmean(np.square(values - np.nanmean(values, axis=1, keepdims=True)))))


def typical(expected):
    return float(np.sqrt(np.nanmean(np.square(expected))))


def star_mask(data, bad):
    """A mask drawn by hand: the star and its wings, and what stands out of the sky elsewhere."""
    y, x = np.indices(SHAPE)
    values = data[~bad]
    far = np.abs(data - np.median(values)) > 5.0 * robust_rms(values)
    return far | (np.hypot(y - 165, x - 1055) < 250)


@pytest.fixture(params=NAMES, ids=["bright", "faint"])
def frame(request, shared_data):
    return read(shared_data / "nircam" / request.param)


@pytest.fixture(params=["found", "given"])
def mask(request, frame):
    return None if request.param == "found" else star_mask(*frame[:2])


def test_stripes_are_gone(frame, mask):
    data, bad, meta = frame
    result = run(data, bad, meta, mask)
    use = ~bad & ~result.mask
    before, expected = medians(data, use)
    after, _ = medians(result.exposure.data, use)
    # The frames are what they are said to be.
    assert scatter(before) > 4.0 * typical(expected)
    assert scatter(after) < 1.15 * typical(expected)


def test_pixels_that_were_not_shown_have_white_noise(frame, mask):
    data, bad, meta = frame
    sources = run(data, bad, meta, mask).mask
    y, x = np.indices(SHAPE) // 4
    for held in ((x + y) % 2 == 0, (x + y) % 2 == 1):
        shown = np.where(held, np.float32(np.nan), data)
        (levels,) = run(shown, bad | held, meta, sources).stripes
        found, white = medians(data - levels.image(), held & ~bad & ~sources)
        expected = np.hypot(white, np.sqrt(levels.var.T))
        expected[~np.isfinite(found)] = np.nan
        assert scatter(found) == pytest.approx(typical(expected), rel=0.15)
        # The levels are known as well as the medians that test them.
        assert typical(expected) < 1.4 * typical(white)
