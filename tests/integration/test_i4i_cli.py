"""``webbkg i4i`` on small simulated observations: products, stages, going on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import Cli, command_path, tree
from i4i_cli_helpers import SHAPE, copied, edit, observe
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal

from webbkg.io.files import FileHandle
from webbkg.io.i4i_files import Layout
from webbkg.jobs.state import STATE_NAME
from webbkg.masks.flags import DO_NOT_USE
from webbkg.sim import ObservationFiles, local_crds
from webbkg.sim.crds import environment

pytestmark = pytest.mark.usefixtures("quick_steps", "references")

GROUP = "jw09999_obs001_MIRI_F770W"
STEM = "jw09999001001_02101_0000{}_mirimage"


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    return observe(tmp_path_factory.mktemp("i4i"))


@pytest.fixture(scope="module")
def references(observed: ObservationFiles) -> Iterator[None]:
    with local_crds(observed.cache):
        yield


@pytest.fixture(scope="module", autouse=True)
def _undrawn() -> Iterator[None]:
    """Figures take most of the time and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("entry", "i4i_group", "i4i_mosaics"):
            patch.setattr(f"webbkg.report.{module}.png_of", _no_png, raising=False)
        yield


def _no_png(figure: Figure) -> bytes:
    return b""


@pytest.fixture(scope="module")
def whole(observed: ObservationFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of one call without stops, uncalibrated."""
    output = tmp_path_factory.mktemp("whole") / "out"
    ran = Cli()("i4i", *observed.science, "-o", output, "--no-stage2", "--keep-intermediate")
    assert ran.code == 0, ran.err
    return output


def pixels(path: Path) -> np.ndarray:
    return FileHandle(path).load().data


def assert_same_results(one: Path, other: Path, science: tuple[Path, ...]) -> None:
    """Backgrounds are the same but for levels found on another way and edges of masks."""
    for path in science:
        for product in ("subtracted", "merged_rate"):
            first, second = (pixels(getattr(Layout(out), product)(path)) for out in (one, other))
            assert_array_equal(np.isnan(first), np.isnan(second))
            # The noise is 0.35 DN/s.
            difference = np.abs(first - second)[np.isfinite(first)]
            assert np.percentile(difference, 90) < 0.1


def test_products_have_the_names_that_scripts_look_for(
    whole: Path, observed: ObservationFiles
) -> None:
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    wanted = {"metrics.json", "webbkg-report.html", STATE_NAME}
    wanted |= {f"calibrated3_mosaics/{GROUP}_i2d_galaxy_seed_image.fits"}
    for path in observed.science:
        stem = path.name.removesuffix("_rate.fits")
        rates = f"{stem}/calibrated1_rates"
        wanted |= {
            f"{rates}/{stem}_masked_source_emission_rate.fits",
            f"{rates}/merged_other_visits_masked_source_emission_rate.fits",
            f"{rates}/merged_other_visits_masked_source_emission_rate.list.txt",
            f"{rates}/{stem}_bsub.fits",
            f"{stem}/calibrated2_cals/{stem}_bkgsub_masked_source_emission_asn.json",
        }
    assert names == wanted


def test_sky_is_gone_and_sources_stay(whole: Path, observed: ObservationFiles) -> None:
    for path in observed.science:
        after = FileHandle(Layout(whole).subtracted(path)).load()
        masked = FileHandle(Layout(whole).masked_rate(path)).load()
        sources = (masked.data == 0) & (masked.dq & DO_NOT_USE != 0)
        blank = ~sources & (after.dq == 0) & np.isfinite(after.data)
        assert np.median(after.data[blank]) == pytest.approx(0.0, abs=0.03)
        assert np.std(after.data[blank]) < 0.6
        assert 0.02 < sources.mean() < 0.6


def test_list_names_the_others(whole: Path, observed: ObservationFiles) -> None:
    layout = Layout(whole)
    for path in observed.science:
        lines = layout.merged_list(path).read_text().splitlines()
        others = [other for other in observed.science if other != path]
        assert lines == [str(layout.masked_rate(other).resolve()) for other in others]


def test_metrics_are_strict_json_with_an_entry_for_each_exposure(
    whole: Path, observed: ObservationFiles
) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    content = json.loads((whole / "metrics.json").read_text(), parse_constant=refuse)
    [group] = content["groups"]
    assert group["name"] == GROUP
    names = [entry["name"] for entry in group["exposures"]]
    assert names == [path.name for path in observed.science]


def test_seed_image_is_where_sources_are(whole: Path) -> None:
    with fits.open(Layout(whole).seed(GROUP)) as hdus:
        assert hdus[0].header["CTYPE1"] == "RA---TAN"
        assert hdus[0].header["FILTER"] == "F770W"
        assert 0.02 < np.mean(hdus[0].data > 0) < 0.5


@pytest.mark.parametrize(
    "stage",
    [
        "seed",
        "mask",
        pytest.param("merge", marks=pytest.mark.slow),
        pytest.param("subtract", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on(
    cli: Cli, stage: str, whole: Path, observed: ObservationFiles, tmp_path: Path
) -> None:
    words = ["i4i", *observed.science, "-o", tmp_path, "--no-stage2", "--keep-intermediate"]
    first = cli(*words, "--stop-after", stage)
    assert first.code == 0, first.err
    layout, science = Layout(tmp_path), observed.science[0]
    made = [layout.seed(GROUP), layout.masked_rate(science), layout.merged_rate(science)]
    made.append(layout.subtracted(science))
    n_made = ["seed", "mask", "merge", "subtract"].index(stage) + 1
    assert [path.exists() for path in made] == [True] * n_made + [False] * (4 - n_made)
    before = {path: path.stat().st_mtime_ns for path in made[:n_made]}
    second = cli(*words)
    assert second.code == 0, second.err
    assert f"{tmp_path}: going on with the run that was begun in there" in second.out
    assert {path: path.stat().st_mtime_ns for path in made[:n_made]} == before
    assert_same_results(whole, tmp_path, observed.science)


def test_a_finished_run_is_not_done_again(
    cli: Cli, whole: Path, observed: ObservationFiles
) -> None:
    before = tree(whole)
    words = ("i4i", *observed.science, "-o", whole, "--no-stage2", "--keep-intermediate")
    ran = cli(*words)
    assert ran.code == 0
    assert ran.out == f"{whole}: all was done before; use --overwrite to do it again\n"
    assert tree(whole) == before


def test_other_parameters_need_another_directory(
    cli: Cli, whole: Path, observed: ObservationFiles
) -> None:
    before = tree(whole)
    ran = cli("i4i", *observed.science, "-o", whole, "--no-stage2", "--sigma", 2.5)
    assert ran.code == 1
    assert ran.line == (
        f"webbkg: {whole}: holds a run with other parameters (sigma 3.0, now 2.5); use "
        "--overwrite to begin anew, or another directory with -o"
    )
    assert tree(whole) == before


def test_changed_inputs_need_another_directory(
    cli: Cli, observed: ObservationFiles, tmp_path: Path
) -> None:
    science, out = copied(observed.science, tmp_path / "in"), tmp_path / "out"
    words = ("i4i", *science, "-o", out, "--no-stage2", "--stop-after", "seed")
    assert cli(*words).code == 0
    edit(science[1], TARGNAME="OTHER")
    ran = cli(*words)
    assert ran.code == 1
    assert ran.line == (
        f"webbkg: {out}: holds a run with other inputs ({science[1].name}); use --overwrite to "
        "begin anew, or another directory with -o"
    )
    assert cli(*words, "--overwrite").code == 0


def test_dry_run_writes_nothing(cli: Cli, observed: ObservationFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = cli("i4i", *observed.science, "-o", out, "--dry-run")
    assert ran.code == 0
    lines = ran.out.splitlines()
    others = ", ".join(path.name for path in observed.science[1:])
    assert lines[0] == f"{observed.science[0].name}: background of 3 ({others})"
    assert lines[-1] == f"{GROUP}: 4 exposures -> {out}"
    assert not out.exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(
    cli: Cli, whole: Path, observed: ObservationFiles, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["i4i", *observed.science, "-o", out, "--no-stage2", "--keep-intermediate"]
    layout = Layout(out)
    process = subprocess.Popen(
        [command_path(), *map(str, words)],
        env={**os.environ, **environment(observed.cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # In the middle of a stage: the second background is there, the fourth is not.
    deadline = time.monotonic() + 100
    while not layout.merged_rate(observed.science[1]).exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not layout.merged_rate(observed.science[3]).exists()
    # As if it had been writing this very moment.
    part = layout.merged_rate(observed.science[2]).with_name(".half.fits.0123abcd.part")
    part.write_bytes(b"half")
    done = json.loads((out / STATE_NAME).read_text())["done"]
    assert set(done) == {f"{GROUP}/seed", f"{GROUP}/mask"}
    for path in out.rglob("*.fits"):
        if not path.name.startswith("."):
            with fits.open(path) as hdus:
                hdus.verify("exception")
    ran = cli(*words)
    assert ran.code == 0, ran.err
    assert_same_results(whole, out, observed.science)
    assert list(out.rglob(".*")) == []


@pytest.mark.slow
def test_injected_sources_keep_their_flux(
    cli: Cli, observed: ObservationFiles, tmp_path: Path
) -> None:
    ran = cli("i4i", *observed.science, "-o", tmp_path, "--no-stage2", "--inject", 6)
    assert ran.code == 0, ran.err
    [group] = json.loads((tmp_path / "metrics.json").read_text())["groups"]
    assert abs(group["metrics"]["injected"]["bright"]["percent"]) < 3.0
    assert abs(group["metrics"]["injected_paired"]["bright"]["percent"]) < 3.0


def test_the_first_word_decides(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "seed").write_bytes(b"")
    help_of_stage = cli("i4i", "seed", "--help").out
    assert "webbkg i4i seed [OPTIONS] MOSAIC\n" in help_of_stage
    ran = cli("i4i", "./seed", "-o", "out", "--no-stage2", cwd=tmp_path)
    assert ran.line == "webbkg: seed: is empty (0 bytes), a FITS exposure is needed"


def test_stages_alone_do_the_same(
    cli: Cli, whole: Path, observed: ObservationFiles, tmp_path: Path
) -> None:
    seed, layout = Layout(whole).seed(GROUP), Layout(tmp_path)
    ran = cli("i4i", "mask", seed, *observed.science, "-o", tmp_path)
    assert ran.code == 0, ran.err
    masked = [layout.masked_rate(path) for path in observed.science]
    for path, found in zip(observed.science, masked, strict=True):
        first, second = (pixels(p) for p in (Layout(whole).masked_rate(path), found))
        assert np.mean((first == 0) != (second == 0)) < 1e-3
    ran = cli("i4i", "merge", *masked, "--rates", *observed.science, "-o", tmp_path)
    assert ran.code == 0, ran.err
    for path in observed.science:
        first, second = (pixels(Layout(out).merged_rate(path)) for out in (whole, tmp_path))
        assert np.percentile(np.abs(first - second), 90) < 0.1
        assert json.loads(layout.association(path).read_text())["products"]


def test_seed_of_a_mosaic(cli: Cli, whole: Path, tmp_path: Path) -> None:
    """A co-add with sources is what a mosaic is too."""
    mosaic = tmp_path / "field_i2d.fits"
    with fits.open(Layout(whole).seed(GROUP)) as hdus:
        rng = np.random.default_rng(5)
        image = hdus[0].data + rng.normal(0.0, 0.2, hdus[0].data.shape).astype(np.float32)
        fits.PrimaryHDU(image, hdus[0].header).writeto(mosaic)
        bright = hdus[0].data > 3.0
    ran = cli("i4i", "seed", mosaic, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    found = fits.getdata(tmp_path / "out/calibrated3_mosaics/field_i2d_galaxy_seed_image.fits", 0)
    assert (found[bright] > 0).all()
    assert np.mean(found > 0) < 0.5


@pytest.mark.slow
def test_calibrated_and_mosaics(cli: Cli, observed: ObservationFiles, tmp_path: Path) -> None:
    ran = cli("i4i", observed.science[0].parent, "-o", tmp_path)
    assert ran.code == 0, ran.err
    layout = Layout(tmp_path)
    for path in observed.science:
        with fits.open(layout.calibrated(path)) as hdus:
            assert hdus[0].header["S_BKDSUB"] == "COMPLETE"
            assert "VAR_BKG" in hdus
        assert not layout.plain_calibrated(path).exists()
        assert not layout.masked_rate(path).exists()
        assert layout.merged_rate(path).exists()
    with (
        fits.open(layout.mosaic_before(GROUP)) as first,
        fits.open(layout.mosaic_after(GROUP)) as second,
    ):
        assert first["SCI"].shape == second["SCI"].shape
        assert min(first["SCI"].shape) > min(SHAPE)
        assert np.nanmedian(first["SCI"].data) == pytest.approx(21.0, abs=1.0)
        assert np.nanmedian(second["SCI"].data) == pytest.approx(0.0, abs=0.05)
    cals = [layout.calibrated(path) for path in observed.science]
    again = cli("i4i", "mosaic", *cals, "--like", layout.mosaic_before(GROUP), "-o", tmp_path / "m")
    assert again.code == 0, again.err
    assert_array_equal(
        fits.getdata(tmp_path / f"m/{GROUP}_i2d.fits", "SCI"),
        fits.getdata(layout.mosaic_after(GROUP), "SCI"),
    )


def test_subtract_alone_without_the_pipeline(
    cli: Cli,
    whole: Path,
    observed: ObservationFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it writes of the files is what the whole job writes of arrays."""
    for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name)
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    layout = Layout(out)
    for path in observed.science:
        layout.subtracted(path).unlink()
        asn = layout.association(path)
        asn.write_text(asn.read_text().replace(str(whole.resolve()), str(out.resolve())))
    ran = cli("i4i", "subtract", out, "--no-stage2")
    assert ran.code == 0, ran.err
    assert ran.out.split() == [str(layout.subtracted(path).resolve()) for path in observed.science]
    for path in observed.science:
        with (
            fits.open(Layout(whole).subtracted(path)) as first,
            fits.open(layout.subtracted(path)) as second,
        ):
            assert [hdu.name for hdu in first] == [hdu.name for hdu in second]
            for name in ("SCI", "ERR", "DQ", "VAR_BKG"):
                assert_array_equal(first[name].data, second[name].data)
                assert first[name].header.get("BUNIT") == second[name].header.get("BUNIT")
            assert second[0].header["S_BKDSUB"] == "COMPLETE"
            words = [key for key in first[0].header if key.startswith("WB_")]
            assert len(words) > 8
            assert [first[0].header[key] for key in words] == [
                second[0].header[key] for key in words
            ]
            assert_array_equal(first["WEBBKG"].data, second["WEBBKG"].data)
    again = cli("i4i", "subtract", out, "--no-stage2")
    assert again.code == 1
    assert again.line == (
        f"webbkg: {layout.subtracted(observed.science[0]).resolve()}: exists already; use "
        "--overwrite to replace it"
    )


@pytest.mark.parametrize(
    ("words", "has_error", "has_flags"),
    [(("--errors", "keep"), False, True), (("--dq", "keep"), True, False)],
)
def test_subtract_alone_heeds_what_merge_was_told(
    cli: Cli,
    whole: Path,
    observed: ObservationFiles,
    tmp_path: Path,
    words: tuple[str, ...],
    has_error: bool,
    has_flags: bool,
) -> None:
    masked = [Layout(whole).masked_rate(path) for path in observed.science]
    rates = ("--rates", *observed.science)
    assert cli("i4i", "merge", *masked, *rates, "-o", tmp_path, *words).code == 0
    assert cli("i4i", "subtract", tmp_path, "--no-stage2").code == 0
    layout, science = Layout(tmp_path), observed.science[0]
    with (
        fits.open(science) as before,
        fits.open(layout.merged_rate(science)) as merged,
        fits.open(layout.subtracted(science)) as after,
    ):
        assert merged["DQ"].data.any()
        assert (after["DQ"].data != before["DQ"].data).any() == has_flags
        known = np.isfinite(merged["ERR"].data) & np.isfinite(before["ERR"].data)
        assert (after["ERR"].data > before["ERR"].data)[known].any() == has_error
        assert ("VAR_BKG" in after) == has_error
        expected = before["SCI"].data - merged["SCI"].data
        assert_array_equal(after["SCI"].data, expected)


def test_merge_alone_needs_no_wcs(
    cli: Cli,
    whole: Path,
    observed: ObservationFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without one distances are not checked, and a warning says so."""
    masked = [Layout(whole).masked_rate(path) for path in observed.science]
    words = ("i4i", "merge", *masked, "--rates", *observed.science)
    assert cli(*words, "-o", tmp_path / "with").code == 0
    for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name)
    no_files = (
        "the pipeline needs reference files, but neither CRDS_PATH nor CRDS_SERVER_URL is set; set "
        "them as the JWST pipeline's documentation tells, or pass a local cache"
    )
    ran = cli(*words, "-o", tmp_path / "far", "--min-separation", 4)
    assert ran.code == 1
    assert ran.line == f"webbkg: {no_files}"
    assert not (tmp_path / "far").exists()
    ran = cli(*words, "-o", tmp_path / "out")
    assert ran.code == 0
    assert ran.err.splitlines()[0] == (
        f"webbkg: warning: {GROUP}: distances on the sky are not checked, all other exposures "
        f"serve as background ({no_files})"
    )
    for path in observed.science:
        one, other = (pixels(Layout(tmp_path / out).merged_rate(path)) for out in ("with", "out"))
        # Below sources, other exposures tell the background if positions are known.
        assert np.percentile(np.abs(one - other), 75) < 0.1


@pytest.mark.slow
def test_subtract_alone(cli: Cli, whole: Path, observed: ObservationFiles, tmp_path: Path) -> None:
    words = ["i4i", *observed.science, "-o", tmp_path, "--stop-after", "merge"]
    assert cli(*words).code == 0
    ran = cli("i4i", "subtract", tmp_path)
    assert ran.code == 0, ran.err
    layout = Layout(tmp_path)
    assert ran.out.split() == [str(layout.calibrated(path)) for path in observed.science]


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom webbkg.cli.i4i import command\n"
        "print([m for m in ('jwst', 'astropy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
