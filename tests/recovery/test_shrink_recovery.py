"""Noise is taken out of backgrounds of the MIRI imager as the preset ``miri-i4i`` simulates it."""

from functools import lru_cache

import numpy as np
import pytest

from webbkg.kernels.pattern import Sample, measure_pattern
from webbkg.kernels.shrink import shrink
from webbkg.masks.regions import region_map
from webbkg.sim import simulate


@lru_cache(maxsize=2)
def blank(n, seed, **kwargs):
    """Samples of the imager without sources, the true background, and which pixels are good."""
    exposures = simulate(
        "miri-i4i", seed=seed, small=True, n_science=n, n_stars=0, n_galaxies=0,
        sky_drift=0.0, jump_fraction=0.0, **kwargs,
    ).science  # fmt: skip
    first = exposures[0]
    inside = region_map({"DETECTOR": "MIRIMAGE"}, first.window) == 1
    columns = np.flatnonzero(inside.any(axis=0))
    cut = np.s_[:, columns[0] : columns[-1] + 1]
    usable = (inside & ((first.dq & np.uint32(1)) == 0) & np.isfinite(first.data))[cut]
    nan = np.float32(np.nan)
    data = np.array([np.where(usable, one.data[cut], nan) for one in exposures])
    var = np.array([np.where(usable, np.square(one.err[cut]), nan) for one in exposures])
    samples = [
        Sample(
            data[i],
            var[i],
            np.delete(data, i, axis=0).mean(axis=0),
            np.delete(var, i, axis=0).sum(axis=0) / np.float32((n - 1) ** 2),
        )
        for i in range(n)
    ]
    return samples, first.model()[cut], usable


def ratios(n, seed, **kwargs):
    """Noise with a shrunk and a raw background over that of the exposure; level, and pull."""
    samples, truth, usable = blank(n, seed, **kwargs)
    pattern = measure_pattern(samples[:4])
    rows = []
    for sample in samples[:4]:
        found = shrink(sample.template, sample.template_var, pattern)
        assert np.isfinite(found.image[usable]).all()
        noise = (sample.image - truth)[usable].std(dtype=float)
        off, raw = (found.image - truth)[usable], (sample.template - truth)[usable]
        pull = (off / np.sqrt(found.var[usable])).std(dtype=float)
        level = float((off - raw).mean(dtype=float))
        rows.append((np.hypot(1, off.std() / noise), np.hypot(1, raw.std() / noise), level, pull))
    return np.mean(rows, axis=0)


@pytest.mark.parametrize(("n", "most"), [(4, 1.03), (8, 1.02), (16, 1.012)])
def test_the_noise_of_a_background_nearly_vanishes(n, most):
    shrunk, raw, level, pull = ratios(n, 1)
    assert raw == pytest.approx(np.sqrt(1 + 1 / (n - 1)), rel=0.01)
    assert shrunk < most
    # Hot pixels and columns are kept as they are.
    assert abs(level) < 1e-3
    assert 0.9 < pull < 1.1


def test_a_white_pattern_is_not_made_worse():
    for seed in (1, 2):
        shrunk, raw, level, pull = ratios(4, seed, pixel_share=1.0, white_share=1.0)
        assert shrunk <= 1.0005 * raw
        # Bright pixels have more photon noise and less weight: 1e-4 of the sky of 60 DN/s.
        assert abs(level) < 6e-3
        assert 0.9 < pull < 1.1


def test_without_a_pattern_hardly_any_noise_is_left():
    shrunk, _, level, _ = ratios(4, 3, pattern_rms=0.0)
    assert shrunk < 1.01
    assert abs(level) < 1e-3


def test_bad_pixels_take_the_pattern_around_them():
    samples, truth, usable = blank(8, 1)
    pattern = measure_pattern(samples[:4])
    rng = np.random.default_rng(5)
    holes = usable & ~pattern.special & ~pattern.edges & (rng.random(usable.shape) < 0.02)
    pulls, errors = [], []
    for sample in samples[:4]:
        image, var = sample.template.copy(), sample.template_var.copy()
        image[holes] = var[holes] = np.nan
        found = shrink(image, var, pattern)
        assert np.isfinite(found.image[holes]).all()
        errors.append((found.image - truth)[holes].std(dtype=float))
        pulls.append(((found.image - truth) / np.sqrt(found.var))[holes].std(dtype=float))
    # The pattern that differs from pixel to pixel has an rms of 0.16, a tenth of it white.
    assert np.mean(errors) < 0.13
    assert 0.75 < np.mean(pulls) < 1.3
