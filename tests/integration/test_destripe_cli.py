"""``webbkg destripe``: files in, files out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import tree
from destripe_helpers import cut, exposures, names_of, originals, set_keywords
from jwst.associations.asn_from_list import asn_from_list
from jwst.associations.lib.rules_level3_base import DMS_Level3_Base
from jwst.pipeline import Image2Pipeline, Image3Pipeline
from scipy import ndimage
from stdatamodels.jwst import datamodels

from webbkg import DestripeParams, destripe
from webbkg.io.files import FileHandle, checksum
from webbkg.io.provenance import INPUT_COLUMNS
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim import local_crds, nircam_imaging, write_observation

__all__ = ["exposures", "originals"]

pytestmark = [
    # Lines of reference pixels have no level.
    pytest.mark.filterwarnings("ignore:.*lines have no pixel:webbkg.errors.WebbkgWarning"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Input association file contains path info:UserWarning"),
]


@pytest.fixture
def done(cli, tmp_path):
    """Call the command on files, which must succeed; give the output directory and what it said."""

    def call(*words):
        ran = cli("destripe", *words, "-o", tmp_path / "out")
        assert ran.code == 0, ran
        return tmp_path / "out", ran

    return call


def assert_product(path, expected, *, n_dims=2):
    """Open a product with validation on and compare its pixels."""
    with datamodels.open(path, strict_validation=True) as model:
        model.validate()
        assert model.data.ndim == n_dims
        assert model.meta.filename == path.name
        for name in ("data", "err", "dq"):
            np.testing.assert_array_equal(model[name], getattr(expected, name))


# What is written


def test_several_filters_in_one_call(exposures, done):
    paths = [exposures("nircam-short"), exposures("nircam-long")]
    out, ran = done(*paths)
    names = [path.name.replace("_rate.fits", "_destripe_rate.fits") for path in paths]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*names, "metrics.json", "webbkg-report.html"]
    )
    for path, name in zip(paths, names, strict=True):
        result = destripe(path)
        assert_product(out / name, result.exposure)
        assert f"{name}: model, " in ran.out
        # It did something.
        before = fits.getdata(path)
        assert 1e-3 < np.nanstd(before - fits.getdata(out / name)) < 0.1


def test_what_the_product_says(exposures, done):
    path = exposures()
    out, _ = done(path, "--method", "amplifiers")
    product = next(out.glob("*_destripe_rate.fits"))
    found = destripe(path, DestripeParams(method="amplifiers")).diagnostics
    header = fits.getheader(product)
    assert header["WB_METH"] == "destripe"
    assert header["WB_DSTRP"] == "amplifiers"
    assert header["WB_SKY"] == pytest.approx(found.sky)
    assert header["WB_SKYRM"] is False
    assert header["WB_STRPA"] == pytest.approx(found.scatter_after)
    assert header["WB_STRPA"] < header["WB_STRPB"]
    # The pipeline's own step was not run, and no background was subtracted.
    assert "S_CLNFNS" not in header
    assert "S_BKDSUB" not in header
    text = " ".join(" ".join(header["HISTORY"]).split())
    assert "subtracted stripes of the readout, method amplifiers" in text
    table = fits.getdata(product, "WEBBKG")
    assert tuple(table.names) == INPUT_COLUMNS
    assert list(table["ROLE"]) == ["science", "parameters"]
    assert table["NAME"][0] == path.name
    assert table["SHA256"][0] == checksum(path)
    assert json.loads(table["VALUE"][1])["method"] == "amplifiers"


def test_added_variance(exposures, done):
    path = exposures()
    out, _ = done(path)
    product = next(out.glob("*_destripe_rate.fits"))
    err, before = fits.getdata(product, "ERR"), fits.getdata(path, "ERR")
    variance = fits.getdata(product, "VAR_BKG")
    assert fits.getval(product, "BUNIT", "VAR_BKG") == "(DN/s)^2"
    assert variance.shape == err.shape
    good = np.isfinite(before) & (before > 0)
    np.testing.assert_allclose(err[good] ** 2, (before**2 + variance)[good], rtol=1e-5)
    assert np.all(variance[8:-8, 8:-8] > 0)


def test_errors_are_kept_if_asked_for(exposures, done):
    path = exposures()
    out, _ = done(path, "--errors", "keep")
    product = next(out.glob("*_destripe_rate.fits"))
    assert "VAR_BKG" not in names_of(product)
    assert cut(product, "ERR") == cut(path, "ERR")


def test_all_else_is_copied_byte_by_byte(exposures, done):
    def add(hdus):
        hdus.insert(3, fits.ImageHDU(np.arange(6, dtype=np.int16).reshape(2, 3), name="EXTRA"))
        hdus[0].header["MYKEY"] = ("kept", "by all means")

    path = exposures(change=add)
    out, _ = done(path)
    product = next(out.glob("*_destripe_rate.fits"))
    assert names_of(product) == [*names_of(path)[:-1], "VAR_BKG", "WEBBKG", "ASDF"]
    for name in ("EXTRA", "VAR_POISSON", "VAR_RNOISE", "ASDF"):
        assert cut(product, name) == cut(path, name)
    old, new = fits.getheader(path), fits.getheader(product)
    changed = {key for key in old if key not in ("HISTORY", "") and old[key] != new[key]}
    assert changed <= {"FILENAME", "DATE"}


def test_integrations_are_done_one_by_one(exposures, done, monkeypatch):
    path = exposures("integrations")
    expected = destripe(path).exposure
    assert expected.data.shape == (3, 64, 64)

    def refuse(_):
        raise AssertionError("all integrations are in memory at once")

    monkeypatch.setattr(FileHandle, "load", refuse)
    out, _ = done(path)
    product = next(out.glob("*_destripe_rateints.fits"))
    assert_product(product, expected, n_dims=3)
    assert cut(product, "INT_TIMES") == cut(path, "INT_TIMES")
    variance = fits.getdata(product, "VAR_BKG")
    assert variance.shape == (3, 64, 64)
    stripes = fits.getdata(path) - fits.getdata(product)
    # Each has its own.
    assert not np.allclose(stripes[0, 10:-10, 10], stripes[1, 10:-10, 10], atol=1e-4)


def test_variance_and_table_of_an_earlier_subtraction_stay(exposures, done, cli, tmp_path):
    science = exposures("miri")
    others = sorted((exposures.originals / "miri").glob("jw09999002*_rate.fits"))
    assert len(others) == 2
    ran = cli("average", science, "--bkg", *others, "-o", tmp_path / "first")
    assert ran.code == 0, ran
    first = next((tmp_path / "first").glob("*_bsub.fits"))
    out, _ = done(first)
    product = next(out.glob("*_destripe_bsub.fits"))
    result = destripe(first)
    np.testing.assert_allclose(
        fits.getdata(product, "VAR_BKG"),
        fits.getdata(first, "VAR_BKG") + result.stripes[0].variance(),
        rtol=1e-6,
    )
    roles = ["science", "background", "background", "parameters", "science", "parameters"]
    table = fits.getdata(product, "WEBBKG")
    assert list(table["ROLE"]) == roles
    assert list(table["NAME"][[0, 3, 4, 5]]) == [science.name, "average", first.name, "destripe"]
    header = fits.getheader(product)
    assert (header["S_BKDSUB"], header["BKGMETH"]) == ("COMPLETE", "average")


@pytest.mark.parametrize("errors", ["propagate", "keep"])
def test_variance_that_integrations_share(exposures, done, errors):
    """That of `average` is one image for all integrations."""
    shared = np.random.default_rng(1).random((64, 64)).astype(np.float32)

    def add(hdus):
        hdus.append(fits.ImageHDU(shared, name="VAR_BKG"))

    path = exposures("integrations", change=add)
    out, _ = done(path, "--errors", errors)
    found = fits.getdata(next(out.glob("*_destripe_rateints.fits")), "VAR_BKG")
    expected = shared
    if errors == "propagate":
        expected = shared + np.stack([one.variance() for one in destripe(path).stripes])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# The plain median of rows


def test_rows_has_products_of_its_own(exposures, done):
    path = exposures()
    out, ran = done(path, "--method", "rows", "--mask", "simple")
    stem = path.name.removesuffix("_rate.fits")
    assert sorted(item.name for item in out.iterdir()) == [
        f"detections_segm_{stem}.fits",
        f"{stem}_rowbgsub.fits",
        "metrics.json",
        "webbkg-report.html",
    ]
    result = destripe(path, DestripeParams(method="rows", mask="simple"))
    assert_product(out / f"{stem}_rowbgsub.fits", result.exposure)
    segments = fits.getdata(out / f"detections_segm_{stem}.fits")
    np.testing.assert_array_equal(segments > 0, result.mask)
    assert segments.max() == ndimage.label(result.mask, np.ones((3, 3)))[1]
    assert (
        "image size 64 x 64 px, pixel scale 0.0307 arcsec, field of view 2.0 x 2.0 arcsec"
        in ran.out
    )


def test_rows_have_one_median(exposures, done):
    path = exposures()
    out, _ = done(path, "--method", "rows")
    result = destripe(path, DestripeParams(method="rows"))
    product = fits.getdata(next(out.glob("*_rowbgsub.fits")))
    dq = fits.getdata(path, "DQ")
    bad = FLAG_BITS["DO_NOT_USE"] | FLAG_BITS["NON_SCIENCE"] | FLAG_BITS["REFERENCE_PIXEL"]
    used = np.isfinite(product) & ~result.mask & ((dq & (bad | FLAG_BITS["SATURATED"])) == 0)
    medians = [np.median(row[ok]) for row, ok in zip(product, used, strict=True) if ok.any()]
    assert len(medians) == 56
    np.testing.assert_allclose(medians, result.diagnostics.sky, atol=1e-6)


def test_geometry_of_other_methods_is_for_those_who_want_more(exposures, done):
    path = exposures()
    assert "pixel scale" not in done(path)[1].out
    assert "pixel scale 0.0307" in done(path, "-v", "--overwrite")[1].out


def test_geometry_without_wcs(exposures, done):
    def drop(hdus):
        for key in ("CTYPE1", "CTYPE2"):
            del hdus["SCI"].header[key]

    _, ran = done(exposures(change=drop), "--method", "rows")
    assert "image size 64 x 64 px, pixel scale and field of view unknown" in ran.out


def test_masked_image(exposures, done):
    path = exposures("integrations")
    out, _ = done(path, "--save-masked")
    masked = out / path.name.replace("_rateints", "_masked")
    mask = destripe(path).mask
    assert 0 < np.count_nonzero(mask) < mask.size
    expected = np.where(mask, np.nan, fits.getdata(path))
    np.testing.assert_array_equal(fits.getdata(masked), expected)
    for name in ("ERR", "DQ", "VAR_POISSON", "ASDF"):
        assert cut(masked, name) == cut(path, name)


# Options


def test_sky_is_kept_unless_it_is_to_go(exposures, done):
    path = exposures()
    level = np.nanmedian(fits.getdata(path))
    out, ran = done(path)
    assert np.nanmedian(fits.getdata(next(out.glob("*_rate.fits")))) == pytest.approx(level, 0.02)
    assert " kept" in ran.out
    out, ran = done(path, "--remove-sky", "--overwrite")
    product = next(out.glob("*_rate.fits"))
    assert abs(np.nanmedian(fits.getdata(product))) < 0.02 * level
    assert fits.getval(product, "WB_SKYRM") is True
    assert " subtracted" in ran.out


def test_mask_of_a_file(exposures, done):
    path = exposures()
    mask = np.zeros((64, 64), np.int16)
    mask[20:30, 5:40] = 7
    out, _ = done(path, "--mask", exposures.image("m.fits", mask), "--method", "rows")
    product = next(out.glob("*_rowbgsub.fits"))
    expected = destripe(path, DestripeParams(method="rows"), mask=mask > 0)
    assert_product(product, expected.exposure)
    np.testing.assert_array_equal(expected.mask, mask > 0)
    table = fits.getdata(product, "WEBBKG")
    assert list(table["ROLE"]) == ["science", "mask", "parameters"]
    assert table["NAME"][1] == "m.fits"
    assert table["SHA256"][1] == checksum(exposures.folder / "m.fits")
    assert "masked as sources by m.fits" in " ".join(
        " ".join(fits.getheader(product)["HISTORY"]).split()
    )
    assert "m.fits" in json.loads((out / "metrics.json").read_text())["parameters"]["mask"]


def test_detections_of_one_run_are_the_mask_of_another(exposures, done):
    path = exposures()
    out, _ = done(path, "--method", "rows")
    segments = next(out.glob("detections_segm_*"))
    done(path, "--mask", segments, "--method", "amplifiers", "--overwrite")
    mask = destripe(path, DestripeParams(method="rows")).mask
    result = destripe(path, DestripeParams(method="amplifiers"), mask=mask)
    assert_product(next(out.glob("*_destripe_rate.fits")), result.exposure)


def test_flat_of_the_whole_detector_is_cut(exposures, done):
    path = exposures("sub-array")
    x, y = fits.getval(path, "SUBSTRT1") - 1, fits.getval(path, "SUBSTRT2") - 1
    assert x > 0
    rng = np.random.default_rng(1)
    flat = rng.normal(1.0, 0.02, (2048, 2048)).astype(np.float32)
    file = exposures.image("flat.fits", flat, INSTRUME="NIRCAM", DETECTOR="NRCB1")
    out, _ = done(path, "--flat", file)
    expected = destripe(path, flat=flat[y : y + 64, x : x + 64])
    product = next(out.glob("*_destripe_rate.fits"))
    assert_product(product, expected.exposure)
    assert list(fits.getdata(product, "WEBBKG")["ROLE"]) == ["science", "flat", "parameters"]


def test_config_and_its_dump(exposures, done, cli, tmp_path):
    text = cli("destripe", "--method", "rows", "--n-sigma", "2.5", "--dump-config").out
    assert 'method = "rows"' in text
    config = tmp_path / "my.toml"
    config.write_text(text)
    path = exposures()
    out, _ = done(path, "--config", config)
    table = fits.getdata(next(out.glob("*_rowbgsub.fits")), "WEBBKG")
    assert json.loads(table["VALUE"][-1])["n_sigma"] == 2.5


def test_dry_run_writes_nothing(exposures, cli, tmp_path):
    path = exposures()
    before = tree(tmp_path)
    ran = cli("destripe", path, "-o", tmp_path / "out", "--dry-run")
    assert ran.code == 0
    product = tmp_path / "out" / path.name.replace("_rate", "_destripe_rate")
    assert ran.out == f"{path.name} -> {product}\n"
    assert tree(tmp_path) == before


def test_what_is_chosen_is_said(exposures, done):
    path = exposures()
    out, ran = done(path, "--auto")
    product = next(out.glob("*_destripe_rate.fits"))
    found = destripe(path, DestripeParams(auto=True)).diagnostics
    assert found.choices
    for text in found.choices:
        assert f"  auto: {text}\n" in ran.out
    assert fits.getval(product, "WB_DSTRP") == found.method


def test_diffuse_light_that_is_put_in(exposures, done):
    out, _ = done(exposures("wide"), "--inject")
    [entry] = json.loads((out / "metrics.json").read_text())["exposures"]
    [found] = entry["metrics"]["diffuse_transfer"]
    assert found["sigma"] == 20.0
    assert 0.5 < found["kept"] < 1.5


def test_diffuse_light_that_does_not_fit(exposures, done):
    path = exposures()
    _, ran = done(path, "--inject")
    assert f"{path.name}: is too small for diffuse light to be put in" in ran.err


def test_quiet(exposures, done):
    _, ran = done(exposures(), "-q")
    assert (ran.out, ran.err) == ("", "")


def test_compressed_files(exposures, done):
    import gzip

    path = exposures()
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    out, _ = done(packed)
    assert_product(out / path.name.replace("_rate", "_destripe_rate"), destripe(path).exposure)


# Instruments


@pytest.mark.parametrize("kind", ["niriss-wfss", "nirspec-nods"])
def test_lines_are_columns_where_the_fast_axis_is_vertical(exposures, done, kind):
    offsets = np.random.default_rng(1).normal(0.0, 0.5, 2048).astype(np.float32)

    def add(hdus):
        assert abs(hdus[0].header["FASTAXIS"]) == 2
        hdus["SCI"].data += offsets[: hdus["SCI"].data.shape[1]]

    path = exposures(kind, change=add)
    plain = exposures(kind, name="plain_rate.fits")
    out, _ = done(path, "--method", "rows")
    product = next(out.glob("*_rowbgsub.fits"))
    bad = (fits.getdata(path, "DQ") & (FLAG_BITS["DO_NOT_USE"] | FLAG_BITS["NON_SCIENCE"])) > 0
    difference = np.ma.masked_array(fits.getdata(product) - fits.getdata(plain), bad)
    left = np.ma.median(difference, axis=0).compressed()
    assert len(left) > 500
    assert np.std(left) < 0.1
    with datamodels.open(product) as model:
        model.validate()


def test_miri(exposures, done):
    path = exposures("miri")
    out, _ = done(path, "--columns")
    product = next(out.glob("*_destripe_rate.fits"))
    assert fits.getval(product, "WB_DCOLS") is True
    assert_product(product, destripe(path, DestripeParams(columns=True)).exposure)


# Several files, several calls


def test_a_bad_file_does_not_stop_the_others(exposures, cli, tmp_path):
    good, other = exposures("nircam-short"), exposures("nircam-long")
    bad = exposures(name="bad_rate.fits", change=set_keywords(FASTAXIS=None))
    ran = cli("destripe", good, bad, other, "-o", tmp_path / "out")
    assert ran.code == 1
    [line] = [line for line in ran.err.splitlines() if "warning" not in line]
    assert line.startswith("webbkg: bad_rate.fits: needs FASTAXIS")
    products = sorted(path.name for path in (tmp_path / "out").glob("*_rate.fits"))
    assert len(products) == 2
    listed = json.loads((tmp_path / "out" / "metrics.json").read_text())["exposures"]
    assert [item["status"] for item in listed] == ["COMPLETE", "FAILED", "COMPLETE"]
    assert "bad_rate.fits" in (tmp_path / "out" / "webbkg-report.html").read_text()


def test_products_can_be_replaced(exposures, done):
    path = exposures()
    out, _ = done(path, "--method", "amplifiers")
    done(path, "--overwrite")
    assert fits.getval(next(out.glob("*_rate.fits")), "WB_DSTRP") == "model"


def test_inputs_stay_as_they_are(exposures, done, tmp_path):
    path = exposures()
    before = tree(exposures.folder)
    done(path, "--save-masked")
    assert tree(exposures.folder) == before


# In the pipeline


@pytest.mark.slow
@pytest.mark.usefixtures("quick_steps")
def test_products_go_on_in_the_pipeline(cli, tmp_path, monkeypatch):
    files = write_observation(
        nircam_imaging(small=True, n_science=2, channel="short", n_stars=250, seed=2),
        tmp_path / "in",
    )
    ran = cli("destripe", *files.science, "-o", tmp_path / "rates")
    assert ran.code == 0, ran
    rates = sorted((tmp_path / "rates").glob("*_destripe_rate.fits"))
    monkeypatch.chdir(tmp_path)
    with local_crds(files.cache):
        for rate in rates:
            Image2Pipeline.call(str(rate), save_results=True, steps={"resample": {"skip": True}})
    calibrated = [rate.name.replace("_rate", "_cal") for rate in rates]
    for path in calibrated:
        assert fits.getval(path, "S_PHOTOM") == "COMPLETE"
        assert fits.getval(path, "WB_DSTRP") == "model"
        assert "WEBBKG" in names_of(tmp_path / path)

    # The same with calibrated exposures, which go to stage 3.
    with local_crds(files.cache):
        for rate in files.science:
            Image2Pipeline.call(str(rate), save_results=True, steps={"resample": {"skip": True}})
    plain = sorted(path.name for path in tmp_path.glob("*_cal.fits") if "destripe" not in path.name)
    ran = cli("destripe", *plain, "-o", tmp_path / "cals")
    assert ran.code == 0, ran
    products = sorted((tmp_path / "cals").glob("*_destripe_cal.fits"))
    assert len(products) == 2
    monkeypatch.chdir(tmp_path / "cals")
    table = asn_from_list([path.name for path in products], rule=DMS_Level3_Base, product_name="m")
    (tmp_path / "cals" / "m_asn.json").write_text(table.dump()[1])
    with datamodels.open(products[0]) as model:
        assert np.isfinite(model.meta.wcs(30.0, 30.0)).all()
    with local_crds(files.cache):
        Image3Pipeline.call(
            "m_asn.json",
            save_results=True,
            steps={"tweakreg": {"skip": True}, "source_catalog": {"skip": True}},
        )
    with datamodels.open("m_i2d.fits") as mosaic:
        assert np.isfinite(mosaic.data).mean() > 0.5
