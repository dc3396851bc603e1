"""Stripes of rows, amplifiers and columns, from arrays to corrected exposures."""

import numpy as np
import pytest

from webbkg.errors import NoBackgroundPixelsError, ShapeError
from webbkg.exposure import MemoryHandle
from webbkg.methods.destripe import UNCORRECTED, DestripeParams, destripe
from webbkg.methods.stripe_levels import high_frequencies

NIRCAM = {"FASTAXIS": -1, "SLOWAXIS": 2, "NOUTPUTS": 4, "INSTRUME": "NIRCAM"}
NOISE = 0.012


def frame(shape=(256, 256), seed=1, stripe=5e-3, separate=0.2, axis=1):
    """A frame of sky, stripes and noise, and its stripes."""
    rng = np.random.default_rng(seed)
    n_lines, length = shape
    steps = rng.normal(0.0, 1.0, (n_lines, 5))
    levels = stripe * (steps[:, :1] + separate * steps[:, 1:])
    levels -= levels.mean()
    stripes = np.repeat(levels, length // 4, axis=1)
    image = 0.1 + stripes + rng.normal(0.0, NOISE, shape)
    return (image, stripes) if axis == 1 else (image.T, stripes.T)


def handle(image, meta=NIRCAM, **kwargs):
    return MemoryHandle(
        image.astype(np.float32), np.full(image.shape, NOISE, np.float32), meta=meta, **kwargs
    )


def test_rows_are_numpy_medians():
    image, _ = frame()
    mask = np.zeros(image.shape, bool)
    mask[40:60, 10:200] = True
    image[40:60, 10:200] += 5.0
    image[5, 3] = np.nan
    found = destripe(handle(image), DestripeParams(method="rows"), mask=mask)
    used = np.where(mask, np.nan, image.astype(np.float32))
    medians = np.nanmedian(used, axis=1)
    sky = np.float32(float(np.nanmean(medians)))
    np.testing.assert_array_equal(found.stripes[0].levels[:, 0], medians - sky)
    expected = image.astype(np.float32) - (medians - sky)[:, None]
    np.testing.assert_allclose(found.exposure.data, expected, atol=1e-7)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(("method", "most"), [("amplifiers", 1.2), ("model", 1.1)])
def test_stripes_are_removed(method, most, axis):
    image, stripes = frame(axis=axis)
    meta = {**NIRCAM, "FASTAXIS": axis}
    found = destripe(handle(image, meta), DestripeParams(method=method))
    error = stripes - (image - found.exposure.data)
    error = error if axis == 1 else error.T
    means = error.reshape(256, 4, 64).mean(axis=2)
    # The noise of a mean of 64 pixels.
    assert high_frequencies(means).std() < most * NOISE / 8
    assert abs(error.mean()) < 1e-5
    if method == "model":
        pulls = high_frequencies(means) / np.sqrt(found.stripes[0].var)
        assert 0.8 < pulls.std() < 1.2


@pytest.mark.parametrize("method", ["rows", "amplifiers", "model"])
def test_the_sky_is_kept_unless_it_is_to_be_removed(method):
    image, _ = frame()
    kept = destripe(handle(image), DestripeParams(method=method))
    assert kept.exposure.data.mean() == pytest.approx(0.1, abs=2e-4)
    removed = destripe(handle(image), DestripeParams(method=method, remove_sky=True))
    assert removed.exposure.data.mean() == pytest.approx(0.0, abs=2e-4)


@pytest.mark.parametrize("made", [np.array, np.sort, np.rint], ids=["random", "sorted", "equal"])
def test_the_sky_is_the_median_of_blank_pixels(made):
    image = made(100.0 * frame()[0]).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[5, 7] = True
    for mask[5, 8] in (False, True):
        found = destripe(handle(image), DestripeParams(method="amplifiers"), mask=mask)
        assert found.diagnostics.sky == np.median(image[~mask])


def test_lines_without_pixels_are_kept_and_flagged():
    image, _ = frame()
    mask = np.zeros(image.shape, bool)
    mask[100:103] = True
    found = destripe(handle(image), DestripeParams(method="rows"), mask=mask)
    np.testing.assert_array_equal(found.exposure.data[101], image[101].astype(np.float32))
    assert (found.exposure.dq[100:103] == UNCORRECTED).all()
    assert not found.exposure.dq[:100].any()
    assert found.diagnostics.warnings == (
        (
            "3 lines have no pixel without a source: they are left as they are and flagged "
            "UNRELIABLE_BIAS"
        ),
    )


def test_the_model_fills_lines_without_pixels():
    image, stripes = frame(separate=0.0)
    mask = np.zeros(image.shape, bool)
    mask[90:110, :64] = True
    image[90:110, :64] += 1.0
    found = destripe(handle(image), mask=mask)
    error = (stripes - found.stripes[0].image())[90:110, 0]
    # The other amplifiers tell.
    assert error.std() < 1.5 * NOISE / np.sqrt(192)
    assert not found.exposure.dq.any()


def test_each_integration_has_its_own_stripes():
    frames = [frame(seed=seed) for seed in (1, 2, 3)]
    cube = np.stack([image for image, _ in frames])
    found = destripe(handle(cube), DestripeParams(method="rows"))
    assert len(found.stripes) == 3
    for index, plane in enumerate(found.planes()):
        np.testing.assert_array_equal(plane.data, found.exposure.data[index])
        rows = (cube[index] - frames[index][1] - plane.data).mean(axis=1)
        assert rows.std() < 3 * NOISE / 16


def test_columns():
    image, _ = frame(stripe=0.0)
    columns = np.random.default_rng(5).normal(0.0, 5e-3, 256)
    found = destripe(handle(image + columns), DestripeParams(columns=True))
    left = (found.exposure.data - image).mean(axis=0)
    assert np.std(left - np.convolve(left, np.ones(17) / 17, "same")) < 2 * NOISE / 16


def test_auto_says_what_it_chose():
    image, _ = frame()
    found = destripe(handle(image), DestripeParams(method="rows", auto=True))
    assert found.params.method == "model"
    assert not found.params.columns
    assert found.diagnostics.choices[0] == (
        "method model: 256 lines of 256 px, enough for the model"
    )
    columns = np.random.default_rng(5).normal(0.0, 5e-3, 256)
    found = destripe(handle(image + columns), DestripeParams(auto=True))
    assert found.params.columns
    left = (found.exposure.data - image).mean(axis=0)
    assert np.std(left) < 0.7 * np.std(columns)
    found = destripe(handle(image[:32]), DestripeParams(auto=True))
    assert found.params.method == "amplifiers"


def test_a_frame_without_stripes_is_hardly_changed():
    rng = np.random.default_rng(4)
    image = 0.1 + rng.normal(0.0, NOISE, (256, 256))
    found = destripe(handle(image))
    added = (found.exposure.data - image).std() / NOISE
    assert added < 0.06
    assert (found.exposure.data - image).std() < 3 * np.sqrt(found.stripes[0].var.mean())


def test_flat_field_is_no_source_of_stripes():
    image, stripes = frame()
    flat = np.ones(image.shape, np.float32)
    flat[100:140] = 0.7
    image = image + 0.1 * (flat - 1.0)
    found = destripe(handle(image), DestripeParams(method="rows"), flat=flat)
    assert abs((stripes - found.stripes[0].image())[100:140].mean()) < 1e-3
    without = destripe(handle(image), DestripeParams(method="rows"))
    assert abs((stripes - without.stripes[0].image())[100:140].mean()) > 1e-2


def test_errors_whose_squares_do_not_fit_float32_are_kept():
    image, _ = frame()
    err = np.full(image.shape, NOISE, np.float32)
    err[3, 4:7] = 1e30, np.nan, np.inf
    result = destripe(MemoryHandle(image.astype(np.float32), err, meta=NIRCAM)).exposure
    np.testing.assert_array_equal(result.err[3, 4:7], np.float32([1e30, np.nan, np.inf]))
    assert NOISE < result.err[5, 5] < 1.1 * NOISE


def test_bad_input():
    image, _ = frame((64, 64))
    with pytest.raises(ShapeError, match="its mask has shape \\(3, 3\\)"):
        destripe(handle(image), mask=np.zeros((3, 3), bool))
    with pytest.raises(NoBackgroundPixelsError, match="sources cover every usable pixel"):
        destripe(handle(image), mask=np.ones(image.shape, bool))
    with pytest.raises(NoBackgroundPixelsError, match="all usable pixels are 0"):
        destripe(handle(np.zeros((64, 64))))
    with pytest.raises(NoBackgroundPixelsError, match="no pixel is usable"):
        destripe(handle(np.full((64, 64), np.nan)))
