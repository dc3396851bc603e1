import re

import numpy as np
import pytest
from scipy import ndimage

from webbkg.errors import ShapeError
from webbkg.masks.sources import source_mask


def noise(seed, shape=(256, 256), sigma=1.0):
    return np.random.default_rng(seed).normal(0.0, sigma, shape).astype(np.float32)


def everywhere(image):
    return np.ones(image.shape, dtype=bool)


@pytest.mark.parametrize("value", [0.0, 60.1, -3e4])
def test_constant_image_has_no_sources(value):
    image = np.full((40, 50), value, dtype=np.float32)
    assert not source_mask(image, everywhere(image)).any()


def test_one_bright_pixel_is_masked_with_its_surroundings_only():
    image = np.zeros((101, 101), dtype=np.float32)
    image[50, 50] = 1.0
    mask = source_mask(image, everywhere(image))
    assert mask[50, 50]
    assert mask[47:54, 47:54].all()
    assert not mask[:, :20].any()
    np.testing.assert_array_equal(mask, mask.T)


def test_white_noise_loses_little_and_is_not_biased():
    shifts, lost = [], []
    for seed in range(8):
        image = noise(seed, (512, 512))
        mask = source_mask(image, everywhere(image))
        shifts.append(np.median(image[~mask]) - np.median(image))
        lost.append(mask.mean())
    assert abs(np.mean(shifts)) < 1e-3
    assert 0.0 < np.mean(lost) < 0.01


def test_stars_and_galaxy_are_masked_to_where_they_fade_into_the_noise():
    y, x = np.mgrid[:256, :256]
    star = 500.0 * np.exp(-((y - 60) ** 2 + (x - 70) ** 2) / (2 * 2.0**2))
    galaxy = 5.0 * np.exp(-np.hypot(y - 170, x - 150) / 15.0)
    image = noise(1) + (star + galaxy).astype(np.float32)
    mask = source_mask(image, everywhere(image))
    assert mask[star > 0.5].all()
    assert mask[galaxy > 0.7].all()
    assert mask.mean() < 0.25


def test_a_gradient_is_no_source():
    image = noise(2) + np.linspace(-20, 20, 256, dtype=np.float32)
    assert source_mask(image, everywhere(image)).mean() < 0.02


def test_stripes_are_no_sources():
    stripes = np.random.default_rng(3).normal(0.0, 1.0, (256, 1)).astype(np.float32)
    assert source_mask(noise(3) + stripes, np.ones((256, 256), bool)).mean() < 0.1


def test_nan_and_unusable_pixels_do_not_spread():
    clean = noise(4)
    image, usable = clean.copy(), everywhere(clean)
    image[100:110, 100:110] = np.nan
    image[200, 50] = np.inf
    usable[30:60, 200:220] = False
    image[30:60, 200:220] = 1e6
    mask = source_mask(image, usable)
    around = np.zeros(clean.shape, dtype=bool)
    around[80:130, 80:130] = around[10:80, 180:240] = around[180:220, 30:70] = True
    assert mask[around].mean() < 0.05
    assert mask.mean() < 0.02


def test_pixels_beside_a_hole_are_judged_by_their_own_noise():
    # Lone pixels in a hole are filtered over one value only: noisier, but no sources.
    usable = np.zeros((256, 256), dtype=bool)
    usable[:, 128:] = True
    usable[4:-4:16, 4:128:16] = True
    lone = usable.copy()
    lone[:, 128:] = False
    masked = [source_mask(noise(seed), usable)[lone].mean() for seed in range(5, 10)]
    assert np.mean(masked) < 0.02


def test_sources_are_found_where_three_of_four_pixels_are_missing():
    # 12 sigma on all pixels, so 6 on a quarter of them.
    usable = np.ones((256, 256), dtype=bool)
    usable[:, :128] = False
    usable[::2, :128:2] = True
    y, x = np.mgrid[:256, :256]
    places = [(cy, 64) for cy in range(20, 240, 24)]
    image = noise(12)
    for cy, cx in places:
        image += (4.5 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.5**2))).astype(np.float32)
    mask = source_mask(image, usable)
    assert sum(mask[place] for place in places) >= len(places) - 1


def test_what_is_found_is_grown():
    labels, n_found = ndimage.label(source_mask(noise(13, (512, 512)), np.ones((512, 512), bool)))
    assert n_found > 3
    for rows, columns in ndimage.find_objects(labels):
        if rows.start > 0 and rows.stop < 512 and columns.start > 0 and columns.stop < 512:
            assert rows.stop - rows.start >= 7
            assert columns.stop - columns.start >= 7


def test_inputs_are_not_changed():
    image = noise(6)
    image[3, 3] = np.nan
    usable = everywhere(image)
    image.flags.writeable = usable.flags.writeable = False
    source_mask(image, usable)


@pytest.mark.parametrize("usable", [False, True])
def test_an_image_without_values_gives_an_empty_mask(usable):
    image = np.full((20, 20), np.nan, dtype=np.float32)
    assert not source_mask(image, np.full(image.shape, usable)).any()


def test_a_star_that_fills_the_frame_does_not_raise():
    y, x = np.mgrid[:80, :80]
    image = (1e5 * np.exp(-np.hypot(y - 40, x - 40) / 8.0)).astype(np.float32) + noise(7, (80, 80))
    assert source_mask(image, everywhere(image))[30:50, 30:50].all()


def test_lower_threshold_finds_more():
    image = noise(8) + ndimage.gaussian_filter(noise(9), 2.0)
    found = [source_mask(image, everywhere(image), n_sigma=n).sum() for n in (2.5, 4.0, 6.0)]
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 6)])
def test_shapes_are_checked(shape):
    message = f"a source mask needs a 2-D image and as many flags, got {shape} and (4, 5)"
    with pytest.raises(ShapeError, match=re.escape(message)):
        source_mask(np.zeros(shape, dtype=np.float32), np.ones((4, 5), dtype=bool))
