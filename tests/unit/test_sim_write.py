"""Simulated products open in the pipeline's own tools and agree with their truth."""

import dataclasses
import json
import re
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from jwst.associations.load_as_asn import LoadAsLevel2Asn
from stdatamodels.jwst import datamodels

from webbkg.errors import OutputError, ParameterError
from webbkg.exposure import Window
from webbkg.sim import PRESETS, miri_imaging, simulate, write_observation
from webbkg.sim.keywords import header_values

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
            *files.truth_tables,
            *files.associations,
            files.catalog,
            files.environment,
            files.cache,
        )
    }
    assert [path.name for path in files.associations] == [
        "jw09999-o001_image2_00001_asn.json",
        "jw09999-o001_image3_00001_asn.json",
    ]
    assert files.catalog.name == "jw09999-o001_cat.ecsv"
    assert [path.name for path in files.truth_tables] == [
        path.with_suffix(".json").name for path in files.truths
    ]


def test_products_are_valid_and_hold_the_exposure(files, observation):
    exposures = observation.science + observation.backgrounds
    for path, exposure in zip(files.science + files.backgrounds, exposures, strict=True):
        with strictly(path) as model:
            model.validate()
            assert type(model) is datamodels.ImageModel
            for name in ("data", "err", "dq", "var_poisson", "var_rnoise"):
                np.testing.assert_array_equal(model[name], getattr(exposure.frames, name))
            assert model.data.dtype.itemsize == 4
            meta = model.meta
            assert meta.filename == path.name == exposure.name
            assert meta.observation.bkgdtarg is (path in files.backgrounds)
            assert (meta.instrument.name, meta.instrument.detector) == ("MIRI", "MIRIMAGE")
            assert (meta.instrument.filter, meta.exposure.type) == ("F770W", "MIR_IMAGE")
            assert meta.exposure.start_time < meta.exposure.mid_time < meta.exposure.end_time
            assert meta.exposure.measurement_time == pytest.approx(47 * 2.77504)
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
        # The reference pixel of the small detector is at the same fraction of its width.
        assert model.meta.wcsinfo.crpix1 == pytest.approx(0.5 + 693.0 * 80 / 1032 - 16)
        assert model.meta.exposure.nints == 3
        np.testing.assert_array_equal(model.int_times["integration_number"], [1, 2, 3])
        assert model.int_times["int_end_MJD_UTC"][-1] == pytest.approx(model.meta.exposure.end_time)
    assert files.science[0].name.endswith("_rateints.fits")
    assert fits.getdata(files.truths[0], "TRUTH").shape == (32, 24)


@pytest.mark.filterwarnings("ignore:Input association file contains path info:UserWarning")
def test_association_loads(files):
    association = LoadAsLevel2Asn.load(str(files.association))
    assert association["asn_type"] == "image2"
    assert len(association["products"]) == 3
    for product, path in zip(association["products"], files.science, strict=True):
        assert product["name"] == path.name.removesuffix("_rate.fits")
        members = [(member["exptype"], member["expname"]) for member in product["members"]]
        # Whole paths, so that the pipeline finds them from wherever it is started.
        assert members == [("science", str(path))] + [
            ("background", str(background)) for background in files.backgrounds
        ]


def test_association_of_the_mosaic_names_what_stage_two_makes(files):
    table = json.loads(files.associations[1].read_text())
    assert table["asn_type"] == "image3"
    (product,) = table["products"]
    assert product["name"] == "jw09999-o001_t001_miri_f770w"
    assert [(m["expname"], m["exptype"]) for m in product["members"]] == [
        (path.name.replace("_rate.", "_cal."), "science") for path in files.science
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


def test_truth_tables(files, observation):
    for path, image_path, exposure in zip(
        files.truth_tables, files.truths, observation.exposures, strict=True
    ):
        table = json.loads(path.read_text())
        assert (table["exposure"], table["truth"]) == (exposure.name, image_path.name)
        assert table["unit"] == "DN/s"
        assert table["window"] == {"y0": 0, "x0": 0, "ny": 64, "nx": 80}
        pointing = exposure.pointing
        assert (table["pointing"]["ra"], table["pointing"]["dec"]) == (pointing.ra, pointing.dec)
        assert (table["pointing"]["dx"], table["pointing"]["dy"]) == pointing.dither
        assert table["noise"]["gain"] == 4.0
        assert table["noise"]["n_groups"] == 45
        assert table["noise"]["electrons"] == pytest.approx(4.0 * 44 * 2.77504)
        with fits.open(image_path) as hdus:
            assert table["levels"] == {
                hdu.name.lower(): pytest.approx(hdu.data.mean(dtype=float), rel=1e-6, abs=1e-9)
                for hdu in hdus[1:]
                if hdu.name != "TRUTH"
            }
        assert table["layers"]["sky"]["level"] == 60.0
        assert table["layers"]["pattern"]["rms"] == 0.5


def test_truth_table_tells_where_sources_are_in_the_frame(files):
    for table_path, image_path in zip(files.truth_tables[:3], files.truths[:3], strict=True):
        sources = json.loads(table_path.read_text())["sources"]
        (bulge,) = (source for source in sources if source["kind"] == "bulge")
        image = fits.getdata(image_path, "BULGE")
        y, x = np.unravel_index(np.argmax(image), image.shape)
        assert x == pytest.approx(bulge["x"], abs=0.6)
        assert y == pytest.approx(bulge["y"], abs=0.6)
        # Pixels away from the reference pixel are smaller, and there are more of them.
        assert bulge["flux_in_frame"] == pytest.approx(bulge["flux"], rel=0.03)
        assert bulge["flux_in_frame"] != bulge["flux"]


def test_sources_of_a_sub_array_are_counted_from_its_corner(tmp_path):
    window = Window(8, 16, 40, 48)
    simulated = miri_imaging(shape=SHAPE, window=window, n_science=1, n_background=0, n_stars=4000)
    files = write_observation(simulated, tmp_path)
    table = json.loads(files.truth_tables[0].read_text())
    stars = [source for source in table["sources"] if source["kind"] == "stars"]
    assert len(stars) > 3
    assert all(-0.5 < s["x"] < 47.5 and -0.5 < s["y"] < 39.5 for s in stars)
    brightest = max(stars, key=lambda source: source["flux"])
    image = fits.getdata(files.truths[0], "STARS")
    y, x = np.unravel_index(np.argmax(image), image.shape)
    assert (x, y) == (round(brightest["x"]), round(brightest["y"]))
    # A star in a small pixel is a little brighter there than at the reference pixel.
    assert brightest["flux_in_frame"] == pytest.approx(brightest["flux"], rel=0.02)


def test_wcs_follows_the_dithers(files, observation):
    places = []
    for path, exposure in zip(files.science, observation.science, strict=True):
        with warnings.catch_warnings():
            # Dates in the primary header, MJD in SCI: astropy remarks on it in real products too.
            warnings.simplefilter("ignore")
            wcs = WCS(fits.getheader(path, "SCI"))
        dx, dy = exposure.pointing.dither
        x, y = 30 + dx, 20 + dy
        places.append(wcs.pixel_to_world_values(x, y))
        scales = np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
        assert scales == pytest.approx(0.1109, abs=1e-4)
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
    assert not [path for path in folder.rglob("*") if ".part" in path.name]


def test_a_directory_that_is_a_file_is_named(observation, tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(OutputError) as error:
        write_observation(observation, path)
    assert str(error.value) == (
        f"{path}: not a directory that can be written to (File exists); choose another with -o"
    )


def test_unknown_level_is_refused(observation, tmp_path):
    with pytest.raises(ParameterError) as error:
        write_observation(observation, tmp_path, level="cal")
    assert str(error.value) == "level must be one of uncal, rate, got 'cal'"
    assert list(tmp_path.iterdir()) == []


def test_an_observation_that_does_not_fit_on_the_disk_is_refused_at_once(tmp_path):
    n_integrations = 10**9
    simulated = miri_imaging(n_science=1, n_background=0)
    setup = dataclasses.replace(simulated.science[0].setup, n_integrations=n_integrations)
    huge = dataclasses.replace(simulated.science[0], setup=setup)
    with pytest.raises(OutputError) as error:
        write_observation(dataclasses.replace(simulated, science=(huge,)), tmp_path)
    needed = 1024 * 1032 * (20 * n_integrations + 4 * 6) / 1e6
    assert re.fullmatch(
        rf"{tmp_path}: the observation needs {needed:.0f} MB, but \d+ MB are free; make room, "
        "choose another directory or simulate fewer exposures",
        str(error.value),
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PRESETS)
def test_products_of_every_preset_are_valid(name, tmp_path):
    whole = simulate(name, small=True)
    assert len({exposure.name for exposure in whole.exposures}) == len(whole.exposures)
    # The first of each kind; more, and files of other kinds, take time and tell nothing new.
    first = {e.setup.exp_type + e.setup.camera.detector: e for e in reversed(whole.science)}
    observation = dataclasses.replace(
        whole,
        science=tuple(first.values()),
        backgrounds=whole.backgrounds[:1],
        attachments=(),
        references=(),
    )
    files = write_observation(observation, tmp_path)
    for path in files.science + files.backgrounds:
        with strictly(path) as model:
            model.validate()
            assert np.isfinite(model.data).mean() > 0.9
            assert model.meta.observation.bkgdtarg is (path in files.backgrounds)
    for path in files.associations:
        table = json.loads(path.read_text())
        if table["asn_type"].endswith("2"):
            members = [m["expname"] for product in table["products"] for m in product["members"]]
            assert all((tmp_path / member).is_file() for member in members)
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize(
    ("preset", "options", "name"),
    [
        ("miri-imaging", {"small": True}, "MIRIM_FULL"),
        ("miri-imaging", {"subarray": "SUB64"}, "MIRIM_SUB64"),
        ("nircam-imaging", {"subarray": "SUB640", "channel": "long"}, "NRCB5_SUB640"),
        ("niriss-soss", {"small": True}, "NIS_SUBSTRIP96"),
    ],
)
def test_apertures_are_named_as_in_the_siaf(preset, options, name):
    exposure = simulate(preset, **options).science[0]
    assert header_values(exposure)["aperture.name"] == name
