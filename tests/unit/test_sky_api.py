"""`webbkg.wfss` and `webbkg.soss` on arrays, handles, data models and files."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal
from stdatamodels.jwst import datamodels

import webbkg
from webbkg import MemoryHandle, SkyReference, SossParams, WfssParams, soss, wfss
from webbkg.errors import (
    InputError,
    NotApplicableError,
    ParameterError,
    ShapeError,
    WebbkgWarning,
)
from webbkg.exposure import Exposure, Window
from webbkg.methods.visit import share_scales
from webbkg.sim import sky_template

SHAPE = (256, 256)
META = {
    "EXP_TYPE": "NIS_WFSS",
    "FILTER": "GR150R",
    "PUPIL": "F150W",
    "INSTRUME": "NIRISS",
    "FASTAXIS": -2,
    "NOUTPUTS": 4,
}


def sky(shape=SHAPE):
    """Even along columns, with a step and a slope along rows."""
    x = np.linspace(-1.0, 1.0, shape[1], dtype=np.float32)
    return np.broadcast_to(1.0 + 0.1 * x - 0.3 * (x < -0.6), shape).astype(np.float32, order="C")


def spectra(shape=SHAPE):
    """Where two spectra are, along rows."""
    mask = np.zeros(shape, bool)
    mask[40:48, 30:200] = mask[150:158, 90:250] = True
    return mask


def observed(level=0.4, seed=1):
    rng = np.random.default_rng(seed)
    return (level * sky() + rng.normal(0.0, 0.02, SHAPE) + 0.5 * spectra()).astype(np.float32)


def handle(**options):
    options = {"err": np.full(SHAPE, 0.02), "meta": META, "name": "a_rate.fits"} | options
    return MemoryHandle(observed(), **options)


def found(*args, **options):
    with warnings.catch_warnings():
        # What is known of the noise of an array, and of its spectra.
        warnings.simplefilter("ignore", WebbkgWarning)
        return wfss(*args, templates=options.pop("templates", sky()), **options)


# Grisms


def test_names():
    assert webbkg.wfss is wfss
    assert webbkg.soss is soss
    assert isinstance(found(handle(), mask=spectra(), dispersion_axis=1), webbkg.WfssSubtraction)


def test_handles_and_exposures():
    data, err, dq = observed(), np.full(SHAPE, 0.02, np.float32), np.zeros(SHAPE, np.uint32)
    exposure = Exposure(data, err, dq, Window(0, 0, *SHAPE), meta=META)
    for given in (handle(), exposure):
        result = found(given, mask=spectra(), dispersion_axis=1)
        assert abs(result.scales[0] - 0.4) < 0.002
        assert_allclose(result.background, result.scales[0] * sky(), rtol=1e-5)
        assert_allclose(result.exposure.data, data - result.background, atol=1e-6)
        assert (result.exposure.err >= err).all()


def test_arrays_are_not_changed():
    arrays = observed(), sky(), spectra()
    for array in arrays:
        array.flags.writeable = False
    image, template, mask = arrays
    science = MemoryHandle(image, err=np.full(SHAPE, 0.02))
    found(science, templates=template, mask=mask, dispersion_axis=1)


def test_templates_of_all_kinds(tmp_path):
    path = tmp_path / "t.fits"
    primary = fits.PrimaryHDU()
    primary.header.update(SUBSTRT1=1, SUBSTRT2=1)
    fits.HDUList([primary, fits.ImageHDU(sky(), name="SCI")]).writeto(path)
    zeros = np.zeros(SHAPE, np.float32)
    reference = SkyReference(
        "mine", sky(), zeros, zeros.astype(np.uint32), Window(0, 0, *SHAPE), {}
    )
    results = [
        found(handle(), templates=given, mask=spectra(), dispersion_axis=1)
        for given in (sky(), path, str(path), reference, [sky()], [reference])
    ]
    assert [result.used[0] for result in results[:4]] == ["template", "t.fits", "t.fits", "mine"]
    for result in results[1:]:
        assert result.scales == results[0].scales


def test_miri():
    """Its lines of readout and its grism are others."""
    rng = np.random.default_rng(3)
    template = (1.0 + 0.2 * np.linspace(-1.0, 1.0, 512)[:, np.newaxis] * np.ones(256)).astype("f4")
    meta = {
        "EXP_TYPE": "MIR_WFSS",
        "INSTRUME": "MIRI",
        "FILTER": "P750L",
        "FASTAXIS": 1,
        "NOUTPUTS": 4,
    }
    image = 3.0 * template + rng.normal(0.0, 0.1, template.shape)
    science = MemoryHandle(image, err=np.full(image.shape, 0.1), meta=meta)
    result = found(science, templates=template)
    assert abs(result.scales[0] - 3.0) < 0.01
    assert abs(result.exposure.data.mean()) < 0.01


def test_several_templates():
    other = np.broadcast_to(np.linspace(0.0, 1.0, SHAPE[0])[:, np.newaxis], SHAPE)
    image = observed() + 0.2 * other
    science = MemoryHandle(image, err=np.full(SHAPE, 0.02), meta=META)
    result = found(science, templates=[sky(), other], mask=spectra(), dispersion_axis=1)
    assert_allclose(result.scales, (0.4, 0.2), atol=0.01)
    assert len(result.scale_errs) == 2


def test_factors_that_are_given():
    result = found(handle(), mask=spectra(), dispersion_axis=1, scales=([0.3], [0.01]))
    assert result.scales == (0.3,)
    assert_allclose(result.background, 0.3 * sky(), rtol=1e-6)
    assert (result.background_var >= 0.99 * (0.01 * sky()) ** 2).all()


def test_masks(tmp_path):
    path = tmp_path / "m.fits"
    background = (~spectra()).astype(np.uint8)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(background, name="MASK")]).writeto(path)
    params = WfssParams(rule="pipeline")
    results = [
        found(handle(), params, mask=given) for given in (spectra(), path, spectra().astype(int))
    ]
    for result in results:
        assert_array_equal(result.mask, spectra())
        assert result.scales == results[0].scales
    with pytest.raises(ShapeError, match=r"mask: the mask has shape \(256, 12\) but a_rate.fits"):
        found(handle(), mask=np.zeros((256, 12), bool))


def model_of():
    model = datamodels.ImageModel(SHAPE)
    model.data = observed()
    model.err = np.full(SHAPE, 0.02, np.float32)
    model.meta.exposure.type = "NIS_WFSS"
    for name, value in {"name": "NIRISS", "filter": "GR150R", "pupil": "F150W"}.items():
        setattr(model.meta.instrument, name, value)
    model.meta.subarray.instance.update(xstart=1, ystart=1, xsize=256, ysize=256)
    model.meta.subarray.fastaxis = -2
    model.meta.exposure.noutputs = 4
    model.meta.wcsinfo.dispersion_direction = 1
    model.meta.filename = "a_rate.fits"
    return model


def test_data_models():
    model = model_of()
    before = model.data.copy()
    result = found(model, mask=spectra())
    assert abs(result.scales[0] - 0.4) < 0.002
    assert_array_equal(model.data, before)
    model.meta.cal_step.bkg_subtract = "COMPLETE"
    with pytest.raises(InputError, match=r"^a_rate.fits: its background has been subtracted"):
        wfss(model, templates=sky())
    with pytest.warns(WebbkgWarning, match="forced: a_rate.fits: its background has been"):
        wfss(model, templates=sky(), mask=spectra(), force=True)


def test_no_catalogue_is_said():
    with pytest.warns(WebbkgWarning, match=r"a_rate.fits: names no source catalogue"):
        wfss(handle(), templates=sky(), dispersion_axis=1)


def test_bad_calls():
    with pytest.raises(ParameterError, match="params must be WfssParams, got dict; write"):
        wfss(observed(), {"rule": "model"}, templates=sky())
    with pytest.raises(ParameterError, match="share='visit' is for the command"):
        wfss(observed(), WfssParams(share="visit"), templates=sky())
    with pytest.raises(InputError, match=r"array: .* neither a file nor a data model.*template"):
        wfss(observed())
    with pytest.raises(ShapeError, match=r"template: has shape \(9, 9\) but array has \(256, 256"):
        wfss(observed(), templates=np.ones((9, 9)))
    with pytest.raises(ShapeError, match="has 2 integrations"):
        wfss(np.stack([observed()] * 2), templates=sky())
    image = handle(meta=META | {"EXP_TYPE": "NIS_IMAGE"})
    with pytest.raises(NotApplicableError, match="EXP_TYPE is NIS_IMAGE, needed for webbkg wfss"):
        wfss(image, templates=sky())


# SOSS


def strip(scales=(0.9, 1.1), n=None, seed=1):
    """SUBSTRIP96 without a star."""
    template = sky_template(0).astype(np.float32)[10:106]
    image = np.where(np.arange(2048) < 700, scales[0], scales[1]) * template
    rng = np.random.default_rng(seed)
    shape = image.shape if n is None else (n, *image.shape)
    return (image + rng.normal(0.0, 0.05, shape)).astype(np.float32)


SOSS_META = {"EXP_TYPE": "NIS_SOSS", "INSTRUME": "NIRISS"}


@pytest.mark.parametrize("n", [None, 3])
def test_soss(n):
    data = strip(n=n)
    science = MemoryHandle(
        data, err=np.full(data.shape, 0.05), window=Window(1802, 0, 96, 2048), meta=SOSS_META
    )
    template = sky_template(0).astype(np.float32)[10:106]
    for given in (template, template[np.newaxis]):
        result = soss(science, SossParams(rule="pipeline", source_percentile=100), templates=given)
        assert isinstance(result, webbkg.SossSubtraction)
        assert result.exposure.data.shape == data.shape
        assert_allclose(result.scales, (0.9, 1.1), rtol=0.05)
    planes = list(result.planes())
    assert len(planes) == (n or 1)
    assert_array_equal(planes[0].data, result.exposure.data.reshape(-1, 96, 2048)[0])


def test_soss_needs_a_soss_exposure():
    with pytest.raises(NotApplicableError, match="EXP_TYPE is NIS_WFSS, needed for webbkg soss is"):
        soss(handle(), templates=sky())
    with pytest.raises(ParameterError, match="params must be SossParams, got WfssParams"):
        soss(strip(), WfssParams(), templates=sky())


# Factors that a visit shares


def test_shared_factors():
    shared = share_scales([[1.0, 5.0], [2.0, 5.0]], [[0.1, 1.0], [0.2, 1.0]])
    assert_allclose(shared.scales, (1.2, 5.0))
    # The first scatter by more than their errors: 1 / sqrt(0.05).
    assert_allclose(shared.excess, (1.0 / np.sqrt(0.05), 0.0), atol=1e-12)
    assert_allclose(shared.errs, (np.sqrt(1 / 125) / np.sqrt(0.05), np.sqrt(0.5)))
    assert shared.disagree


def test_one_exposure_shares_with_nobody():
    shared = share_scales([[0.7]], [[0.1]])
    assert (shared.scales, shared.errs, shared.disagree) == ((0.7,), (0.1,), False)


@pytest.mark.parametrize("err", [0.0, np.nan])
def test_shared_factors_without_errors(err):
    shared = share_scales([[1.0], [2.0], [3.0]], [[0.1], [err], [0.1]])
    assert_allclose(shared.scales, [2.0])
    assert_allclose(shared.errs, [1.0 / np.sqrt(3.0)])
    assert not shared.disagree


@pytest.mark.parametrize("method", ["wfss", "soss"])
def test_help_of_the_command_imports_no_pipeline(method):
    code = f"import sys; from webbkg.cli.{method} import command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"jwst", "stdatamodels", "matplotlib", "astropy", "numba"} & loaded
