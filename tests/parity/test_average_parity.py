"""
Averaging as the pipeline does: the same numbers, and every difference that is meant.

The pipeline's side is `jwst.background.background_sub.background_sub` of jwst 3.0, ours the method
with the preset ``pipeline`` on files, and the drop-in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwst.background
import numpy as np
import pytest
from jwst.background.background_sub import background_sub
from stdatamodels.jwst import datamodels

from webbkg.io.files import FileHandle
from webbkg.io.models import ModelHandle
from webbkg.masks.flags import DO_NOT_USE
from webbkg.methods.average import AverageParams, average
from webbkg.results import Subtraction
from webbkg.sim import miri_imaging, write_observation
from webbkg.steps import BackgroundStep

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    # Of the pipeline's own arithmetic, where a pixel has no value.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
]


@dataclass(frozen=True)
class _Pipeline:
    """What jwst makes of the same input."""

    result: Any
    background: Any


def _pipeline(
    science: Any, backgrounds: Sequence[Any], sigma: float = 3.0, maxiters: int | None = None
) -> _Pipeline:
    model = datamodels.open(science).copy()
    paths = [str(item) if isinstance(item, Path) else item.copy() for item in backgrounds]
    background, result = background_sub(model, paths, sigma, maxiters)
    return _Pipeline(result, background)


def _method(
    science: Any, backgrounds: Sequence[Any], sigma: float = 3.0, maxiters: int | None = None
) -> Subtraction:
    params = AverageParams.build(
        preset="pipeline", overrides={"sigma": sigma, "maxiters": maxiters}
    )
    return average(_handle(science), [_handle(item) for item in backgrounds], params)


def _handle(item: Any) -> FileHandle | ModelHandle:
    return FileHandle(item) if isinstance(item, Path) else ModelHandle(item)


def _drop_in(science: Any, backgrounds: Sequence[Any], **options: Any) -> Any:
    items = [str(item) if isinstance(item, Path) else item for item in backgrounds]
    source = str(science) if isinstance(science, Path) else science
    return BackgroundStep(**options).run(source, items)


def _assert_parity(
    science: Any, backgrounds: Sequence[Any], sigma: float = 3.0, maxiters: int | None = None
) -> _Pipeline:
    """Compare both ways of ours with the pipeline, where every pixel has a background."""
    expected = _pipeline(science, backgrounds, sigma, maxiters)
    subtraction = _method(science, backgrounds, sigma, maxiters)
    step = _drop_in(science, backgrounds, sigma=sigma, maxiters=maxiters)
    exact = expected.result.data.ndim == 2
    covered = ~subtraction.template.undefined
    # The same DQ follows from every uncovered pixel being flagged in the inputs already.
    np.testing.assert_array_equal(subtraction.exposure.dq, expected.result.dq)
    np.testing.assert_array_equal(step.dq, expected.result.dq)
    for ours in (subtraction.exposure, step):
        # The pipeline averages integrations in float32, which is the only rounding that differs.
        limit = 0.0 if exact else 1e-6 * np.abs(expected.background.data).max()
        np.testing.assert_allclose(ours.data, expected.result.data, rtol=0, atol=limit)
        np.testing.assert_array_equal(ours.err, expected.result.err)
    np.testing.assert_allclose(
        subtraction.background[covered], expected.background.data[covered], rtol=1e-6
    )
    if exact:
        np.testing.assert_allclose(
            subtraction.template.err[covered], expected.background.err[covered], rtol=1e-6
        )
    assert step.meta.cal_step.bkg_subtract == "COMPLETE"
    return expected


def _model(
    kind: type[Any] = datamodels.ImageModel,
    *,
    shape: tuple[int, ...] = (24, 32),
    start: tuple[int, int] | None = (0, 0),
    level: float = 10.0,
    seed: int = 0,
    instrument: str = "NIRSPEC",
    exposure_type: str = "NRS_FIXEDSLIT",
    name: str = "simulated_rate.fits",
) -> Any:
    """Flat sky with noise, some NaN and some flags; `start` is the first row and column."""
    rng = np.random.default_rng(seed)
    # Checking every assignment against the schemas would take most of the time.
    model = kind(shape, validate_on_assignment=False)
    model.data = rng.normal(level, 0.5, shape).astype(np.float32)
    model.data[rng.random(shape) < 0.02] = np.nan
    model.data[rng.random(shape) < 0.02] += 20.0
    model.err = rng.uniform(0.4, 0.6, shape).astype(np.float32)
    model.dq = np.where(rng.random(shape) < 0.05, 4, 0).astype(np.uint32)
    model.dq[np.isnan(model.data)] |= DO_NOT_USE
    model.meta.instrument.name = instrument
    model.meta.exposure.type = exposure_type
    model.meta.filename = name
    if instrument == "NIRSPEC":
        model.meta.instrument.gwa_xtilt = 0.34722
        model.meta.instrument.gwa_ytilt = -0.01298
    if start is not None:
        model.meta.subarray.ystart, model.meta.subarray.xstart = start[0] + 1, start[1] + 1
        model.meta.subarray.ysize, model.meta.subarray.xsize = shape[-2:]
    return model


def _models(n: int, **options: Any) -> list[Any]:
    return [_model(seed=k + 1, name=f"background{k + 1}_rate.fits", **options) for k in range(n)]


# The same numbers


@pytest.mark.real
@pytest.mark.parametrize("sigma", [3.0, 2.0])
@pytest.mark.parametrize("target", range(5))
def test_each_ami_dither_against_the_others(shared_data: Path, target: int, sigma: float) -> None:
    paths = sorted((shared_data / "ami").glob("jw01093014001*_cal.fits"))
    assert len(paths) == 5
    science = paths.pop(target)
    expected = _assert_parity(science, paths, sigma)
    assert np.isfinite(expected.result.data).any()


@pytest.mark.parametrize(("sigma", "maxiters"), [(3.0, None), (2.0, None), (1.5, 2)])
def test_miri_images(tmp_path: Path, sigma: float, maxiters: int | None) -> None:
    # 12 backgrounds, so that 3 sigma can reject; stars in them, NaN where DO_NOT_USE.
    observation = miri_imaging(
        n_science=1, n_background=12, shape=(96, 104), n_background_stars=4000
    )
    files = write_observation(observation, tmp_path)
    expected = _assert_parity(files.science[0], files.backgrounds, sigma, maxiters)
    plain_mean = np.mean([exposure.data for exposure in observation.backgrounds], axis=0)
    rejected = expected.background.data != plain_mean.astype(np.float32)
    assert np.count_nonzero(rejected & np.isfinite(plain_mean)) > 100


@pytest.mark.parametrize("n_backgrounds", [1, 2, 3, 9])
def test_any_number_of_backgrounds(n_backgrounds: int) -> None:
    observation = miri_imaging(n_science=1, n_background=n_backgrounds, shape=(40, 48))
    models = [_of_simulated(exposure) for exposure in observation.backgrounds]
    _assert_parity(_of_simulated(observation.science[0]), models, 2.0)


def _of_simulated(exposure: Any) -> Any:
    model = _model(
        shape=exposure.data.shape, instrument="MIRI", exposure_type="MIR_IMAGE", name=exposure.name
    )
    model.data, model.err, model.dq = exposure.data, exposure.err, exposure.dq
    return model


def test_nirspec_full_frames_without_subarray_keywords(tmp_path: Path) -> None:
    science = _model(shape=(2048, 2048), start=None)
    assert science.meta.subarray.xstart is None
    paths = []
    for k, model in enumerate(_models(2, shape=(2048, 2048), start=None)):
        model.save(tmp_path / f"background{k}_rate.fits")
        paths.append(tmp_path / f"background{k}_rate.fits")
    science.save(tmp_path / "science_rate.fits")
    expected = _pipeline(tmp_path / "science_rate.fits", paths)
    step = _drop_in(tmp_path / "science_rate.fits", paths)
    np.testing.assert_array_equal(step.data, expected.result.data)
    undefined = _method(tmp_path / "science_rate.fits", paths).template.undefined
    np.testing.assert_array_equal(step.dq, expected.result.dq | undefined * np.uint32(DO_NOT_USE))


@pytest.mark.parametrize(
    ("kind", "exposure_type"),
    [
        (datamodels.ImageModel, "NRS_FIXEDSLIT"),
        (datamodels.IFUImageModel, "NRS_IFU"),
        (datamodels.SlitModel, "NRS_BRIGHTOBJ"),
    ],
)
def test_nirspec_spectra(kind: type[Any], exposure_type: str) -> None:
    options: dict[str, Any] = {"kind": kind, "exposure_type": exposure_type, "start": (3, 7)}
    _assert_parity(_model(**options), _models(6, **options), 2.0)


def test_rateints_with_different_numbers_of_integrations() -> None:
    options: dict[str, Any] = {"kind": datamodels.CubeModel, "instrument": "MIRI"}
    science = _model(shape=(5, 24, 32), **options)
    backgrounds = [
        _model(shape=(n, 24, 32), seed=n, name=f"{n}_rateints.fits", **options) for n in (8, 4, 12)
    ]
    _assert_parity(science, backgrounds, 2.0)


def test_rateints_files(tmp_path: Path) -> None:
    observation = miri_imaging(
        n_science=1, n_background=3, shape=(40, 48), n_integrations=4, bad_fraction=0.0
    )
    files = write_observation(observation, tmp_path)
    # Reference pixels are NaN in all integrations, where the pipeline averages zeros: the same.
    _assert_parity(files.science[0], files.backgrounds)


def test_subarray_science_in_full_frame_backgrounds() -> None:
    science = _model(shape=(10, 12), start=(7, 9))
    backgrounds = _models(6, shape=(24, 32))
    _assert_parity(science, backgrounds, 2.0)


def test_backgrounds_that_do_not_overlap_are_left_out() -> None:
    elsewhere = _model(shape=(24, 32), start=(500, 500), level=1e6)
    _assert_parity(_model(), [*_models(6), elsewhere], 2.0)


def test_a_background_given_twice_counts_twice() -> None:
    backgrounds = _models(6)
    once = _assert_parity(_model(), backgrounds, 2.0)
    twice = _assert_parity(_model(), [*backgrounds, backgrounds[0]], 2.0)
    assert not np.array_equal(once.result.data, twice.result.data, equal_nan=True)


def test_science_as_its_own_background() -> None:
    science = _model()
    science.dq[:] = 0
    science.data[np.isnan(science.data)] = 1.0
    expected = _assert_parity(science, [science])
    assert not expected.result.data.any()


def test_flags_of_backgrounds_mask_nothing_at_defaults() -> None:
    backgrounds = _models(6)
    for model in backgrounds:
        model.dq[:, :4] |= DO_NOT_USE
    _assert_parity(_model(), backgrounds, 2.0)


def test_science_without_usable_pixels_is_corrected_too() -> None:
    science = _model()
    science.dq[:] |= DO_NOT_USE
    backgrounds = _models(6)
    expected = _pipeline(science, backgrounds)
    step = _drop_in(science, backgrounds)
    np.testing.assert_array_equal(step.data, expected.result.data)
    assert step.meta.cal_step.bkg_subtract == "COMPLETE"


@pytest.mark.parametrize("maxiters", [0, -1])
def test_no_iterations_means_to_convergence(maxiters: int) -> None:
    backgrounds = _models(12)
    expected = _pipeline(_model(), backgrounds, 1.5, maxiters)
    once = _pipeline(_model(), backgrounds, 1.5, 1)
    assert not np.array_equal(expected.result.data, once.result.data, equal_nan=True)
    step = _drop_in(_model(), backgrounds, sigma=1.5, maxiters=maxiters)
    np.testing.assert_array_equal(step.data, expected.result.data)


def test_nothing_but_pixels_flags_and_status_differs_from_the_input() -> None:
    science = _model()
    step = _drop_in(science, _models(6))
    assert step is not science
    assert science.meta.cal_step.bkg_subtract is None
    np.testing.assert_array_equal(step.err, science.err)
    assert "VAR_BKG" not in step.extra_fits.instance


# The same statuses and exceptions


def _pipeline_step(science: Any, backgrounds: Any) -> Any:
    return jwst.background.BackgroundStep().run(science, backgrounds)


@pytest.mark.parametrize("backgrounds", [None, [], "", ",", [""]])
def test_no_background_is_skipped(backgrounds: Any) -> None:
    science = _model()
    expected, step = (
        _pipeline_step(science, backgrounds),
        BackgroundStep().run(science, backgrounds),
    )
    assert step.meta.cal_step.bkg_subtract == expected.meta.cal_step.bkg_subtract == "SKIPPED"
    np.testing.assert_array_equal(step.data, science.data)


@pytest.mark.parametrize(
    ("attribute", "difference", "status"),
    [
        ("gwa_xtilt", 0.5e-8, "COMPLETE"),
        ("gwa_ytilt", -0.5e-8, "COMPLETE"),
        ("gwa_xtilt", 2e-8, "SKIPPED"),
        ("gwa_ytilt", -2e-8, "SKIPPED"),
        ("gwa_ytilt", np.nan, "SKIPPED"),
    ],
)
def test_nirspec_tilts(attribute: str, difference: float, status: str) -> None:
    science, backgrounds = _model(), _models(3)
    tilt = getattr(science.meta.instrument, attribute)
    setattr(backgrounds[2].meta.instrument, attribute, tilt + difference)
    expected = _pipeline_step(science, backgrounds)
    step = BackgroundStep().run(science, backgrounds)
    assert expected.meta.cal_step.bkg_subtract == status
    assert step.meta.cal_step.bkg_subtract == status
    np.testing.assert_array_equal(step.data, expected.data)


def test_tilts_of_other_instruments_do_not_matter() -> None:
    science, backgrounds = _model(instrument="MIRI"), _models(3, instrument="MIRI")
    backgrounds[0].meta.instrument.gwa_xtilt = 1.0
    assert BackgroundStep().run(science, backgrounds).meta.cal_step.bkg_subtract == "COMPLETE"


@pytest.mark.parametrize("in_science", [True, False])
def test_missing_tilts_raise_the_same_type_of_error(in_science: bool) -> None:
    science, backgrounds = _model(), _models(3)
    (science if in_science else backgrounds[1]).meta.instrument.gwa_ytilt = None
    for step in (jwst.background.BackgroundStep(), BackgroundStep()):
        with pytest.raises(TypeError):
            step.run(science, backgrounds)


@pytest.mark.parametrize("bad", ["missing", "subarray of unknown place"])
def test_unusable_backgrounds_raise_the_same_type_of_error(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "background_rate.fits"
    if bad != "missing":
        _model(start=None).save(path)
    raised = []
    for step in (jwst.background.BackgroundStep(), BackgroundStep()):
        with pytest.raises((OSError, ValueError)) as caught:
            step.run(_model(instrument="MIRI"), [str(path)])
        raised.append(caught.type)
    assert issubclass(raised[1], raised[0])


# Intended differences


def test_difference_subarray_background_inside_the_science_window() -> None:
    science = _model()
    science.data[:] = 100.0
    science.dq[:] = 0
    backgrounds = _models(4, shape=(8, 10), start=(12, 16), level=50.0)
    expected = _pipeline(science, backgrounds)
    # The pipeline puts it at the corner of the science window.
    assert np.median(expected.result.data[:8, :10]) == pytest.approx(50.0, abs=1.0)
    assert (expected.result.data[12:20, 16:26] == 100.0).all()
    step = _drop_in(science, backgrounds)
    assert np.median(step.data[12:20, 16:26]) == pytest.approx(50.0, abs=1.0)
    assert (step.data[:8, :10] == 100.0).all()
    assert (step.dq[:8, :10] == DO_NOT_USE).all()


def test_difference_pixels_without_background_are_flagged() -> None:
    science, backgrounds = _model(), _models(4)
    science.dq[:] = 0
    for model in backgrounds:
        model.data[3, 5] = np.nan
        model.dq[:] = 0
    expected = _pipeline(science, backgrounds)
    step = _drop_in(science, backgrounds)
    assert step.data[3, 5] == expected.result.data[3, 5] == science.data[3, 5]
    assert expected.result.dq[3, 5] == 0
    assert step.dq[3, 5] == DO_NOT_USE
    assert np.count_nonzero(step.dq) == 1


@pytest.mark.parametrize("reason", ["no overlap", "all NaN"])
def test_difference_exposure_without_any_background_is_flagged(reason: str) -> None:
    science = _model()
    backgrounds = _models(2, start=(500, 500) if reason == "no overlap" else (0, 0))
    if reason == "all NaN":
        for model in backgrounds:
            model.data[:] = np.nan
            model.dq[:] = 0
    # The pipeline says that it has subtracted a background, of 0; so does the drop-in.
    expected = _pipeline_step(science, backgrounds)
    step = BackgroundStep().run(science, backgrounds)
    assert expected.meta.cal_step.bkg_subtract == "COMPLETE"
    assert step.meta.cal_step.bkg_subtract == "COMPLETE"
    np.testing.assert_array_equal(step.data, expected.data)
    np.testing.assert_array_equal(step.dq, expected.dq | DO_NOT_USE)


def test_difference_integrations_without_value_do_not_count_as_zero() -> None:
    options: dict[str, Any] = {"kind": datamodels.CubeModel, "shape": (4, 24, 32)}
    science, backgrounds = _model(**options), _models(2, **options)
    for model in (science, *backgrounds):
        model.data[:] = 10.0
    backgrounds[0].data[:, 3, 5] = np.nan
    expected = _pipeline(science, backgrounds)
    # The mean of 0, for the exposure without value, and 10.
    assert expected.background.data[3, 5] == 5.0
    assert _method(science, backgrounds).background[3, 5] == 10.0
    assert (_drop_in(science, backgrounds).data[:, 3, 5] == 0.0).all()


def test_difference_variance_of_integrations_is_divided_by_their_number() -> None:
    options: dict[str, Any] = {"kind": datamodels.CubeModel, "shape": (16, 24, 32)}
    science, backgrounds = _model(**options), _models(4, **options)
    for model in backgrounds:
        model.data[:] = 10.0
        model.err[:] = 0.8
    expected = _pipeline(science, backgrounds)
    np.testing.assert_allclose(expected.background.err, 0.8 / np.sqrt(4), rtol=1e-6)
    template = _method(science, backgrounds).template
    np.testing.assert_allclose(template.err, 0.8 / np.sqrt(4 * 16), rtol=1e-6)


def test_difference_combined_background_is_undefined_where_nothing_was_measured() -> None:
    science, backgrounds = _model(), _models(4)
    for model in backgrounds:
        model.data[3, 5] = np.nan
    assert _pipeline(science, backgrounds).background.data[3, 5] == 0.0
    assert np.isnan(_method(science, backgrounds).background[3, 5])


@pytest.mark.parametrize("n_integrations", [(3, None), (None, 3)])
def test_difference_images_and_integrations_may_be_mixed(
    n_integrations: tuple[int | None, int | None],
) -> None:
    kinds = {None: (datamodels.ImageModel, (24, 32)), 3: (datamodels.CubeModel, (3, 24, 32))}
    (kind, shape), (other_kind, other_shape) = (kinds[n] for n in n_integrations)
    science = _model(kind, shape=shape)
    science.data[:] = 100.0
    backgrounds = _models(3, kind=other_kind, shape=other_shape)
    for model in backgrounds:
        model.data[:] = 30.0
    with pytest.raises((IndexError, ValueError)):
        _pipeline(science, backgrounds)
    assert (_drop_in(science, backgrounds).data == 70.0).all()


def test_difference_cut_out_slits_lie_at_their_own_place() -> None:
    options: dict[str, Any] = {"kind": datamodels.SlitModel, "shape": (8, 10), "start": (0, 0)}
    science, background = _model(**options), _model(seed=1, **options)
    for model, row in ((science, 1), (background, 3)):
        # A slit keeps the sub-array keywords of its frame beside its own.
        model.meta.subarray.ysize, model.meta.subarray.xsize = 2048, 2048
        model.ystart, model.ysize, model.xstart, model.xsize = row, 8, 1, 10
        model.data[:] = 100.0
    background.data[:] = np.arange(8)[:, np.newaxis]
    np.testing.assert_array_equal(
        _pipeline(science, [background]).result.data[:, 0], 100.0 - np.arange(8)
    )
    np.testing.assert_array_equal(
        _drop_in(science, [background]).data[:, 0], [100, 100, *(100.0 - np.arange(6))]
    )
