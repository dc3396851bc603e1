"""Source masks of co-adds of the preset ``miri-i4i``: light that is missed, sky that is lost."""

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from webbkg.masks.sources import source_mask
from webbkg.masks.tiers import TierParams, find_sources
from webbkg.sim import Galaxy, simulate

NOISE = 0.35  # DN/s, of one exposure
SHAPE = (512, 520)


@lru_cache(maxsize=8)
def field(seed, *, spiral=False):
    exposure = simulate("miri-i4i", seed=seed, small=True, n_science=3, regions=False).science[0]
    image = exposure.sources()
    if spiral:
        ra, dec = (float(value) for value in exposure.pointing.to_sky(340.0, 280.0))
        place = {"ra": ra, "dec": dec, "ellipticity": 0.3, "angle": 70.0}
        disc = Galaxy(name="disc", flux=19_200.0, r_eff=4.4, arm_contrast=0.8, **place)
        bulge = Galaxy(name="bulge", flux=3_200.0, r_eff=0.66, sersic_index=1.5, **place)
        for galaxy in (disc, bulge):
            image = image + galaxy.render(exposure.pointing, exposure.window)
    return image.astype(np.float32)


def white(seed, n, shape=SHAPE):
    sigma = NOISE / np.sqrt(n)
    return np.random.default_rng([seed, n]).normal(0.0, sigma, shape).astype(np.float32)


def bilinear(seed, n, shape=SHAPE):
    rng = np.random.default_rng([seed, n, 2])
    total = np.zeros(shape)
    for _ in range(n):
        one, (y, x) = rng.normal(0.0, NOISE, shape), rng.random(2)
        one = (1 - y) * one + y * np.roll(one, 1, axis=0)
        total += (1 - x) * one + x * np.roll(one, 1, axis=1)
    return (total / n).astype(np.float32)


def smoothed(seed, n, shape=SHAPE):
    image = ndimage.gaussian_filter(white(seed, n, shape), 1.0)
    return image * np.float32(NOISE / np.sqrt(n) / image.std())


def light_left(truth, mask, n):
    """Mean light of unmasked pixels over the noise of a pixel."""
    return float(truth[~mask].mean()) / (NOISE / np.sqrt(n))


@pytest.mark.parametrize(
    ("kind", "largest_bias"), [(white, 0.005), (bilinear, 0.005), (smoothed, 0.02)]
)
def test_blank_sky_is_kept_and_not_biased(kind, largest_bias):
    lost, bias = [], []
    for seed in range(6):
        image = kind(seed, 9)
        mask = find_sources(image).mask
        lost.append(mask.mean())
        bias.append((image[~mask].mean() - image.mean()) / (NOISE / 3))
    assert 0.003 < np.mean(lost) < 0.015
    assert abs(np.mean(bias)) < largest_bias


def test_uneven_coverage_is_kept():
    # A mosaic of 9 dithers: fewer exposures towards the edges.
    n = np.minimum.outer(np.arange(SHAPE[0]) // 25 + 1, np.arange(SHAPE[1]) // 30 + 1).clip(1, 9)
    sigma = (NOISE / np.sqrt(n)).astype(np.float32)
    images = [white(seed, 1) / np.float32(NOISE) * sigma for seed in range(3)]
    assert np.mean([find_sources(image, noise=sigma).mask.mean() for image in images]) < 0.015
    # It is measured well enough, too.
    assert np.mean([find_sources(image).mask.mean() for image in images]) < 0.02


@pytest.mark.parametrize("kind", ["tilt", "glow", "wave", "edge"])
def test_a_smooth_pattern_is_no_source(kind):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pattern = {
        "tilt": (x + 0.5 * y) / 200,
        "glow": np.exp(-((y - 200) ** 2 + (x - 300) ** 2) / (2 * 100**2)),
        "wave": 0.5 * np.cos(2 * np.pi * x / 400) * np.cos(2 * np.pi * y / 500),
        "edge": np.exp(-np.hypot(y / 180, x / 105)),
    }[kind]
    lost = []
    for seed in range(6):
        image = white(seed, 16) + (0.5 * NOISE / 4 * pattern).astype(np.float32)
        lost.append(find_sources(image).mask.mean())
    assert np.mean(lost) < 0.015


@pytest.mark.parametrize(("n", "area"), [(3, 0.17), (16, 0.23), (64, 0.30)])
def test_light_of_a_field_is_masked(n, area):
    left, masked, peer, bias = [], [], [], []
    for seed in (1, 2):
        truth, noise = field(seed), white(seed, n)
        mask = find_sources(truth + noise).mask
        left.append(light_left(truth, mask, n))
        bias.append(noise[~mask].mean() / (NOISE / np.sqrt(n)))
        masked.append(mask.mean())
        peer.append(source_mask(truth + noise, np.ones(SHAPE, dtype=bool)).mean())
        # As a share of all light.
        assert truth[~mask].sum() < 0.02 * truth.sum()
    assert np.mean(left) < 0.012
    assert abs(np.mean(bias)) < 0.01
    assert np.mean(masked) < area
    assert np.mean(masked) < 0.55 * np.mean(peer)


@pytest.mark.parametrize(("n", "left_most"), [(4, 0.023), (16, 0.028), (64, 0.04)])
def test_a_large_spiral_is_followed_outwards(n, left_most):
    left = []
    for seed in (1, 2):
        truth, noise = field(seed, spiral=True), bilinear(seed, n)
        found = find_sources(truth + noise)
        left.append(light_left(truth, found.mask, n))
        # The background does not take the galaxy away.
        assert np.abs(found.background).max() < 0.5 * NOISE / np.sqrt(n)
        assert found.mask.mean() < 0.45
    assert np.mean(left) < left_most


def test_each_star_is_masked_out_to_its_wings():
    y, x = np.mgrid[:96, :96]
    radius = np.hypot(y - 48, x - 48)
    star = (1.0 + (radius / 2.12) ** 2) ** -2.5
    star /= star.sum()
    outside = {}
    for flux in (30.0, 100.0, 1e3, 1e4):
        shares = []
        for seed in range(6):
            image = (flux * star).astype(np.float32) + white(seed, 4, (96, 96))
            shares.append(star[~find_sources(image).mask].sum())
        outside[flux] = np.mean(shares)
    # 30 DN/s are 24 sigma of the co-add of four, in a filter matched to the PSF.
    assert outside[30.0] < 0.06
    assert outside[100.0] < 0.03
    assert outside[1e3] < 0.01
    assert outside[1e4] < 0.003


def test_stars_at_the_threshold_are_found():
    # Height 3.9 of the noise: 6 sigma in the filtered image.
    places = [(y, x) for y in range(24, 500, 32) for x in range(24, 500, 32)]
    truth = np.zeros(SHAPE)
    for place in places:
        truth[place] = 1.0
    truth = ndimage.gaussian_filter(truth, 1.02)
    truth *= 1.7 * NOISE / truth.max()
    masks = [find_sources(truth.astype(np.float32) + white(seed, 4)).mask for seed in (1, 2)]
    assert np.mean([mask[place] for mask in masks for place in places]) > 0.85


def test_a_frame_keeps_its_sky_beside_what_the_detector_adds():
    exposure = simulate("miri-i4i", seed=2, small=True, n_science=3, regions=False).science[0]
    truth, usable = exposure.sources(), np.isfinite(exposure.data)
    mask = find_sources(exposure.data, usable=usable, params=TierParams.for_frame()).mask
    # All of the pattern, 1.5 times the noise, is still there.
    assert truth[~mask].sum() < 0.05 * truth.sum()
    assert mask.mean() < 0.3
