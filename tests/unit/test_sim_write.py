"""Simulated products open in the pipeline's own tools and agree with their truth."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from jwst.associations.load_as_asn import LoadAsLevel2Asn
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, OutputError
from webbkg.exposure import Window
from webbkg.sim import miri_imaging, write_observation

SHAPE = (64, 80)


@pytest.fixture(scope="module")
def observation():
    return miri_imaging(shape=SHAPE, n_science=3, n_background=2, seed=7)


@pytest.fixture(scope="module")
def files(observation, tmp_path_factory):
    return write_observation(observation, tmp_path_factory.mktemp("sim") / "new")


def strictly(path):
    return datamodels.open(path, strict_validation=True, validate_on_assignment=True)


def test_names(files):
    stem = "jw0999900{}001_02101_0000{}_mirimage_{}.fits"
    assert [path.name for path in files.science] == [stem.format(1, n, "rate") for n in (1, 2, 3)]
    assert [path.name for path in files.backgrounds] == [stem.format(2, n, "rate") for n in (1, 2)]
    assert [path.name for path in files.truths] == [
        stem.format(o, n, "truth") for o, n in ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2))
    ]
    written = {path.name for path in files.association.parent.iterdir()}
    assert written == {
        path.name
        for path in (
            *files.science,
            *files.backgrounds,
            *files.truths,
            files.association,
            files.truth_table,
        )
    }


def test_products_are_valid_and_hold_the_exposure(files, observation):
    exposures = observation.science + observation.backgrounds
    for path, exposure in zip(files.science + files.backgrounds, exposures, strict=True):
        with strictly(path) as model:
            model.validate()
            assert type(model) is datamodels.ImageModel
            for name in ("data", "err", "dq", "var_poisson", "var_rnoise"):
                np.testing.assert_array_equal(model[name], getattr(exposure, name))
            assert model.data.dtype.itemsize == 4
            meta = model.meta
            assert meta.filename == path.name == exposure.name
            assert meta.observation.bkgdtarg is (path in files.backgrounds)
            assert (meta.instrument.name, meta.instrument.detector) == ("MIRI", "MIRIMAGE")
            assert (meta.instrument.filter, meta.exposure.type) == ("F770W", "MIR_IMAGE")
            assert meta.exposure.start_time < meta.exposure.mid_time < meta.exposure.end_time
            assert meta.exposure.measurement_time == pytest.approx(124.8768)
            assert meta.bunit_data == "DN/s"
            assert meta.cal_step.ramp_fit == "COMPLETE"
            assert meta.cal_step.bkg_subtract is None


def test_primary_header(files):
    header = fits.getheader(files.science[1])
    assert header["DATAMODL"] == "ImageModel"
    assert header["SUBARRAY"] == "FULL"
    assert (header["SUBSTRT1"], header["SUBSTRT2"]) == (1, 1)
    assert (header["SUBSIZE1"], header["SUBSIZE2"]) == (80, 64)
    assert (header["FASTAXIS"], header["SLOWAXIS"]) == (1, 2)
    assert (header["PATT_NUM"], header["NUMDTHPT"]) == (2, 3)
    assert (header["DATE-OBS"], header["TIME-OBS"]) == ("2025-01-01", "00:10:00.000")
    assert header["EXPSTART"] == pytest.approx(60676 + 10 / 1440)


def test_rateints_of_a_sub_array(tmp_path):
    window = Window(8, 16, 32, 24)
    simulated = miri_imaging(
        shape=SHAPE, window=window, n_integrations=3, n_science=1, n_background=1
    )
    files = write_observation(simulated, tmp_path)
    with strictly(files.science[0]) as model:
        model.validate()
        assert type(model) is datamodels.CubeModel
        assert model.data.shape == (3, 32, 24)
        assert (model.meta.subarray.xstart, model.meta.subarray.ystart) == (17, 9)
        assert (model.meta.subarray.xsize, model.meta.subarray.ysize) == (24, 32)
        assert model.meta.subarray.name == "GENERIC"
        assert model.meta.wcsinfo.crpix1 == 693.5 - 16
        assert model.meta.exposure.nints == 3
        np.testing.assert_array_equal(model.int_times["integration_number"], [1, 2, 3])
        assert model.int_times["int_end_MJD_UTC"][-1] == pytest.approx(model.meta.exposure.end_time)
    assert files.science[0].name.endswith("_rateints.fits")
    assert fits.getdata(files.truths[0], "TRUTH").shape == (32, 24)


def test_association_loads(files):
    association = LoadAsLevel2Asn.load(str(files.association))
    assert association["asn_type"] == "image2"
    assert len(association["products"]) == 3
    for product, path in zip(association["products"], files.science, strict=True):
        assert product["name"] == path.name.removesuffix("_rate.fits")
        members = [(member["exptype"], member["expname"]) for member in product["members"]]
        assert members == [("science", path.name)] + [
            ("background", background.name) for background in files.backgrounds
        ]


def test_truth_files_agree_with_the_products(files, observation):
    exposures = observation.science + observation.backgrounds
    for path, exposure in zip(files.truths, exposures, strict=True):
        with fits.open(path) as hdus:
            images = {hdu.name: hdu.data.astype(float) for hdu in hdus[1:]}
        truth = images.pop("TRUTH")
        assert list(images) == [name.upper() for name in exposure.layers()]
        total = sum(images.values())
        np.testing.assert_allclose(truth, total - images["SKY"] - images["PATTERN"], atol=1e-5)
        pulls = ((exposure.data - total) / exposure.err)[exposure.dq == 0]
        assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
        assert pulls.std() == pytest.approx(1.0, abs=0.05)


def test_truth_table(files, observation):
    table = json.loads(files.truth_table.read_text())
    assert table["noise"] == {"gain": 4.0, "integration_time": 124.8768, "read_noise": 0.04}
    assert [entry["file"] for entry in table["science"]] == [p.name for p in files.science]
    assert [entry["truth"] for entry in table["background"]] == [p.name for p in files.truths[3:]]
    assert table["science"][0]["levels"]["sky"] == pytest.approx(60.0)
    assert table["science"][0]["noise"] == pytest.approx(0.35, abs=0.01)
    sources = observation.science[0].scene.sources()
    assert table["sources"]["science"] == [dataclasses.asdict(source) for source in sources]
    # The bulge is where the table says, in a dithered frame.
    entry = table["science"][2]
    bulge = table["sources"]["science"][-1]
    image = fits.getdata(files.truths[2], "BULGE")
    y, x = np.unravel_index(np.argmax(image), image.shape)
    assert x == pytest.approx(bulge["x"] + entry["dx"], abs=0.6)
    assert y == pytest.approx(bulge["y"] + entry["dy"], abs=0.6)


def test_wcs_follows_the_dithers(files, observation):
    places = []
    for path, exposure in zip(files.science, observation.science, strict=True):
        with warnings.catch_warnings():
            # Dates in the primary header, MJD in SCI: astropy remarks on it in real products too.
            warnings.simplefilter("ignore")
            wcs = WCS(fits.getheader(path, "SCI"))
        x, y = 30 + exposure.pointing.dx, 20 + exposure.pointing.dy
        places.append(wcs.pixel_to_world_values(x, y))
        scales = np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
        assert scales == pytest.approx(0.11)
        # East is counter-clockwise of north on the sky: a mirrored image has a positive one.
        assert np.linalg.det(wcs.pixel_scale_matrix) < 0
    np.testing.assert_allclose(
        np.array(places) * 3600, np.tile(places[0], (3, 1)) * 3600, atol=1e-3
    )


def test_files_are_replaced_only_when_asked(files, observation):
    folder = files.association.parent
    before = files.science[0].stat().st_mtime_ns
    with pytest.raises(OutputError) as error:
        write_observation(observation, folder)
    assert str(error.value) == (
        f"{files.science[0]}: exists already; use --overwrite to replace it"
    )
    assert files.science[0].stat().st_mtime_ns == before
    assert write_observation(observation, str(folder), overwrite=True) == files
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_a_directory_that_is_a_file_is_named(observation, tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(OutputError) as error:
        write_observation(observation, path)
    assert str(error.value) == f"{path}: cannot be written to (File exists)"


def test_an_exposure_without_keywords_is_refused(observation, tmp_path):
    bare = dataclasses.replace(observation.science[0], meta={}, name="bare_rate.fits")
    with pytest.raises(InputError) as error:
        write_observation(dataclasses.replace(observation, science=(bare,)), tmp_path)
    assert str(error.value) == (
        "bare_rate.fits: its meta has no BKGDTARG and cannot be written as a product; "
        "make the observation with miri_imaging"
    )
    assert list(tmp_path.iterdir()) == []
