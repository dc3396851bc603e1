"""
The job on real input: a five-point dither of AB Dor (NIRISS AMI, program 1093, observation 014).

Each exposure is subtracted by the mean of the others. That is not how AMI is reduced, but these are
real sub-array products with everything the pipeline writes, GWCS too.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import Command, tree
from numpy.testing import assert_allclose, assert_array_equal
from stdatamodels.jwst import datamodels

import webbkg

pytestmark = pytest.mark.real

N = 5


@pytest.fixture(scope="module")
def exposures(shared_data):
    """The five exposures of the dither."""
    found = sorted((shared_data / "ami").glob("jw01093014001_03102_0000?_nis_cal.fits"))
    assert len(found) == N
    return found


@pytest.fixture(scope="module")
def one(exposures, tmp_path_factory):
    """The first exposure against the other four."""
    out = tmp_path_factory.mktemp("one") / "out"
    before = tree(exposures[0].parent)
    ran = Command()("average", exposures[0], "--bkg", *exposures[1:], "-o", out)
    assert tree(exposures[0].parent) == before
    # The star is in all exposures and does not repeat to its own noise: that is told, and no more.
    told = ran.err.splitlines()
    assert ran.code == 0
    assert all("of the pixels the backgrounds differ by more than their noise" in x for x in told)
    assert ran.out.splitlines()[0].startswith("jw01093014001_03102_00001_nis_bsub.fits: 4 backgr")
    return out


@pytest.fixture(scope="module")
def all_five(exposures, tmp_path_factory):
    """Each exposure against the other four, by an association, from another directory."""
    folder = tmp_path_factory.mktemp("five")
    for path in exposures:
        (folder / path.name).symlink_to(path.resolve())
    products = [
        {
            "name": science.name.removesuffix("_cal.fits"),
            "members": [
                {
                    "expname": path.name,
                    "exptype": "science" if path == science else "background",
                    "exposerr": "null",
                }
                for path in exposures
            ],
        }
        for science in exposures
    ]
    content = {"asn_type": "image2", "asn_rule": "Asn_Lv2Image", "program": "01093"}
    content |= {"asn_id": "o014", "products": products}
    (folder / "jw01093-o014_image2_00001_asn.json").write_text(json.dumps(content))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    asn = os.path.relpath(folder / "jw01093-o014_image2_00001_asn.json", elsewhere)
    ran = Command()("average", asn, "-o", "out", "--save-combined-background", cwd=elsewhere)
    # The star is in all exposures and does not repeat to its own noise: that is told, and no more.
    told = ran.err.splitlines()
    assert ran.code == 0
    assert all("of the pixels the backgrounds differ by more than their noise" in x for x in told)
    assert len(ran.out.splitlines()) == N + 1
    return elsewhere / "out"


def product_of(exposure, out):
    return out / exposure.name.replace("_cal.fits", "_bsub.fits")


def test_files_that_are_written(exposures, one, all_five):
    report = {"webbkg-report.html", "metrics.json"}
    assert {p.name for p in one.iterdir()} == report | {product_of(exposures[0], one).name}
    names = {product_of(path, all_five).name for path in exposures}
    names |= {name.replace("_bsub.", "_combinedbackground.") for name in names}
    assert {p.name for p in all_five.iterdir()} == report | names


@pytest.mark.parametrize("index", range(N))
@pytest.mark.filterwarnings("ignore:in .* of the pixels the backgrounds differ")
def test_pixels_are_what_python_gives(exposures, all_five, index):
    science = exposures[index]
    others = [path for path in exposures if path != science]
    result = webbkg.average(science, others)
    product = product_of(science, all_five)
    assert_array_equal(fits.getdata(product, "SCI"), result.exposure.data)
    assert_array_equal(fits.getdata(product, "ERR"), result.exposure.err)
    assert_array_equal(fits.getdata(product, "DQ"), result.exposure.dq)
    assert_array_equal(fits.getdata(product, "VAR_BKG"), result.background_var)
    # By hand, where the four values agree, nothing is flagged and no source is found in one: their
    # plain mean.
    stack = np.array([fits.getdata(path, "SCI") for path in others], np.float64)
    flags = np.array([fits.getdata(path, "DQ") for path in others])
    errors = np.array([fits.getdata(path, "ERR") for path in others], np.float64)
    bad = (flags & (1 | 2 | 1 << 9 | 1 << 31)).any(axis=0)
    quiet = ~bad & (np.abs(stack - np.median(stack, axis=0)) < 2 * errors).all(axis=0)
    quiet &= result.template.n_used == 4
    assert quiet.mean() > 0.3
    taken = fits.getdata(science, "SCI") - fits.getdata(product, "SCI").astype(np.float64)
    assert_allclose(taken[quiet], stack.mean(axis=0)[quiet], rtol=1e-5, atol=1e-3)
    added = fits.getdata(product, "VAR_BKG")[quiet]
    assert_allclose(added, (errors**2).sum(axis=0)[quiet] / 16, rtol=1e-5)
    total = fits.getdata(science, "ERR").astype(np.float64)[quiet] ** 2 + added
    assert_allclose(fits.getdata(product, "ERR")[quiet] ** 2, total, rtol=1e-5)


def test_one_and_five_agree(exposures, one, all_five):
    for name in ("SCI", "ERR", "DQ", "VAR_BKG"):
        first, again = (fits.getdata(product_of(exposures[0], o), name) for o in (one, all_five))
        assert_array_equal(first, again)


@pytest.mark.parametrize("index", range(N))
def test_product_is_a_valid_model_with_its_gwcs(exposures, all_five, index, monkeypatch):
    monkeypatch.setenv("STRICT_VALIDATION", "true")
    monkeypatch.setenv("PASS_INVALID_VALUES", "false")
    product = product_of(exposures[index], all_five)
    x, y = np.meshgrid(np.linspace(0, 79, 9), np.linspace(0, 79, 7))
    with datamodels.open(product) as model, datamodels.open(exposures[index]) as before:
        model.validate()
        assert type(model) is type(before)
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"
        assert model.meta.filename == product.name
        assert model.meta.wcs.available_frames == before.meta.wcs.available_frames
        sky = before.meta.wcs(x, y)
        assert np.isfinite(sky).all()
        assert np.ptp(sky[0]) > 0
        assert_array_equal(model.meta.wcs(x, y), sky)
        # There and back is only good to 0.02 px: the inverse distortion is a fit of its own.
        assert_allclose(model.meta.wcs.invert(*sky), (x, y), atol=0.05)
        assert_array_equal(model.var_poisson, before.var_poisson)
        assert_array_equal(model.area, before.area)


@pytest.mark.parametrize("index", range(N))
def test_all_else_is_copied(exposures, all_five, index):
    with (
        fits.open(exposures[index]) as before,
        fits.open(product_of(exposures[index], all_five)) as after,
    ):
        after.verify("exception")
        names = [hdu.name for hdu in before]
        assert [hdu.name for hdu in after if hdu.name not in ("VAR_BKG", "WEBBKG")] == names
        for hdu in before[1:]:
            if hdu.name in ("SCI", "ERR", "DQ"):
                assert list(after[hdu.name].header) == list(hdu.header)
                continue
            assert after[hdu.name].header.tostring() == hdu.header.tostring()
            assert after[hdu.name].data.tobytes() == hdu.data.tobytes()
        kept = [card for card in before[0].header.cards if card.keyword not in ("FILENAME", "DATE")]
        found = {card.keyword: card.value for card in after[0].header.cards}
        for keyword, value, _ in kept:
            if keyword not in ("", "COMMENT", "HISTORY", "S_BKDSUB", "BKGMETH", "BKGD_SCL"):
                assert found[keyword] == value, keyword
        order = [c.keyword for c in kept if c.keyword in found]
        written = [k for k in (c.keyword for c in after[0].header.cards) if k in set(order)]
        assert written[: len(order)] == order


def test_an_unknown_extension_survives(exposures, cli, tmp_path):
    path = tmp_path / exposures[0].name
    with fits.open(exposures[0]) as hdus:
        column = fits.Column("WORDS", "PA()", array=np.array(["a", "bcd"], dtype=object))
        hdus.insert(2, fits.BinTableHDU.from_columns([column], name="NOTES"))
        hdus.append(fits.ImageHDU(np.arange(6, dtype=np.int16).reshape(2, 3), name="MYMAP"))
        hdus.writeto(path, checksum=True)
    assert cli("average", path, "--bkg", *exposures[1:], "-o", tmp_path / "o").code == 0
    with (
        fits.open(path) as before,
        fits.open(product_of(path, tmp_path / "o"), checksum=True) as ours,
    ):
        for name in ("NOTES", "MYMAP", "ASDF"):
            assert ours[name].header.tostring() == before[name].header.tostring()
        assert ["".join(row) for row in ours["NOTES"].data["WORDS"]] == ["a", "bcd"]
        assert_array_equal(ours["MYMAP"].data, [[0, 1, 2], [3, 4, 5]])
    with datamodels.open(product_of(path, tmp_path / "o")) as model:
        assert np.isfinite(model.meta.wcs(40, 40)).all()


@pytest.mark.parametrize("index", range(N))
def test_combined_background(exposures, all_five, index):
    path = product_of(exposures[index], all_five)
    combined = path.with_name(path.name.replace("_bsub.", "_combinedbackground."))
    with datamodels.open(combined) as model:
        model.validate()
        assert model.data.shape == (80, 80)
        assert (model.meta.subarray.xstart, model.meta.subarray.ystart) == (
            fits.getval(path, "SUBSTRT1"),
            fits.getval(path, "SUBSTRT2"),
        )
        taken = fits.getdata(exposures[index], "SCI") - model.data
        defined = np.isfinite(model.data)
        assert_array_equal(taken[defined], fits.getdata(path, "SCI")[defined])


def test_metrics_and_report(exposures, all_five):
    content = json.loads((all_five / "metrics.json").read_text())
    assert [entry["name"] for entry in content["exposures"]] == [p.name for p in exposures]
    page = (all_five / "webbkg-report.html").read_text(encoding="utf-8")
    for entry, path in zip(content["exposures"], exposures, strict=True):
        numbers = entry["metrics"]
        assert entry["name"] in page
        assert entry["status"] == "COMPLETE"
        assert numbers["backgrounds"] == [p.name for p in exposures if p != path]
        assert numbers["window"] == {
            "y0": fits.getval(path, "SUBSTRT2") - 1,
            "x0": fits.getval(path, "SUBSTRT1") - 1,
            "ny": 80,
            "nx": 80,
        }
        product = product_of(path, all_five)
        after, err = fits.getdata(product, "SCI"), fits.getdata(product, "ERR")
        flags = fits.getdata(product, "DQ")
        taken = fits.getdata(path, "SCI") - after
        defined = (
            fits.getdata(
                product.with_name(product.name.replace("_bsub.", "_combinedbackground.")),
                "COVERAGE",
            )
            > 0
        )
        assert numbers["coverage"] == pytest.approx(defined.mean())
        assert numbers["level"] == pytest.approx(np.median(taken[defined]), rel=0.01)
        # Away from the star the noise is that of the corner pixels, or rather of all faint ones.
        good = (flags & (1 | 2 | 1 << 9 | 1 << 31)) == 0
        good &= np.isfinite(after)
        blank = good & (np.abs(after) < 4 * numbers["noise_after"])
        deviation = np.median(np.abs(after[blank] - np.median(after[blank])))
        assert numbers["noise_after"] == pytest.approx(1.4826 * deviation, rel=0.5)
        assert err[good].min() < numbers["noise_expected"] < np.percentile(err[good], 90)
        assert numbers["noise_after"] < numbers["noise_before"]
        assert 0 < numbers["blank_fraction"] < 1
        header = fits.getheader(product)
        assert header["WB_NUSED"] == numbers["n_backgrounds"] == 4
        for keyword, key in (("RMSB", "before"), ("RMSA", "after"), ("RMSE", "expected")):
            assert header[f"WB_{keyword}"] == pytest.approx(numbers[f"noise_{key}"])
