"""
Skies of SOSS exposures in the drop-in step: same numbers and statuses as the pipeline's step.

The pipeline's side is `jwst.background.BackgroundStep` of jwst 3.0.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwst.background
import numpy as np
import pytest
from stdatamodels.jwst import datamodels

from webbkg.masks.flags import DO_NOT_USE
from webbkg.sim import ObservationFiles, local_crds, simulate, write_observation
from webbkg.steps import BackgroundStep

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # Of the pipeline's own arithmetic, where a pixel has no value.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
]

KINDS = (jwst.background.BackgroundStep, BackgroundStep)


def _files(folder: Path, **options: Any) -> ObservationFiles:
    return write_observation(simulate("niriss-soss", seed=3, **options), folder)


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """SUBSTRIP96, three integrations, eight templates."""
    options = {"subarray": "SUBSTRIP96", "n_integrations": 3, "n_templates": 8, "template": 5}
    return _files(tmp_path_factory.mktemp("low"), **options)


@pytest.fixture(scope="module")
def high(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """SUBSTRIP256, a 2-D product, one template."""
    return _files(tmp_path_factory.mktemp("high"), n_integrations=0, n_templates=1)


@pytest.fixture(scope="module", autouse=True)
def _crds(low: ObservationFiles) -> Iterator[None]:
    """A step asks CRDS for the name of its context, even if it is given all reference files."""
    with local_crds(low.cache):
        yield


@pytest.fixture
def model(low: ObservationFiles) -> Iterator[Any]:
    with datamodels.open(low.science[0]) as found:
        yield found


@pytest.fixture
def library(low: ObservationFiles) -> Any:
    [path] = low.cache.glob("references/jwst/niriss/*bkg*")
    with datamodels.SossBkgModel(path) as found:
        return found.copy()


def _assert_same(theirs: Any, ours: Any, status: str = "COMPLETE") -> None:
    assert theirs.meta.cal_step.bkg_subtract == status
    assert ours.meta.cal_step.bkg_subtract == status
    # The pipeline multiplies template and factor in float32.
    level = float(np.nanpercentile(np.abs(theirs.data), 50))
    np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-6, atol=1e-6 * max(level, 1.0))
    for name in ("err", "dq"):
        np.testing.assert_array_equal(ours[name], theirs[name])


def _assert_parity(model: Any, template: str | None, status: str = "COMPLETE", **options: Any):
    results = []
    for kind in KINDS:
        step = kind(**options)
        if template is not None:
            step.override_bkg = template
        before = model.data.copy()
        results.append(step.run(model))
        np.testing.assert_array_equal(model.data, before)
    _assert_same(*results, status)
    return results[1]


def _saved(folder: Path, data: Any) -> str:
    library = datamodels.SossBkgModel(data=np.asarray(data, np.float32))
    library.meta.instrument.name = "NIRISS"
    library.meta.exposure.type = "NIS_SOSS"
    library.save(folder / "library.fits")
    return str(folder / "library.fits")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"soss_source_percentile": 20.0},
        {"soss_bkg_percentile": [10.0, 90.0]},
        {"soss_bkg_percentile": [40.0, 60.0], "soss_source_percentile": 60.0},
    ],
)
def test_percentiles(model: Any, options: dict[str, Any]) -> None:
    ours = _assert_parity(model, None, **options)
    assert not np.array_equal(ours.data, model.data, equal_nan=True)
    table = ours.extra_fits.WEBBKG.data
    assert list(table["ROLE"][:2]) == [b"science", b"template"]


@pytest.mark.parametrize("percentiles", [[50.0, 25.0], [30.0, 30.0]])
@pytest.mark.filterwarnings("ignore:.*All-NaN slice encountered:RuntimeWarning")
def test_percentiles_without_anything_between(model: Any, percentiles: list[float]) -> None:
    _assert_parity(model, None, "SKIPPED", soss_bkg_percentile=percentiles)


@pytest.mark.parametrize("name", ["low", "high"])
def test_files(name: str, request: pytest.FixtureRequest) -> None:
    files = request.getfixturevalue(name)
    with local_crds(files.cache):
        theirs, ours = (kind.call(str(files.science[0])) for kind in KINDS)
    _assert_same(theirs, ours)
    assert ours.data.ndim == (3 if name == "low" else 2)


def test_subarray_of_the_library(low: ObservationFiles, high: ObservationFiles) -> None:
    """A library of SUBSTRIP256 serves SUBSTRIP96, ten rows lower."""
    [path] = high.cache.glob("references/jwst/niriss/*bkg*")
    with datamodels.open(low.science[0]) as found:
        _assert_parity(found, str(path))


def test_place_is_not_needed(model: Any) -> None:
    model.meta.subarray.instance.clear()
    _assert_parity(model, None)


def test_library_of_one_template(model: Any, library: Any, tmp_path: Path) -> None:
    _assert_parity(model, _saved(tmp_path, library.data[2:3]))


def test_one_integration(model: Any) -> None:
    image = datamodels.ImageModel(data=model.data[0], err=model.err[0], dq=model.dq[0])
    image.update(model)
    _assert_parity(image, None)


def test_some_templates_without_values(model: Any, library: Any, tmp_path: Path) -> None:
    data = library.data.copy()
    data[0], data[-1] = np.nan, 0.0
    ours = _assert_parity(model, _saved(tmp_path, data))
    assert ours.meta.cal_step.bkg_subtract == "COMPLETE"


def test_template_with_holes(model: Any, library: Any, tmp_path: Path) -> None:
    data = library.data.copy()
    data[:, 30:40, 900:1000] = np.nan
    data[:, 50:60, 100:200] = 0.0
    with np.errstate(invalid="ignore"):
        ours = _assert_parity(model, _saved(tmp_path, data))
    assert ours.meta.cal_step.bkg_subtract == "COMPLETE"


def test_heights_that_do_not_fit(model: Any, library: Any, tmp_path: Path) -> None:
    ours = _assert_parity(model, _saved(tmp_path, library.data[:, :60]), "SKIPPED")
    np.testing.assert_array_equal(ours.data, model.data)


def test_no_reference_file(model: Any) -> None:
    _assert_parity(model, "N/A", "SKIPPED")


def test_template_that_cannot_be_scaled(model: Any, library: Any, tmp_path: Path) -> None:
    _assert_parity(model, _saved(tmp_path, np.zeros_like(library.data)), "SKIPPED")


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_all_flagged(model: Any) -> None:
    model.dq |= DO_NOT_USE
    _assert_parity(model, None, "SKIPPED")


def test_memory_beyond_the_input(
    model: Any, library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Inside a pipeline, where steps do not copy what they are given.
    monkeypatch.setattr(BackgroundStep, "prepare_output", lambda _, init, **__: init)
    step = BackgroundStep()
    step.override_bkg = _saved(tmp_path, library.data[5:6])
    # What is imported and compiled.
    step.run(model.copy())
    tracemalloc.start()
    # The arrays have the byte order of the file.
    names = ("data", "err", "dq")
    cube = datamodels.CubeModel(**{name: np.tile(model[name][:1], (60, 1, 1)) for name in names})
    cube.update(model)
    before = cube.data[:, :8].copy()
    size = sum(cube[name].nbytes for name in names)
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    result = step.run(cube)
    peak = tracemalloc.get_traced_memory()[1] - start
    tracemalloc.stop()
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    assert not np.array_equal(result.data[:, :8], before, equal_nan=True)
    assert peak <= 0.5 * size
