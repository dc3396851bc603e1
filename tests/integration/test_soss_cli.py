"""``webbkg soss``: files in, files out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import tree
from destripe_helpers import cut, names_of
from jwst.pipeline import Spec2Pipeline
from sky_helpers import skies, sky_originals, truth_of
from stdatamodels.jwst import datamodels

from webbkg import SossParams, soss
from webbkg.io.files import FileHandle, checksum
from webbkg.io.provenance import INPUT_COLUMNS

__all__ = ["skies", "sky_originals"]

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:wings of the traces:webbkg.errors.WebbkgWarning"),
]


@pytest.fixture
def done(cli, tmp_path):
    """Call the command on files, which must succeed; give the products and what it said."""

    def call(*words, out=tmp_path / "out"):
        ran = cli("soss", *words, "-o", out)
        assert ran.code == 0, ran
        return sorted(out.glob("*_bsub*.fits")), ran

    return call


@pytest.mark.parametrize("kind", ["soss", "soss-2d"])
def test_sky_is_gone(skies, done, kind):
    path = skies(kind)
    [product], ran = done(path)
    suffix = "_bsubints.fits" if kind == "soss" else "_bsub.fits"
    assert product.name == path.name.rpartition("_")[0] + suffix
    assert sorted(item.name for item in product.parent.iterdir()) == [
        product.name,
        "metrics.json",
        "webbkg-report.html",
    ]
    truth = truth_of(skies.original(kind), "sky")
    header = fits.getheader(product)
    for key, expected in zip(("WB_SCLL", "WB_SCLR"), truth["scales"], strict=True):
        # The star leaves little sky on the small sub-array; how good factors are, others test.
        assert header[key] == pytest.approx(expected, rel=0.1)
        assert 0 < header[f"{key}E"] < 0.1
    assert f"{product.name}: factors {header['WB_SCLL']:.5g} +- " in ran.out
    with datamodels.open(product, strict_validation=True) as model:
        model.validate()
        assert model.meta.filename == product.name
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"
        assert model.meta.background.scaling_factor == header["WB_SCLL"]
        assert model.data.ndim == (3 if kind == "soss" else 2)


def test_what_the_product_says(skies, done):
    path = skies("soss")
    [product], _ = done(path)
    result = soss(path)
    found = result.diagnostics
    header = fits.getheader(product)
    expected = {
        "BKGMETH": "soss",
        "WB_METH": "soss",
        "WB_RULE": "mode",
        "WB_NSCAL": 1,
        "WB_1SIDE": found.one_side,
        "WB_NTMPL": len(found.templates),
        "WB_TMPL1": found.templates[0],
    }
    assert {key: header[key] for key in expected} == expected
    for key, value in {
        "WB_SCLL": result.scales[0],
        "WB_SCLRE": result.scale_errs[1],
        "WB_STEP": found.step_column,
        "WB_UFRL": found.used_fractions[0],
        "WB_UFRR": found.used_fractions[1],
        "WB_WGHT1": found.weights[0],
    }.items():
        assert header[key] == pytest.approx(value), key
    text = " ".join(" ".join(header["HISTORY"]).split())
    assert "left of the step" in text
    table = fits.getdata(product, "WEBBKG")
    assert tuple(table.names) == INPUT_COLUMNS
    assert list(table["ROLE"]) == ["science", "template", "parameters"]
    assert table["SHA256"][0] == checksum(path)
    assert json.loads(table["VALUE"][-1]) == SossParams().as_dict()


def test_integrations_are_done_one_by_one(skies, done, monkeypatch):
    path = skies("soss")
    expected = soss(path).exposure

    def refuse(_):
        raise AssertionError("all integrations are in memory at once")

    monkeypatch.setattr(FileHandle, "load", refuse)
    monkeypatch.setattr(datamodels, "open", refuse)
    [product], _ = done(path)
    for name, array in (("SCI", expected.data), ("ERR", expected.err), ("DQ", expected.dq)):
        np.testing.assert_array_equal(fits.getdata(product, name), array)
    assert fits.getdata(product, "VAR_BKG").shape == (96, 2048)
    for name in ("INT_TIMES", "VAR_POISSON", "VAR_RNOISE", "ASDF"):
        assert cut(product, name) == cut(path, name)
    assert names_of(product) == [*names_of(path)[:-1], "VAR_BKG", "WEBBKG", "ASDF"]


def test_factors_by_integration(skies, done):
    path = skies("soss")
    with fits.open(path, mode="update") as hdus:
        # The sky of one integration is brighter.
        hdus["SCI"].data[1] += 0.1 * fits.getdata(skies.template("soss"))[0, 10:106]
    [product], _ = done(path, "--per-integration")
    variance = fits.getdata(product, "VAR_BKG")
    assert variance.shape == fits.getdata(path).shape
    err, before = fits.getdata(product, "ERR"), fits.getdata(path, "ERR")
    good = np.isfinite(before) & (before > 0)
    np.testing.assert_allclose(err[good] ** 2, (before**2 + variance)[good], rtol=1e-4)
    table = fits.getdata(product, "WBSCALES")
    assert list(table["INTEGRATION"]) == [1, 2, 3]
    result = soss(path, SossParams(per_integration=True))
    np.testing.assert_allclose(table["LEFT"], result.integration_scales[:, 0])
    np.testing.assert_allclose(table["RIGHT_ERR"], result.integration_scale_errs[:, 1])
    assert table["LEFT"][1] - table["LEFT"][0] == pytest.approx(0.1, abs=0.03)
    assert fits.getval(product, "WB_NSCAL") == 3
    with datamodels.open(product, strict_validation=True) as model:
        model.validate()


def test_one_integration_by_integration(skies, done):
    [product], _ = done(skies("soss-2d"), "--per-integration")
    assert fits.getdata(product, "VAR_BKG").shape == (96, 2048)
    assert len(fits.getdata(product, "WBSCALES")) == 1


def test_template_of_a_file(skies, done):
    path, template = skies("soss"), skies.template("soss")
    skies.without_crds()
    [product], _ = done(path, "--template", template)
    assert fits.getval(product, "WB_TMPL1").startswith("template.fits")
    assert fits.getdata(product, "WEBBKG")["SHA256"][1] == checksum(template)


def test_rule_of_the_pipeline(skies, done):
    words = ("--rule", "pipeline", "--source-percentile", "40", "--bkg-percentile", "20", "60")
    path = skies("soss")
    [product], _ = done(path, *words)
    params = SossParams(
        rule="pipeline", source_percentile=40, bkg_percentile_low=20, bkg_percentile_high=60
    )
    assert fits.getval(product, "WB_SCLL") == pytest.approx(soss(path, params).scales[0])
    values = json.loads(fits.getdata(product, "WEBBKG")["VALUE"][-1])
    assert values == params.as_dict()


def test_errors_are_kept_if_asked_for(skies, done):
    path = skies("soss")
    [product], _ = done(path, "--errors", "keep")
    assert "VAR_BKG" not in names_of(product)
    assert cut(product, "ERR") == cut(path, "ERR")


def test_product_goes_back_into_the_pipeline(skies, done, tmp_path):
    [product], _ = done(skies("soss"))
    later = ("flat_field", "srctype", "extract_1d", "photom", "bkg_subtract", "pixel_replace")
    steps = {name: {"skip": True} for name in later}
    Spec2Pipeline.call(str(product), steps=steps, output_dir=str(tmp_path), save_results=True)
    [calibrated] = tmp_path.glob("*_calints.fits")
    with datamodels.open(calibrated) as model:
        np.testing.assert_array_equal(model.data, fits.getdata(product))
        assert model.meta.cal_step.assign_wcs == "COMPLETE"
        assert "world" in model.meta.wcs.available_frames


def test_config_and_its_dump(cli, skies, done, tmp_path):
    text = cli("soss", "--bkg-percentile", "10", "30", "--dump-config").out
    assert "bkg_percentile_low = 10.0\n" in text
    config = tmp_path / "my.toml"
    config.write_text(text)
    [product], _ = done(skies("soss"), "--config", config)
    values = json.loads(fits.getdata(product, "WEBBKG")["VALUE"][-1])
    assert (values["bkg_percentile_low"], values["bkg_percentile_high"]) == (10.0, 30.0)


def test_dry_run_writes_nothing(skies, cli, tmp_path):
    path = skies("soss")
    before = tree(tmp_path)
    ran = cli("soss", path, "-o", tmp_path / "out", "--dry-run")
    assert ran.code == 0
    target = tmp_path / "out" / path.name.replace("_rateints", "_bsubints")
    assert ran.out.startswith(f"{path.name} -> {target}: templates jwst_niriss_bkg_0001.fits")
    assert tree(tmp_path) == before
