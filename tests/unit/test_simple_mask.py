import re

import numpy as np
import pytest

from webbkg.errors import ParameterError, ShapeError
from webbkg.masks.simple import find_simple


def noise(seed, shape=(256, 256)):
    return np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)


def star(shape, centre, height, sigma=1.3):
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius2 = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return (height * np.exp(-0.5 * radius2 / sigma**2)).astype(np.float32)


def test_stars_are_found_and_numbered():
    image = noise(1) + star((256, 256), (60, 60), 50.0) + star((256, 256), (200, 120), 30.0)
    found = find_simple(image)
    labels = found.segmentation()
    assert labels.dtype == np.int32
    assert (labels[60, 60], labels[200, 120]) == (1, 2)
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, found.mask)


@pytest.mark.parametrize("n_sigma", [1.5, 2.0, 4.0])
def test_the_threshold_is_in_units_of_the_noise_of_a_pixel(n_sigma):
    # The kernel takes next to nothing away from what is so broad.
    for factor in (0.7, 1.3):
        image = noise(2) + star((256, 256), (120, 130), factor * n_sigma, sigma=7.0)
        assert find_simple(0.2 * image, n_sigma=n_sigma).mask[120, 130] == (factor > 1)


def test_what_is_small_is_left_out():
    image = 0.1 * noise(3)
    image[100, 100] = 4.0
    place = np.s_[95:106, 95:106]
    n_pixels = int(find_simple(image, min_area=1).mask[place].sum())
    assert 5 <= n_pixels <= 13
    assert find_simple(image).mask[place].sum() == n_pixels
    assert find_simple(image, min_area=n_pixels).mask[place].sum() == n_pixels
    assert not find_simple(image, min_area=n_pixels + 1).mask[place].any()


def test_a_gradient_is_background():
    y, x = np.mgrid[:250, :250]
    tilt = (0.02 * x - 0.01 * y).astype(np.float32)
    found = find_simple(noise(4, (250, 250)) + tilt)
    assert found.mask.mean() < 1e-3
    np.testing.assert_allclose(found.background[50:200, 50:200], tilt[50:200, 50:200], atol=0.4)
    np.testing.assert_allclose(found.noise, 1.0, atol=0.15)


def test_pixels_that_are_not_used_do_not_count():
    image = noise(5) + star((256, 256), (60, 60), 50.0)
    used = np.random.default_rng(6).random(image.shape) < 0.95
    used[150:210, 100:170] = False
    hidden = find_simple(np.where(used, image, np.float32(np.nan)))
    wild = find_simple(np.where(used, image, np.float32(1e20)), used)
    np.testing.assert_array_equal(wild.mask, hidden.mask)
    np.testing.assert_array_equal(wild.background, hidden.background)
    assert not wild.mask[~used].any()
    assert wild.mask[59:62, 59:62][used[59:62, 59:62]].all()
    assert np.isfinite(wild.background).all()


def test_boxes_of_which_little_is_left_are_used_where_all_are_like_that():
    image = 5.0 + noise(7) + star((256, 256), (60, 60), 50.0)
    used = np.zeros(image.shape, dtype=bool)
    used[::2] = True
    found = find_simple(image, used)
    assert found.background.mean() == pytest.approx(5.0, abs=0.1)
    assert found.mask[60, 60]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (17, 5), (64, 64), (130, 33)])
def test_images_of_any_size_work(shape):
    image = noise(8, shape)
    image.flat[image.size // 2] = np.nan
    found = find_simple(image)
    assert found.mask.shape == found.background.shape == found.noise.shape == shape


def test_an_image_without_values_has_no_sources():
    found = find_simple(np.full((20, 30), np.nan, dtype=np.float32))
    assert not found.mask.any()
    assert not found.background.any()


def test_inputs_are_not_changed():
    image, used = noise(9, (64, 64)), np.ones((64, 64), dtype=bool)
    image[3, 3] = np.nan
    for array in (image, used):
        array.flags.writeable = False
    find_simple(image, used)


@pytest.mark.parametrize("order", ["F", ">"])
def test_arrays_as_files_hold_them_work(order):
    image = noise(10, (64, 80)) + star((64, 80), (30, 40), 50.0)
    other = np.asfortranarray(image) if order == "F" else image.astype(">f4")
    np.testing.assert_array_equal(find_simple(other).mask, find_simple(image).mask)


@pytest.mark.parametrize(
    ("image", "arguments", "error", "message"),
    [
        (np.zeros((2, 4, 5)), {}, ShapeError, "a simple mask needs a 2-D image, got shape (2, 4"),
        (
            np.zeros((4, 5)),
            {"used": np.ones((5, 4), dtype=bool)},
            ShapeError,
            "a simple mask needs flags of the shape of its image, got (5, 4) for (4, 5)",
        ),
        (
            np.zeros((4, 5)),
            {"n_sigma": 0.0},
            ParameterError,
            "a simple mask needs n_sigma above 0, got 0.0",
        ),
        (
            np.zeros((4, 5)),
            {"fwhm": np.nan},
            ParameterError,
            "a simple mask needs fwhm above 0, got nan",
        ),
    ],
)
def test_wrong_arguments_are_refused(image, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        find_simple(image, **arguments)
