"""The step and the hook: alone, through ``strun``, and inside the real pipelines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from destripe_helpers import Exposures, exposures, names_of, originals, set_keywords
from jwst.assign_wcs import AssignWcsStep
from jwst.pipeline import Detector1Pipeline, Image2Pipeline
from jwst.stpipe import Step
from stdatamodels.jwst import datamodels
from stpipe.utilities import import_class, resolve_step_class_alias

from webbkg.errors import ParameterError
from webbkg.io.files import FileHandle, checksum
from webbkg.methods.destripe import DestripeParams, destripe
from webbkg.sim import ObservationFiles, local_crds, nircam_imaging, write_observation
from webbkg.steps import DestripeStep, destripe_hook

__all__ = ["exposures", "originals"]

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
]

ROWS = DestripeParams(method="rows")


@pytest.fixture(scope="module")
def ramps(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """A ramp of two integrations, and the reference files of stages 1 and 2."""
    observation = nircam_imaging(shape=(64, 64), n_science=1, channel="short", n_integrations=2)
    return write_observation(observation, tmp_path_factory.mktemp("ramps"), level="uncal")


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """An image, and the reference files of stage 2."""
    observation = nircam_imaging(shape=(64, 64), n_science=1, channel="short")
    return write_observation(observation, tmp_path_factory.mktemp("rates"))


def assert_same(model: Any, expected: Any) -> None:
    """Compare pixels with those of the method."""
    for name in ("data", "err", "dq"):
        np.testing.assert_array_equal(model[name], getattr(expected, name))


def marks(model: Any) -> list[Any]:
    """All values of the keyword of the method."""
    if not model.hasattr("extra_fits"):
        return []
    cards = model.extra_fits.instance.get("PRIMARY", {}).get("header", [])
    return [card[1] for card in cards if card[0] == "WB_DSTRP"]


# Alone


def test_strun_finds_it() -> None:
    assert import_class(resolve_step_class_alias("webbkg_destripe"), Step) is DestripeStep


def test_its_parameters_are_those_of_the_method() -> None:
    ours = DestripeStep().get_pars()
    for name, value in DestripeParams().as_dict().items():
        assert ours[name] == (None if name == "bad_flags" else value)


def strun(rates: ObservationFiles, folder: Path, *words: str) -> str:
    """Run in a folder, and return the log."""
    environment = {**os.environ, "CRDS_PATH": str(rates.cache)}
    environment["CRDS_SERVER_URL"] = "https://crds-serverless-mode.stsci.edu"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("strun")), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "stpipe.webbkg - INFO" in output
    assert " - ERROR - " not in output
    return output


def test_strun(rates: ObservationFiles, tmp_path: Path) -> None:
    words = [str(rates.science[0]), "--method=rows", "--bad_flags=DO_NOT_USE,SATURATED"]
    strun(rates, tmp_path, "webbkg_destripe", *words)
    # As the command names it.
    product = tmp_path / rates.science[0].name.replace("_rate.fits", "_destripe_rate.fits")
    params = DestripeParams(method="rows", bad_flags="DO_NOT_USE,SATURATED")
    with datamodels.open(product, strict_validation=True) as model:
        model.validate()
        assert_same(model, destripe(FileHandle(rates.science[0]), params).exposure)
    header = fits.getheader(product)
    assert (header["WB_DSTRP"], header["WB_METH"]) == ("rows", "destripe")
    table = fits.getdata(product, "WEBBKG")
    assert list(table["ROLE"]) == ["science", "parameters"]
    assert table["SHA256"][0] == checksum(rates.science[0])


@pytest.mark.slow
def test_strun_of_a_pipeline_with_the_hook(rates: ObservationFiles, tmp_path: Path) -> None:
    words = ["--steps.assign_wcs.pre_hooks=webbkg.steps.destripe_hook,"]
    strun(rates, tmp_path, "calwebb_image2", str(rates.science[0]), *words)
    product = tmp_path / rates.science[0].name.replace("_rate", "_cal")
    assert fits.getval(product, "WB_DSTRP") == "model"


@pytest.mark.parametrize("kind", ["nircam-short", "integrations", "miri"])
@pytest.mark.parametrize("form", ["text", "path", "model"])
def test_forms_of_input(exposures: Exposures, kind: str, form: str) -> None:
    path = exposures(kind)
    given = {"text": str(path), "path": path, "model": datamodels.open(path)}[form]
    result = DestripeStep(method="amplifiers").run(given)
    expected = destripe(FileHandle(path), DestripeParams(method="amplifiers"))
    assert_same(result, expected.exposure)
    variance = result.extra_fits.VAR_BKG.data
    assert variance.shape == result.data.shape
    np.testing.assert_array_equal(
        variance if variance.ndim == 2 else variance[0], expected.stripes[0].variance()
    )
    assert marks(result) == ["amplifiers"]


def test_an_open_model_is_left_alone(exposures: Exposures) -> None:
    path = exposures()
    with datamodels.open(path) as model:
        DestripeStep().run(model)
        np.testing.assert_array_equal(model.data, fits.getdata(path))
        assert marks(model) == []


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("a_cal.fits", "a_destripe_cal.fits"),
        ("a_rate.fits", "a_destripe_rate.fits"),
        ("b.fits", "b_destripe.fits"),
    ],
)
def test_names_of_products(exposures: Exposures, tmp_path: Path, name: str, product: str) -> None:
    path = exposures(name=name, change=set_keywords(FILENAME=name))
    DestripeStep(save_results=True, output_dir=str(tmp_path / "out")).run(str(path))
    assert [item.name for item in (tmp_path / "out").iterdir()] == [product]


def test_mask_and_flat_of_files(exposures: Exposures) -> None:
    path = exposures()
    rng = np.random.default_rng(1)
    mask, flat = rng.random((64, 64)) < 0.2, rng.normal(1.0, 0.01, (64, 64)).astype(np.float32)
    files = {
        "user_mask": str(exposures.image("m.fits", mask.astype(np.uint8))),
        "user_flat": str(exposures.image("f.fits", flat)),
    }
    result = DestripeStep(method="rows", **files).run(str(path))
    assert_same(result, destripe(FileHandle(path), ROWS, mask=mask, flat=flat).exposure)
    rows = result.extra_fits.WEBBKG.data
    assert [row[0].decode() for row in rows] == ["science", "mask", "flat", "parameters"]


# What cannot be done


@pytest.mark.parametrize("mark", ["S_CLNFNS", "WB_DSTRP"])
@pytest.mark.parametrize("form", ["path", "model"])
def test_what_is_done_is_skipped(
    exposures: Exposures, caplog: pytest.LogCaptureFixture, mark: str, form: str
) -> None:
    value = "COMPLETE" if mark == "S_CLNFNS" else "rows"
    path = exposures(change=set_keywords(**{mark: value}))
    given = str(path) if form == "path" else datamodels.open(path)
    result = DestripeStep().run(given)
    np.testing.assert_array_equal(result.data, fits.getdata(path))
    assert marks(result) == (["SKIPPED"] if mark == "S_CLNFNS" else ["rows"])
    assert f"removed already ({mark}={value})" in caplog.text
    forced = DestripeStep(force=True, method="amplifiers").run(given)
    assert not np.array_equal(forced.data, fits.getdata(path), equal_nan=True)
    assert marks(forced) == ["amplifiers"]


def test_a_second_run_knows_of_the_first(exposures: Exposures) -> None:
    first = DestripeStep(method="rows").run(str(exposures()))
    second = DestripeStep(force=True, method="rows").run(first)
    assert marks(second) == ["rows"]
    assert len(second.extra_fits.WEBBKG.data) == 4
    assert np.all(second.extra_fits.VAR_BKG.data >= first.extra_fits.VAR_BKG.data)
    # Also where it was written and read between.
    assert marks(DestripeStep().run(second)) == ["rows"]


@pytest.mark.parametrize("problem", ["no axis", "NaN", "mask", "flat", "ramp"])
def test_what_fails_is_left_as_it_was(
    exposures: Exposures, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    def spoil(hdus: fits.HDUList) -> None:
        if problem == "NaN":
            hdus["SCI"].data[:] = np.nan
        if problem == "flat":
            hdus[0].header["S_FLAT"] = "COMPLETE"

    path = exposures(change=spoil)
    ones = str(exposures.image("ones.fits", np.ones((64, 64), np.float32)))
    options = {"mask": {"user_mask": ones}, "flat": {"user_flat": ones}}.get(problem, {})
    given: Any = datamodels.open(path)
    if problem == "ramp":
        given = datamodels.RampModel((1, 2, 64, 64))
        given.meta.subarray.instance.update(xstart=1, ystart=1, xsize=64, ysize=64)
    if problem == "no axis":
        # The header alone would not do: its copy in the ASDF extension counts too.
        given.meta.subarray.fastaxis = None
    before = given.data.copy()
    result = DestripeStep(**options).run(given)
    np.testing.assert_array_equal(result.data, before)
    assert marks(result) == ["FAILED"]
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    expected = {
        "no axis": "needs FASTAXIS",
        "NaN": "no pixel is usable",
        "mask": "opposite sense",
        "flat": "S_FLAT=COMPLETE",
        "ramp": "2 or 3 axes",
    }
    assert expected[problem] in errors[0]


def test_bad_parameters_raise(exposures: Exposures) -> None:
    with pytest.raises(ParameterError, match="n_sigma must be greater than 0"):
        DestripeStep(n_sigma=-1.0).run(str(exposures()))


# Inside the pipelines


HOOKS = ["webbkg.steps.destripe_hook", "webbkg.steps.DestripeStep"]
WITH_PARAMETERS = "webbkg.steps.DestripeStep(method='rows', force=True)"


@pytest.mark.parametrize("hook", [*HOOKS, WITH_PARAMETERS, destripe_hook, DestripeStep])
def test_hook_of_assign_wcs(
    rates: ObservationFiles,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    hook: Any,
) -> None:
    if callable(hook) and not isinstance(hook, type):
        # stpipe takes functions by name only.
        hook = f"{hook.__module__}.{hook.__name__}"
    with local_crds(rates.cache):
        [result] = Image2Pipeline.call(
            str(rates.science[0]),
            save_results=True,
            output_dir=str(tmp_path),
            steps={
                "assign_wcs": {"pre_hooks": [hook]},
                "flat_field": {"skip": True},
                "photom": {"skip": True},
                "resample": {"skip": True},
            },
        )
    params = ROWS if hook == WITH_PARAMETERS else DestripeParams()
    assert_same(result, destripe(FileHandle(rates.science[0]), params).exposure)
    product = tmp_path / rates.science[0].name.replace("_rate", "_cal")
    with datamodels.open(product) as model:
        assert_same(model, result)
        assert model.meta.cal_step.assign_wcs == "COMPLETE"
    assert fits.getval(product, "WB_DSTRP") == params.method
    assert {"VAR_BKG", "WEBBKG"} <= set(names_of(product))
    assert "stpipe.webbkg - INFO" in capfd.readouterr().err


def test_calibrated_after_the_hook(rates: ObservationFiles) -> None:
    """The pipeline goes on with what the hook gives."""
    results = []
    with local_crds(rates.cache):
        for hooks in ([], HOOKS[:1]):
            results += Image2Pipeline.call(
                str(rates.science[0]),
                steps={"assign_wcs": {"pre_hooks": hooks}, "resample": {"skip": True}},
            )
    plain, striped = (model.data for model in results)
    assert all(model.meta.cal_step.photom == "COMPLETE" for model in results)
    stripes = destripe(FileHandle(rates.science[0])).stripes[0].image()
    factor = results[0].meta.photometry.conversion_megajanskys
    good = np.isfinite(plain)
    assert good.mean() > 0.7
    np.testing.assert_allclose((plain - striped)[good], factor * stripes[good], atol=2e-6)


@pytest.mark.parametrize("hook", [*HOOKS, WITH_PARAMETERS])
def test_hook_of_ramp_fit(ramps: ObservationFiles, tmp_path: Path, hook: str) -> None:
    def run(folder: Path, hooks: list[str]) -> list[Path]:
        folder.mkdir()
        with local_crds(ramps.cache):
            Detector1Pipeline.call(
                str(ramps.science[0]),
                save_results=True,
                output_dir=str(folder),
                steps={"ramp_fit": {"post_hooks": hooks}},
            )
        return [next(folder.glob("*_rate.fits")), next(folder.glob("*_rateints.fits"))]

    params = ROWS if hook == WITH_PARAMETERS else DestripeParams()
    for plain, product in zip(run(tmp_path / "a", []), run(tmp_path / "b", [hook]), strict=True):
        with datamodels.open(product) as model:
            # Both results, each with the stripes of its own.
            assert_same(model, destripe(FileHandle(plain), params).exposure)
        assert fits.getval(product, "WB_DSTRP") == params.method


def test_hook_without_integrations(exposures: Exposures) -> None:
    """ramp_fit gives None for them, or one model if there is one integration."""
    path = exposures()
    with datamodels.open(path) as model:
        image, nothing = destripe_hook((model, None))
        assert nothing is None
        assert_same(image, destripe(FileHandle(path)).exposure)


def test_hook_of_a_step_that_runs_alone(rates: ObservationFiles) -> None:
    with local_crds(rates.cache):
        result = AssignWcsStep.call(str(rates.science[0]), pre_hooks=HOOKS[:1])
    assert_same(result, destripe(FileHandle(rates.science[0])).exposure)
    assert result.meta.cal_step.assign_wcs == "COMPLETE"


def test_hook_goes_on_with_what_it_cannot_do(
    exposures: Exposures, caplog: pytest.LogCaptureFixture
) -> None:
    path = exposures()
    with datamodels.open(path) as model:
        model.meta.subarray.fastaxis = None
        assert destripe_hook(model) is model
        np.testing.assert_array_equal(model.data, fits.getdata(path))
    assert "needs FASTAXIS" in caplog.text
