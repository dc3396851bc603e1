"""What products of grism and SOSS exposures say, and how they are written."""

import json
import math

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, OutputError
from webbkg.exposure import MemoryHandle, Window
from webbkg.io.files import FileHandle
from webbkg.io.provenance import INPUT_COLUMNS
from webbkg.io.sky_models import apply_sky_to_model
from webbkg.io.sky_products import SkyRecord, describe_sky, sky_extensions, write_sky_product
from webbkg.methods.soss import SossDiagnostics, SossParams, SossSubtraction
from webbkg.methods.wfss import WfssDiagnostics, WfssParams, WfssSubtraction
from webbkg.template import Template

SHAPE = (6, 8)
COMMON = {"clip_rule": "", "n_backgrounds": 1, "n_used_mean": 1.0, "clipped_fraction": 0.0}


def write_rate(path, n=None, **keywords):
    shape = SHAPE if n is None else (n, *SHAPE)
    with datamodels.ImageModel(shape) if n is None else datamodels.CubeModel(shape) as model:
        model.data = np.random.default_rng(1).normal(1.0, 0.1, shape).astype(np.float32)
        model.err = np.full(shape, 0.1, np.float32)
        model.dq = np.zeros(shape, np.uint32)
        model.meta.instrument.name = "NIRISS"
        model.meta.exposure.type = "NIS_WFSS" if n is None else "NIS_SOSS"
        model.meta.subarray.xstart = model.meta.subarray.ystart = 1
        model.meta.bunit_data = "DN/s"
        for name, value in keywords.items():
            model[name] = value
        model.save(path)
    return FileHandle(path)


def template(science, image, err=0.02):
    return Template(
        image=image.astype(np.float32),
        err=np.full(image.shape, err, np.float32),
        n_used=np.ones(image.shape, np.uint16),
        dq=np.zeros(image.shape, np.uint32),
        window=science.window,
    )


def grism(science, *, scales=(0.5,), errs=(0.01,), hole=False, **diagnostics):
    found = {"rule": "model", "used_fraction": 0.7, "masked_fraction": 0.2} | diagnostics
    image, flags = np.full(SHAPE, 0.5), np.zeros(SHAPE, np.uint32)
    if hole:
        image[2, 3], flags[2, 3] = np.nan, 1
    mask = np.zeros(SHAPE, bool)
    mask[1] = True
    return WfssSubtraction(
        science=science,
        template=template(science, image),
        used=tuple(f"t{k}.fits" for k in range(len(scales))),
        diagnostics=WfssDiagnostics(**COMMON | {"coverage": 1.0, "level": 0.5} | found),
        scales=scales,
        scale_errs=errs,
        propagate_errors=True,
        flag_bits=flags,
        mask=mask,
    )


def soss(science, *, by_integration=True):
    right = np.zeros(SHAPE, bool)
    right[:, 4:] = True
    scales = np.array([[0.9, 1.0], [1.0, 1.1], [1.1, 1.2]])
    sky = np.full(SHAPE, 0.5, np.float32)
    return SossSubtraction(
        science=science,
        template=template(science, np.where(right, 1.1, 1.0) * sky),
        used=("lib.fits[2]",),
        diagnostics=SossDiagnostics(
            **COMMON,
            coverage=1.0,
            level=0.5,
            rule="mode",
            templates=("lib.fits[2]",),
            weights=(1.0,),
            rms=(1.0, 2.0),
            step_column=4.0,
        ),
        scales=(1.0, 1.1),
        scale_errs=(0.01, 0.02),
        propagate_errors=True,
        flag_bits=np.zeros(SHAPE, np.uint32),
        mask=np.zeros(SHAPE, bool),
        right=right,
        integration_scales=scales if by_integration else None,
        integration_scale_errs=0.01 * scales if by_integration else None,
        sky=sky,
        sky_err=np.full(SHAPE, 0.02, np.float32),
    )


RECORD = SkyRecord(params=WfssParams(), inputs=[("science", "a_rate.fits", "ab")])
SOSS_RECORD = SkyRecord(params=SossParams(), inputs=[])


@pytest.fixture
def rate(tmp_path):
    return write_rate(tmp_path / "a_rate.fits")


@pytest.fixture
def rateints(tmp_path):
    return write_rate(tmp_path / "a_rateints.fits", 3)


# What is said


def test_keywords_fit_fits(rate, rateints):
    for result, record in ((grism(rate), RECORD), (soss(rateints), SOSS_RECORD)):
        header = fits.Header()
        for key, (value, comment) in describe_sky(result, record).keywords.items():
            assert len(key) <= 8
            header[key] = (value, comment)
            assert not header.cards[key].image.rstrip().endswith("&"), key
        assert header["S_BKDSUB"] == "COMPLETE"


def test_what_is_not_known_is_left_out(rate):
    said = describe_sky(grism(rate), RECORD).keywords
    assert not {"WB_CHI2", "WB_LNRMS", "WB_RMSA"} & set(said)
    result = grism(rate, errs=(math.nan,), chi2=1.1, lines_rms=0.2)
    said = describe_sky(result, RECORD).keywords
    assert "WB_SCERR" not in said
    assert (said["WB_CHI2"][0], said["WB_LNRMS"][0]) == (1.1, 0.2)


def test_several_templates_are_named(rate):
    result = grism(rate, scales=(0.5, 0.25), errs=(0.01, 0.02))
    said = {key: value for key, (value, _) in describe_sky(result, RECORD).keywords.items()}
    assert (said["WB_NTMPL"], said["WB_TMPL1"], said["WB_TMPL2"]) == (2, "t0.fits", "t1.fits")
    assert (said["WB_SCL2"], said["WB_SCE2"], said["BKGD_SCL"]) == (0.25, 0.02, 0.5)
    assert (
        "0.5 (+- 0.01) x t0.fits + 0.25 (+- 0.02) x t1.fits"
        in describe_sky(result, RECORD).lines[0]
    )


def test_rows(rate):
    record = SkyRecord(
        params=WfssParams(rule="pipeline"),
        inputs=[("science", "a_rate.fits", "ab"), ("template", "t.fits", "cd"), ("mask", "ü", "")],
    )
    rows = describe_sky(grism(rate), record).rows
    assert rows.dtype.names == INPUT_COLUMNS
    assert [row[0] for row in rows] == [b"science", b"template", b"mask", b"parameters"]
    assert rows[2][1] == b"?"
    assert json.loads(rows[-1][3])["rule"] == "pipeline"
    # An exposure that is no file is named all the same.
    assert describe_sky(grism(rate), SkyRecord(params=WfssParams(), inputs=[])).rows[0][1] == (
        b"a_rate.fits"
    )


def test_history_warns(rate):
    lines = describe_sky(grism(rate, warnings=("few pixels",)), RECORD).lines
    assert lines[-1] == "warning: few pixels"
    assert lines[1].endswith("told the factor, nothing told beforehand where spectra are")
    shared = SkyRecord(params=WfssParams(), inputs=[], n_shared=4, masked_by="catalog")
    text = " ".join(describe_sky(grism(rate), shared).lines)
    assert "of 4 exposures of the visit" in text
    assert "20 % were masked as spectra by catalog" in text


# What is written


def test_grism_product(rate, tmp_path):
    result = grism(rate, hole=True)
    target = tmp_path / "a_bsub.fits"
    write_sky_product(result, RECORD, target)
    with fits.open(target) as hdus:
        assert_array_equal(hdus["SCI"].data, result.exposure.data)
        assert_array_equal(hdus["DQ"].data, result.exposure.dq)
        assert hdus["DQ"].data[2, 3] == 1
        assert_array_equal(hdus["MASK"].data, ~result.mask)
        assert hdus["VAR_BKG"].data[2, 3] == 0
        assert hdus["VAR_BKG"].header["BUNIT"] == "(DN/s)^2"
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()
        assert model.mask.dtype == np.uint32


def test_a_second_product_has_one_of_each(rate, tmp_path):
    first, second = tmp_path / "first.fits", tmp_path / "second.fits"
    write_sky_product(grism(rate), RECORD, first)
    again = grism(FileHandle(first))
    again.mask[:] = True
    write_sky_product(again, RECORD, second)
    with fits.open(second) as hdus:
        names = [hdu.name for hdu in hdus]
        assert len(names) == len(set(names))
        assert not hdus["MASK"].data.any()


@pytest.mark.parametrize("by_integration", [True, False])
def test_soss_product(rateints, tmp_path, by_integration):
    result = soss(rateints, by_integration=by_integration)
    target = tmp_path / "a_bsubints.fits"
    write_sky_product(result, SOSS_RECORD, target)
    with fits.open(target) as hdus:
        assert ("WBSCALES" in hdus) == by_integration
        assert "MASK" not in hdus
        assert_array_equal(hdus["SCI"].data, result.exposure.data)
        variance = hdus["VAR_BKG"].data
        if by_integration:
            assert variance.shape == (3, *SHAPE)
            for index in range(3):
                assert_array_equal(variance[index], result.variance(index))
            table = hdus["WBSCALES"].data
            assert list(table["INTEGRATION"]) == [1, 2, 3]
            assert list(table["RIGHT"]) == [1.0, 1.1, 1.2]
            assert hdus[0].header["WB_NSCAL"] == 3
        else:
            assert_array_equal(variance, result.background_var)
            assert hdus[0].header["WB_NSCAL"] == 1
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()


def test_an_array_has_no_product(tmp_path):
    science = MemoryHandle(np.ones(SHAPE), name="mine")
    with pytest.raises(InputError, match=r"^mine: is no file, so there is no product"):
        write_sky_product(grism(science), RECORD, tmp_path / "x.fits")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unless_it_may_be(rate, tmp_path):
    target = tmp_path / "x.fits"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists already; use --overwrite"):
        write_sky_product(grism(rate), RECORD, target)
    assert target.read_text() == "mine"
    write_sky_product(grism(rate), RECORD, target, overwrite=True)
    assert fits.getval(target, "WB_METH") == "wfss"


# Data models


def test_model_of_a_grism_exposure(rate, tmp_path):
    result = grism(rate)
    with datamodels.open(rate.path) as model:
        apply_sky_to_model(model, result, RECORD)
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"
        assert model.meta.background.scaling_factor == 0.5
        assert_array_equal(model.mask, ~result.mask)
        model.save(tmp_path / "b.fits")
    write_sky_product(result, RECORD, tmp_path / "c.fits")
    with fits.open(tmp_path / "b.fits") as ours, fits.open(tmp_path / "c.fits") as written:
        for name in ("SCI", "ERR", "DQ", "MASK", "VAR_BKG"):
            assert_array_equal(ours[name].data, written[name].data)
        for key in ("WB_RULE", "WB_UFRAC", "BKGMETH", "WB_TMPL1"):
            assert ours[0].header[key] == written[0].header[key]
        assert list(ours["WEBBKG"].data["NAME"]) == list(written["WEBBKG"].data["NAME"])


def test_model_of_integrations(rateints, tmp_path):
    result = soss(rateints)
    with datamodels.open(rateints.path) as model:
        apply_sky_to_model(model, result, SOSS_RECORD)
        model.save(tmp_path / "b.fits")
    with fits.open(tmp_path / "b.fits") as hdus:
        assert hdus["VAR_BKG"].data.shape == (3, *SHAPE)
        assert list(hdus["WBSCALES"].data["LEFT"]) == [0.9, 1.0, 1.1]
    assert sky_extensions(soss(rateints, by_integration=False), SOSS_RECORD) == []


def test_window_of_the_products(tmp_path):
    science = write_rate(tmp_path / "s_rate.fits", **{"meta.subarray.xstart": 5})
    assert science.window == Window(0, 4, *SHAPE)
    write_sky_product(grism(science), RECORD, tmp_path / "s_bsub.fits")
    assert FileHandle(tmp_path / "s_bsub.fits").window == science.window
