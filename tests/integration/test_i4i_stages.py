"""Calibrated exposures and mosaics of the real pipeline, with backgrounds of the other dithers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from i4i_helpers import HOLE, SIGMA, Run, load, prepare
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, OutputError
from webbkg.masks.flags import DO_NOT_USE
from webbkg.pipeline import calibrate, calwebb, mosaic
from webbkg.sim import write_observation
from webbkg.sim.crds import environment
from webbkg.sim.presets.i4i import miri_i4i

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # Of gwcs: a SIP polynomial for the header is not as good as the WCS.
    pytest.mark.filterwarnings("ignore:Failed to achieve requested SIP"),
]

UNALIGNED: Mapping[str, Mapping[str, Any]] = {"tweakreg": {"skip": True}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("i4i_stages")
    observation = miri_i4i(shape=(192, 200), n_science=4, seed=2)
    files = write_observation(observation, folder / "in")
    return prepare(observation, files, folder / "out")


@pytest.fixture(scope="module")
def before(run: Run) -> list[Path]:
    return [
        calibrate(path, run.layout.plain_calibrated(path).parent, run.files.cache)
        for path in run.science
    ]


@pytest.fixture(scope="module")
def after(run: Run) -> list[Path]:
    return [
        calibrate(run.layout.association(path), run.layout.calibrated(path).parent, run.files.cache)
        for path in run.science
    ]


@pytest.fixture(scope="module")
def mosaic_before(run: Run, before: list[Path]) -> Path:
    folder = run.layout.mosaics_before
    return mosaic(before, "group", folder, run.files.cache, steps=UNALIGNED)


@pytest.fixture(scope="module")
def mosaic_after(run: Run, after: list[Path], mosaic_before: Path) -> Path:
    folder = run.layout.mosaics_after
    return mosaic(after, "group", folder, run.files.cache, like=mosaic_before, steps=UNALIGNED)


def factors(run: Run, before: Sequence[Path], index: int) -> Any:
    """What flat field and flux calibration make of each pixel, from bright skies."""
    return load(before[index]).data / load(run.science[index]).data


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != "."]


def test_products_are_where_the_layout_has_them(
    run: Run, before: list[Path], after: list[Path], mosaic_before: Path, mosaic_after: Path
) -> None:
    assert before == [run.layout.plain_calibrated(path) for path in run.science]
    assert after == [run.layout.calibrated(path) for path in run.science]
    assert mosaic_before == run.layout.mosaic_before("group")
    assert mosaic_after == run.layout.mosaic_after("group")
    for path in (*before, *after, mosaic_before, mosaic_after):
        with datamodels.open(path) as model:
            assert isinstance(model, datamodels.ImageModel)
            model.validate()
            assert model.meta.filename == path.name
    assert hidden(run.layout.output) == []
    names = {path.name for path in run.layout.mosaics_after.iterdir()}
    assert names == {"group_asn.json", "group_i2d.fits"}


def test_calibrated_exposures_are_sources_and_noise(
    run: Run, before: list[Path], after: list[Path]
) -> None:
    pulls, pulls_without = [], []
    for index, path in enumerate(run.science):
        factor, exposure = factors(run, before, index), load(after[index])
        with fits.open(after[index]) as hdus:
            variance = hdus["VAR_BKG"].data
        residual = exposure.data - factor * run.sources(path)
        # Cosmic rays and sources' own Poisson noise are no matter of the background.
        use = np.isfinite(residual) & (exposure.dq == 0) & (run.sources(path) < 1.0)
        assert use.mean() > 0.4
        assert np.allclose(variance[use], (factor[use] * SIGMA) ** 2, rtol=1e-4)
        pulls.append(residual[use] / exposure.err[use])
        pulls_without.append(residual[use] / np.sqrt(exposure.err[use] ** 2 - variance[use]))
    assert np.mean(np.concatenate(pulls)) == pytest.approx(0.0, abs=0.02)
    assert np.std(np.concatenate(pulls)) == pytest.approx(1.0, abs=0.02)
    assert np.std(np.concatenate(pulls_without)) > 1.1


def test_calibrated_exposures_tell_of_their_background(run: Run, after: list[Path]) -> None:
    with datamodels.open(after[0]) as model, fits.open(after[0]) as hdus:
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"
        assert model.meta.cal_step.photom == "COMPLETE"
        assert model.meta.background.level is None
        assert np.isnan(model.data[HOLE]).all()
        assert (model.dq[HOLE] & DO_NOT_USE != 0).all()
        assert hdus[0].header["WB_METH"] == "i4i"
        with fits.open(run.layout.merged_rate(run.science[0])) as merged:
            level = merged[0].header["WB_LEVEL"]
        conversion = model.meta.photometry.conversion_megajanskys
        assert hdus[0].header["WB_LEVEL"] == pytest.approx(level * conversion, rel=0.01)
        assert model.meta.asn.table_name == run.layout.association(run.science[0]).name


def test_plain_strun_works_on_the_associations(run: Run, after: list[Path], tmp_path: Path) -> None:
    association = run.layout.association(run.science[0])
    names = {key: value for key, value in os.environ.items() if not key.startswith("CRDS")}
    subprocess.run(
        [Path(sys.executable).with_name("strun"), "calwebb_image2", association],
        cwd=tmp_path,
        env={**names, **environment(run.files.cache)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    plain, ours = load(tmp_path / after[0].name), load(after[0])
    assert np.array_equal(plain.data, ours.data, equal_nan=True)
    assert np.array_equal(plain.dq, ours.dq)
    assert np.nanmedian(ours.err / plain.err) == pytest.approx(np.hypot(0.35, 0.2) / 0.35, rel=0.02)


def test_mosaics_share_a_grid(mosaic_before: Path, mosaic_after: Path) -> None:
    with datamodels.open(mosaic_before) as first, datamodels.open(mosaic_after) as second:
        assert first.data.shape == second.data.shape
        x, y = np.array([0.0, 100.0, 180.0]), np.array([10.0, 120.0, 170.0])
        assert np.array_equal(first.meta.wcs(x, y), second.meta.wcs(x, y), equal_nan=True)
        areas = [m.meta.photometry.pixelarea_arcsecsq for m in (first, second)]
        assert areas[0] == pytest.approx(areas[1], rel=1e-12, abs=0.0)
        assert first.meta.resample.pointings == second.meta.resample.pointings == 4
        # The exposures' true skies are at 21 MJy/sr.
        assert np.nanmedian(first.data) == pytest.approx(21.0, abs=1.0)


@pytest.fixture(scope="module")
def truth(
    run: Run, before: list[Path], after: list[Path], mosaic_before: Path, tmp_path_factory: Any
) -> Any:
    """Mosaic of the true sources, with the weights and flags of the exposures."""
    folder, paths = tmp_path_factory.mktemp("truth"), []
    for index, (path, cal) in enumerate(zip(run.science, after, strict=True)):
        paths.append(folder / cal.name)
        shutil.copy(cal, paths[-1])
        sources = factors(run, before, index) * run.sources(path)
        with fits.open(paths[-1], mode="update") as hdus:
            hdus["SCI"].data = np.where(np.isnan(hdus["SCI"].data), np.nan, sources).astype("f4")
    steps = {**UNALIGNED, "outlier_detection": {"skip": True}}
    made = mosaic(paths, "truth", folder, run.files.cache, like=mosaic_before, steps=steps)
    return load_mosaic(made)


def load_mosaic(path: Path) -> Any:
    with fits.open(path) as hdus:
        return hdus["SCI"].data.astype(np.float64)


def test_mosaic_after_is_the_sources(mosaic_after: Path, truth: Any) -> None:
    image = load_mosaic(mosaic_after)
    use = np.isfinite(image) & np.isfinite(truth)
    assert use.sum() > 0.99 * np.isfinite(truth).sum()
    difference = image - truth
    blank = use & (truth < 0.02)
    error = np.std(difference[blank]) / np.sqrt(np.count_nonzero(blank))
    # Neighbours share noise by drizzling, so that the mean is known less well.
    assert np.mean(difference[blank]) == pytest.approx(0.0, abs=6 * error)
    bright = use & (truth > 0.5)
    assert image[bright].sum() == pytest.approx(truth[bright].sum(), rel=0.01)


def test_sky_matching_would_take_the_level(
    run: Run, after: list[Path], mosaic_after: Path, truth: Any, tmp_path: Path
) -> None:
    """An exposure that is too low stays so unless the pipeline is to level the skies."""
    # Three exposures cover less than four do: on the grid of the others nevertheless.
    paths = [Path(shutil.copy(path, tmp_path)) for path in after[:3]]
    with fits.open(paths[0], mode="update") as hdus:
        hdus["SCI"].data -= 1.0
    levels = {}
    for match_sky in (False, True):
        made = mosaic(
            paths,
            f"matched_{match_sky}",
            tmp_path,
            run.files.cache,
            like=mosaic_after,
            match_sky=match_sky,
            steps={**UNALIGNED, "outlier_detection": {"skip": True}},
        )
        with datamodels.open(made) as model:
            assert model.meta.cal_step.skymatch == ("COMPLETE" if match_sky else "SKIPPED")
            assert model.data.shape == truth.shape
        levels[match_sky] = np.nanmedian(load_mosaic(made) - truth)
    assert levels[True] == pytest.approx(-1.0, abs=0.1)
    assert -0.7 < levels[False] < -0.1


def test_sparse_positions_change_nothing_that_matters(
    run: Run, after: list[Path], mosaic_after: Path, tmp_path: Path
) -> None:
    dense = {"pixmap_stepsize": 1.0, "pixmap_order": 1}
    steps = {**UNALIGNED, "resample": dense, "outlier_detection": dense}
    made = mosaic(after, "dense", tmp_path, run.files.cache, like=mosaic_after, steps=steps)
    with datamodels.open(mosaic_after) as ours:
        difference = np.abs(load_mosaic(made) - ours.data)
        assert np.array_equal(np.isnan(difference), np.isnan(ours.data))
        assert 0.0 < np.nanmax(difference / (ours.err + 0.01 * np.abs(ours.data))) < 0.01


def test_a_mosaic_that_is_there_is_not_made_again(
    run: Run, after: list[Path], mosaic_after: Path
) -> None:
    # Told before the pipeline runs, which would complain about reference files that are not there.
    folder, no_cache = run.layout.mosaics_after, Path("no_cache")
    inode = mosaic_after.stat().st_ino
    with pytest.raises(OutputError, match=r"group_i2d\.fits: exists already; use --overwrite"):
        mosaic(after, "group", folder, no_cache)
    with pytest.raises(OutputError, match=r"_cal\.fits: exists already; use --overwrite"):
        calibrate(run.layout.association(run.science[0]), after[0].parent, no_cache)
    with pytest.raises(OutputError, match=r"_mirimage_cal\.fits: exists already; use --overwrite"):
        calibrate(run.science[0], after[0].parent, no_cache)
    assert mosaic_after.stat().st_ino == inode


def test_exposures_are_calibrated_again_on_demand(
    run: Run, after: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / after[0].name
    copy.write_text("broken")
    association = run.layout.association(run.science[0])
    assert calibrate(association, tmp_path, run.files.cache, overwrite=True) == copy
    assert np.array_equal(load(copy).err, load(after[0]).err, equal_nan=True)
    plain = tmp_path / run.layout.plain_calibrated(run.science[0]).name
    assert calibrate(run.science[0], tmp_path, run.files.cache, overwrite=True) == plain


def test_subtraction_that_is_skipped(run: Run, tmp_path: Path) -> None:
    association = run.layout.association(run.science[0])
    steps = {"bkg_subtract": {"skip": True}}
    with pytest.raises(
        InputError, match=r"calwebb_image2 did not subtract .* \(S_BKDSUB is 'SKIPPED'"
    ):
        calibrate(association, tmp_path, run.files.cache, steps=steps)
    assert list(tmp_path.iterdir()) == []


def test_background_that_goes_away_midway(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, merged = run.science[0], tmp_path / "merged_rate.fits"
    association = tmp_path / "x_asn.json"
    text = run.layout.association(path).read_text()
    association.write_text(text.replace(str(run.layout.merged_rate(path).resolve()), str(merged)))
    with pytest.raises(InputError) as caught:
        calibrate(association, tmp_path / "out", run.files.cache)
    assert str(caught.value).startswith(f"x_asn.json: its member {merged} is not in {tmp_path} or ")
    shutil.copy(run.layout.merged_rate(path), merged)
    real = calwebb.run

    def run_without(*arguments: Any) -> Any:
        merged.unlink()
        return real(*arguments)

    monkeypatch.setattr(calwebb, "run", run_without)
    with pytest.raises(InputError) as caught:
        calibrate(association, tmp_path / "out", run.files.cache)
    assert str(caught.value) == (
        f"x_asn.json: {merged} went away while the pipeline ran; run the stage before again"
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_mosaic_of_nothing_and_of_what_is_not_there(
    run: Run, after: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        mosaic([], "group", tmp_path, run.files.cache)
    assert str(caught.value) == "group: a mosaic needs at least one calibrated exposure, got none"
    with pytest.raises(InputError, match=r"its member .*/no_cal\.fits is not in"):
        mosaic([after[0], tmp_path / "no_cal.fits"], "group", tmp_path, run.files.cache)


def test_grid_of_a_file_without_one(run: Run, after: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        mosaic(after, "group", tmp_path, run.files.cache, like=run.science[0])
    assert str(caught.value) == (
        f"{run.science[0]}: has no WCS of the JWST pipeline to take the pixel grid from; give a "
        "mosaic (i2d) made by calwebb_image3"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["group_asn.json"]


def test_no_reference_files(
    run: Run, after: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    for call in (
        lambda: calibrate(run.science[0], tmp_path),
        lambda: mosaic(after, "group", tmp_path),
    ):
        with pytest.raises(InputError, match="neither CRDS_PATH nor CRDS_SERVER_URL is set"):
            call()
