"""The steps ``webbkg_wfss`` and ``webbkg_soss``: alone, through ``strun``, on data models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import tree
from destripe_helpers import names_of, set_keywords
from jwst.assign_wcs import AssignWcsStep
from jwst.stpipe import Step
from sky_helpers import skies, sky_originals
from stdatamodels.jwst import datamodels
from stpipe.utilities import import_class, resolve_step_class_alias

from webbkg import SossParams, WfssParams, soss, wfss
from webbkg.errors import ParameterError
from webbkg.io.files import checksum
from webbkg.steps import SossStep, WfssStep

__all__ = ["skies", "sky_originals"]

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*names no source catalogue:webbkg.errors.WebbkgWarning"),
    pytest.mark.filterwarnings("ignore:wings of the traces:webbkg.errors.WebbkgWarning"),
]


@pytest.mark.parametrize(("alias", "step"), [("webbkg_wfss", WfssStep), ("webbkg_soss", SossStep)])
def test_aliases(alias, step):
    assert import_class(resolve_step_class_alias(alias), Step) is step


def test_defaults_are_those_of_the_methods():
    for step, params in ((WfssStep(), WfssParams()), (SossStep(), SossParams())):
        assert step._params() == params


def test_wfss_on_an_association(skies, tmp_path):
    path = skies()
    table = skies.association(path)
    (tmp_path / "out").mkdir()
    result = WfssStep.call(table, output_dir=str(tmp_path / "out"), save_results=True)
    expected = wfss(path, catalog=skies.catalog())
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    assert result.meta.background.scaling_factor == pytest.approx(expected.scales[0])
    for name in ("data", "err", "dq"):
        np.testing.assert_array_equal(result[name], getattr(expected.exposure, name))
    np.testing.assert_array_equal(result.mask, ~expected.mask)
    # What is written is what the command writes.
    [product] = (tmp_path / "out").glob("*.fits")
    assert product.name == path.name.replace("_rate", "_bsub")
    assert {"MASK", "VAR_BKG", "WEBBKG"} <= set(names_of(product))
    np.testing.assert_array_equal(fits.getdata(product, "VAR_BKG"), expected.background_var)
    assert fits.getval(product, "WB_MSKBY") == "catalog"
    template = fits.getdata(product, "WEBBKG")["NAME"][1]
    assert fits.getval(product, "R_BKG") == f"crds://{template}"
    roles = ["science", "template", "catalog", "wavelengthrange", "parameters"]
    assert list(fits.getdata(product, "WEBBKG")["ROLE"]) == roles
    with datamodels.open(product, strict_validation=True) as model:
        model.validate()


def test_wfss_between_other_steps(skies, monkeypatch):
    """A data model with a WCS and the name of a catalogue, as calwebb_spec2 has it there."""
    path = skies()
    monkeypatch.chdir(skies.folder)
    with datamodels.open(path) as model:
        model.meta.source_catalog = skies.catalog().name
        assigned = AssignWcsStep.call(model)
    before = assigned.data.copy()
    result = WfssStep.call(assigned, rule="pipeline")
    expected = wfss(path, WfssParams(rule="pipeline"), catalog=skies.catalog())
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    assert result.meta.background.scaling_factor == pytest.approx(expected.scales[0], rel=1e-6)
    assert (result.mask == 0).mean() > 0.05
    # The model that was given is as it was.
    np.testing.assert_array_equal(assigned.data, before)


def test_wfss_takes_files(skies):
    path, template = skies(), skies.template()
    background = np.ones((512, 512), np.uint8)
    background[50:90] = 0
    mask = skies.mask(background)
    skies.without_crds()
    result = WfssStep.call(
        path, templates=[str(template)], user_mask=str(mask), errors="keep", joint_1f=False
    )
    params = WfssParams(errors="keep", joint_1f=False)
    expected = wfss(path, params, templates=template, mask=mask)
    np.testing.assert_array_equal(result.data, expected.exposure.data)
    assert not result.mask[50:90].any()
    assert result.meta.ref_file.bkg.name is None


@pytest.mark.parametrize("kind", ["soss", "soss-2d"])
def test_soss(skies, tmp_path, kind):
    path = skies(kind)
    (tmp_path / "out").mkdir()
    result = SossStep.call(path, output_dir=str(tmp_path / "out"), save_results=True)
    expected = soss(path)
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    for name in ("data", "err", "dq"):
        np.testing.assert_array_equal(result[name], getattr(expected.exposure, name))
    [product] = (tmp_path / "out").glob("*.fits")
    assert product.name.endswith("_bsubints.fits" if kind == "soss" else "_bsub.fits")
    assert fits.getval(product, "WB_SCLR") == pytest.approx(expected.scales[1])
    table = fits.getdata(product, "WEBBKG")
    assert (table["NAME"][0], table["SHA256"][0]) == (path.name, checksum(path))


def test_soss_by_integration(skies):
    path = skies("soss")
    result = SossStep.call(path, per_integration=True)
    expected = soss(path, SossParams(per_integration=True))
    np.testing.assert_array_equal(result.data, expected.exposure.data)
    variance = result.extra_fits.VAR_BKG.data
    assert variance.shape == result.data.shape
    np.testing.assert_array_equal(variance[1], expected.variance(1))
    assert len(result.extra_fits.WBSCALES.data) == 3


def test_soss_of_one_integration_by_integration(skies):
    path = skies("soss-2d")
    result = SossStep.call(path, per_integration=True)
    assert result.data.shape == result.extra_fits.VAR_BKG.data.shape == (96, 2048)
    assert len(result.extra_fits.WBSCALES.data) == 1


# What is not done


@pytest.mark.parametrize(
    ("step", "kind", "change"),
    [
        (WfssStep, "soss", None),
        (SossStep, "niriss", None),
        # CRDS has no template.
        (WfssStep, "niriss", {"FILTER": "GR150C"}),
    ],
    ids=["wfss", "soss", "no-template"],
)
def test_skipped(skies, caplog, step, kind, change):
    path = skies(kind, change=set_keywords(**change) if change else None)
    result = step.call(path)
    assert result.meta.cal_step.bkg_subtract == "SKIPPED"
    assert "skipping the subtraction" in caplog.text
    np.testing.assert_array_equal(result.data, fits.getdata(path))


def test_soss_of_another_height_is_skipped(skies):
    def cut(hdus):
        for name in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"):
            hdus[name].data = hdus[name].data[:, :64]
        hdus[0].header["SUBSIZE2"] = 64

    result = SossStep.call(skies("soss", change=cut))
    assert result.meta.cal_step.bkg_subtract == "SKIPPED"


def test_failed(skies, caplog):
    path = skies(change=lambda hdus: hdus["DQ"].data.fill(1))
    result = WfssStep.call(path)
    assert result.meta.cal_step.bkg_subtract == "FAILED"
    assert f"{path.name}: " in caplog.text
    np.testing.assert_array_equal(result.data, fits.getdata(path))


def test_done_before(skies, caplog):
    path = skies(change=set_keywords(S_BKDSUB="COMPLETE"))
    result = WfssStep.call(path)
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    assert "has been subtracted already" in caplog.text
    np.testing.assert_array_equal(result.data, fits.getdata(path))
    forced = WfssStep.call(path, force=True)
    assert np.nanmedian(forced.data) < 0.5 * np.nanmedian(result.data)


def test_bad_parameter(skies):
    path = skies()
    with pytest.raises(ParameterError, match="outlier_percent must be at least 0 and at most 50"):
        WfssStep.call(path, outlier_percent=60.0)


# From a shell


@pytest.mark.parametrize(
    ("alias", "kind", "option"),
    [("webbkg_wfss", "niriss", "--rule=pipeline"), ("webbkg_soss", "soss", "--errors=keep")],
)
def test_strun(skies, tmp_path, alias, kind, option):
    path = skies(kind)
    before = tree(skies.folder)
    command = [str(Path(sys.executable).with_name("strun")), alias, str(path), option]
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [*command, f"--output_dir={tmp_path / 'out'}"],
        env={**os.environ, "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    [product] = (tmp_path / "out").glob("*_bsub*.fits")
    assert fits.getval(product, "S_BKDSUB") == "COMPLETE"
    assert "subtracted" in done.stdout + done.stderr
    assert tree(skies.folder) == before
