"""``webbkg wfss``: files in, files out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import tree
from destripe_helpers import cut, names_of, set_keywords
from jwst.pipeline import Spec2Pipeline
from sky_helpers import skies, sky_originals, truth_of
from stdatamodels.jwst import datamodels

from webbkg import WfssParams, wfss
from webbkg.io.files import checksum
from webbkg.io.provenance import INPUT_COLUMNS

__all__ = ["skies", "sky_originals"]

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*names no source catalogue:webbkg.errors.WebbkgWarning"),
]


@pytest.fixture
def done(cli, tmp_path):
    """Call the command on files, which must succeed; give the products and what it said."""

    def call(*words, out=tmp_path / "out"):
        ran = cli("wfss", *words, "-o", out)
        assert ran.code == 0, ran
        return sorted(out.glob("*_bsub.fits")), ran

    return call


def history(path):
    return " ".join(" ".join(fits.getheader(path)["HISTORY"]).split())


# What is written


@pytest.mark.parametrize("kind", ["niriss", "nircam"])
def test_sky_is_gone(skies, done, kind):
    path = skies(kind)
    [product], ran = done(path, "--catalog", skies.catalog(kind))
    assert product.name == path.name.replace("_rate", "_bsub")
    assert sorted(item.name for item in product.parent.iterdir()) == [
        product.name,
        "metrics.json",
        "webbkg-report.html",
    ]
    level = truth_of(skies.original(kind), "sky")["level"]
    factor, error = (fits.getval(product, key) for key in ("WB_SCALE", "WB_SCERR"))
    assert abs(factor / level - 1.0) < 0.005
    assert 0 < error < 0.01 * level
    assert f"{product.name}: factor {factor:.5g} +- " in ran.out
    with datamodels.open(product, strict_validation=True) as model:
        model.validate()
        assert model.meta.filename == product.name
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"
        assert model.meta.background.scaling_factor == factor
        assert set(np.unique(model.mask)) == {0, 1}
        blank = (model.mask == 1) & (model.dq == 0)
        pulls = model.data[blank] / model.err[blank]
    assert abs(pulls.mean()) < 0.05
    assert abs(pulls.std() - 1.0) < 0.1
    # The light of the sources is still there.
    with fits.open(skies.original(kind).truths[0]) as truth, fits.open(product) as hdus:
        bright = truth["SPECTRA"].data > 5 * np.nanmedian(hdus["ERR"].data)
        bright &= np.isfinite(hdus["SCI"].data)
        kept = hdus["SCI"].data[bright].sum() / truth["SPECTRA"].data[bright].sum()
    assert abs(kept - 1.0) < 0.02


def test_what_the_product_says(skies, done):
    path, catalog = skies(), skies.catalog()
    [product], _ = done(path, "--catalog", catalog)
    result = wfss(path, catalog=catalog)
    found = result.diagnostics
    header = fits.getheader(product)
    expected = {
        "S_BKDSUB": "COMPLETE",
        "BKGMETH": "wfss",
        "BKGSUB": True,
        "WB_METH": "wfss",
        "WB_RULE": "model",
        "WB_MSKBY": "catalog",
        "WB_NSHAR": 1,
        "WB_NTMPL": 1,
        "WB_NITER": len(found.factors),
    }
    assert {key: header[key] for key in expected} == expected
    assert header["WB_TMPL1"].endswith("_bkg_0001.fits")
    for key, value in {
        "BKGD_SCL": result.scales[0],
        "WB_SCERR": result.scale_errs[0],
        "WB_MFRAC": found.masked_fraction,
        "WB_UFRAC": found.used_fraction,
        "BKGLEVEL": found.level,
    }.items():
        assert header[key] == pytest.approx(value)
    assert "wfss: subtracted" in history(product)
    assert "masked as spectra by catalog" in history(product)
    table = fits.getdata(product, "WEBBKG")
    assert tuple(table.names) == INPUT_COLUMNS
    assert list(table["ROLE"]) == [
        *("science", "template", "catalog", "wavelengthrange", "parameters")
    ]
    assert table["NAME"][0] == path.name
    assert table["SHA256"][0] == checksum(path)
    assert table["SHA256"][2] == checksum(catalog)
    assert json.loads(table["VALUE"][-1]) == WfssParams().as_dict()
    np.testing.assert_array_equal(fits.getdata(product), result.exposure.data)
    np.testing.assert_array_equal(fits.getdata(product, "MASK"), ~result.mask)


def test_added_variance(skies, done):
    path = skies()
    [product], _ = done(path, "--catalog", skies.catalog())
    err, before = fits.getdata(product, "ERR"), fits.getdata(path, "ERR")
    variance = fits.getdata(product, "VAR_BKG")
    assert fits.getval(product, "BUNIT", "VAR_BKG") == "(DN/s)^2"
    good = np.isfinite(before) & (before > 0)
    np.testing.assert_allclose(err[good] ** 2, (before**2 + variance)[good], rtol=1e-5)
    # At least that of the factor.
    template = fits.getdata(skies.template())
    least = (template * fits.getval(product, "WB_SCERR")) ** 2
    assert np.all(variance[good] >= 0.99 * least[good])


def test_errors_are_kept_if_asked_for(skies, done):
    path = skies()
    [product], _ = done(path, "--errors", "keep")
    assert "VAR_BKG" not in names_of(product)
    assert cut(product, "ERR") == cut(path, "ERR")


def test_all_else_is_copied_byte_by_byte(skies, done):
    def add(hdus):
        hdus.insert(3, fits.ImageHDU(np.arange(6, dtype=np.int16).reshape(2, 3), name="EXTRA"))

    path = skies(change=add)
    [product], _ = done(path)
    assert names_of(product) == [*names_of(path)[:-1], "MASK", "VAR_BKG", "WEBBKG", "ASDF"]
    for name in ("EXTRA", "VAR_POISSON", "VAR_RNOISE", "ASDF"):
        assert cut(product, name) == cut(path, name)


def test_product_goes_back_into_the_pipeline(skies, done, tmp_path, monkeypatch):
    path = skies()
    [product], _ = done(path, "--catalog", skies.catalog())
    later = ("flat_field", "extract_2d", "srctype", "wfss_contam", "photom", "extract_1d")
    steps = {name: {"skip": True} for name in (*later, "bkg_subtract")}
    steps["assign_wcs"] = {"save_results": True, "output_dir": str(tmp_path)}
    monkeypatch.chdir(skies.folder)
    for item in skies.original().attachments:
        (skies.folder / item.name).write_bytes(item.read_bytes())
    product.rename(skies.folder / product.name)
    names = {kind: f"jw09999-o001_{kind}.fits" for kind in ("segm", "i2d")}
    table = skies.association(
        skies.folder / product.name,
        sourcecat=skies.catalog().name,
        segmap=names["segm"],
        direct_image=names["i2d"],
    )
    Spec2Pipeline.call(str(table), steps=steps, save_results=False)
    [assigned] = tmp_path.glob("*_assign*.fits")
    with datamodels.open(assigned) as model:
        assert model.meta.cal_step.assign_wcs == "COMPLETE"
        assert "world" in model.meta.wcs.available_frames
        assert model.meta.background.scaling_factor > 0
        np.testing.assert_array_equal(model.data, fits.getdata(skies.folder / product.name))
        np.testing.assert_array_equal(model.mask, fits.getdata(skies.folder / product.name, "MASK"))


# What tells where spectra are


def test_associations(skies, done):
    paths = [skies(index=0), skies(index=1)]
    products, _ = done(skies.association(*paths))
    assert [p.name for p in products] == [p.name.replace("_rate", "_bsub") for p in paths]
    for product in products:
        assert fits.getval(product, "WB_MSKBY") == "catalog"
        assert fits.getval(product, "WB_MFRAC") > 0.05


def test_catalogue_that_the_exposure_names(skies, done):
    name = skies.catalog().name
    path = skies(change=lambda hdus: hdus[0].header.update(SCATFILE=name))
    [product], _ = done(path)
    assert fits.getval(product, "WB_MSKBY") == "catalog"


def test_faint_sources_are_left_out(skies, done, tmp_path):
    path, catalog = skies(), skies.catalog()
    [whole], _ = done(path, "--catalog", catalog)
    [bright], _ = done(path, "--catalog", catalog, "--mmag-extract", "23", out=tmp_path / "b")
    assert 0 < fits.getval(bright, "WB_MFRAC") < 0.8 * fits.getval(whole, "WB_MFRAC")


def test_mask_of_a_file(skies, done):
    path = skies()
    background = np.ones((512, 512), np.uint8)
    background[100:300, 50:200] = 0
    mask = skies.mask(background)
    [product], _ = done(path, "--mask", mask)
    assert not fits.getdata(product, "MASK")[100:300, 50:200].any()
    assert fits.getval(product, "WB_MSKBY") == "mask"
    table = fits.getdata(product, "WEBBKG")
    assert list(table["ROLE"]) == ["science", "template", "mask", "parameters"]
    expected = wfss(path, mask=background == 0)
    np.testing.assert_array_equal(fits.getdata(product), expected.exposure.data)


def test_mask_of_one_run_is_that_of_another(skies, done, tmp_path):
    words = (skies(), "--rule", "pipeline")
    [first], _ = done(*words, "--catalog", skies.catalog())
    [second], _ = done(*words, "--mask", first, out=tmp_path / "again")
    assert fits.getval(second, "WB_SCALE") == fits.getval(first, "WB_SCALE")
    np.testing.assert_array_equal(fits.getdata(first, "MASK"), fits.getdata(second, "MASK"))


def test_without_catalogue_and_mask(skies, done):
    path = skies()
    [product], ran = done(path)
    assert "names no source catalogue" in ran.err
    assert fits.getval(product, "WB_MSKBY") == "nothing"
    level = truth_of(skies.original(), "sky")["level"]
    assert abs(fits.getval(product, "WB_SCALE") / level - 1.0) < 0.01
    # Spectra are found all the same.
    assert (fits.getdata(product, "MASK") == 0).mean() > 0.03


# Templates


def test_template_of_a_file(skies, done):
    path, template = skies(), skies.template()
    skies.without_crds()
    [product], _ = done(path, "--template", template)
    assert fits.getval(product, "WB_TMPL1") == "template.fits"
    assert fits.getdata(product, "WEBBKG")["SHA256"][1] == checksum(template)


def test_miri(skies, done):
    """Its prism disperses along columns; the simulator has no such exposures."""
    miri = {
        "INSTRUME": "MIRI",
        "DETECTOR": "MIRIMAGE",
        "FILTER": "P750L",
        "PUPIL": None,
        "EXP_TYPE": "MIR_WFSS",
        "FASTAXIS": 1,
        "SLOWAXIS": 2,
    }
    path = skies(change=set_keywords(**miri))
    template = skies.template(INSTRUME="MIRI", DETECTOR="MIRIMAGE", FILTER="P750L", PUPIL="N/A")
    skies.without_crds()
    [product], _ = done(path, "--template", template)
    level = truth_of(skies.original(), "sky")["level"]
    factor, error = (fits.getval(product, key) for key in ("WB_SCALE", "WB_SCERR"))
    assert abs(factor / level - 1.0) < max(0.003, 4 * error / level)


def test_several_templates(skies, done):
    path, template = skies(), skies.template()
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, 512, dtype=np.float32), (512, 512))
    other = skies.folder / "other.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(ramp, name="SCI")]).writeto(other)
    with fits.open(other, mode="update") as hdus:
        hdus[0].header.update(SUBSTRT1=1, SUBSTRT2=1)
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].data += 0.1 * ramp
    [product], _ = done(path, "--template", template, other, "--catalog", skies.catalog())
    header = fits.getheader(product)
    assert (header["WB_NTMPL"], header["WB_TMPL2"]) == (2, "other.fits")
    assert header["WB_SCL2"] == pytest.approx(0.1, abs=max(0.01, 5 * header["WB_SCE2"]))
    roles = list(fits.getdata(product, "WEBBKG")["ROLE"])
    assert roles.count("template") == 2


def test_template_of_the_whole_detector_is_cut(skies, done):
    path = skies("sub-array")
    [product], _ = done(path)
    assert fits.getdata(product).shape == (320, 256)
    assert fits.getdata(skies.template("sub-array")).shape == (512, 512)
    level = truth_of(skies.original("sub-array"), "sky")["level"]
    assert abs(fits.getval(product, "WB_SCALE") / level - 1.0) < 0.02


# One factor for a visit


def test_exposures_of_a_visit_share_a_factor(skies, done, tmp_path):
    paths = [skies(index=0), skies(index=1)]
    alone, _ = done(*paths)
    together, _ = done(*paths, "--share", "visit", out=tmp_path / "shared")
    own = [fits.getval(path, "WB_SCALE") for path in alone]
    errs = [fits.getval(path, "WB_SCERR") for path in alone]
    [shared] = {fits.getval(path, "WB_SCALE") for path in together}
    assert min(own) < shared < max(own)
    weights = 1.0 / np.square(errs)
    assert shared == pytest.approx(np.average(own, weights=weights))
    for path in together:
        assert fits.getval(path, "WB_NSHAR") == 2
        assert "of 2 exposures of the visit" in history(path)
    # All else is that of each exposure alone.
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(fits.getdata(one, "MASK"), fits.getdata(other, "MASK"))
        for key in ("WB_UFRAC", "WB_MFRAC", "WB_CHI2", "WB_NITER"):
            assert fits.getval(one, key) == fits.getval(other, key)


def test_exposures_of_two_visits_do_not(skies, done):
    def move(hdus):
        hdus[0].header["VISIT"] = "002"

    products, _ = done(skies(), skies(index=1, change=move), "--share", "visit")
    assert len({fits.getval(path, "WB_SCALE") for path in products}) == 2
    assert [fits.getval(path, "WB_NSHAR") for path in products] == [1, 1]


def test_a_visit_goes_on_without_one_that_fails(cli, skies, tmp_path):
    bad = skies(index=1, change=lambda hdus: hdus["SCI"].data.fill(np.nan))
    ran = cli("wfss", skies(), bad, "--share", "visit", "-o", tmp_path / "out")
    assert ran.code == 1
    [product] = (tmp_path / "out").glob("*_bsub.fits")
    assert fits.getval(product, "WB_NSHAR") == 1
    entries = json.loads((tmp_path / "out" / "metrics.json").read_text())["exposures"]
    assert [entry["status"] for entry in entries] == ["COMPLETE", "FAILED"]


# Options


def test_rule_of_the_pipeline(skies, done):
    path, catalog = skies(), skies.catalog()
    [product], _ = done(path, "--rule", "pipeline", "--maxiter", "2", "--catalog", catalog)
    assert fits.getval(product, "WB_RULE") == "pipeline"
    expected = wfss(path, WfssParams(rule="pipeline", maxiter=2), catalog=catalog)
    assert fits.getval(product, "WB_SCALE") == pytest.approx(expected.scales[0])


def test_config_and_its_dump(skies, done, cli, tmp_path):
    text = cli("wfss", "--rule", "pipeline", "--no-joint-1f", "--dump-config").out
    assert 'rule = "pipeline"' in text
    config = tmp_path / "my.toml"
    config.write_text(text)
    [product], _ = done(skies(), "--config", config)
    values = json.loads(fits.getdata(product, "WEBBKG")["VALUE"][-1])
    assert (values["rule"], values["joint_1f"]) == ("pipeline", False)


def test_dry_run_writes_nothing(skies, cli, tmp_path):
    path = skies()
    before = tree(tmp_path)
    ran = cli("wfss", path, "--catalog", skies.catalog(), "-o", tmp_path / "out", "--dry-run")
    (skies.folder / skies.catalog().name).unlink()
    assert ran.code == 0
    target = tmp_path / "out" / path.name.replace("_rate", "_bsub")
    assert ran.out == f"{path.name} -> {target}: templates jwst_niriss_bkg_0001.fits\n"
    assert tree(tmp_path) == before


def test_quiet(skies, done):
    _, ran = done(skies(), "--catalog", skies.catalog(), "-q")
    assert (ran.out, ran.err) == ("", "")


def test_report_of_an_earlier_call_does_not_stay(skies, done, cli, tmp_path):
    path = skies()
    out = tmp_path / "out"
    done(path, "--catalog", skies.catalog())
    with fits.open(path, mode="update") as hdus:
        hdus["DQ"].data |= 1
    ran = cli("wfss", path, "--catalog", skies.catalog(), "-o", out, "--overwrite")
    assert ran.code == 1
    [entry] = json.loads((out / "metrics.json").read_text())["exposures"]
    assert entry["status"] == "FAILED"
    assert "no pixel has a finite value" in (out / "webbkg-report.html").read_text()
