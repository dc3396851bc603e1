"""The steps: through ``strun``, ``Step.call`` and inside the real pipelines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jwst.background
import numpy as np
import pytest
import stpipe.entry_points
from astropy.io import fits
from jwst.pipeline import Image2Pipeline, Spec2Pipeline
from jwst.stpipe import Step
from stdatamodels.jwst import datamodels
from stpipe.utilities import import_class, resolve_step_class_alias

from webbkg.errors import ParameterError
from webbkg.io.files import FileHandle
from webbkg.io.provenance import INPUT_COLUMNS
from webbkg.masks.flags import DO_NOT_USE
from webbkg.methods.average import AverageParams, average
from webbkg.sim import ObservationFiles, miri_imaging, write_observation
from webbkg.steps import AverageStep, BackgroundStep
from webbkg.steps.registry import get_steps

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # The simulator's associations work from any directory.
    pytest.mark.filterwarnings("ignore:Input association file contains path info:UserWarning"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """One science exposure and four backgrounds of 64x72 pixels, with an association."""
    observation = miri_imaging(n_science=1, n_background=4, shape=(64, 72))
    return write_observation(observation, tmp_path_factory.mktemp("observation"))


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """The same of three integrations each."""
    observation = miri_imaging(n_science=1, n_background=4, shape=(64, 72), n_integrations=3)
    return write_observation(observation, tmp_path_factory.mktemp("integrations"))


@pytest.fixture
def ami(shared_data: Path) -> list[Path]:
    """A five-point dither of real exposures."""
    return sorted((shared_data / "ami").glob("jw01093014001*_cal.fits"))


def _names(paths: Any) -> list[str]:
    return [str(path) for path in paths]


# Registration


def test_strun_finds_the_steps_by_their_aliases() -> None:
    assert import_class(resolve_step_class_alias("webbkg_average"), Step) is AverageStep
    assert import_class(resolve_step_class_alias("webbkg_bkg_subtract"), Step) is BackgroundStep


def test_the_alias_of_the_pipeline_stays_its_own() -> None:
    assert resolve_step_class_alias("bkg_subtract") == "jwst.step.BackgroundStep"
    # Inside a pipeline the drop-in records under the name of the step it replaces.
    assert BackgroundStep.class_alias == "bkg_subtract"


def test_asking_for_the_steps_imports_none() -> None:
    code = (
        "import sys; from webbkg.steps.registry import get_steps; get_steps(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jwst", "stpipe", "stdatamodels", "numpy"} & set(done.stdout.split())


def test_registered_steps_exist() -> None:
    registered = {
        (step.class_name, step.class_alias, step.is_pipeline)
        for step in stpipe.entry_points.get_steps()
        if step.package_name == "webbkg"
    }
    assert registered == set(get_steps())
    for class_path, _, _ in registered:
        assert issubclass(import_class(class_path), Step)


def test_the_drop_in_has_all_parameters_of_the_pipeline_and_ours() -> None:
    theirs = jwst.background.BackgroundStep().get_pars()
    ours = BackgroundStep().get_pars()
    assert {name: ours[name] for name in theirs} == theirs
    added = {name: ours[name] for name in ours.keys() - theirs.keys()}
    preset = AverageParams.presets["pipeline"]
    of_preset = ("clip", "dq", "errors", "min_coverage", "template_noise")
    expected = {name: preset[name] for name in of_preset}
    defaults = AverageParams()
    for name in ("mask_sources", "max_memory", "threads"):
        expected[name] = getattr(defaults, name)
    assert added == expected | {"bad_flags": None}


def test_unknown_names_of_the_package_raise_attribute_errors() -> None:
    import webbkg.steps

    with pytest.raises(AttributeError, match=r"^module 'webbkg.steps' has no attribute 'Other'$"):
        webbkg.steps.Other  # noqa: B018


# strun


def _strun(offline_crds: Path, tmp_path: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("strun")), *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "CRDS_PATH": str(offline_crds)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.real
def test_strun_average_on_real_exposures(
    offline_crds: Path, ami: list[Path], tmp_path: Path
) -> None:
    output = _strun(
        offline_crds,
        tmp_path,
        "webbkg_average",
        str(ami[0]),
        f"--bkg_list={','.join(_names(ami[1:]))}",
        "--bad_flags=DO_NOT_USE,SATURATED",
        "--save_combined_background=true",
    )
    assert "stpipe.webbkg - INFO - jw01093014001_03102_00001_nis_cal.fits: subtracted" in output
    # CRDS knows no parameters of this step and would complain.
    assert " - ERROR - " not in output
    product = tmp_path / "jw01093014001_03102_00001_nis_bsub.fits"
    expected = average(
        FileHandle(ami[0]),
        [FileHandle(path) for path in ami[1:]],
        AverageParams(bad_flags="DO_NOT_USE,SATURATED"),
    )
    _assert_product(product, expected.exposure)
    with datamodels.open(product) as model, datamodels.open(ami[0]) as before:
        assert model.meta.wcs(40.0, 40.0) == before.meta.wcs(40.0, 40.0)
        assert model.meta.background.level == pytest.approx(expected.diagnostics.level)
        assert model.meta.background.subtracted
    with fits.open(product) as hdus:
        np.testing.assert_array_equal(hdus["VAR_BKG"].data, expected.background_var)
        table = hdus["WEBBKG"].data
        assert tuple(table.names) == INPUT_COLUMNS
        assert list(table["ROLE"]) == ["science", *4 * ["background"], "parameters"]
        assert table["SHA256"][1] == FileHandle(ami[1]).checksum
        assert json.loads(table["VALUE"][-1])["bad_flags"] == "DO_NOT_USE,SATURATED"
        assert any("subtracted the mean of 4" in line for line in hdus[0].header["HISTORY"])
    with datamodels.open(
        product.with_name(product.name.replace("bsub", "combinedbackground"))
    ) as m:
        np.testing.assert_array_equal(m.data, expected.background)
        np.testing.assert_array_equal(m.extra_fits.COVERAGE.data, expected.template.n_used)
        assert (m.meta.instrument.name, m.meta.subarray.xstart) == ("NIRISS", 1045)
        assert m.meta.background.subtracted is None


@pytest.mark.real
def test_strun_drop_in_on_real_exposures(
    offline_crds: Path, ami: list[Path], tmp_path: Path
) -> None:
    arguments = (str(ami[0]), f"--bkg_list={','.join(_names(ami[1:]))}", "--sigma=2")
    output = _strun(offline_crds, tmp_path, "webbkg_bkg_subtract", *arguments, "--output_file=ours")
    assert "stpipe.webbkg - INFO" in output
    assert " - ERROR - " not in output
    expected = jwst.background.BackgroundStep.call(str(ami[0]), bkg_list=_names(ami[1:]), sigma=2)
    _assert_product(tmp_path / "ours_backgroundstep.fits", expected)


def _assert_product(path: Path, expected: Any) -> None:
    """Open a product with validation on and compare its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with datamodels.open(path) as model:
            model.validate()
            assert model.meta.cal_step.bkg_subtract == "COMPLETE"
            for name in ("data", "err", "dq"):
                np.testing.assert_array_equal(model[name], getattr(expected, name))


# Forms of calling AverageStep


@pytest.mark.parametrize("form", ["list", "one string", "argument", "models", "trailing comma"])
def test_average_takes_backgrounds_in_any_form(files: ObservationFiles, form: str) -> None:
    science, paths = str(files.science[0]), _names(files.backgrounds)
    if form == "list":
        result = AverageStep(bkg_list=paths).run(science)
    elif form == "one string":
        result = AverageStep(bkg_list=",".join(paths)).run(science)
    elif form == "trailing comma":
        result = AverageStep().run(science, ", ".join(paths) + ",")
    elif form == "argument":
        result = AverageStep(bkg_list=["not_used.fits"]).run(science, paths)
    else:
        result = AverageStep().run(science, [datamodels.open(path) for path in paths])
    expected = average(FileHandle(science), [FileHandle(path) for path in paths])
    for name in ("data", "err", "dq"):
        np.testing.assert_array_equal(result[name], getattr(expected.exposure, name))
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"


def test_average_takes_an_association_with_its_own_defaults(
    offline_crds: Path, files: ObservationFiles, tmp_path: Path
) -> None:
    # From another directory: names in the association are relative to it.
    result = AverageStep.call(str(files.association), save_results=True, output_dir=str(tmp_path))
    handles = [FileHandle(path) for path in files.backgrounds]
    expected = average(FileHandle(files.science[0]), handles, AverageParams())
    np.testing.assert_array_equal(result.data, expected.exposure.data)
    product = tmp_path / files.science[0].name.replace("_rate", "_bsub")
    _assert_product(product, expected.exposure)
    with datamodels.open(product) as model:
        # The mosaic pipeline takes these for its own.
        assert model.meta.background.level is None
        assert model.meta.background.subtracted is None
        assert "WB_LEVEL" in fits.getheader(product)


def test_average_leaves_an_open_model_alone(files: ObservationFiles) -> None:
    with datamodels.open(files.science[0]) as model:
        before = model.data.copy()
        result = AverageStep().run(model, _names(files.backgrounds))
        np.testing.assert_array_equal(model.data, before)
        assert model.meta.cal_step.bkg_subtract is None
    assert not np.array_equal(result.data, before, equal_nan=True)


def test_average_of_integrations(
    offline_crds: Path, cubes: ObservationFiles, tmp_path: Path
) -> None:
    result = AverageStep.call(str(cubes.association), save_results=True, output_dir=str(tmp_path))
    handles = [FileHandle(path) for path in cubes.backgrounds]
    expected = average(FileHandle(cubes.science[0]), handles)
    assert isinstance(result, datamodels.CubeModel)
    _assert_product(
        tmp_path / cubes.science[0].name.replace("_rateints", "_bsubints"), expected.exposure
    )


def test_preset_yields_to_what_is_given(files: ObservationFiles) -> None:
    paths = _names(files.backgrounds)
    step = AverageStep(bkg_list=paths, preset="pipeline", errors="propagate")
    result = step.run(str(files.science[0]))
    params = AverageParams.build(preset="pipeline", overrides={"errors": "propagate"})
    handles = [FileHandle(path) for path in paths]
    expected = average(FileHandle(files.science[0]), handles, params)
    assert params.clip == "std"
    np.testing.assert_array_equal(result.err, expected.exposure.err)
    np.testing.assert_array_equal(result.data, expected.exposure.data)


@pytest.mark.parametrize("step_class", [AverageStep, BackgroundStep])
def test_paths_are_taken_too(files: ObservationFiles, step_class: type[Any]) -> None:
    results = [
        step_class().run(files.association),
        step_class(bkg_list=files.backgrounds).run(files.science[0]),
    ]
    for result in results:
        assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    np.testing.assert_array_equal(results[0].data, results[1].data)


def test_the_suffix_follows_the_exposure(
    files: ObservationFiles, cubes: ObservationFiles, tmp_path: Path
) -> None:
    step = AverageStep(save_results=True, output_dir=str(tmp_path))
    for observation in (files, cubes, files):
        result = step.run(str(observation.science[0]), _names(observation.backgrounds))
        kind = "bsub" if result.data.ndim == 2 else "bsubints"
        assert result.meta.filename.endswith(f"_mirimage_{kind}.fits")


def test_only_the_first_product_of_an_association_is_used(
    files: ObservationFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (*files.science, *files.backgrounds):
        shutil.copy(path, tmp_path)
    content = json.loads(files.association.read_text())
    content["products"].append({**content["products"][0], "name": "second"})
    association = tmp_path / "two_asn.json"
    association.write_text(json.dumps(content))
    result = AverageStep().run(str(association))
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    assert "the association has 2 products, only the first is used" in caplog.messages


# Statuses


def _status(result: Any, science: Path) -> str:
    """Status of a result whose pixels must be as they were."""
    with datamodels.open(science) as before:
        for name in ("data", "err", "dq"):
            np.testing.assert_array_equal(result[name], before[name])
    return str(result.meta.cal_step.bkg_subtract)


def test_average_without_background_is_skipped(
    files: ObservationFiles, caplog: pytest.LogCaptureFixture
) -> None:
    result = AverageStep().run(str(files.science[0]))
    assert _status(result, files.science[0]) == "SKIPPED"
    assert "no background was given, skipping the subtraction" in caplog.messages


@pytest.mark.parametrize("tilt", [0.34722, None])
def test_average_of_tilted_nirspec_exposures(
    tmp_path: Path, tilt: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / "science_rate.fits", tmp_path / "background_rate.fits"]
    for path, value in zip(paths, (0.34721, tilt), strict=True):
        _save_nirspec(path, value)
    result = AverageStep(bkg_list=str(paths[1])).run(str(paths[0]))
    assert _status(result, paths[0]) == ("FAILED" if tilt is None else "SKIPPED")
    expected = (
        "background_rate.fits: is a NIRSpec exposure without the keyword GWA_XTIL, which tells the "
        "position of the grating wheel; add it to the primary header"
        if tilt is None
        else "background_rate.fits: GWA_XTIL is 0.34722 but the science exposure science_rate.fits "
        "has 0.34721, so its spectrum lies on other pixels; give backgrounds taken without moving "
        "the grating wheel; skipping the subtraction"
    )
    assert expected in caplog.messages


def _save_nirspec(path: Path, tilt: float | None) -> None:
    with datamodels.ImageModel((8, 8)) as model:
        model.data = np.full((8, 8), 10.0 + path.name.startswith("science"), np.float32)
        model.err = np.full((8, 8), 0.5, np.float32)
        model.dq = np.zeros((8, 8), np.uint32)
        model.meta.instrument.name = "NIRSPEC"
        model.meta.exposure.type = "NRS_FIXEDSLIT"
        model.meta.instrument.gwa_xtilt = tilt
        model.meta.instrument.gwa_ytilt = 0.01
        model.meta.subarray.instance.update(xstart=1, ystart=1, xsize=8, ysize=8)
        model.save(path)


@pytest.mark.parametrize("problem", ["itself", "missing", "other filter", "all NaN"])
def test_average_of_bad_input_has_failed(
    files: ObservationFiles, tmp_path: Path, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    science, background = files.science[0], tmp_path / "background_rate.fits"
    shutil.copy(files.backgrounds[0], background)
    with fits.open(background, mode="update") as hdus:
        hdus["ASDF"].data["ASDF_METADATA"]
        if problem == "other filter":
            hdus[0].header["FILTER"] = "F1000W"
        if problem == "all NaN":
            hdus["SCI"].data[:] = np.nan
    if problem == "missing":
        background.unlink()
    given = science if problem == "itself" else background
    result = AverageStep(bkg_list=str(given)).run(str(science))
    assert _status(result, science) == "FAILED"
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert given.name in errors[0]


def test_force_uses_what_does_not_agree(files: ObservationFiles, tmp_path: Path) -> None:
    background = tmp_path / "background_rate.fits"
    shutil.copy(files.backgrounds[0], background)
    fits.setval(background, "FILTER", value="F1000W")
    result = AverageStep(bkg_list=str(background), force=True).run(str(files.science[0]))
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"


def test_bad_parameters_raise(files: ObservationFiles) -> None:
    with pytest.raises(ParameterError, match="sigma must be greater than 0"):
        AverageStep(sigma=-1.0).run(str(files.science[0]))


def test_bad_science_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AverageStep().run(str(tmp_path / "missing_rate.fits"))


# Forms of calling the drop-in


@pytest.mark.parametrize(
    "form",
    ["list", "argument", "one string", "trailing comma", "open models", "association", "of paths"],
)
def test_drop_in_takes_what_the_pipeline_takes(files: ObservationFiles, form: str) -> None:
    results = []
    for step_class in (jwst.background.BackgroundStep, BackgroundStep):
        science, paths = str(files.science[0]), _names(files.backgrounds)
        step = step_class(sigma=1.4)
        if form == "list":
            step.bkg_list = paths
            results.append(step.run(science))
        elif form == "argument":
            step.bkg_list = ["not_used.fits"]
            results.append(step.run(science, paths))
        elif form == "one string":
            results.append(step.run(science, ",".join(paths)))
        elif form == "trailing comma":
            results.append(step.run(science, paths[0] + ","))
        elif form == "open models":
            results.append(
                step.run(datamodels.open(science), [datamodels.open(path) for path in paths])
            )
        elif form == "of paths":
            results.append(step.run(datamodels.open(science), list(files.backgrounds)))
        else:
            results.append(step.run(str(files.association)))
    expected, ours = results
    assert ours.meta.cal_step.bkg_subtract == expected.meta.cal_step.bkg_subtract == "COMPLETE"
    np.testing.assert_array_equal(ours.data, expected.data)
    np.testing.assert_array_equal(ours.err, expected.err)
    # Pixels bad in all backgrounds, and so flagged in any case, have no background.
    flagged = ours.dq | np.where(np.isnan(expected.data), np.uint32(DO_NOT_USE), np.uint32(0))
    np.testing.assert_array_equal(ours.dq, flagged)


def test_drop_in_changes_a_model_in_place_only_inside_a_pipeline(files: ObservationFiles) -> None:
    paths = _names(files.backgrounds)
    for parent in (None, Image2Pipeline()):
        with datamodels.open(files.science[0]) as model:
            before = model.data
            result = BackgroundStep(parent=parent).run(model, paths)
            assert (result is model) == (parent is not None)
            # Never the pixels themselves, which others may share.
            with datamodels.open(files.science[0]) as again:
                np.testing.assert_array_equal(before, again.data)


def test_options_of_the_drop_in(files: ObservationFiles) -> None:
    options = {
        "clip": "auto",
        "dq": "quorum",
        "errors": "propagate",
        "min_coverage": 2,
        "template_noise": "auto",
    }
    step = BackgroundStep(bad_flags=["DO_NOT_USE", "SATURATED"], threads=1, **options)
    result = step.run(str(files.science[0]), _names(files.backgrounds))
    expected = average(
        FileHandle(files.science[0]),
        [FileHandle(path) for path in files.backgrounds],
        AverageParams(bad_flags="DO_NOT_USE,SATURATED", **options),
    )
    for name in ("data", "err", "dq"):
        np.testing.assert_array_equal(result[name], getattr(expected.exposure, name))
    np.testing.assert_array_equal(result.extra_fits.VAR_BKG.data, expected.background_var)


def test_drop_in_saves_the_combined_background_beside_the_product(
    files: ObservationFiles, tmp_path: Path
) -> None:
    step = BackgroundStep(
        bkg_list=_names(files.backgrounds),
        save_combined_background=True,
        save_results=True,
        output_dir=str(tmp_path),
    )
    step.run(str(files.science[0]))
    stem = files.science[0].name.removesuffix("_rate.fits")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{stem}_backgroundstep.fits",
        f"{stem}_combinedbackground.fits",
    ]


def test_a_repeated_subtraction_replaces_what_the_first_said(files: ObservationFiles) -> None:
    first = BackgroundStep().run(str(files.science[0]), _names(files.backgrounds))
    second = BackgroundStep().run(first, str(files.backgrounds[0]))
    cards = [card for card in second.extra_fits.PRIMARY.header if card[0] == "WB_NUSED"]
    assert [value for _, value, _ in cards] == [1]
    assert len(second.extra_fits.WEBBKG.data) == 3


# Templates stay with the pipeline


@pytest.mark.real
def test_soss_is_subtracted_as_by_the_pipeline(offline_crds: Path) -> None:
    template = np.load(offline_crds.parent / "soss" / "model_background96.npy")
    model = datamodels.CubeModel((2, 96, 2048), validate_on_assignment=False)
    rng = np.random.default_rng(1)
    model.data = (1.1 * template + rng.normal(0, 0.01, model.data.shape)).astype(np.float32)
    model.err = np.full(model.data.shape, 0.01, np.float32)
    model.dq = np.zeros(model.data.shape, np.uint32)
    for path, value in {
        "instrument.name": "NIRISS",
        "instrument.detector": "NIS",
        "instrument.filter": "CLEAR",
        "instrument.pupil": "GR700XD",
        "exposure.type": "NIS_SOSS",
        "subarray.name": "SUBSTRIP96",
        "observation.date": "2022-07-26",
        "observation.time": "12:00:00",
        "filename": "soss_rateints.fits",
    }.items():
        model[f"meta.{path}"] = value
    # Nothing but sky: all but the brightest pixels serve.
    options = {"soss_source_percentile": 95.0}
    expected = jwst.background.BackgroundStep.call(model.copy(), **options)
    result = BackgroundStep.call(model, **options)
    assert result.meta.cal_step.bkg_subtract == expected.meta.cal_step.bkg_subtract == "COMPLETE"
    np.testing.assert_array_equal(result.data, expected.data)
    assert np.nanmedian(result.data) < 0.1 * np.nanmedian(model.data)


# Inside the pipelines


def test_drop_in_inside_image2(
    offline_crds: Path,
    files: ObservationFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The pipeline looks for members in the current directory.
    monkeypatch.chdir(files.association.parent)
    options: dict[str, Any] = {
        "save_results": True,
        "steps": {"bkg_subtract": {"save_results": True}, "resample": {"skip": True}},
    }
    (tmp_path / "theirs").mkdir()
    Image2Pipeline.call(files.association.name, output_dir=str(tmp_path / "theirs"), **options)
    monkeypatch.setitem(Image2Pipeline.step_defs, "bkg_subtract", BackgroundStep)
    capfd.readouterr()
    [result] = Image2Pipeline.call(
        files.association.name, output_dir=str(tmp_path / "ours"), **options
    )
    assert "stpipe.webbkg - INFO" in capfd.readouterr().err
    assert any("stpipe.webbkg" in line for line in result.cal_logs.calwebb_image2)
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    assert [name.rsplit("_", 1)[1] for name in names] == ["bsub.fits", "cal.fits"]
    for name in names:
        with datamodels.open(tmp_path / "theirs" / name) as expected:
            _assert_product(tmp_path / "ours" / name, expected)
    with datamodels.open(tmp_path / "ours" / names[1]) as model:
        assert model.meta.cal_step.assign_wcs == "COMPLETE"
        assert np.isfinite(model.meta.wcs(30.0, 30.0)).all()


class _WcsStep(Step):
    """Stands in for the WCS of spectra, whose reference files are not in the local cache."""

    class_alias = "assign_wcs"

    def process(self, model: Any) -> Any:
        model.meta.cal_step.assign_wcs = "COMPLETE"
        return model


@pytest.mark.parametrize("as_models", [False, True])
def test_drop_in_inside_spec2(
    offline_crds: Path,
    files: ObservationFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_models: bool,
) -> None:
    for path in (*files.science, *files.backgrounds):
        with datamodels.open(path) as model:
            model.meta.exposure.type = "MIR_LRS-FIXEDSLIT"
            model.meta.instrument.filter = "P750L"
            model.save(tmp_path / path.name)
    # The association names the images by their full paths.
    table = files.association.read_text().replace(f"{files.association.parent}/", "")
    (tmp_path / files.association.name).write_text(table)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Spec2Pipeline.step_defs, "assign_wcs", _WcsStep)
    if as_models:
        # As the self-calibration and imprint steps do, the backgrounds are handed on open.
        monkeypatch.setitem(Spec2Pipeline.step_defs, "imprint_subtract", _OpeningStep)
    wanted = ("assign_wcs", "bkg_subtract", *(["imprint_subtract"] if as_models else []))
    skipped = {name: {"skip": True} for name in Spec2Pipeline.step_defs if name not in wanted}
    results = []
    for step_class in (jwst.background.BackgroundStep, BackgroundStep):
        monkeypatch.setitem(Spec2Pipeline.step_defs, "bkg_subtract", step_class)
        pipeline = Spec2Pipeline(steps={**skipped})
        results += pipeline.run(files.association.name)
    expected, ours = results
    assert ours.meta.cal_step.bkg_subtract == expected.meta.cal_step.bkg_subtract == "COMPLETE"
    np.testing.assert_array_equal(ours.data, expected.data)
    np.testing.assert_array_equal(ours.dq, expected.dq)
    assert ours.meta.background.subtracted


class _OpeningStep(Step):
    """Opens what it is given."""

    class_alias = "imprint"

    def process(self, model: Any, _imprints: Any) -> Any:
        return self.prepare_output(model)
