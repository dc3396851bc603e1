import re
import warnings

import numpy as np
import pytest
from astropy.io import fits

import webbkg
from webbkg import AverageParams, Exposure, MemoryHandle, Window, average
from webbkg.api import handle_of
from webbkg.errors import (
    InputError,
    NotApplicableError,
    ShapeError,
    WebbkgError,
    WebbkgWarning,
)

SHAPE = (4, 6)


def flat(value, shape=SHAPE):
    return np.full(shape, float(value))


def exposure(value, window=None, **meta):
    window = window or Window(0, 0, *SHAPE)
    array = np.full(window.shape, value, np.float32)
    return Exposure(array, array * 0 + 1, np.zeros(window.shape, np.uint32), window, meta=meta)


def write(path, value, *, with_dq=True, **keywords):
    primary = fits.PrimaryHDU()
    primary.header.update({"INSTRUME": "MIRI", "SUBSTRT1": 1, "SUBSTRT2": 1} | keywords)
    image = np.full(SHAPE, value, np.float32)
    hdus = [primary, fits.ImageHDU(image, name="SCI"), fits.ImageHDU(image * 0 + 1, name="ERR")]
    if with_dq:
        hdus.append(fits.ImageHDU(np.zeros(SHAPE, np.uint32), name="DQ"))
    fits.HDUList(hdus).writeto(path)
    return path


def background_of(result):
    values = np.unique(result.background)
    assert values.size == 1
    return float(values[0])


def test_arrays():
    result = average(flat(12.0), [flat(9.0), flat(10.0), flat(11.0)])
    assert isinstance(result, webbkg.Subtraction)
    np.testing.assert_array_equal(result.exposure.data, flat(2.0))
    assert background_of(result) == 10.0


def test_integrations():
    result = average(flat(12.0, (2, *SHAPE)), [flat(10.0, (3, *SHAPE)), flat(9.0), flat(11.0)])
    np.testing.assert_array_equal(result.exposure.data, flat(2.0, (2, *SHAPE)))


def test_everything_that_holds_an_exposure(tmp_path):
    science = write(tmp_path / "s_rate.fits", 12.0)
    sky = [
        write(tmp_path / "b1_rate.fits", 8.0),
        str(write(tmp_path / "b2_rate.fits", 9.0)),
        flat(10.0),
        exposure(11.0),
        MemoryHandle(flat(12.0), name="handle"),
    ]
    for first in (science, str(science)):
        result = average(first, sky)
        assert result.exposure.name == "s_rate.fits"
        assert background_of(result) == 10.0
    assert result.used == ("b1_rate.fits", "b2_rate.fits", "array", "exposure", "handle")
    assert background_of(average(exposure(12.0), tuple(sky))) == 10.0


def test_file_without_flags_is_told(tmp_path):
    science = write(tmp_path / "s_rate.fits", 12.0, with_dq=False)
    with pytest.warns(WebbkgWarning, match=r"^s_rate.fits: has no DQ, so no pixel is flagged$"):
        average(science, [flat(9.0), flat(10.0), flat(11.0)])


@pytest.mark.parametrize("kind", ["path", "text", "array", "exposure", "handle"])
def test_a_single_background_needs_no_list(tmp_path, kind):
    path = write(tmp_path / "b_rate.fits", 10.0)
    one = {
        "path": path,
        "text": str(path),
        "array": flat(10.0),
        "exposure": exposure(10.0),
        "handle": MemoryHandle(flat(10.0)),
    }[kind]
    message = (
        "one background only: nothing can be clipped, sources in the background leave holes in the "
        "science exposure; give 3 or more"
    )
    with pytest.warns(WebbkgWarning, match=f"^{re.escape(message)}$"):
        result = average(flat(12.0), one)
    assert background_of(result) == 10.0


def test_stack_of_backgrounds_is_one_of_integrations():
    """An array of 3 axes is no sequence of images."""
    with pytest.warns(WebbkgWarning, match="^one background only"):
        result = average(flat(12.0), np.stack([flat(9.0), flat(11.0)]))
    assert background_of(result) == 10.0
    assert result.diagnostics.n_backgrounds == 1


def test_bare_arrays_lie_where_the_science_does():
    science = exposure(12.0, Window(100, 200, *SHAPE))
    result = average(science, [flat(10.0)] + [exposure(10.0, science.window) for _ in range(2)])
    assert result.template.window == science.window
    assert background_of(result) == 10.0


def test_arrays_are_not_changed():
    science, sky = flat(12.0), [flat(9.0), flat(10.0), flat(11.0)]
    for array in (science, *sky):
        array.flags.writeable = False
    average(science, sky).exposure.data[:] = 0.0
    assert (science == 12.0).all()


def test_parameters_are_used():
    sky = [flat(value) for value in (10.0, 10.0, 10.0, 50.0)]
    with pytest.warns(WebbkgWarning, match="^clip=std at 3 sigma can reject nothing from 4 values"):
        result = average(flat(12.0), sky, AverageParams(clip="std"))
    assert background_of(result) == 20.0
    assert background_of(average(flat(12.0), sky)) == 10.0


def test_progress_is_reported():
    done = []
    average(flat(12.0), [flat(1.0), flat(2.0), flat(3.0)], progress=done.append)
    assert sum(done) == pytest.approx(1.0)


def test_warnings_point_at_the_caller():
    with pytest.warns(WebbkgWarning) as caught:
        average(flat(12.0), flat(10.0))
    assert [warning.filename for warning in caught] == [__file__]


def test_every_remark_is_a_warning():
    sky = [exposure(10.0, FILTER="B"), exposure(10.0, Window(50, 0, *SHAPE)), *[exposure(10.0)] * 2]
    with pytest.warns(WebbkgWarning) as caught:
        average(exposure(12.0, FILTER="A"), sky, force=True)
    assert [str(warning.message) for warning in caught] == [
        "exposure: given more than once as background, used once",
        (
            "forced: exposure: filter B (FILTER) but the science exposure exposure has A; give "
            "backgrounds of the same filter"
        ),
        "exposure: does not overlap the science exposure, not used",
        (
            "two backgrounds only: nothing can be clipped, sources in the background leave holes "
            "in the science exposure; give 3 or more"
        ),
    ]


def test_good_inputs_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average(flat(12.0), [flat(9.0), flat(10.0), flat(11.0)])


# What is refused


def test_arrays_of_other_shape():
    message = (
        "array: has (5, 6) rows and columns but the science exposure has (4, 6); use MemoryHandle "
        "with a window to place it"
    )
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        average(flat(1.0), [flat(1.0), np.ones((5, 6))])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4, 6)])
def test_arrays_that_are_no_exposures(shape):
    message = f"array: an exposure needs 2 or 3 axes, got shape {shape}"
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        average(np.ones(shape), [flat(1.0)])


@pytest.mark.parametrize("wrong", [None, 3, {"SCI": 1}, object()])
def test_things_that_are_no_exposures(wrong):
    message = (
        f"{type(wrong).__name__}: not an exposure; give a path, an array, an Exposure, a handle or "
        "a JWST data model"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        average(flat(1.0), [wrong])
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        average(wrong, [flat(1.0)])


@pytest.mark.parametrize("empty", [[], ()])
def test_no_background(empty):
    message = (
        "array: no background exposure was given; name at least one with --bkg or as a member of "
        "exptype 'background'"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        average(flat(1.0), empty)


def test_science_as_its_own_background(tmp_path):
    array, path = flat(1.0), write(tmp_path / "s_rate.fits", 1.0)
    for science in (array, path):
        with pytest.raises(InputError, match=r"is the science exposure itself; subtracting it"):
            average(science, [flat(2.0), science])


def test_missing_file(tmp_path):
    message = f"{tmp_path}/none.fits: no such file"
    with pytest.raises(WebbkgError, match=f"^{re.escape(message)}$"):
        average(flat(1.0), tmp_path / "none.fits")


def test_disagreement_is_refused_unless_forced():
    sky = [exposure(10.0, FILTER="B"), exposure(10.0), exposure(10.0)]
    with pytest.raises(InputError, match=r"filter B \(FILTER\) .* \(--force overrides\)$"):
        average(exposure(12.0, FILTER="A"), sky)
    with pytest.warns(WebbkgWarning, match="^forced: exposure: filter B"):
        assert background_of(average(exposure(12.0, FILTER="A"), sky, force=True)) == 10.0


def test_grating_wheel_that_moved():
    science = exposure(12.0, INSTRUME="NIRSPEC", GWA_XTIL=0.1, GWA_YTIL=0.2)
    sky = [exposure(10.0, INSTRUME="NIRSPEC", GWA_XTIL=0.1, GWA_YTIL=0.3) for _ in range(3)]
    with pytest.raises(NotApplicableError, match=r"GWA_YTIL is 0\.3 but the science exposure"):
        average(science, sky)
    assert background_of(average(science, sky, force=True)) == 10.0


# Handles


def test_a_handle_is_returned_as_it_is():
    handle = MemoryHandle(flat(1.0))
    assert handle_of(handle) is handle


def test_handle_of_an_array_without_a_place():
    assert handle_of(flat(1.0)).window == Window(0, 0, *SHAPE)


def test_handle_of_a_data_model():
    from stdatamodels.jwst import datamodels

    with datamodels.ImageModel() as model:
        model.data = flat(12.0).astype(np.float32)
        model.meta.instrument.name = "MIRI"
        model.meta.subarray.xstart = model.meta.subarray.ystart = 1
        handle = handle_of(model)
        assert handle.window == Window(0, 0, *SHAPE)
        np.testing.assert_array_equal(handle.load().data, model.data)
        result = average(model, [flat(9.0), flat(10.0), flat(11.0)])
    assert background_of(result) == 10.0
