"""Layers: fluxes, symmetry, dithers and sub-arrays."""

import numpy as np
import pytest

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.sim.layers import DetectorPattern, Galaxy, Pointing, Sky, Source, Stars

FULL = Window(0, 0, 101, 121)
CENTRE = Pointing()


def stars(x=(60.0,), y=(50.0,), flux=(1000.0,), **kwargs):
    return Stars(x=np.array(x), y=np.array(y), flux=np.array(flux), **kwargs)


LAYERS = (
    Sky(level=60.0, gradient=(0.01, -0.02)),
    DetectorPattern(rms=0.5, smooth_rms=0.4, column_rms=0.1, seed=3, detector_shape=(101, 121)),
    stars(x=(60.3, 2.0, 110.0), y=(50.6, 99.0, -3.0), flux=(1e4, 50.0, 1e3)),
    Galaxy(x=70.0, y=40.0, flux=500.0, r_eff=8.0, ellipticity=0.3, angle=20.0, arm_contrast=0.7),
)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("window", [Window(20, 33, 40, 50), Window(0, 0, 1, 1)])
def test_sub_array_is_a_cut_out(layer, window):
    pointing = Pointing(3.7, -2.2)
    whole = layer.render(pointing, FULL)
    part = layer.render(pointing, window)
    assert part.dtype == np.float32
    assert part.shape == window.shape
    np.testing.assert_array_equal(part, whole[FULL.slices(window)])


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_only_sources_follow_the_dither(layer):
    at_rest, moved = layer.render(CENTRE, FULL), layer.render(Pointing(5, -7), FULL)
    if layer.is_source:
        np.testing.assert_allclose(moved[:-7, 5:], at_rest[7:, :-5], rtol=1e-5, atol=1e-6)
        assert not np.array_equal(moved, at_rest)
    else:
        np.testing.assert_array_equal(moved, at_rest)


def test_sky_is_a_plane_with_its_level_at_the_origin():
    sky = Sky(level=60.0, gradient=(0.5, -0.25), origin=(1.0, 2.0))
    expected = [[60.0, 59.75, 59.5, 59.25], [60.5, 60.25, 60.0, 59.75]]
    np.testing.assert_array_equal(sky.render(CENTRE, Window(0, 0, 2, 4)), expected)


def test_pattern_has_the_rms_of_each_part():
    shape = (200, 240)
    window = Window(0, 0, *shape)
    whole = {"rms": 0.5, "smooth_rms": 0.4, "column_rms": 0.1}
    for part, rms in whole.items():
        alone = dict.fromkeys(whole, 0.0) | {part: rms}
        image = DetectorPattern(seed=1, detector_shape=shape, **alone).render(CENTRE, window)
        assert image.mean() == pytest.approx(0.0, abs=1e-6)
        assert image.std() == pytest.approx(rms, rel=1e-5)
    assert np.ptp(image, axis=0).max() == 0.0  # the last one: columns alone
    smooth = DetectorPattern(rms=0, smooth_rms=0.4, seed=1, detector_shape=shape)
    assert np.abs(np.diff(smooth.render(CENTRE, window), axis=0)).max() < 0.05


def test_pattern_is_its_seed():
    first, again, other = (
        DetectorPattern(rms=1, smooth_rms=1, column_rms=1, seed=seed).render(CENTRE, FULL)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.5, 0.25)])
def test_star_has_its_flux_place_and_width(dx, dy):
    image = stars(flux=(1e5,)).render(Pointing(dx, dy), FULL).astype(float)
    assert image.sum() == pytest.approx(1e5, rel=1e-3)
    y, x = np.indices(image.shape)
    assert (image * x).sum() / image.sum() == pytest.approx(60 + dx, abs=1e-2)
    assert (image * y).sum() / image.sum() == pytest.approx(50 + dy, abs=1e-2)


def test_star_falls_to_half_at_half_its_width():
    image = stars(fwhm=4.0).render(CENTRE, FULL)
    np.testing.assert_allclose(image[50, [58, 62]], image[50, 60] / 2, rtol=1e-6)


def test_faint_star_keeps_its_flux_and_the_stamp_has_no_visible_edge():
    image = stars(flux=(10.0,)).render(CENTRE, FULL)
    assert image.sum() == pytest.approx(10.0, rel=5e-3)
    assert image[image > 0].min() < 1.1e-4


def test_star_outside_leaves_nothing_and_one_at_the_edge_is_cut():
    assert not stars(x=(-400.0,)).render(CENTRE, FULL).any()
    # The pixel on the edge row counts whole, hence a little more than half.
    assert 0.5 < stars(y=(0.0,)).render(CENTRE, FULL).sum() / 1000 < 0.75


def test_no_stars_is_an_empty_layer():
    empty = stars((), (), ())
    assert not empty.render(CENTRE, FULL).any()
    assert list(empty.sources()) == []


def test_catalogue():
    assert list(stars().sources()) == [Source("stars", 60.0, 50.0, 1000.0)]
    assert list(LAYERS[3].sources()) == [Source("galaxy", 70.0, 40.0, 500.0)]
    assert list(LAYERS[0].sources()) == []


@pytest.mark.parametrize("arm_contrast", [0.0, 0.8])
def test_galaxy_has_its_flux_half_of_it_in_r_eff(arm_contrast):
    galaxy = Galaxy(
        x=250, y=250, flux=1e4, r_eff=40, ellipticity=0.4, angle=90, arm_contrast=arm_contrast
    )
    image = galaxy.render(CENTRE, Window(0, 0, 501, 501)).astype(float)
    assert image.sum() == pytest.approx(1e4, rel=3e-3)
    y, x = np.indices(image.shape) - 250
    # The major axis points along y.
    inside = np.hypot(y, x / 0.6) <= 40
    assert image[inside].sum() == pytest.approx(5e3, rel=1e-2)


def test_galaxy_has_two_arms_of_the_wanted_contrast():
    image = Galaxy(x=250, y=250, flux=1e4, r_eff=60, arm_contrast=0.8).render(
        CENTRE, Window(0, 0, 501, 501)
    )
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    ring = image[
        np.rint(250 + 120 * np.sin(turn)).astype(int), np.rint(250 + 120 * np.cos(turn)).astype(int)
    ]
    modes = np.abs(np.fft.rfft(ring / ring.mean()))[:10]
    assert np.argmax(modes[1:]) + 1 == 2
    assert 2 * modes[2] / ring.size == pytest.approx(0.8, rel=0.05)
    np.testing.assert_allclose(image, image[::-1, ::-1], rtol=1e-4)


def test_stars_of_unequal_numbers_are_refused():
    with pytest.raises(ShapeError) as error:
        stars(x=(1.0, 2.0))
    assert str(error.value) == (
        "stars: 2 x and 1 y positions do not fit 1 fluxes; give one of each per star"
    )


def test_bad_star_parameters_are_refused():
    with pytest.raises(ParameterError) as error:
        stars(beta=1.0)
    assert str(error.value) == (
        "stars: fluxes and fwhm must be positive and beta above 1, got fwhm 2.4, beta 1.0"
    )
    with pytest.raises(ParameterError, match="fluxes and fwhm must be positive"):
        stars(flux=(-1.0,))


def test_bad_galaxy_is_refused():
    with pytest.raises(ParameterError, match=r"galaxy: a galaxy needs flux > 0.*ellipticity=1"):
        Galaxy(x=0, y=0, flux=1, r_eff=1, ellipticity=1)
