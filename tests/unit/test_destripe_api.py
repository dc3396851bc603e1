"""`webbkg.destripe` on arrays, handles, data models and files; masks and flats of all kinds."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal
from stdatamodels.jwst import datamodels

import webbkg
from webbkg import DestripeParams, MemoryHandle, destripe
from webbkg.errors import (
    InputError,
    NoBackgroundPixelsError,
    ParameterError,
    ShapeError,
    WebbkgWarning,
)
from webbkg.exposure import Exposure, Window

ROWS = DestripeParams(method="rows")
META = {"FASTAXIS": 1, "NOUTPUTS": 1}


def striped(shape=(64, 64), *, axis=1, seed=1):
    """White noise of 1 on a sky of 20, with stripes of 5."""
    rng = np.random.default_rng(seed)
    lines = rng.normal(0.0, 5.0, (shape[-2], 1) if axis == 1 else (1, shape[-1]))
    return (20.0 + rng.normal(0.0, 1.0, shape) + lines).astype(np.float32)


def test_names():
    assert webbkg.destripe is destripe
    assert isinstance(destripe(striped(), ROWS), webbkg.Destriped)
    assert webbkg.DestripeParams is DestripeParams


# Arrays


@pytest.mark.parametrize("method", ["rows", "amplifiers", "model"])
def test_rows_of_a_bare_array_are_lines(method):
    image = striped()
    result = destripe(image, DestripeParams(method=method))
    assert np.std(image.mean(axis=1)) > 3.0
    if method != "amplifiers":
        assert np.std(result.exposure.data.mean(axis=1)) < 0.3
    assert result.exposure.data.dtype == np.float32
    # It has no errors.
    assert np.isnan(result.exposure.err).all()
    assert (result.stripes[0].variance() > 0).all()


@pytest.mark.parametrize("axis", [2, -2])
def test_columns_of_a_bare_array_are_lines_if_told(axis):
    image = striped(axis=2)
    result = destripe(image, ROWS, fast_axis=axis)
    assert_allclose(result.exposure.data, destripe(image.T.copy(), ROWS).exposure.data.T, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis", "n"),
    [((8, 2048), 1, 4), ((8, 64), 1, 1), ((2048, 16), 2, 4), ((8, 2048), 2, 1)],
)
def test_amplifiers_of_a_bare_array(shape, axis, n):
    mask = np.zeros(shape, bool)
    result = destripe(striped(shape, axis=axis), ROWS, mask=mask, fast_axis=axis)
    assert result.stripes[0].readout.n_amplifiers == n


def test_amplifiers_of_a_bare_array_that_are_given():
    result = destripe(striped(), ROWS, n_outputs=4)
    assert result.stripes[0].readout.bounds == (0, 16, 32, 48, 64)
    with pytest.raises(InputError, match=r"3 outputs .* cannot share 64 pixels"):
        destripe(striped(), ROWS, n_outputs=3)


def test_integrations_of_an_array():
    images = np.stack([striped(seed=1), striped(seed=2)])
    result = destripe(images, ROWS)
    assert result.exposure.data.shape == (2, 64, 64)
    assert len(result.stripes) == 2


def test_arrays_are_not_changed():
    image, mask, flat = striped(), np.zeros((64, 64), bool), np.ones((64, 64), np.float32)
    for array in (image, mask, flat):
        array.flags.writeable = False
    destripe(image, mask=mask, flat=flat)


@pytest.mark.parametrize("given", [{"fast_axis": 1}, {"n_outputs": 4}])
def test_readout_is_told_of_arrays_alone(given):
    with pytest.raises(ParameterError, match=r"are for bare arrays; .* correct these instead"):
        destripe(MemoryHandle(striped(), meta=META), ROWS, **given)


def test_bad_arrays():
    with pytest.raises(ShapeError, match="needs 2 or 3 axes, got shape"):
        destripe(np.zeros(5))
    with pytest.raises(NoBackgroundPixelsError, match="array: no pixel is usable"):
        destripe(np.full((64, 64), np.nan))
    with pytest.raises(NoBackgroundPixelsError, match="array: all usable pixels are 0"):
        destripe(np.zeros((64, 64)))
    with pytest.raises(InputError, match="array: needs FASTAXIS of 1, 2, -1 or -2"):
        destripe(striped(), fast_axis=3)


# Other exposures


def test_handles_and_exposures():
    image = striped()
    expected = destripe(image, ROWS).exposure.data
    handle = MemoryHandle(image, err=np.ones_like(image), meta=META)
    exposure = Exposure(
        image, np.ones_like(image), np.zeros(image.shape, np.uint32), Window(0, 0, 64, 64),
        meta=META,
    )  # fmt: skip
    for given in (handle, exposure):
        result = destripe(given, ROWS)
        assert_array_equal(result.exposure.data, expected)
        assert (result.exposure.err > 1.0).all()


def test_handle_without_keywords():
    with pytest.raises(InputError, match="array: needs FASTAXIS"):
        destripe(MemoryHandle(striped()))


def model_of(image):
    model = datamodels.ImageModel(image.shape)
    model.data = image
    model.err = np.ones_like(image)
    model.meta.subarray.instance.update(xstart=1, ystart=1, xsize=64, ysize=64, fastaxis=1)
    model.meta.exposure.noutputs = 1
    model.meta.filename = "a_rate.fits"
    return model


def test_data_models():
    image = striped()
    model = model_of(image)
    result = destripe(model, ROWS)
    assert_array_equal(result.exposure.data, destripe(image, ROWS).exposure.data)
    assert_array_equal(model.data, image)
    model.meta.cal_step.clean_flicker_noise = "COMPLETE"
    with pytest.raises(InputError, match=r"^a_rate.fits: its stripes have been removed already"):
        destripe(model)
    with pytest.warns(WebbkgWarning, match="forced: a_rate.fits: its stripes have been removed"):
        destripe(model, force=True)


def test_data_model_with_our_mark():
    model = model_of(striped())
    model.extra_fits = {"PRIMARY": {"header": [["WB_DSTRP", "model", ""]]}}
    with pytest.raises(InputError, match=r"removed already \(WB_DSTRP=model\)"):
        destripe(model)


def test_data_model_that_is_flat_fielded():
    model = model_of(striped())
    model.meta.cal_step.flat_field = "COMPLETE"
    destripe(model, ROWS)
    with pytest.raises(InputError, match=r"by its flat field already \(S_FLAT=COMPLETE\)"):
        destripe(model, flat=np.ones((64, 64)))


# Masks and flats


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float64])
def test_masks(tmp_path, kind):
    mask = np.zeros((64, 64), kind)
    mask[10:20, 3:50] = 1
    expected = mask > 0
    path = tmp_path / "m.fits"
    fits.PrimaryHDU(mask.astype(np.int16)).writeto(path)
    for given in (mask, path, str(path)):
        assert_array_equal(destripe(striped(), ROWS, mask=given).mask, expected)


def test_masks_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"mask: the mask has shape \(64, 32\) but array needs"):
        destripe(striped(), mask=np.zeros((64, 32), bool))
    mask = np.ones((64, 64), bool)
    mask[3, 3:9] = False
    with pytest.raises(InputError, match=r"mask: masks 99.9 % .* opposite sense .* invert it"):
        destripe(striped(), mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WebbkgWarning)
        assert_array_equal(destripe(striped(), ROWS, mask=mask, force=True).mask, mask)


def test_flats(tmp_path):
    flat = np.random.default_rng(2).normal(1.0, 0.001, (64, 64)).astype(np.float32)
    flat[5, 5] = 0.0
    path = tmp_path / "f.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(flat, name="SCI")]).writeto(path)
    results = [destripe(striped(), flat=given) for given in (flat, path, str(path))]
    for result in results[1:]:
        assert_array_equal(result.exposure.data, results[0].exposure.data)


def test_flats_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"flat: the flat field has shape \(2048, 2048\)"):
        destripe(striped(), flat=np.ones((2048, 2048)))
    with pytest.raises(InputError, match="flat: no pixel of the flat field is positive"):
        destripe(striped(), flat=np.zeros((64, 64)))


# Else


def test_parameters_of_another_kind():
    with pytest.raises(ParameterError, match="params must be a DestripeParams, got dict; write"):
        destripe(striped(), {"method": "rows"})


def test_warnings_of_the_method():
    mask = np.zeros((64, 64), bool)
    mask[7:9] = True
    with pytest.warns(WebbkgWarning, match="2 lines have no pixel without a source"):
        destripe(striped(), ROWS, mask=mask)


def test_progress():
    done = []
    destripe(np.stack([striped()] * 3), ROWS, progress=done.append)
    assert sum(done) == pytest.approx(1.0)


def test_help_of_the_command_imports_no_pipeline():
    code = "import sys; from webbkg.cli.destripe import command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jwst", "stdatamodels", "matplotlib", "astropy"} & set(done.stdout.split())
