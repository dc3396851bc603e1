"""Maps to the sky: the tangent plane, sampled maps and the grid that holds several images."""

import pickle

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from webbkg.errors import FitError, InputError, ParameterError
from webbkg.sim import Pointing
from webbkg.sim.apertures import APERTURES
from webbkg.sky import SampledMap, SkyMap, TangentMap, common_grid

IMAGERS = [name for name in sorted(APERTURES) if not name.startswith("NRS")]


def point(detector, *, ra=150.0, dec=2.0, roll=33.0):
    return Pointing(aperture=APERTURES[detector], ra=ra, dec=dec, roll=roll)


def sampled(pointing, **options):
    return SampledMap.sample(pointing.to_sky, pointing.aperture.shape, **options)


def plane(**changes):
    values = {"ra": 150.0, "dec": 2.0, "reference": (40.0, 25.0), "scale": 0.11, "roll": 20.0}
    return TangentMap((60, 90), **{**values, **changes})


def everywhere(shape, n=23):
    ny, nx = shape
    return (
        g.ravel()
        for g in np.meshgrid(np.linspace(-0.5, nx - 0.5, n), np.linspace(-0.5, ny - 0.5, n))
    )


@pytest.mark.parametrize(("ra", "dec", "roll"), [(150, 2, 20), (0, -88, 250), (359.9999, 45, -10)])
def test_a_tangent_plane_is_what_its_keywords_say(ra, dec, roll):
    grid = plane(ra=ra, dec=dec, roll=roll)
    x, y = everywhere(grid.shape)
    wcs = WCS(fits.Header(grid.header()))
    ours, theirs = grid.to_sky(x, y), wcs.all_pix2world(x, y, 0)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    np.testing.assert_allclose(grid.to_pixels(*theirs), (x, y), rtol=0, atol=1e-6)
    assert (ours[0] >= 0).all()
    assert (ours[0] < 360).all()


def test_the_y_axis_of_a_tangent_plane_points_along_its_roll():
    grid = plane(roll=90.0)
    x, y = grid.to_pixels(grid.ra + 1.1 / 3600 / np.cos(np.radians(grid.dec)), grid.dec)
    np.testing.assert_allclose((x, y), (40.0, 35.0), atol=1e-5)


def test_the_far_side_of_the_sky_is_undefined():
    grid, detector = plane(), sampled(point("NRCB1"))
    for sky_map in (grid, detector):
        x, y = sky_map.to_pixels([330.0, 150.0, np.nan], [-2.0, 2.0, 2.0])
        assert np.isnan([x[0], y[0], x[2], y[2]]).all()
        assert np.isfinite([x[1], y[1]]).all()


@pytest.mark.parametrize(
    "changes", [{"scale": 0.0}, {"scale": np.nan}, {"dec": 91.0}, {"reference": (0.0, np.inf)}]
)
def test_a_tangent_plane_needs_numbers_that_make_sense(changes):
    with pytest.raises(ParameterError) as caught:
        plane(**changes)
    assert str(caught.value).startswith(
        "a tangent plane needs finite numbers, a dec between -90 and 90 and a scale above 0, got "
    )


@pytest.mark.parametrize("detector", IMAGERS)
def test_a_sampled_map_follows_the_distortion_in_both_directions(detector):
    pointing = point(detector, ra=0.001, dec=-60.0)
    found = sampled(pointing)
    x, y = everywhere(found.shape)
    exact = pointing.to_sky(x, y)
    np.testing.assert_allclose(found.to_pixels(*exact), (x, y), rtol=0, atol=0.005)
    np.testing.assert_allclose(pointing.to_pixels(*found.to_sky(x, y)), (x, y), rtol=0, atol=1e-4)
    assert found.error < 0.005
    wrong = np.abs(np.subtract(found.to_pixels(*exact), (x, y))).max()
    assert wrong < 1.5 * found.error + 1e-6
    # The reference pixel's scale is not the one of the centre, but nearly.
    assert found.pixel_scale == pytest.approx(pointing.aperture.scale, rel=0.01)


@pytest.mark.parametrize("roll", [0.0, 120.0])
def test_positions_outside_never_come_back_into_the_image(roll):
    pointing = point("MIRIMAGE", roll=roll)
    found = sampled(pointing)
    ny, nx = found.shape
    angle = np.linspace(0, 2 * np.pi, 721)
    for radius in (1.1, 1.5, 3.0, 30.0, 300.0):
        x = nx / 2 + radius * 750 * np.cos(angle)
        y = ny / 2 + radius * 750 * np.sin(angle)
        flat = TangentMap(
            found.shape, *found.centre, (nx / 2, ny / 2), found.pixel_scale, roll=roll
        )
        back_x, back_y = found.to_pixels(*flat.to_sky(x, y))
        assert ((back_x < -1) | (back_x > nx) | (back_y < -1) | (back_y > ny)).all()
        near = np.hypot(back_x - nx / 2, back_y - ny / 2) / np.hypot(x - nx / 2, y - ny / 2)
        np.testing.assert_allclose(near, 1.0, atol=0.1)


def test_the_map_of_a_sub_array_counts_from_its_own_corner():
    pointing = point("MIRIMAGE")
    part = SampledMap.sample(lambda x, y: pointing.to_sky(x + 400, y + 300), (64, 128))
    np.testing.assert_allclose(part.to_sky(5, 7), pointing.to_sky(405, 307), rtol=0, atol=1e-9)


def test_shapes_are_kept_and_broadcast():
    grid = plane()
    ra, dec = grid.to_sky(np.arange(3.0)[:, None], np.arange(4.0))
    assert ra.shape == dec.shape == (3, 4)
    assert ra.dtype == np.float64
    x, _ = grid.to_pixels(ra, dec)
    np.testing.assert_allclose(x, np.arange(3.0)[:, None] * np.ones(4), atol=1e-7)
    assert grid.to_pixels(150.0, 2.0)[0].shape == ()
    assert grid.to_sky(np.empty(0), np.empty(0))[0].shape == (0,)


def test_blocks_do_not_show():
    found = sampled(point("NRCBLONG"))
    x, y = np.random.default_rng(3).uniform(0, 2047, (2, 10000))
    ra, dec = found.to_sky(x, y)
    for k in (0, 4095, 4096, 9999):
        assert (ra[k], dec[k]) == pytest.approx(
            tuple(map(float, found.to_sky(x[k], y[k]))), abs=1e-12
        )


def test_maps_go_to_another_process_and_cannot_be_changed():
    found = sampled(point("NIS"))
    copy = pickle.loads(pickle.dumps(found))  # noqa: S301
    np.testing.assert_array_equal(copy.to_sky(3.0, 5.0), found.to_sky(3.0, 5.0))
    with pytest.raises(ValueError, match="read-only"):
        found.forward[0, 0] = 1.0


def test_both_maps_follow_the_protocol():
    assert isinstance(plane(), SkyMap)
    assert isinstance(sampled(point("NRCA1")), SkyMap)


def test_a_map_that_no_polynomial_follows_is_refused():
    grid = plane(reference=(500.0, 500.0))

    def jagged(x, y):
        return grid.to_sky(x + 0.5 * np.sin(x / 9.0), y)

    with pytest.raises(FitError) as caught:
        SampledMap.sample(jagged, (1000, 1000))
    assert str(caught.value).startswith(
        "the map to the sky cannot be followed by polynomials of order 6: the largest error is 0."
    )
    assert str(caught.value).endswith(" px, allowed are 0.01 px")
    assert SampledMap.sample(jagged, (1000, 1000), max_error=1.0).error > 0.1


def test_an_undefined_map_is_refused():
    grid = plane()

    def partly(x, y):
        ra, dec = grid.to_sky(x, y)
        return np.where(x > 80, np.nan, ra), dec

    with pytest.raises(FitError) as caught:
        SampledMap.sample(partly, (60, 90))
    assert str(caught.value) == "the map to the sky is undefined at 102 of 289 places"


def test_a_degenerate_map_is_refused():
    with pytest.raises(FitError) as caught:
        SampledMap.sample(lambda x, y: (150.0 + 0.0 * x, 2.0 + 1e-5 * y), (60, 90))
    assert str(caught.value) == "the map to the sky is degenerate: its pixels have no area"


def test_a_common_grid_holds_all_images_and_is_aligned_with_the_first():
    pointings = [
        point("MIRIMAGE", ra=359.999, roll=70.0).dithered(dx, dy)
        for dx, dy in ((0, 0), (60, -40), (-35, 80))
    ]
    maps = [sampled(p) for p in pointings]
    grid = common_grid(maps)
    ny, nx = grid.shape
    outline = []
    for one in maps:
        x, y = everywhere(one.shape)
        outline.append(grid.to_pixels(*one.to_sky(x, y)))
    x, y = np.concatenate(outline, axis=1)
    assert -0.51 < x.min() < -0.45
    assert -0.51 < y.min() < -0.45
    assert nx - 2 < x.max() + 0.5 < nx + 0.01
    assert ny - 2 < y.max() + 0.5 < ny + 0.01
    assert grid.scale == maps[0].pixel_scale
    at, up = (grid.to_pixels(*maps[0].to_sky(515.5, 511.5 + step)) for step in (-1, 1))
    np.testing.assert_allclose(np.subtract(up, at), (0.0, 2.0), atol=0.02)
    finer = common_grid(maps, scale=grid.scale / 2)
    np.testing.assert_allclose(finer.shape, np.multiply(grid.shape, 2), atol=2)


def test_a_common_grid_needs_images():
    with pytest.raises(InputError) as caught:
        common_grid([])
    assert str(caught.value) == "a common grid needs the maps of one image or more, got none"


@pytest.mark.parametrize(("ra", "told"), [(152.0, "61571 pixels long"), (330.0, "endless")])
def test_a_common_grid_of_two_fields_is_refused(ra, told):
    with pytest.raises(InputError) as caught:
        common_grid([plane(), plane(ra=ra)])
    assert str(caught.value) == (
        f"a common grid of 2 images would be {told}, allowed are 32768 pixels; give the exposures "
        "of one field at a time"
    )
