"""Seed images and mosaics on disk."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from webbkg.errors import InputError, OutputError, ShapeError
from webbkg.io.seed import read_mosaic, read_seed, write_seed
from webbkg.sky import TangentMap

SHAPE = (12, 16)
GRID = TangentMap(SHAPE, 150.0, 2.0, reference=(6.0, 5.0), scale=0.11, roll=20.0)


def emission_and_tiers():
    emission = np.random.default_rng(2).normal(size=SHAPE)
    emission[3, 4] = 7.5
    emission[3, 5], emission[3, 6], emission[0, 0] = -1.0, np.nan, np.nan
    tiers = np.zeros(SHAPE, np.uint8)
    tiers[3, 4:8], tiers[10, 2] = 0b101, 0b10000000
    return emission, tiers


def write_mosaic(path, *, extras=True, wcs=True):
    rng = np.random.default_rng(6)
    image, err = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="SCI")]
    hdus[0].header.update({"FILTER": "F770W", "S_RESAMP": "COMPLETE"})
    hdus[1].header.update({"BUNIT": "MJy/sr", **(GRID.header() if wcs else {})})
    if extras:
        weight = np.ones(SHAPE, np.float32)
        weight[:, 0] = 0.0
        hdus += [fits.ImageHDU(err, name="ERR"), fits.ImageHDU(weight, name="WHT")]
    fits.HDUList(hdus).writeto(path)
    return image, err


def is_grid(sky):
    rows, columns = np.indices(SHAPE)
    np.testing.assert_allclose(sky.to_sky(columns, rows), GRID.to_sky(columns, rows), atol=1e-9)
    assert sky.shape == SHAPE


def test_a_seed_image_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "jw01345_obs002_MIRI_F1000W_i2d_galaxy_seed_image.fits"
    emission, tiers = emission_and_tiers()
    write_seed(path, emission, tiers, GRID.header(), {"WB_VER": ("1.0", "webbkg version")})
    mask, sky, meta = read_seed(path)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, tiers != 0)
    is_grid(sky)
    assert meta["WB_VER"] == "1.0"
    assert meta["FILENAME"] == path.name


def test_other_scripts_find_sources_above_zero_in_the_primary_image(tmp_path):
    path = tmp_path / "seed.fits"
    emission, tiers = emission_and_tiers()
    write_seed(path, emission, tiers, GRID.header())
    with fits.open(path) as hdus:
        image, header = hdus[0].data, hdus[0].header
        np.testing.assert_array_equal(hdus["TIERS"].data, tiers)
        assert hdus["TIERS"].data.dtype == np.uint8
    assert image.dtype == np.dtype(">f4")
    np.testing.assert_array_equal(image > 0, tiers != 0)
    np.testing.assert_array_equal(image[tiers == 0], 0.0)
    assert image[3, 4] == 7.5
    assert 0 < image[3, 5] < 1e-30
    np.testing.assert_allclose(WCS(header).wcs_pix2world(3, 4, 0), GRID.to_sky(3, 4), atol=1e-9)


def test_tiers_count_more_than_the_image(tmp_path):
    path = tmp_path / "seed.fits"
    emission, tiers = emission_and_tiers()
    write_seed(path, emission, tiers, GRID.header())
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[:] = 0.0
    np.testing.assert_array_equal(read_seed(path).mask, tiers != 0)


@pytest.mark.parametrize("extension", ["PRIMARY", "SCI", "SEED"])
def test_seed_images_of_others_are_read(tmp_path, extension):
    path = tmp_path / "seed.fits"
    image = np.zeros(SHAPE)
    image[2, 3], image[5, 6], image[7, 8] = 3.0, -1e-9, np.nan
    header = fits.Header(GRID.header())
    if extension == "PRIMARY":
        fits.PrimaryHDU(image, header).writeto(path)
    else:
        second = fits.ImageHDU(image, header, name=extension)
        fits.HDUList([fits.PrimaryHDU(), second]).writeto(path)
    mask, sky, _ = read_seed(path)
    assert sorted(zip(*np.nonzero(mask), strict=True)) == [(2, 3), (5, 6)]
    is_grid(sky)


def test_a_mosaic_is_read_without_what_has_no_weight(tmp_path):
    path = tmp_path / "a_i2d.fits"
    true_image, true_err = write_mosaic(path)
    image, err, sky, meta = read_mosaic(path)
    for found, true in ((image, true_image), (err, true_err)):
        assert found.dtype == np.float32
        assert found.dtype.isnative
        assert np.isnan(found[:, 0]).all()
        np.testing.assert_array_equal(found[:, 1:], true[:, 1:])
    is_grid(sky)
    assert (meta["FILTER"], meta["BUNIT"]) == ("F770W", "MJy/sr")
    assert "NAXIS1" not in meta


def test_a_mosaic_may_lack_errors_and_weights(tmp_path):
    path = tmp_path / "a_i2d.fits"
    true_image, _ = write_mosaic(path, extras=False)
    image, err, _, _ = read_mosaic(path)
    np.testing.assert_array_equal(image, true_image)
    assert err is None


def test_the_keywords_of_a_mosaic_make_the_wcs_of_its_seed_image(tmp_path):
    write_mosaic(tmp_path / "a_i2d.fits")
    mosaic = read_mosaic(tmp_path / "a_i2d.fits")
    emission, tiers = emission_and_tiers()
    write_seed(tmp_path / "seed.fits", emission, tiers, mosaic.meta)
    is_grid(read_seed(tmp_path / "seed.fits").sky)
    assert "BUNIT" not in fits.getheader(tmp_path / "seed.fits")


@pytest.mark.parametrize("reader", [read_mosaic, read_seed])
def test_a_wcs_is_needed(tmp_path, reader):
    path = tmp_path / "a_i2d.fits"
    write_mosaic(path, wcs=False)
    with pytest.raises(InputError) as caught:
        reader(path)
    what = {read_mosaic: "mosaic", read_seed: "seed image"}[reader]
    assert str(caught.value) == (
        f"{path}: a {what} needs a celestial WCS, but the file has none that holds without "
        "distortion; give a rectified image, such as an i2d mosaic"
    )


def test_an_exposure_is_no_mosaic(tmp_path):
    path = tmp_path / "a_rate.fits"
    write_mosaic(path)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header.update({"DETECTOR": "MIRIMAGE", "S_RESAMP": "SKIPPED"})
    with pytest.raises(InputError, match="a mosaic needs a celestial WCS"):
        read_mosaic(path)


@pytest.mark.parametrize("name", ["ERR", "WHT"])
def test_extensions_of_another_shape_are_refused(tmp_path, name):
    path = tmp_path / "a_i2d.fits"
    write_mosaic(path)
    with fits.open(path, mode="update") as hdus:
        hdus[name].data = np.zeros((3, 4), np.float32)
    with pytest.raises(InputError) as caught:
        read_mosaic(path)
    assert str(caught.value) == (
        f"{path}: {name} has shape (3, 4) but the image has (12, 16); fetch or make the file again"
    )


def test_a_cube_is_no_mosaic(tmp_path):
    path = tmp_path / "a_i2d.fits"
    fits.PrimaryHDU(np.zeros((2, 3, 4))).writeto(path)
    with pytest.raises(InputError) as caught:
        read_mosaic(path)
    assert str(caught.value) == f"{path}: its image has shape (2, 3, 4), needed is one of two axes"


def test_what_is_written_is_checked(tmp_path):
    emission, tiers = emission_and_tiers()
    path = tmp_path / "seed.fits"
    with pytest.raises(ShapeError) as caught:
        write_seed(path, emission, tiers[:-1], GRID.header())
    assert str(caught.value) == (
        "seed.fits: a seed image needs emission and tiers of one 2-D shape, got (12, 16) and "
        "(11, 16)"
    )
    with pytest.raises(InputError) as caught:
        write_seed(path, emission, tiers, {"FILTER": "F770W"})
    assert str(caught.value) == (
        "seed.fits: a seed image needs a celestial WCS, but the mosaic's keywords have none "
        "(CTYPE1, CTYPE2); give a mosaic with a WCS"
    )
    assert not path.exists()


def test_a_seed_image_is_replaced_only_on_demand(tmp_path):
    path = tmp_path / "seed.fits"
    emission, tiers = emission_and_tiers()
    write_seed(path, emission, tiers, GRID.header())
    with pytest.raises(OutputError, match="exists already"):
        write_seed(path, emission, tiers, GRID.header())
    write_seed(path, emission, np.zeros_like(tiers), GRID.header(), overwrite=True)
    assert not read_seed(path).mask.any()
    assert list(tmp_path.iterdir()) == [path]
