"""Apertures and pointings agree with the WCS that the pipeline makes of them."""

import asdf
import numpy as np
import pytest
from jwst.assign_wcs import AssignWcsStep

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim import CAMERAS, Aperture, Detector, Label, Pointing, Scene, Setup, Sky, local_crds
from webbkg.sim.apertures import APERTURES
from webbkg.sim.scene import Observation, SimulatedExposure
from webbkg.sim.write import write_observation

MODES = {
    "MIRI": ("MIR_IMAGE", "F770W", None, "FASTR1"),
    "NIRCAM": ("NRC_IMAGE", "F200W", "CLEAR", "BRIGHT1"),
    "NIRISS": ("NIS_IMAGE", "CLEAR", "F150W", "NIS"),
    "NIRSPEC": ("NRS_FIXEDSLIT", "F170LP", None, "NRS"),
}
DETECTORS = sorted(APERTURES)
#: NIRSpec's WCS is made of other reference files.
IMAGERS = [name for name in DETECTORS if CAMERAS[name].instrument != "NIRSPEC"]


def expose(detector, *, shape=None, window=None, roll=123.4, dec=-35.0, dither=(0.0, 0.0)):
    camera = CAMERAS[detector] if shape is None else CAMERAS[detector].resized(shape)
    exp_type, filter_name, pupil, readout = MODES[camera.instrument]
    pointing = Pointing(aperture=camera.aperture, ra=359.999, dec=dec, roll=roll)
    return SimulatedExposure(
        scene=Scene((Sky(level=1.0),)),
        pointing=pointing.dithered(*dither),
        setup=Setup(
            camera=camera,
            exp_type=exp_type,
            filter_name=filter_name,
            pupil=pupil,
            readout=readout,
            n_groups=5,
            window=window,
        ),
        detector=Detector(camera=camera),
        label=Label(
            observation=1, exposure=1, target="T", target_ra=pointing.ra, target_dec=pointing.dec
        ),
        seed=(1,),
    )


def wcs_of(exposure, folder):
    """Return the WCS that the real step makes with the simulator's reference files."""
    files = write_observation(Observation(preset="test", science=(exposure,)), folder)
    with local_crds(files.cache):
        model = AssignWcsStep.call(str(files.science[0]))
    assert model.meta.cal_step.assign_wcs == "COMPLETE"
    wcs = model.meta.wcs
    wcs.bounding_box = None
    return wcs, model


def grid(window, n=13):
    """Return a grid of pixels from edge to edge of a sub-array, counted from its corner."""
    return np.meshgrid(np.linspace(0, window.nx - 1, n), np.linspace(0, window.ny - 1, n))


def apart(ra, dec, other_ra, other_dec):
    """Distance on the sky [arcsec]."""
    east = (np.asarray(ra) - other_ra + 180.0) % 360.0 - 180.0
    return np.hypot(east * np.cos(np.radians(dec)), np.asarray(dec) - other_dec) * 3600


CASES = [
    *((detector, {"window": Window(7, 16, 64, 96)}) for detector in IMAGERS),
    ("NRCA1", {"shape": (96, 128), "roll": 0.0, "dec": 80.0}),
    ("MIRIMAGE", {"shape": (128, 136), "dither": (20.5, -31.25), "roll": 359.0}),
]


@pytest.mark.usefixtures("quick_steps")
@pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("detector", "options"), CASES)
def test_the_pipeline_finds_the_same_places(detector, options, tmp_path):
    """
    Agreement of 1e-3 px over the whole detector, there and back.

    The exposure is a sub-array, quick to write; its WCS holds for the whole detector.
    """
    exposure = expose(detector, **options)
    wcs, _ = wcs_of(exposure, tmp_path)
    window, aperture = exposure.window, exposure.pointing.aperture
    x, y = grid(aperture.window)
    ra, dec = exposure.pointing.to_sky(x, y)
    scale = aperture.scale
    pipeline = wcs(x - window.x0, y - window.y0)
    assert apart(*pipeline, ra, dec).max() / scale < 1e-3
    back = exposure.pointing.to_pixels(ra, dec)
    assert np.hypot(back[0] - x, back[1] - y).max() < 1e-3
    # The pipeline's way back is a polynomial fit in the reference file.
    other = wcs.invert(ra, dec)
    assert np.hypot(other[0] + window.x0 - x, other[1] + window.y0 - y).max() < 1e-3


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("roll", [0.0, 200.0])
def test_sky_to_pixels_is_the_inverse(detector, roll):
    aperture = APERTURES[detector]
    for dec in (-89.0, 0.0, 60.0):
        pointing = Pointing(aperture=aperture, ra=0.0, dec=dec, roll=roll)
        x, y = grid(aperture.window)
        # Stars beyond the edge scatter light into the frame.
        x, y = 1.1 * x - 50, 1.1 * y - 50
        back = pointing.to_pixels(*pointing.to_sky(x, y))
        assert np.hypot(back[0] - x, back[1] - y).max() < 1e-5


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_reference_pixel_sees_the_pointing(detector):
    aperture = APERTURES[detector]
    pointing = Pointing(aperture=aperture, ra=10.0, dec=20.0, roll=30.0)
    ra, dec = pointing.to_sky(aperture.reference[0] - 1, aperture.reference[1] - 1)
    assert (float(ra), float(dec)) == pytest.approx((10.0, 20.0), abs=1e-9)
    v2, v3 = aperture.to_v2_v3(aperture.reference[0] - 1, aperture.reference[1] - 1)
    assert (float(v2), float(v3)) == pytest.approx(aperture.v2_v3)


@pytest.mark.parametrize("detector", DETECTORS)
def test_grids_are_their_pixels_and_areas_their_determinants(detector):
    aperture = APERTURES[detector]
    window = Window(100, 900, 4, 5)
    y, x = np.mgrid[window.y0 : window.y1, window.x0 : window.x1].astype(float)
    np.testing.assert_allclose(aperture.grid_to_v2_v3(window), aperture.to_v2_v3(x, y), rtol=1e-12)
    v2, v3 = aperture.to_v2_v3(x + 0.5, y)
    left2, left3 = aperture.to_v2_v3(x - 0.5, y)
    up2, up3 = aperture.to_v2_v3(x, y + 0.5)
    down2, down3 = aperture.to_v2_v3(x, y - 0.5)
    area = np.abs((v2 - left2) * (up3 - down3) - (v3 - left3) * (up2 - down2))
    np.testing.assert_allclose(aperture.relative_area(x, y) * aperture.scale**2, area, rtol=1e-6)


@pytest.mark.parametrize("roll", [0.0, 90.0])
def test_roll_turns_from_north_to_east(roll):
    """V3, which is nearly the y axis of NIRISS, points to the position angle."""
    aperture = APERTURES["NIS"]
    pointing = Pointing(aperture=aperture, ra=50.0, dec=10.0, roll=roll)
    v2, v3 = aperture.v2_v3
    x, y = aperture.to_pixels([v2, v2], [v3, v3 + 10.0])
    ra, dec = pointing.to_sky(x, y)
    east, north = (ra[1] - ra[0]) * np.cos(np.radians(10.0)) * 3600, (dec[1] - dec[0]) * 3600
    angle = np.degrees(np.arctan2(east, north))
    assert angle == pytest.approx(roll, abs=0.01)
    assert np.hypot(east, north) == pytest.approx(10.0, abs=1e-3)


def test_east_is_left_of_north_as_on_the_sky():
    """Seen with north up: a detector whose handedness is wrong would be a mirror image."""
    for aperture in APERTURES.values():
        pointing = Pointing(aperture=aperture, ra=50.0, dec=10.0, roll=70.0)
        ra, dec = pointing.to_sky([500.0, 501.0, 500.0], [500.0, 500.0, 501.0])
        east, north = ra - ra[0], dec - dec[0]
        handedness = east[1] * north[2] - north[1] * east[2]
        assert handedness < 0, aperture.name


@pytest.mark.parametrize("detector", ["MIRIMAGE", "NRCALONG"])
@pytest.mark.parametrize("dither", [(60.0, 0.0), (-13.5, 44.25)])
def test_dithers_move_the_sky_over_the_reference_pixel(detector, dither):
    aperture = APERTURES[detector]
    start = Pointing(aperture=aperture, ra=150.0, dec=2.0, roll=77.0)
    moved = start.dithered(*dither)
    x, y = aperture.reference[0] - 1, aperture.reference[1] - 1
    # The new pointing has another part of the distortion between the two places.
    found = moved.to_pixels(start.ra, start.dec)
    assert float(found[0]) - x == pytest.approx(dither[0], abs=0.1)
    assert float(found[1]) - y == pytest.approx(dither[1], abs=0.1)
    assert (moved.roll, moved.dither) == (start.roll, dither)
    assert moved.dithered(1.0, 2.0).dither == (dither[0] + 1.0, dither[1] + 2.0)


def test_offsets_are_a_tangent_plane():
    pointing = Pointing(aperture=APERTURES["NIS"], ra=359.99, dec=-60.0, roll=10.0)
    window = Window(1000, 900, 3, 4)
    east, north = pointing.offsets(window, 0.0, -60.001)
    y, x = np.mgrid[window.y0 : window.y1, window.x0 : window.x1]
    ra, dec = (np.radians(v) for v in pointing.to_sky(x, y))
    d0 = np.radians(-60.001)
    towards = np.sin(d0) * np.sin(dec) + np.cos(d0) * np.cos(dec) * np.cos(ra)
    xi = np.cos(dec) * np.sin(ra) / towards
    eta = (np.cos(d0) * np.sin(dec) - np.sin(d0) * np.cos(dec) * np.cos(ra)) / towards
    np.testing.assert_allclose(east, np.degrees(xi) * 3600, atol=1e-6)
    np.testing.assert_allclose(north, np.degrees(eta) * 3600, atol=1e-6)


def test_small_detectors_keep_their_pixels():
    whole = APERTURES["NRCA1"]
    small = whole.resized((128, 256))
    assert small.shape == (128, 256)
    assert small.scale == whole.scale
    assert small.reference == (128.5, 64.5)
    assert small.v2_v3 == whole.v2_v3


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ({"dec": 90.0}, "ra 1.0, dec 90.0, roll 0.0"),
        ({"ra": float("nan")}, "ra nan, dec 2.0, roll 0.0"),
        ({"roll": float("inf")}, "ra 1.0, dec 2.0, roll inf"),
    ],
)
def test_impossible_pointings_are_refused(values, got):
    with pytest.raises(ParameterError) as error:
        Pointing(**{"aperture": APERTURES["NIS"], "ra": 1.0, "dec": 2.0, **values})
    assert str(error.value) == (
        "a pointing needs a finite ra and roll and a dec between -90 and 90, got " + got
    )


@pytest.mark.parametrize("detector", IMAGERS)
def test_linear_wcs_of_the_header_is_right_near_the_reference_pixel(detector):
    from astropy.wcs import WCS

    from webbkg.sim.keywords import header_values

    window = Window(300, 200, 500, 700) if detector == "MIRIMAGE" else Window(800, 700, 500, 700)
    exposure = expose(detector, window=window, dither=(10.0, -5.0))
    values = header_values(exposure)
    header = {
        name.upper(): values[f"wcsinfo.{name}"]
        for name in (
            *("crpix1", "crpix2", "crval1", "crval2", "ctype1", "ctype2", "cunit1", "cunit2"),
            *("cdelt1", "cdelt2", "pc1_1", "pc1_2", "pc2_1", "pc2_2"),
        )
    }
    wcs = WCS(header)
    x0, y0 = (value - 1 for value in exposure.pointing.aperture.reference)
    x, y = np.meshgrid(x0 + np.linspace(-50, 50, 5), y0 + np.linspace(-50, 50, 5))
    ra, dec = exposure.pointing.to_sky(x, y)
    linear = wcs.pixel_to_world_values(x - window.x0, y - window.y0)
    error = apart(*linear, ra, dec) / exposure.pointing.aperture.scale
    assert error.max() < 0.1
    assert error[2, 2] < 1e-6
    # The distortion is there: a linear WCS is off by pixels in the corners.
    ny, nx = exposure.pointing.aperture.shape
    corner = wcs.pixel_to_world_values(nx - 1 - window.x0, ny - 1 - window.y0)
    off = (
        apart(*corner, *exposure.pointing.to_sky(nx - 1, ny - 1)) / exposure.pointing.aperture.scale
    )
    assert off > 1.5


def test_the_footprint_is_that_of_the_sub_array():
    from webbkg.sim.keywords import header_values

    exposure = expose("MIRIMAGE", window=Window(50, 456, 512, 512))
    numbers = header_values(exposure)["wcsinfo.s_region"].split()
    assert numbers[:2] == ["POLYGON", "ICRS"]
    ra, dec = np.array(numbers[2:], float).reshape(4, 2).T
    x, y = exposure.pointing.to_pixels(ra, dec)
    np.testing.assert_allclose(x, [455.5, 455.5, 967.5, 967.5], atol=1e-4)
    np.testing.assert_allclose(y, [49.5, 561.5, 561.5, 49.5], atol=1e-4)


@pytest.mark.real
@pytest.mark.parametrize(("detector", "name"), [("NRCB1", "nrcb1"), ("NRCBLONG", "nrcblong")])
def test_real_detectors_have_about_this_scale_and_rotation(detector, name, shared_data):
    path = min((shared_data / "gwcs").glob(f"*_{name}_*.asdf"))
    with asdf.open(path) as tree:
        wcs = _find_wcs(tree.tree)
        wcs.bounding_box = None
        x, y = np.array([1000.0, 1100.0, 1000.0]), np.array([1000.0, 1000.0, 1100.0])
        real = _matrix(*wcs(x, y))
        transform = wcs.get_transform("detector", "v2v3")
        v2, v3 = transform(x, y)[:2]
    aperture: Aperture = APERTURES[detector]
    own2, own3 = aperture.to_v2_v3(x, y)
    own = np.array([own2[1:] - own2[0], own3[1:] - own3[0]])
    theirs = np.array([v2[1:] - v2[0], v3[1:] - v3[0]])
    # Scales within 0.3 %, angles within 0.2 deg: the numbers are of different years.
    np.testing.assert_allclose(np.hypot(*own), np.hypot(*theirs), rtol=3e-3)
    angles = np.degrees(np.arctan2(own[1], own[0]) - np.arctan2(theirs[1], theirs[0]))
    assert np.abs((angles + 180) % 360 - 180).max() < 0.2
    assert np.hypot(own2[0] - v2[0], own3[0] - v3[0]) < 3.0
    assert np.linalg.det(real) < 0


def _find_wcs(tree):
    return tree["wcs"] if "wcs" in tree else tree["meta"]["wcs"]


def _matrix(ra, dec):
    east = (ra[1:] - ra[0]) * np.cos(np.radians(dec[0]))
    return np.array([east, dec[1:] - dec[0]])
