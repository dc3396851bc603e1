"""Maps to the sky from FITS files: GWCS, SIP and plain tangent planes."""

import asdf
import gwcs
import numpy as np
import pytest
from astropy import coordinates, units
from astropy.io import fits
from astropy.modeling import models
from gwcs import coordinate_frames
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError
from webbkg.io.wcs import map_of_header, sky_map_of
from webbkg.sky import TangentMap

SHAPE = (60, 80)
GRID = TangentMap(SHAPE, 150.0, 2.0, reference=(40.0, 25.0), scale=0.11, roll=20.0)
EXPOSURE = {"TELESCOP": "JWST", "DETECTOR": "MIRIMAGE", "EXP_TYPE": "MIR_IMAGE"}
#: Distortion that moves the corner by half a pixel.
SIP = {"A_ORDER": 2, "A_2_0": 3e-4, "B_ORDER": 2, "B_0_2": -2e-4, "B_1_1": 1e-4}


def write(path, cards, primary=(), image=None):
    data = np.zeros(SHAPE, np.float32) if image is None else image
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, name="SCI")]
    hdus[0].header.update(primary)
    hdus[1].header.update(cards)
    fits.HDUList(hdus).writeto(path)
    return path


def with_distortion():
    cards = {**GRID.header(), **SIP}
    return {**cards, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}


def gwcs_of(grid, frame=None, n_outputs=2):
    """Make the same tangent plane as a GWCS, with the bounding box that pipelines give it."""
    angle = np.radians(grid.roll)
    matrix = [[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    transform = (
        models.Shift(-grid.reference[0]) & models.Shift(-grid.reference[1])
        | models.AffineTransformation2D(np.array(matrix) * grid.scale / 3600)
        | models.Pix2Sky_TAN()
        | models.RotateNative2Celestial(grid.ra, grid.dec, 180)
    )
    axes = {"unit": (units.deg, units.deg)}
    sky = coordinate_frames.CelestialFrame(
        reference_frame=coordinates.ICRS() if frame is None else frame, **axes
    )
    if n_outputs == 3:
        transform = transform | models.Mapping((0, 1, 1))
        light = coordinate_frames.SpectralFrame(axes_order=(2,), unit=units.micron)
        sky = coordinate_frames.CompositeFrame([sky, light])
    detector = coordinate_frames.Frame2D(name="detector", unit=(units.pix, units.pix))
    wcs = gwcs.WCS([(detector, transform), (sky, None)])
    wcs.bounding_box = ((-0.5, SHAPE[1] - 0.5), (-0.5, SHAPE[0] - 0.5))
    return wcs


def write_model(path, wcs):
    model = datamodels.ImageModel(SHAPE)
    model.meta.wcs = wcs
    model.save(path)
    return path


def agree(found, expected, atol=1e-4):
    rows, columns = np.indices(SHAPE)
    np.testing.assert_allclose(
        expected.to_pixels(*found.to_sky(columns, rows)), (columns, rows), rtol=0, atol=atol
    )
    np.testing.assert_allclose(
        found.to_pixels(*expected.to_sky(columns, rows)), (columns, rows), rtol=0, atol=atol
    )


def test_the_gwcs_of_an_exposure_is_used(tmp_path):
    path = write_model(tmp_path / "a_cal.fits", gwcs_of(GRID))
    found = sky_map_of(path)
    assert found.shape == SHAPE
    agree(found, GRID)


def test_the_gwcs_counts_more_than_keywords(tmp_path):
    path = write_model(tmp_path / "a_cal.fits", gwcs_of(GRID))
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header.update({**with_distortion(), "CRVAL1": 10.0})
    agree(sky_map_of(path), GRID)


@pytest.mark.parametrize("compressed", [False, True])
def test_sip_keywords_of_an_exposure_are_used(tmp_path, compressed):
    name = "a_cal.fits.gz" if compressed else "a_cal.fits"
    found = sky_map_of(write(tmp_path / name, with_distortion(), EXPOSURE))
    x, y = np.array([79.0, 3.0]), np.array([59.0, 7.0])
    dx, dy = x - 40.0, y - 25.0
    u = 40.0 + dx + 3e-4 * dx**2
    v = 25.0 + dy - 2e-4 * dy**2 + 1e-4 * dx * dy
    np.testing.assert_allclose(found.to_sky(x, y), GRID.to_sky(u, v), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.to_pixels(*GRID.to_sky(u, v)), (x, y), rtol=0, atol=1e-3)


def test_keywords_of_an_exposure_without_distortion_are_not_good_enough(tmp_path):
    assert sky_map_of(write(tmp_path / "a_rate.fits", GRID.header(), EXPOSURE)) is None


@pytest.mark.parametrize(
    ("name", "primary"),
    [
        ("a_i2d.fits", EXPOSURE),
        ("a.fits", {**EXPOSURE, "S_RESAMP": "COMPLETE"}),
        ("coadd.fits", {"TELESCOP": "JWST"}),
    ],
)
def test_keywords_of_a_mosaic_are(tmp_path, name, primary):
    agree(sky_map_of(write(tmp_path / name, GRID.header(), primary)), GRID)


def test_a_plain_image_has_its_keywords_in_the_primary_header(tmp_path):
    path = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.ones(SHAPE), fits.Header(GRID.header())).writeto(path)
    agree(sky_map_of(path), GRID)


def test_other_frames_are_turned_to_icrs(tmp_path):
    centre = coordinates.SkyCoord(150.0, 2.0, unit="deg").galactic
    cards = GRID.header() | {
        "CTYPE1": "GLON-TAN",
        "CTYPE2": "GLAT-TAN",
        "CRVAL1": centre.l.deg,
        "CRVAL2": centre.b.deg,
    }
    del cards["RADESYS"]
    found = sky_map_of(write(tmp_path / "galactic_i2d.fits", cards))
    np.testing.assert_allclose(found.to_sky(40.0, 25.0), (150.0, 2.0), atol=1e-9)


def test_integrations_share_the_map_of_their_frames(tmp_path):
    cube = np.zeros((3, *SHAPE), np.float32)
    found = sky_map_of(write(tmp_path / "a_calints.fits", with_distortion(), EXPOSURE, cube))
    assert found.shape == SHAPE


@pytest.mark.parametrize("cards", [{}, {"CTYPE1": "PIXEL", "CTYPE2": "WAVE"}])
def test_an_image_without_a_celestial_wcs_has_no_map(tmp_path, cards):
    assert sky_map_of(write(tmp_path / "a_i2d.fits", cards)) is None


def test_a_gwcs_of_spectra_is_refused(tmp_path):
    path = write_model(tmp_path / "a_cal.fits", gwcs_of(GRID, n_outputs=3))
    with pytest.raises(InputError) as caught:
        sky_map_of(path)
    assert str(caught.value) == (
        f"{path}: its WCS turns 2 into 3 coordinates, needed is one from the 2 of an image to the "
        "2 of the sky; give images, not spectra"
    )


def test_a_gwcs_of_another_frame_is_refused(tmp_path):
    path = write_model(tmp_path / "a_cal.fits", gwcs_of(GRID, coordinates.FK5()))
    with pytest.raises(InputError) as caught:
        sky_map_of(path)
    assert str(caught.value) == f"{path}: its WCS does not end at ICRS; run assign_wcs on it again"


def test_an_undefined_gwcs_is_refused(tmp_path):
    grid = gwcs_of(GRID)
    grid.pipeline[0].transform.offset_0 = np.nan
    path = write_model(tmp_path / "a_cal.fits", grid)
    with pytest.raises(InputError) as caught:
        sky_map_of(path)
    assert str(caught.value) == (
        f"{path}: the map to the sky is undefined at 5 of 5 places; run assign_wcs on it again"
    )


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"  steps:", b"\t]steps:"),
        (b"gwcs/wcs-1.", b"gwcs/wcs-9."),
        (b"    steps:", b"    stops:"),
        (b"inputs: [x0, x1]", b"inputs: [x0, x9]"),
    ],
)
def test_a_damaged_asdf_extension_is_refused(tmp_path, was, becomes):
    path = write_model(tmp_path / "a_cal.fits", gwcs_of(GRID))
    content = path.read_bytes()
    path.write_bytes(content.replace(was, becomes))
    assert path.read_bytes() != content
    with pytest.raises(InputError) as caught:
        sky_map_of(path)
    assert str(caught.value).startswith(f"{path}: the WCS in its ASDF extension cannot be read (")
    assert str(caught.value).endswith("); fetch or make the file again")


def test_an_asdf_extension_without_wcs_is_passed_over(tmp_path):
    path = tmp_path / "a_i2d.fits"
    datamodels.ImageModel(SHAPE).save(path)
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header.update(GRID.header())
        assert "ASDF" in hdus
    agree(sky_map_of(path), GRID)


@pytest.mark.parametrize(
    "changes", [{"CUNIT1": "furlong"}, {"CTYPE2": "DEC--SIN"}, {"RADESYS": "EARTH"}]
)
def test_keywords_that_make_no_sense_are_refused(changes):
    with pytest.raises(InputError) as caught:
        map_of_header(fits.Header({**GRID.header(), **changes}), SHAPE, "a.fits", rectified=True)
    assert str(caught.value).startswith("a.fits: its WCS keywords make no sense (")


def test_files_that_are_no_images_are_refused(tmp_path):
    for name, content, told in [
        ("missing.fits", None, "no such file"),
        ("empty.fits", b"", "cannot be read as a FITS image (Empty or corrupt FITS file)"),
        ("text.fits", b"nothing of the kind" * 200, "cannot be read as a FITS image (No SIMPLE"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            sky_map_of(path)
        assert str(caught.value).startswith(f"{path}: {told}")


def test_a_table_is_no_image(tmp_path):
    path = tmp_path / "table.fits"
    table = fits.BinTableHDU(np.zeros(3, [("A", "f4")]), name="CATALOG")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    with pytest.raises(InputError) as caught:
        sky_map_of(path)
    assert str(caught.value) == (
        f"{path}: has no image (extensions: PRIMARY, CATALOG); give a FITS image"
    )


def test_a_truncated_file_is_refused(tmp_path):
    path = write_model(tmp_path / "a_cal.fits", gwcs_of(GRID))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError) as caught:
        sky_map_of(path)
    assert str(caught.value).startswith(f"{path}: cannot be read as a FITS image (")


@pytest.mark.real
def test_real_products(shared_data):
    found = sky_map_of(sorted((shared_data / "ami").glob("*_cal.fits"))[0])
    assert found.shape == (80, 80)
    assert found.pixel_scale == pytest.approx(0.0655, abs=1e-4)
    path = next((shared_data / "miri").glob("*_i2d.fits"))
    mosaic = sky_map_of(path)
    with fits.open(path) as hdus:
        header = hdus["SCI"].header
    flat = map_of_header(header, mosaic.shape, path.name, rectified=True)
    rows, columns = np.indices(mosaic.shape)
    np.testing.assert_allclose(
        flat.to_pixels(*mosaic.to_sky(columns, rows)), (columns, rows), rtol=0, atol=1e-3
    )


@pytest.mark.real
def test_a_real_camera_through_gwcs(shared_data):
    from webbkg.io.wcs import map_of_gwcs

    path = next((shared_data / "gwcs").glob("*nrcb1_tweakreg.asdf"))
    with asdf.open(path) as tree:
        wcs = next(v for v in (tree.tree.get("wcs"), tree.tree.get("meta", {}).get("wcs")) if v)
        found = map_of_gwcs(wcs, (2048, 2048), path.name)
        x, y = np.random.default_rng(4).uniform(-0.5, 2047.5, (2, 300))
        exact = wcs(x, y)
    np.testing.assert_allclose(found.to_pixels(*exact), (x, y), rtol=0, atol=0.01)
