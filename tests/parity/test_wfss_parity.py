"""
Skies of grism exposures as the pipeline subtracts them: same numbers, statuses and errors.

The pipeline's side is `jwst.background.BackgroundStep` of jwst 3.0, ours the step that replaces it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwst.background
import numpy as np
import pytest
from astropy.table import QTable
from jwst.assign_wcs import AssignWcsStep
from jwst.background.background_sub_wfss import _mask_from_source_cat, subtract_wfss_bkg
from jwst.pipeline import Spec2Pipeline
from stdatamodels.jwst import datamodels

from webbkg.io.grism_boxes import spectra_mask
from webbkg.io.models import ModelHandle
from webbkg.io.sky_references import read_sky_references
from webbkg.masks.flags import DO_NOT_USE
from webbkg.methods.wfss import WfssParams, wfss
from webbkg.sim import ObservationFiles, local_crds, simulate, write_observation
from webbkg.steps import BackgroundStep

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Input association file contains path info:UserWarning"),
    # Of the pipeline's own arithmetic, where a pixel has no value.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _crds(niriss: ObservationFiles) -> Iterator[None]:
    """A step asks CRDS for the name of its context, even if it is given all reference files."""
    with local_crds(niriss.cache):
        yield


SHAPE = (96, 128)
#: Beginning of the sub-array and shape of the whole detector, rows and columns.
START, WHOLE = (40, 24), (160, 192)


def _exposure(
    *,
    seed: int = 0,
    start: tuple[int, int] = (0, 0),
    shape: tuple[int, int] = SHAPE,
    axis: int | None = 1,
) -> Any:
    """Noise on a structured sky, with sources, NaN, flags and pixels of unknown error."""
    rng = np.random.default_rng(seed)
    model = datamodels.ImageModel(shape, validate_on_assignment=False)
    y, x = np.indices(shape)
    sky = 0.4 * _sky(y + start[0], x + start[1])
    model.err = rng.uniform(0.02, 0.03, shape).astype(np.float32)
    model.data = (sky + rng.normal(0, 1, shape) * model.err).astype(np.float32)
    model.data += np.where(rng.random(shape) < 0.1, rng.exponential(0.5, shape), 0)
    model.dq = np.where(rng.random(shape) < 0.03, 4, 0).astype(np.uint32)
    bad = rng.random(shape) < 0.02
    model.data[bad] = model.err[bad] = np.nan
    model.dq[bad] |= DO_NOT_USE
    # Those that have one of the two alone.
    model.data[rng.random(shape) < 0.01] = np.nan
    model.err[rng.random(shape) < 0.01] = np.nan
    model.err[rng.random(shape) < 0.01] = 0.0
    _describe(model, start, shape)
    model.meta.exposure.type = "NIS_WFSS"
    model.meta.filename = "grism_rate.fits"
    model.meta.wcsinfo.dispersion_direction = axis
    # Not looked for where the user gives a mask, but the step takes no exposure without one.
    model.meta.source_catalog = "nowhere_cat.ecsv"
    return model


def _sky(y: Any, x: Any) -> Any:
    return 1.0 + 0.2 * np.sin(x / 17.0) + 0.1 * np.cos(y / 11.0)


def _describe(model: Any, start: tuple[int, int], shape: tuple[int, int]) -> None:
    model.meta.instrument.name = "NIRISS"
    model.meta.instrument.detector = "NIS"
    model.meta.instrument.filter = "GR150R"
    model.meta.instrument.pupil = "F150W"
    model.meta.subarray.ystart, model.meta.subarray.xstart = start[0] + 1, start[1] + 1
    model.meta.subarray.ysize, model.meta.subarray.xsize = shape


def _template(
    folder: Path,
    *,
    start: tuple[int, int] = (0, 0),
    shape: tuple[int, int] = SHAPE,
    change: Callable[[Any], None] | None = None,
) -> str:
    y, x = np.indices(shape)
    image = _sky(y + start[0], x + start[1]).astype(np.float32)
    model = datamodels.WfssBkgModel(data=image, err=np.full(shape, 0.01, np.float32))
    model.dq = np.where((x + y) % 37 == 0, 2, 0).astype(np.uint32)
    _describe(model, start, shape)
    if change is not None:
        change(model)
    path = folder / "sky.fits"
    model.save(path)
    return str(path)


def _steps(template: str, **options: Any) -> list[Any]:
    """The pipeline's step and ours."""
    steps = [kind(**options) for kind in (jwst.background.BackgroundStep, BackgroundStep)]
    for step in steps:
        step.override_bkg = template
        step.override_wavelengthrange = options.get("override_wavelengthrange", "N/A")
    return steps


def _both(model: Any, template: str, **options: Any) -> tuple[Any, Any]:
    theirs, ours = (step.run(model.copy()) for step in _steps(template, **options))
    return theirs, ours


def _everything(folder: Path, shape: tuple[int, int] = SHAPE) -> str:
    return _user_mask(folder, np.ones(shape))


def _user_mask(folder: Path, mask: Any) -> str:
    """Write a mask, 1 where there is background."""
    model = datamodels.ImageModel(mask.shape)
    model.mask = mask.astype(np.uint32)
    path = folder / "user_mask.fits"
    model.save(path)
    return str(path)


def _assert_same(theirs: Any, ours: Any, status: str = "COMPLETE") -> None:
    assert theirs.meta.cal_step.bkg_subtract == status
    assert ours.meta.cal_step.bkg_subtract == status
    factors = [model.meta.background.scaling_factor for model in (theirs, ours)]
    assert (factors[0] is None) == (factors[1] is None)
    expected, found = (factor or 0.0 for factor in factors)
    assert found == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-6, atol=1e-6 * abs(expected))
    for name in ("err", "dq"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert theirs.hasattr("mask") == ours.hasattr("mask")
    if theirs.hasattr("mask"):
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        assert ours.mask.dtype == theirs.mask.dtype


def _assert_parity(model: Any, template: str, status: str = "COMPLETE", **options: Any) -> Any:
    if "wfss_mask" not in options and template != "N/A":
        options["wfss_mask"] = _everything(Path(template).parent)
    theirs, ours = _both(model, template, **options)
    _assert_same(theirs, ours, status)
    return ours


def _assert_same_error(model: Any, template: str, kind: type[Exception], **options: Any) -> str:
    """Both raise it; return our message."""
    if "wfss_mask" not in options and "override_wavelengthrange" not in options:
        options["wfss_mask"] = _everything(Path(template).parent)
    theirs, ours = _steps(template, **options)
    with pytest.raises(kind):
        theirs.run(model.copy())
    with pytest.raises(kind) as caught:
        ours.run(model.copy())
    return str(caught.value.args[0])


# Rules


@pytest.mark.parametrize("seed", range(3))
def test_defaults(tmp_path: Path, seed: int) -> None:
    ours = _assert_parity(_exposure(seed=seed), _template(tmp_path))
    assert ours.meta.background.scaling_factor == pytest.approx(0.4, rel=0.1)
    assert ours.mask.all()


@pytest.mark.parametrize(
    "options",
    [
        {"wfss_maxiter": 0},
        {"wfss_maxiter": 1},
        {"wfss_maxiter": 15},
        {"wfss_outlier_percent": 0.0},
        {"wfss_outlier_percent": 0.1},
        {"wfss_outlier_percent": 20.0, "wfss_maxiter": 2},
    ],
)
def test_rejection(tmp_path: Path, options: dict[str, Any]) -> None:
    _assert_parity(_exposure(), _template(tmp_path), **options)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("stop", [0.01, 2.0, 10.0, 90.0])
def test_early_stop(tmp_path: Path, axis: int, stop: float) -> None:
    model = _exposure(axis=axis)
    _assert_parity(model, _template(tmp_path), wfss_rms_stop=stop, wfss_maxiter=9)


def test_early_stop_needs_a_direction(tmp_path: Path) -> None:
    model = _exposure(axis=None)
    text = _assert_same_error(model, _template(tmp_path), ValueError, wfss_rms_stop=1.0)
    assert "dispersion" in text


def test_direction_is_not_needed_otherwise(tmp_path: Path) -> None:
    _assert_parity(_exposure(axis=None), _template(tmp_path))


# Templates and sub-arrays


@pytest.mark.parametrize("axis", [1, 2])
def test_subarray(tmp_path: Path, axis: int) -> None:
    template = _template(tmp_path, shape=WHOLE)
    model = _exposure(start=START, axis=axis)
    ours = _assert_parity(model, template, wfss_rms_stop=1.0)
    assert ours.meta.background.scaling_factor == pytest.approx(0.4, rel=0.1)


def test_template_of_another_place_is_refused(tmp_path: Path) -> None:
    template = _template(tmp_path, shape=(20, 20))
    text = _assert_same_error(_exposure(start=START), template, ValueError)
    assert "grism_rate.fits" in text
    assert "sky.fits" in text


def test_template_with_holes(tmp_path: Path) -> None:
    def spoil(model: Any) -> None:
        model.data[20:30, 40:50] = 0.0
        model.data[60:63] = np.nan
        model.dq[60:63] |= DO_NOT_USE

    ours = _assert_parity(_exposure(), _template(tmp_path, change=spoil))
    assert np.isnan(ours.data[60:63]).all()


def test_negative_sky(tmp_path: Path) -> None:
    model = _exposure()
    model.data = model.data - np.float32(1.0)
    ours = _assert_parity(model, _template(tmp_path))
    assert ours.meta.background.scaling_factor < 0


def test_no_reference_file(tmp_path: Path) -> None:
    model = _exposure()
    ours = _assert_parity(model, "N/A", "SKIPPED")
    np.testing.assert_array_equal(ours.data, model.data)
    assert ours.meta.background.scaling_factor is None


# Masks of the user's


@pytest.mark.parametrize("fraction", [0.5, 0.01])
def test_mask_of_the_user(tmp_path: Path, fraction: float) -> None:
    used = np.random.default_rng(5).random(SHAPE) < fraction
    mask = _user_mask(tmp_path, used)
    model = _exposure()
    ours = _assert_parity(model, _template(tmp_path), wfss_mask=mask)
    np.testing.assert_array_equal(ours.mask, used)


def test_mask_without_background(tmp_path: Path) -> None:
    mask = _user_mask(tmp_path, np.zeros(SHAPE))
    model = _exposure()
    ours = _assert_parity(model, _template(tmp_path), "FAILED", wfss_mask=mask)
    np.testing.assert_array_equal(ours.data, model.data)
    assert ours.meta.background.scaling_factor == 0.0
    assert not ours.mask.any()


def test_mask_with_flagged_background_alone(tmp_path: Path) -> None:
    model = _exposure()
    mask = _user_mask(tmp_path, (model.dq & DO_NOT_USE) > 0)
    _assert_parity(model, _template(tmp_path), "FAILED", wfss_mask=mask)


def test_mask_of_another_shape(tmp_path: Path) -> None:
    mask = _user_mask(tmp_path, np.ones((4, 5)))
    text = _assert_same_error(_exposure(), _template(tmp_path), ValueError, wfss_mask=mask)
    assert text == (
        f"{mask}: MASK has shape (4, 5) but grism_rate.fits has {SHAPE}; give a mask of its pixels"
    )


def test_mask_without_its_extension(tmp_path: Path) -> None:
    path = tmp_path / "no_mask.fits"
    datamodels.ImageModel(data=np.ones(SHAPE, np.float32)).save(path)
    options = {"wfss_mask": str(path)}
    text = _assert_same_error(_exposure(), _template(tmp_path), AttributeError, **options)
    assert text.startswith(f"{path}: has no extension MASK, needed is one that is 1 where there is")


def test_mask_that_is_missing(tmp_path: Path) -> None:
    options = {"wfss_mask": str(tmp_path / "nothing.fits")}
    _assert_same_error(_exposure(), _template(tmp_path), FileNotFoundError, **options)


# Data that tell no factor


@pytest.mark.parametrize("kind", ["no error", "unknown error", "no template"])
def test_no_finite_factor(tmp_path: Path, kind: str) -> None:
    model = _exposure()
    if kind != "no template":
        model.err[:] = 0.0 if kind == "no error" else np.nan

    def spoil(template: Any) -> None:
        if kind == "no template":
            template.data[:] = 0.0

    template = _template(tmp_path, change=spoil)
    ours = _assert_parity(model, template, "FAILED")
    np.testing.assert_array_equal(ours.data, model.data)
    assert ours.meta.background.scaling_factor == 0.0


@pytest.mark.parametrize("flagged", [False, True])
def test_no_catalog_at_all(tmp_path: Path, flagged: bool) -> None:
    """The pipeline's step refuses it, the function that it calls does not."""
    model, template = _exposure(), _template(tmp_path)
    if flagged:
        model.dq |= DO_NOT_USE
    model.meta.source_catalog = None
    theirs = subtract_wfss_bkg(model.copy(), template, "N/A")
    params = WfssParams(rule="pipeline", errors="keep")
    ours = wfss(ModelHandle(model), read_sky_references(template), params, least_fraction=0.0)
    assert ours.scales[0] == pytest.approx(theirs.meta.background.scaling_factor, rel=1e-6)
    np.testing.assert_allclose(ours.exposure.data, theirs.data, rtol=0, atol=4e-7)
    np.testing.assert_array_equal(ours.exposure.dq, theirs.dq)
    np.testing.assert_array_equal(~ours.mask, theirs.mask)
    for step in _steps(template):
        with pytest.raises(IndexError, match="No source catalog specified"):
            step.run(model.copy())


# Catalogues


@pytest.fixture(scope="module")
def niriss(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    observation = simulate("niriss-wfss", small=True, n_science=1, n_sources=800, seed=4)
    return write_observation(observation, tmp_path_factory.mktemp("niriss"))


@pytest.fixture(scope="module")
def nircam(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    observation = simulate("nircam-wfss", small=True, n_science=1, n_sources=250, seed=4)
    return write_observation(observation, tmp_path_factory.mktemp("nircam"))


@pytest.fixture(scope="module")
def strip(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    observation = simulate(
        "nircam-wfss", n_science=1, n_sources=250, subarray="SUBGRISM256", grism="GRISMR", seed=4
    )
    return write_observation(observation, tmp_path_factory.mktemp("strip"))


@pytest.fixture(params=["niriss", "nircam", "strip"])
def files(request: pytest.FixtureRequest) -> ObservationFiles:
    return request.getfixturevalue(request.param)


@pytest.fixture
def with_wcs(files: ObservationFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The exposure with its WCS and catalogue, beside its reference files."""
    with local_crds(files.cache):
        model = AssignWcsStep.call(str(files.science[0]))
        model.meta.source_catalog = str(files.catalog)
        yield model


def _run_both(model: Any, **options: Any) -> tuple[Any, Any]:
    """Run both sides with the reference files that CRDS gives."""
    kinds = (jwst.background.BackgroundStep, BackgroundStep)
    theirs, ours = (kind(**options).run(model.copy()) for kind in kinds)
    return theirs, ours


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"wfss_mmag_extract": 23.0},
        {"wfss_rms_stop": 1.0, "wfss_maxiter": 8},
        {"wfss_outlier_percent": 4.0},
    ],
)
def test_spectra_of_a_catalog_are_masked(with_wcs: Any, options: dict[str, Any]) -> None:
    theirs, ours = _run_both(with_wcs, **options)
    _assert_same(theirs, ours)
    assert 0.0 < (ours.mask == 0).mean() < 0.95


def test_too_few_pixels(with_wcs: Any) -> None:
    rng = np.random.default_rng(0)
    with_wcs.dq[rng.random(with_wcs.dq.shape) < 0.97] |= DO_NOT_USE
    theirs, ours = _run_both(with_wcs)
    _assert_same(theirs, ours, "FAILED")
    assert ours.meta.background.scaling_factor == 0.0
    assert 0.0 < ours.mask.mean() < 1.0


def test_association(niriss: ObservationFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pipeline takes the catalogue by its name alone, from where it is started.
    monkeypatch.chdir(niriss.association.parent)
    with local_crds(niriss.cache):
        AssignWcsStep.call(str(niriss.science[0]), save_results=True)
        association = json.loads(niriss.association.read_text())
        for member in association["products"][0]["members"]:
            if member["exptype"] == "science":
                member["expname"] = member["expname"].replace("_rate", "_assignwcsstep")
        path = Path("assigned_asn.json")
        path.write_text(json.dumps(association))
        theirs = jwst.background.BackgroundStep.call(str(path))
        ours = BackgroundStep.call(str(path))
    _assert_same(theirs, ours)
    for name in ("source_catalog", "segmentation_map", "direct_image"):
        assert getattr(ours.meta, name) == getattr(theirs.meta, name) is not None


def test_association_without_catalog(niriss: ObservationFiles, tmp_path: Path) -> None:
    association = json.loads(niriss.association.read_text())
    members = association["products"][0]["members"]
    association["products"][0]["members"] = [m for m in members if m["exptype"] == "science"]
    path = tmp_path / "short_asn.json"
    path.write_text(json.dumps(association))
    for kind in (jwst.background.BackgroundStep, BackgroundStep):
        with pytest.raises(IndexError, match="No source catalog specified"):
            kind().run(str(path))


def test_bad_catalogs(niriss: ObservationFiles, tmp_path: Path) -> None:
    with local_crds(niriss.cache):
        model = AssignWcsStep.call(str(niriss.science[0]))
        [template] = niriss.cache.glob("references/jwst/niriss/*bkg*")
        [ranges] = niriss.cache.glob("references/jwst/niriss/*wavelengthrange*")
    options = {"override_wavelengthrange": str(ranges)}
    model.meta.source_catalog = str(tmp_path / "missing_cat.ecsv")
    text = _assert_same_error(model, str(template), FileNotFoundError, **options)
    assert text.startswith(f"{tmp_path / 'missing_cat.ecsv'}: there is no such source catalogue")
    table = QTable.read(niriss.catalog, format="ascii.ecsv")
    table.remove_column("sky_bbox_ur")
    table.write(tmp_path / "short_cat.ecsv", format="ascii.ecsv")
    model.meta.source_catalog = str(tmp_path / "short_cat.ecsv")
    text = _assert_same_error(model, str(template), KeyError, **options)
    assert text.startswith(
        f"{tmp_path / 'short_cat.ecsv'}: the source catalogue has no column sky_bbox_ur;"
    )
    model.meta.source_catalog = str(niriss.catalog)
    model.meta.wcs = None
    step = _steps(str(template), **options)[1]
    with pytest.raises(ValueError, match=r"has no WCS, which tells where the spectra of .* fall"):
        step.run(model)


# The real geometry


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("niriss-wfss", {"grism": "GR150R", "filter": "F150W"}),
        ("niriss-wfss", {"grism": "GR150C", "filter": "F200W"}),
        ("nircam-wfss", {"grism": "GRISMR", "filter": "F356W", "module": "A"}),
        ("nircam-wfss", {"grism": "GRISMC", "filter": "F356W", "module": "B"}),
    ],
)
def test_real_wcs(shared_data: Path, preset: str, options: dict[str, Any], tmp_path: Path) -> None:
    observation = simulate(preset, n_science=1, n_sources=150, seed=2, **options)
    files = write_observation(observation, tmp_path)
    with local_crds(shared_data / "crds"):
        model = AssignWcsStep.call(str(files.science[0]))
        ranges = AssignWcsStep().get_reference_file(model, "wavelengthrange")
        template = jwst.background.BackgroundStep().get_reference_file(model, "bkg")
    if template == "N/A":
        [path] = files.cache.glob("references/jwst/*/*bkg*")
        template = str(path)
    model.meta.source_catalog = str(files.catalog)
    theirs, ours = _both(model, template, override_wavelengthrange=ranges)
    _assert_same(theirs, ours)
    found = spectra_mask(model, files.catalog, ranges)
    np.testing.assert_array_equal(~found.mask, _mask_from_source_cat(model, ranges))
    assert 0.01 < found.mask.mean() < 0.95


# Inside the pipeline


def test_inside_spec2(
    niriss: ObservationFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (*niriss.science, *niriss.attachments, niriss.association):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    later = ("flat_field", "extract_2d", "srctype", "wfss_contam", "photom", "extract_1d")
    results = []
    for kind in (jwst.background.BackgroundStep, BackgroundStep):
        monkeypatch.setitem(Spec2Pipeline.step_defs, "bkg_subtract", kind)
        steps: dict[str, dict[str, Any]] = {name: {"skip": True} for name in later}
        output = tmp_path / kind.__module__
        output.mkdir()
        steps["bkg_subtract"] = {
            "save_results": True,
            "output_dir": str(output),
            "wfss_mmag_extract": 25.0,
        }
        with local_crds(niriss.cache):
            Spec2Pipeline.call(niriss.association.name, steps=steps, save_results=False)
        [path] = output.glob("*_bsub.fits")
        results.append(datamodels.open(path))
    _assert_same(*results)
    assert results[1].extra_fits.instance.keys() >= {"WEBBKG"}
