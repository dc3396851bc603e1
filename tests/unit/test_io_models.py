"""Open data models as input and output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import ExposureHandle, MemoryHandle, Window
from webbkg.io.files import FileHandle
from webbkg.io.models import ModelHandle, apply_to_model, background_model
from webbkg.io.provenance import Provenance
from webbkg.masks.flags import DO_NOT_USE
from webbkg.methods.average import AverageParams, average
from webbkg.results import Subtraction


def _model(kind: type[Any] = datamodels.ImageModel, shape: tuple[int, ...] = (6, 8)) -> Any:
    model = kind(shape)
    model.data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    model.err = np.full(shape, 0.3, np.float32)
    model.dq = np.zeros(shape, np.uint32)
    for path, value in {
        "filename": "science_rate.fits",
        "instrument.name": "MIRI",
        "instrument.detector": "MIRIMAGE",
        "instrument.filter": "F770W",
        "exposure.type": "MIR_LRS-FIXEDSLIT",
        "cal_step.bkg_subtract": "SKIPPED",
        "bunit_data": "DN/s",
        "subarray.xstart": 5,
        "subarray.ystart": 3,
        "subarray.xsize": shape[-1],
        "subarray.ysize": shape[-2],
    }.items():
        model[f"meta.{path}"] = value
    return model


def _subtraction(model: Any, **overrides: Any) -> tuple[Subtraction, Provenance]:
    background = np.full((6, 8), 2.0)
    background[1, 2] = np.nan
    handle = ModelHandle(model)
    other = MemoryHandle(background, np.full((6, 8), 0.4), window=handle.window, name="sky.fits")
    params = AverageParams(**overrides)
    return average(handle, [other], params), Provenance("average", params, [("sky.fits", "abc")])


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (datamodels.ImageModel, (6, 8)),
        (datamodels.IFUImageModel, (6, 8)),
        (datamodels.SlitModel, (6, 8)),
        (datamodels.CubeModel, (2, 6, 8)),
    ],
)
def test_a_handle_on_a_model_is_one_on_its_file(
    tmp_path: Path, kind: type[Any], shape: tuple[int, ...]
) -> None:
    path = tmp_path / "science_rate.fits"
    _model(kind, shape).save(path)
    on_file = FileHandle(path)
    with datamodels.open(path) as model:
        assert isinstance(model, kind)
        handle = ModelHandle(model)
        assert isinstance(handle, ExposureHandle)
        assert dict(handle.meta) == dict(on_file.meta)
    assert handle.name == on_file.name
    assert handle.window == on_file.window == Window(2, 4, 6, 8)
    assert handle.n_integrations == on_file.n_integrations
    for ours, theirs in (
        (handle.load(), on_file.load()),
        (handle.load_rows(1, 3), on_file.load_rows(1, 3)),
        (handle.load_integration(0), on_file.load_integration(0)),
    ):
        assert ours.window == theirs.window
        for name, dtype in (("data", np.float32), ("err", np.float32), ("dq", np.uint32)):
            array = getattr(ours, name)
            np.testing.assert_array_equal(array, getattr(theirs, name))
            assert array.dtype == dtype
            assert array.dtype.isnative


def test_keywords_of_a_model() -> None:
    meta = ModelHandle(_model()).meta
    expected = {"INSTRUME": "MIRI", "FILTER": "F770W", "S_BKDSUB": "SKIPPED", "BUNIT": "DN/s"}
    assert {key: meta.get(key) for key in expected} == expected
    assert "GWA_XTIL" not in meta


def test_a_slit_lies_at_its_own_place() -> None:
    model = _model(datamodels.SlitModel)
    model.xstart, model.ystart, model.xsize, model.ysize = 101, 201, 8, 6
    assert ModelHandle(model).window == Window(200, 100, 6, 8)


def test_a_full_frame_needs_no_place() -> None:
    with datamodels.ImageModel((1024, 1032)) as model:
        model.meta.instrument.name = "MIRI"
        handle = ModelHandle(model)
        assert handle.window == Window(0, 0, 1024, 1032)
        assert handle.name == "ImageModel"


def test_errors_and_flags_may_be_missing() -> None:
    model = _model()
    model.err = None
    model.dq = None
    exposure = ModelHandle(model).load()
    assert np.isnan(exposure.err).all()
    assert not exposure.dq.any()
    assert model.err is None
    assert model.dq is None


def test_models_that_are_no_exposure_are_refused() -> None:
    message = (
        "^MultiSlitModel: is a MultiSlitModel without pixels of its own; give a model of one "
        "exposure or slit, such as ImageModel, CubeModel or SlitModel$"
    )
    with pytest.raises(InputError, match=message):
        ModelHandle(datamodels.MultiSlitModel())
    ramp = _model(datamodels.QuadModel, (1, 2, 6, 8))
    with pytest.raises(ShapeError, match="an exposure needs 2 or 3 axes"):
        ModelHandle(ramp)


def test_the_same_exposure_is_recognised(tmp_path: Path) -> None:
    model = _model()
    handle = ModelHandle(model)
    path = tmp_path / "science_rate.fits"
    model.save(path)
    assert handle.is_same(ModelHandle(model))
    assert handle.is_same(ModelHandle(model.copy()))
    assert handle.is_same(FileHandle(path))
    other = model.copy()
    other.data = other.data + 1
    assert not handle.is_same(ModelHandle(other))
    other = model.copy()
    other.meta.filename = "other_rate.fits"
    assert not handle.is_same(ModelHandle(other))


def test_a_result_is_put_into_the_model_and_survives_writing(tmp_path: Path) -> None:
    model = _model()
    before = model.data
    subtraction, provenance = _subtraction(model)
    apply_to_model(model, subtraction, provenance)
    np.testing.assert_array_equal(before, _model().data)
    path = tmp_path / "product_bsub.fits"
    model.save(path)
    with datamodels.open(path) as written:
        written.validate()
        expected = np.arange(48, dtype=np.float32).reshape(6, 8) - 2.0
        expected[1, 2] += 2.0
        np.testing.assert_array_equal(written.data, expected)
        np.testing.assert_allclose(written.err[0], 0.5, rtol=1e-6)
        assert written.err[1, 2] == np.float32(0.3)
        assert np.count_nonzero(written.dq) == 1
        assert written.dq[1, 2] == DO_NOT_USE
        assert written.meta.cal_step.bkg_subtract == "COMPLETE"
        found = written.meta.background
        assert (found.method, found.level, found.subtracted) == ("average", 2.0, True)
        assert found.scaling_factor == 1.0
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(hdus["VAR_BKG"].data, subtraction.background_var)
        assert hdus["VAR_BKG"].header["BUNIT"] == "(DN/s)^2"
        assert hdus["WEBBKG"].data["SHA256"].tolist() == ["", "abc", ""]
        assert hdus[0].header["WB_NUSED"] == 1
        assert "subtracted the mean of 1 background" in str(hdus[0].header["HISTORY"])


def test_errors_that_are_kept_are_left_alone() -> None:
    model = _model()
    before = model.err
    apply_to_model(model, *_subtraction(model, errors="keep"))
    assert model.err is before
    assert "VAR_BKG" not in model.extra_fits.instance


def test_models_without_errors_or_flags_get_flags_only() -> None:
    model = _model()
    model.err = None
    model.dq = None
    apply_to_model(model, *_subtraction(model))
    assert model.err is None
    assert model.dq[1, 2] == DO_NOT_USE


def test_models_without_flags_stay_without_where_none_is_needed() -> None:
    model = _model()
    model.dq = None
    apply_to_model(model, *_subtraction(model, dq="keep"))
    assert model.dq is None


def test_unknown_extensions_and_cards_survive() -> None:
    model = _model()
    model.extra_fits = {
        "PRIMARY": {"header": [["OWNKEY", 7, "of the user"], ["WB_NUSED", 99, "of before"]]},
        "OWN": {"data": np.ones(3)},
    }
    apply_to_model(model, *_subtraction(model))
    cards = {key: value for key, value, _ in model.extra_fits.PRIMARY.header}
    assert len(cards) == len(model.extra_fits.PRIMARY.header)
    assert (cards["OWNKEY"], cards["WB_NUSED"]) == (7, 1)
    assert model.extra_fits.OWN.data.tolist() == [1.0, 1.0, 1.0]


def test_combined_background(tmp_path: Path) -> None:
    model = _model(datamodels.CubeModel, (3, 6, 8))
    combined = background_model(model, *_subtraction(model))
    assert isinstance(combined, datamodels.ImageModel)
    path = tmp_path / "background.fits"
    combined.save(path)
    with datamodels.open(path) as written:
        written.validate()
        assert isinstance(written, datamodels.ImageModel)
        assert np.isnan(written.data[1, 2])
        assert written.dq[1, 2] == DO_NOT_USE
        assert np.count_nonzero(written.data == 2.0) == 47
        np.testing.assert_allclose(written.err[0], 0.4, rtol=1e-6)
        assert written.extra_fits.COVERAGE.data[0, 0] == 1
        assert written.extra_fits.COVERAGE.data[1, 2] == 0
        assert written.meta.instrument.filter == "F770W"
        assert written.meta.subarray.xstart == 5
        assert written.meta.bunit_data == "DN/s"
        assert written.meta.background.subtracted is None
        # It can be used as a background again.
        assert ModelHandle(written).window == Window(2, 4, 6, 8)
