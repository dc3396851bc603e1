"""Layers: fluxes, symmetry, dithers and sub-arrays."""

import numpy as np
import pytest

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.sim import CAMERAS, Pointing, Source, tangent_plane
from webbkg.sim.layers import DetectorPattern, Galaxy, Sky, Stars

SHAPE = (101, 121)
FULL = Window(0, 0, *SHAPE)
SCALE = 0.1
FLAT = Pointing(aperture=tangent_plane(SHAPE, SCALE), ra=150.0, dec=2.0)
#: With all the distortion that MIRI has.
REAL = Pointing(aperture=CAMERAS["MIRIMAGE"].resized(SHAPE).aperture, ra=150.0, dec=2.0, roll=77.0)


def stars(x=(60.0,), y=(50.0,), flux=(1000.0,), pointing=FLAT, **kwargs):
    ra, dec = pointing.to_sky(np.array(x, float), np.array(y, float))
    return Stars(ra=ra, dec=dec, flux=np.array(flux, float), **kwargs)


def galaxy(x, y, pointing=FLAT, **kwargs):
    ra, dec = (float(value) for value in pointing.to_sky(x, y))
    return Galaxy(ra=ra, dec=dec, **kwargs)


LAYERS = (
    Sky(level=60.0, gradient=(0.01, -0.02)),
    DetectorPattern(rms=0.5, smooth_rms=0.4, column_rms=0.1, seed=3, detector_shape=SHAPE),
    stars(x=(60.3, 2.0, 110.0), y=(50.6, 99.0, -3.0), flux=(1e4, 50.0, 1e3)),
    galaxy(70.0, 40.0, flux=500.0, r_eff=0.8, ellipticity=0.3, angle=20.0, arm_contrast=0.7),
)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("window", [Window(20, 33, 40, 50), Window(0, 0, 1, 1)])
@pytest.mark.parametrize("start", [FLAT, REAL], ids=["flat", "distorted"])
def test_sub_array_is_a_cut_out(layer, window, start):
    pointing = start.dithered(3.7, -2.2)
    whole = layer.render(pointing, FULL)
    part = layer.render(pointing, window)
    assert part.dtype == np.float32
    assert part.shape == window.shape
    np.testing.assert_allclose(part, whole[FULL.slices(window)], rtol=3e-7)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_only_sources_follow_the_dither(layer):
    at_rest, moved = layer.render(FLAT, FULL), layer.render(FLAT.dithered(5, -7), FULL)
    if layer.is_source:
        np.testing.assert_allclose(moved[:-7, 5:], at_rest[7:, :-5], rtol=1e-5, atol=1e-6)
        assert not np.array_equal(moved, at_rest)
    else:
        np.testing.assert_array_equal(moved, at_rest)


def test_sky_is_a_plane_with_its_level_at_the_origin():
    sky = Sky(level=60.0, gradient=(0.5, -0.25), origin=(1.0, 2.0))
    expected = [[60.0, 59.75, 59.5, 59.25], [60.5, 60.25, 60.0, 59.75]]
    np.testing.assert_array_equal(sky.render(FLAT, Window(0, 0, 2, 4)), expected)


def test_pattern_has_the_rms_of_each_part():
    shape = (200, 240)
    window = Window(0, 0, *shape)
    whole = {"rms": 0.5, "smooth_rms": 0.4, "column_rms": 0.1}
    for part, rms in whole.items():
        alone = dict.fromkeys(whole, 0.0) | {part: rms}
        image = DetectorPattern(seed=1, detector_shape=shape, **alone).render(FLAT, window)
        assert image.mean() == pytest.approx(0.0, abs=1e-6)
        assert image.std() == pytest.approx(rms, rel=1e-5)
    assert np.ptp(image, axis=0).max() == 0.0  # the last one: columns alone
    smooth = DetectorPattern(rms=0, smooth_rms=0.4, seed=1, detector_shape=shape)
    assert np.abs(np.diff(smooth.render(FLAT, window), axis=0)).max() < 0.05


def test_pattern_is_its_seed():
    first, again, other = (
        DetectorPattern(rms=1, smooth_rms=1, column_rms=1, seed=seed).render(FLAT, FULL)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.5, 0.25)])
def test_star_has_its_flux_place_and_width(dx, dy):
    image = stars(flux=(1e5,)).render(FLAT.dithered(dx, dy), FULL).astype(float)
    assert image.sum() == pytest.approx(1e5, rel=1e-3)
    y, x = np.indices(image.shape)
    assert (image * x).sum() / image.sum() == pytest.approx(60 + dx, abs=1e-2)
    assert (image * y).sum() / image.sum() == pytest.approx(50 + dy, abs=1e-2)


def test_star_falls_to_half_at_half_its_width():
    image = stars(fwhm=4.0).render(FLAT, FULL)
    np.testing.assert_allclose(image[50, [58, 62]], image[50, 60] / 2, rtol=1e-5)


def test_faint_star_keeps_its_flux_and_the_stamp_has_no_visible_edge():
    image = stars(flux=(10.0,)).render(FLAT, FULL)
    assert image.sum() == pytest.approx(10.0, rel=5e-3)
    assert image[image > 0].min() < 1.1e-4


def test_star_outside_leaves_nothing_and_one_at_the_edge_is_cut():
    assert not stars(x=(-400.0,)).render(FLAT, FULL).any()
    # The pixel on the edge row counts whole, hence a little more than half.
    assert 0.5 < stars(y=(0.0,)).render(FLAT, FULL).sum() / 1000 < 0.75


def test_a_star_in_a_larger_pixel_is_fainter_by_its_area():
    """As after a flat field: flux per solid angle is what stays, corner and centre alike."""
    aperture = CAMERAS["NIS"].aperture
    pointing = Pointing(aperture=aperture, ra=10.0, dec=-70.0, roll=200.0)
    areas = []
    for x, y in ((1023.5, 1023.5), (60.0, 1990.0)):
        box = Window(int(y) - 40, int(x) - 40, 81, 81)
        seen = stars((x,), (y,), (1e4,), pointing=pointing).render(pointing, box).sum(dtype=float)
        # The area, from where the corners of a pixel are on the sky [arcsec^2].
        ra, dec = pointing.to_sky(x + np.array([-0.5, 0.5, -0.5]), y + np.array([-0.5, -0.5, 0.5]))
        east, north = (ra - ra[0]) * np.cos(np.radians(dec[0])) * 3600, (dec - dec[0]) * 3600
        area = abs(east[1] * north[2] - east[2] * north[1])
        areas.append(area)
        assert seen * area == pytest.approx(1e4 * aperture.scale**2, rel=1e-3)
    assert abs(areas[1] / areas[0] - 1) > 0.002


def test_no_stars_is_an_empty_layer():
    empty = stars((), (), ())
    assert not empty.render(FLAT, FULL).any()
    assert list(empty.sources()) == []


def test_catalogue():
    (star,) = stars().sources()
    assert (star.kind, star.flux, star.is_extended, star.radius) == ("stars", 1000.0, False, 0.0)
    x, y = FLAT.to_pixels(star.ra, star.dec)
    assert (float(x), float(y)) == pytest.approx((60.0, 50.0), abs=1e-6)
    (spiral,) = LAYERS[3].sources()
    assert spiral == Source("galaxy", LAYERS[3].ra, LAYERS[3].dec, 500.0, True, 0.8)
    assert list(LAYERS[0].sources()) == []


@pytest.mark.parametrize("arm_contrast", [0.0, 0.8])
def test_galaxy_has_its_flux_half_of_it_in_r_eff(arm_contrast):
    shape = (501, 501)
    wide = Pointing(aperture=tangent_plane(shape, SCALE), ra=150.0, dec=2.0)
    image = (
        galaxy(
            250, 250, wide, flux=1e4, r_eff=4, ellipticity=0.4, angle=0, arm_contrast=arm_contrast
        )
        .render(wide, Window(0, 0, *shape))
        .astype(float)
    )
    assert image.sum() == pytest.approx(1e4, rel=3e-3)
    y, x = np.indices(image.shape) - 250
    # The major axis points north, along y.
    inside = np.hypot(y, x / 0.6) <= 40
    assert image[inside].sum() == pytest.approx(5e3, rel=1e-2)


@pytest.mark.parametrize("roll", [0.0, 130.0])
def test_position_angle_goes_from_north_to_east(roll):
    """The orientation on the sky stays, however the telescope is rolled."""
    pointing = Pointing(aperture=CAMERAS["NRCA1"].aperture, ra=150.0, dec=60.0, roll=roll)
    window = Window(924, 924, 201, 201)
    image = galaxy(1024, 1024, pointing, flux=1e4, r_eff=0.9, ellipticity=0.6, angle=35.0).render(
        pointing, window
    )
    y, x = np.mgrid[window.y0 : window.y1, window.x0 : window.x1]
    ra, dec = pointing.to_sky(x, y)
    east, north = (ra - 150.0) * np.cos(np.radians(dec)), dec - 60.0
    east, north = (v - np.average(v, weights=image) for v in (east, north))
    moments = np.cov(np.stack([north.ravel(), east.ravel()]), aweights=image.ravel())
    angle = 0.5 * np.degrees(np.arctan2(2 * moments[0, 1], moments[0, 0] - moments[1, 1]))
    assert angle == pytest.approx(35.0, abs=0.5)


def test_galaxy_has_two_arms_of_the_wanted_contrast():
    shape = (501, 501)
    wide = Pointing(aperture=tangent_plane(shape, SCALE), ra=150.0, dec=2.0)
    image = galaxy(250, 250, wide, flux=1e4, r_eff=6, arm_contrast=0.8).render(
        wide, Window(0, 0, *shape)
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
        Stars(ra=np.zeros(2), dec=np.zeros(1), flux=np.ones(1))
    assert str(error.value) == (
        "stars: 2 right ascensions and 1 declinations do not fit 1 fluxes; give one of each per "
        "star"
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
        Galaxy(ra=0, dec=0, flux=1, r_eff=1, ellipticity=1)
