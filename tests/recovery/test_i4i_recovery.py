"""Fields whose background is made of the science dithers alone, against their truth."""

from functools import lru_cache

import numpy as np
import pytest

from webbkg.masks.flags import DO_NOT_USE, FLAG_BITS
from webbkg.methods.i4i import FILLED, I4iParams, i4i
from webbkg.sim import simulate
from webbkg.sky import SampledMap

pytestmark = pytest.mark.slow

STRUCK = FLAG_BITS["JUMP_DET"]
RADIUS = 6.0  # px, of apertures


def map_of(exposure):
    pointing, window = exposure.pointing, exposure.window
    return SampledMap.sample(
        lambda x, y: pointing.to_sky(x + window.x0, y + window.y0), window.shape
    )


@lru_cache(maxsize=4)
def observe(preset, n, seed, *, small=True, **kwargs):
    exposures = simulate(preset, seed=seed, small=small, n_science=n, **kwargs).science
    return exposures, [exposure.sources() for exposure in exposures]


def run(exposures, **params):
    handles = [exposure.handle() for exposure in exposures]
    return i4i(handles, [map_of(exposure) for exposure in exposures], I4iParams(**params))


@lru_cache(maxsize=4)
def miri(n, seed=1, **params):
    exposures, sources = observe("miri-i4i", n, seed)
    return exposures, sources, run(exposures, **params)


def free(exposure, light, found, label, regions):
    """Usable pixels of a region without sources and cosmic rays, whose background is not filled."""
    noise = float(np.nanmedian(exposure.err))
    bad = (found.dq & np.uint32(DO_NOT_USE | FILLED | STRUCK)) > 0
    return (
        (regions == label)
        & ~bad
        & (light < 0.1 * noise)
        & np.isfinite(found.data)
        & np.isfinite(exposure.data)
    )


def measure(exposures, sources, work, label=1):
    """Noise over the exposure's own, plain and robust, mean level, pull; means over exposures."""
    rows = []
    for i, (exposure, light) in enumerate(zip(exposures, sources, strict=True)):
        found = work.subtraction(i).exposure
        use = free(exposure, light, found, label, work.regions)
        off, noise = (found.data - light)[use], (exposure.data - exposure.model())[use]
        rows.append(
            (
                off.std(dtype=float) / noise.std(dtype=float),
                spread(off) / spread(noise),
                float(off.mean(dtype=float)),
                float((off / found.err[use]).std(dtype=float)),
            )
        )
    return np.mean(rows, axis=0)


def spread(values):
    low, high = np.percentile(values, [15.865, 84.135])
    return (high - low) / 2


def flux_errors(exposures, sources, work):
    """Bias of the fluxes of sources at S/N of 5 to 20 and above, its error, and their number."""
    fluxes, errors, sigmas = [], [], []
    for i, (exposure, light) in enumerate(zip(exposures, sources, strict=True)):
        found = work.subtraction(i).exposure
        noise = exposure.data - exposure.model()
        # Without the exposure's own noise: what is left is due to the background.
        off = found.data - light - noise
        bad = ~np.isfinite(off) | (work.regions != 1) | ((found.dq & np.uint32(1)) > 0)
        y, x = np.mgrid[: light.shape[0], : light.shape[1]]
        for layer in exposure.scene.layers:
            for source in layer.sources() if hasattr(layer, "sources") else ():
                at = exposure.pointing.to_pixels(source.ra, source.dec)
                at_x, at_y = (float(value) for value in at)
                near = np.hypot(x - at_x, y - at_y) < RADIUS
                if near.sum() < 105 or bad[near].any():
                    continue
                fluxes.append(float(light[near].sum()))
                errors.append(float(off[near].sum()))
                sigmas.append(np.sqrt(near.sum()) * np.nanmedian(exposure.err))
    flux, error, sigma = (np.array(column) for column in (fluxes, errors, sigmas))
    answers = []
    for use in ((flux > 5 * sigma) & (flux < 20 * sigma), flux >= 20 * sigma):
        weight = flux[use] / sigma[use] ** 2
        total = (weight * flux[use]).sum()
        answers.append((weight @ error[use] / total, 1 / np.sqrt(total), int(use.sum())))
    return answers


@pytest.mark.parametrize(("n", "most"), [(4, 1.06), (8, 1.03)])
def test_noise_is_nearly_that_of_the_exposure(n, most):
    plain, robust, level, pull = measure(*miri(n))
    assert 1.0 < robust < most
    assert 1.0 < plain < most
    assert abs(level) < 0.005
    assert 0.95 < pull < 1.05


def test_a_raw_background_is_worse():
    exposures, sources, work = miri(4)
    masks = [work.source_mask(i) for i in range(4)]
    handles = [exposure.handle() for exposure in exposures]
    params = I4iParams(template_noise="raw", iterations=0)
    raw = i4i(handles, [], params, masks=masks)
    noise, other = (measure(exposures, sources, one) for one in (work, raw))
    assert noise[0] < 0.92 * other[0]
    assert other[0] == pytest.approx(1.155, abs=0.03)
    assert 0.95 < other[3] < 1.05


@pytest.mark.parametrize("n", [4, 8])
def test_flux_of_sources_is_kept(n):
    (faint, faint_err, n_faint), (bright, bright_err, n_bright) = flux_errors(*miri(n))
    assert n_faint > 20
    assert n_bright > 40
    assert abs(bright) < 0.003 + 2 * bright_err
    assert abs(faint) < 0.01 + 2 * faint_err


@pytest.mark.parametrize("n", [4, 8])
def test_levels_of_the_other_fields(n):
    exposures, sources, work = miri(n)
    assert {0, 1, 2, 3, 4, 5} <= set(work.names)
    for label in (2, 3, 4, 5):
        pulls = []
        for i, (exposure, light) in enumerate(zip(exposures, sources, strict=True)):
            found = work.subtraction(i).exposure
            use = free(exposure, light, found, label, work.regions)
            off = (found.data - light)[use]
            assert off.size > 1500
            # Errors of neighbours are alike over some pixels: three times that of white noise.
            pulls.append(off.mean(dtype=float) / (3 * off.std(dtype=float) / np.sqrt(off.size)))
        assert np.abs(pulls).max() < 3.0


def test_every_pixel_is_subtracted_or_flagged():
    for n in (4, 8):
        exposures, sources, work = miri(n)
        for i, exposure in enumerate(exposures):
            found = work.subtraction(i).exposure
            noise = exposure.data - exposure.model()
            left = found.data - sources[i] - noise
            lit = (work.regions > 0) & np.isfinite(noise)
            flagged = (found.dq & np.uint32(DO_NOT_USE)) > 0
            assert np.isfinite(left[lit & ~flagged]).all()
            wrong = lit & ~flagged & (np.abs(left) > 6 * np.hypot(found.err, 0.35))
            # Hot pixels are noisier than they say.
            assert wrong.mean() < 2e-4


@pytest.mark.parametrize("n", [4, 8])
def test_errors_of_filled_pixels_are_known(n):
    exposures, sources, work = miri(n)
    pulls = []
    for i, (exposure, light) in enumerate(zip(exposures, sources, strict=True)):
        subtraction = work.subtraction(i)
        found, noise = subtraction.exposure, exposure.data - exposure.model()
        filled = ((found.dq & np.uint32(FILLED)) > 0) & (work.regions == 1) & np.isfinite(noise)
        filled &= (found.dq & np.uint32(DO_NOT_USE | STRUCK)) == 0
        left = (found.data - light - noise)[filled]
        pulls.append(spread(left / np.sqrt(subtraction.background_var[filled])))
    assert 0.8 < np.mean(pulls) < 1.25


@pytest.mark.parametrize(
    ("preset", "kwargs"),
    [
        ("nircam-imaging", {"channel": "long", "stripe_rms": 0.0}),
        ("miri-i4i", {"subarray": "SUB128", "small": False}),
    ],
)
def test_other_frames(preset, kwargs):
    exposures, sources = observe(preset, 5, 2, **kwargs)
    work = run(exposures)
    label = max(work.names, key=lambda k: (k > 0) * int((work.regions == k).sum()))
    _, robust, level, pull = measure(exposures, sources, work, label)
    sigma = float(np.nanmedian(exposures[0].err))
    assert robust < 1.12
    assert abs(level) < 0.1 * sigma
    assert 0.9 < pull < 1.2
    assert max(work.masked_fractions) < 0.4
