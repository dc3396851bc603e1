"""
``webbkg i4i`` on bad input: a line that helps, or an exclusion that is told and recorded.

What is refused leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import Cli, Ran, tree
from i4i_cli_helpers import copied, edit, observe

from webbkg.errors import NoBackgroundPixelsError
from webbkg.exposure import MemoryHandle
from webbkg.io.i4i_files import Layout
from webbkg.jobs.pieces import check_masks
from webbkg.jobs.state import STATE_NAME, locked
from webbkg.pipeline import sky_maps
from webbkg.sim import ObservationFiles, local_crds

pytestmark = pytest.mark.usefixtures("quick_steps", "references")

GROUP = "jw09999_obs001_MIRI_F770W"
NAMES = [f"jw09999001001_02101_0000{k}_mirimage_rate.fits" for k in range(1, 5)]
FEW = (
    f"webbkg: warning: {GROUP}: backgrounds from as few as 3 other exposures, whose noise alone "
    "adds up to 15 % to that of the result; 5 dithers or more are better"
)
FEW_OF_2 = FEW.replace("as 3 other", "as 2 other").replace("15 %", "22 %")


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    return observe(tmp_path_factory.mktemp("i4i"))


@pytest.fixture(scope="module")
def references(observed: ObservationFiles) -> Iterator[None]:
    with local_crds(observed.cache):
        yield


@pytest.fixture
def science(observed: ObservationFiles, tmp_path: Path) -> list[Path]:
    return copied(observed.science, tmp_path / "in")


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., str]:
    """Call the command, check that it refuses in one line and leaves no trace, return the line."""

    def call(*words: object, out: Path = tmp_path / "out", code: int = 1) -> str:
        before = tree(tmp_path)
        ran = cli("i4i", *words, "-o", out)
        assert ran.code == code, ran
        assert ran.out == ""
        assert tree(tmp_path) == before
        return ran.line

    return call


def a_mosaic(path: Path, science: Path, *, away: float = 0.0, **keywords: Any) -> Path:
    """Write a blank mosaic around the place an exposure looks at."""
    target = fits.getheader(science, "SCI")
    rng = np.random.default_rng(1)
    hdu = fits.ImageHDU(rng.normal(0.0, 1.0, (400, 400)).astype(np.float32), name="SCI")
    hdu.header.update(
        CRVAL1=target["RA_REF"],
        CRVAL2=target["DEC_REF"] + away,
        CRPIX1=200.0,
        CRPIX2=200.0,
        CDELT1=-0.11 / 3600,
        CDELT2=0.11 / 3600,
        CTYPE1="RA---TAN",
        CTYPE2="DEC--TAN",
        CUNIT1="deg",
        CUNIT2="deg",
    )
    primary = fits.PrimaryHDU()
    primary.header.update({"INSTRUME": "MIRI", "FILTER": "F770W", **keywords})
    fits.HDUList([primary, hdu]).writeto(path)
    return path


def test_a_single_exposure(refused: Callable[..., str], science: list[Path]) -> None:
    assert refused(science[0]) == (
        f"webbkg: {GROUP}: one exposure, needed are 3 or more, as each one's background is built "
        "from at least 2 others; give more and wider dithers, or a dedicated background to webbkg "
        "average"
    )


def test_identical_pointings(
    refused: Callable[..., str], observed: ObservationFiles, tmp_path: Path
) -> None:
    same = observe(tmp_path / "same", n_science=3, dither_size=0.0).science
    assert refused(*same) == (
        f"webbkg: {GROUP}: its 3 exposures have one pointing, the widest are 0.00 px apart where "
        "3.64 px are needed, and cannot separate sky from source; give more and wider dithers, or "
        "a dedicated background to webbkg average"
    )


def test_one_exposure_under_two_names(cli: Cli, science: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "in" / NAMES[0].replace("02101", "02199")
    twin.write_bytes(science[0].read_bytes())
    ran = cli("i4i", *science, twin, "-o", tmp_path / "out", "--dry-run")
    assert ran.code == 1
    assert ran.err.splitlines()[0] == (
        f"webbkg: warning: {twin.name}: is the same exposure as {NAMES[0]}, which is used"
    )
    assert ran.out.splitlines()[0] == f"{NAMES[0]}: background of 3 ({', '.join(NAMES[1:])})"


def test_two_exposures_of_one_name(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    other = copied((science[0],), tmp_path / "other")[0]
    assert refused(*science, other) == (
        f"webbkg: {other} and {science[0]}: their products would both be in "
        f"{tmp_path / 'out' / NAMES[0].removesuffix('_rate.fits')}; run them with different "
        "output directories, or leave one out if they are one exposure"
    )


def test_no_wcs_and_no_keywords_for_one(refused: Callable[..., str], science: list[Path]) -> None:
    edit(science[1], "V2_REF", "ROLL_REF")
    assert refused(*science) == (
        f"webbkg: {science[1]}: assign_wcs needs the pointing in V2_REF, V3_REF, RA_REF, DEC_REF, "
        "ROLL_REF, but V2_REF, ROLL_REF are missing; run set_telescope_pointing.py on it"
    )


def test_mosaic_of_another_field(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    mosaic = a_mosaic(tmp_path / "far_i2d.fits", science[0], away=0.5)
    assert refused(*science, "--mosaic", mosaic) == (
        f"webbkg: far_i2d.fits: overlaps with none of {', '.join(NAMES)}; give the mosaic of their "
        "field, or none"
    )


def test_mosaic_of_another_filter(cli: Cli, science: list[Path], tmp_path: Path) -> None:
    mosaic = a_mosaic(tmp_path / "red_i2d.fits", science[0], FILTER="F2100W")
    words = ("-o", tmp_path / "out", "--no-stage2", "--stop-after", "seed")
    ran = cli("i4i", *science, "--mosaic", mosaic, *words)
    assert ran.code == 0
    assert ran.err.splitlines() == [
        FEW,
        (
            "webbkg: warning: red_i2d.fits: is of MIRI F2100W but the exposures are of MIRI "
            "F770W, whose sources may be larger or others"
        ),
    ]
    assert Layout(tmp_path / "out").seed(GROUP).exists()


def test_mosaic_without_a_value(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    mosaic = a_mosaic(tmp_path / "empty_i2d.fits", science[0])
    with fits.open(mosaic, mode="update") as hdus:
        hdus["SCI"].data[:] = np.nan
    assert refused("seed", mosaic) == (
        f"webbkg: {mosaic}: has no value in any pixel, a mosaic with an image is needed; make it "
        "again or leave --mosaic out"
    )


def test_everything_is_masked(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    seed = a_mosaic(tmp_path / "all_seed_image.fits", science[0])
    with fits.open(seed, mode="update") as hdus:
        hdus["SCI"].data[:] = 1.0
    assert refused("mask", seed, *science) == (
        f"webbkg: {', '.join(NAMES)}: sources cover 97 % of them or more, so that no background is "
        "left; raise --detect-sigma, or give a dedicated background to webbkg average"
    )


def test_dates_are_missing(refused: Callable[..., str], science: list[Path]) -> None:
    edit(science[0], "DATE-OBS", "TIME-OBS")
    assert refused(*science) == (
        f"webbkg: {science[0]}: assign_wcs needs the keywords INSTRUME, DETECTOR, EXP_TYPE, "
        "DATE-OBS, TIME-OBS, FILTER, but DATE-OBS, TIME-OBS are missing; fetch the file again"
    )


def test_hardly_a_pixel_is_blank() -> None:
    """What is blank where no sky is seen does not count."""
    handles = [MemoryHandle(np.zeros((10, 20)), name=name) for name in ("a", "b")]
    lit = np.ones((10, 20), np.bool_)
    lit[:2] = False
    most = lit.copy()
    most[2, :4] = False
    assert check_masks([most, ~lit], handles, lit) == [
        "a: sources cover 98 % of it, so that its level is in doubt"
    ]
    assert check_masks([most, most], handles) == []
    with pytest.raises(NoBackgroundPixelsError) as caught:
        check_masks([most, lit], handles, lit)
    assert str(caught.value) == (
        "a, b: sources cover 97 % of them or more, so that no background is left; raise "
        "--detect-sigma, or give a dedicated background to webbkg average"
    )


def test_a_galaxy_fills_the_frame(cli: Cli, science: list[Path], tmp_path: Path) -> None:
    """Nothing tells it from a background, but what is left is no blank sky."""
    maps = sky_maps(science)
    ny, nx = maps[0].shape
    ra, dec = maps[0].to_sky(nx / 2, ny / 2)
    for path, sky in zip(science, maps, strict=True):
        with fits.open(path, mode="update") as hdus:
            y, x = np.indices(hdus["SCI"].shape, dtype=float)
            east, north = sky.to_sky(x, y)
            radius = np.hypot((east - ra) * np.cos(np.radians(dec)), north - dec) * 3600 / 0.11
            hdus["SCI"].data += (4e3 * np.exp(-radius / 60.0)).astype(np.float32)
    ran = cli("i4i", *science, "-o", tmp_path / "out", "--no-stage2")
    assert len(re.findall(r"scatters by [0-9.e+]+, [0-9.e+]+ times its noise", ran.err)) == 4
    assert "a source may fill the frame" in ran.err


@pytest.mark.real
def test_dates_are_missing_where_a_wcs_is_not(cli: Cli, shared_data: Path, tmp_path: Path) -> None:
    """A dither of real exposures: that their time is unknown is told, and they are used."""
    real = sorted((shared_data / "ami").glob("jw01093014*_cal.fits"))
    cals = copied(tuple(real), tmp_path / "in")
    for path in cals:
        edit(path, "EXPSTART", "EXPMID", "MJD-AVG", "DATE-OBS", "TIME-OBS", "DATE-BEG")
    out = tmp_path / "out"
    # They are 0.4 px apart, which is no matter here.
    small = ("--min-separation", 0, "--iterations", 0)
    ran = cli("i4i", *cals, "-o", out, "--no-stage2", "--max-days", 0.001, *small)
    [group] = json.loads((out / "metrics.json").read_text())["groups"]
    names = [path.name for path in cals]
    assert len(names) == 5
    warning = (
        f"{group['name']}: --max-days is not applied to 5 of 5 exposures, which have no date "
        f"(EXPMID, EXPSTART or DATE-OBS): {', '.join(names)}"
    )
    assert f"webbkg: warning: {warning}" in ran.err.splitlines()
    assert warning in group["warnings"]
    assert [entry["name"] for entry in group["exposures"]] == names
    assert {entry["status"] for entry in group["exposures"]} == {"COMPLETE"}
    assert ran.code == 0


def lose(monkeypatch: pytest.MonkeyPatch, path: Path, stage: str) -> None:
    """Remove a file in the middle of a stage, before what it writes is written."""
    import webbkg.jobs.group as group

    name = {"seed": "seed_of_run", "mask": "write_masked_rate", "merge": "write_background"}[stage]
    write = getattr(group, name)

    def losing(*words: Any, **more: Any) -> None:
        path.unlink(missing_ok=True)
        write(*words, **more)

    monkeypatch.setattr(group, name, losing)


@pytest.mark.parametrize("stage", ["seed", "mask", pytest.param("merge", marks=pytest.mark.slow)])
def test_an_exposure_goes_away(
    cli: Cli, science: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The others go on without it: nothing that is left was made of it."""
    out = tmp_path / "out"
    lose(monkeypatch, science[2], stage)
    ran = cli("i4i", *science, "-o", out, "--no-stage2", "--keep-intermediate")
    assert ran.code == 1
    reason = f"{science[2]}: went away while the job ran, and is left out"
    # Three exposures of a frame that small may leave one without blank sky.
    told = [line for line in ran.err.splitlines() if "its level is in doubt" not in line]
    assert told == [FEW, f"webbkg: warning: {reason}", FEW_OF_2]
    [group] = json.loads((out / "metrics.json").read_text())["groups"]
    skipped = [entry for entry in group["exposures"] if entry["status"] != "COMPLETE"]
    assert [(one["name"], one["error"]) for one in skipped] == [(NAMES[2], reason)]
    layout = Layout(out)
    for path in science:
        is_left = path != science[2]
        assert layout.subtracted(path).exists() == is_left
        assert layout.masked_rate(path).exists() == is_left
        if is_left:
            assert NAMES[2][:-10] not in layout.merged_list(path).read_text()
    assert not (out / NAMES[2].removesuffix("_rate.fits")).exists()
    with fits.open(layout.merged_rate(science[0])) as hdus:
        rows = hdus["WEBBKG"].data
        used = [row["NAME"] for row in rows if row["ROLE"] == "background"]
        assert used == [NAMES[1], NAMES[3]]
        assert 1 <= hdus["COVERAGE"].data.max() <= 2


def test_too_many_exposures_go_away(
    cli: Cli, science: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    lose(monkeypatch, science[2], "seed")
    ran = cli("i4i", *science[:3], "-o", out, "--no-stage2")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        FEW_OF_2,
        f"webbkg: warning: {science[2]}: went away while the job ran, and is left out",
        (
            f"webbkg: {GROUP}: 2 exposures of 3 that can be used, needed are 3 or more, as each "
            "one's background is built from at least 2 others; give more and wider dithers, or a "
            "dedicated background to webbkg average"
        ),
    ]
    assert json.loads((out / STATE_NAME).read_text())["done"] == {}
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize("stage", [(), ("seed",)])
def test_output_cannot_be_written(
    refused: Callable[..., str], science: list[Path], tmp_path: Path, stage: tuple[str, ...]
) -> None:
    words = [*stage, a_mosaic(tmp_path / "m_i2d.fits", science[0])] if stage else [*science]
    taken = tmp_path / "taken"
    taken.write_text("")
    folder = taken / "calibrated3_mosaics" if stage else taken
    reason = "Not a directory" if stage else "File exists"
    assert refused(*words, out=taken) == (
        f"webbkg: {folder}: not a directory that can be written to ({reason}); choose another "
        "with -o"
    )
    # Nobody can write there, not even root, for whom permissions are nothing.
    system = Path("/proc/self/webbkg")
    folder = system / "calibrated3_mosaics" if stage else system
    assert refused(*words, out=system) == (
        f"webbkg: {folder}: not a directory that can be written to (No such file or directory); "
        "choose another with -o"
    )


def test_no_reference_files(
    refused: Callable[..., str], science: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name)
    needed = (
        "webbkg: calwebb_image2 and calwebb_image3 need reference files, but neither CRDS_PATH nor "
        "CRDS_SERVER_URL is set; set CRDS_PATH to a cache directory and CRDS_SERVER_URL to "
        "https://jwst-crds.stsci.edu, or use --no-stage2, which needs none where files have a WCS"
    )
    assert refused(*science) == needed
    assert refused("mosaic", *science) == needed
    assert refused("subtract", *science) == needed
    assert refused(*science, "--no-stage2") == (
        "webbkg: the pipeline needs reference files, but neither CRDS_PATH nor CRDS_SERVER_URL is "
        "set; set them as the JWST pipeline's documentation tells, or pass a local cache"
    )


def test_products_exist(refused: Callable[..., str], science: list[Path], tmp_path: Path) -> None:
    target = Layout(tmp_path / "out").merged_rate(science[1])
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    assert refused(*science) == (f"webbkg: {target}: exists already; use --overwrite to replace it")


def test_mosaic_that_would_be_written_over(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    target = Layout(tmp_path / "out").mosaic_before(GROUP)
    target.parent.mkdir(parents=True)
    a_mosaic(target, science[0])
    assert refused(*science, "--mosaic", target, "--overwrite") == (
        f"webbkg: {target}: is an input of this run; choose another directory with -o"
    )


def test_another_run_works_in_there(cli: Cli, science: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out):
        ran = cli("i4i", *science, "-o", out, "--no-stage2")
    assert ran.code == 1
    assert ran.line == (
        f"webbkg: {out}: another run is working in it; wait for its end, or choose another "
        "directory with -o"
    )
    assert not any(out.iterdir())


def test_state_cannot_be_read(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    state = tmp_path / "out" / STATE_NAME
    state.parent.mkdir()
    state.write_text("{}")
    assert refused(*science, "--no-stage2") == (
        f"webbkg: {state}: the state of the run in there cannot be read ('job'); use --overwrite "
        "to begin anew, or another directory with -o"
    )


def test_masked_rates_without_their_exposures(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    lonely = tmp_path / "in" / "lonely_masked_source_emission_rate.fits"
    lonely.write_bytes(science[0].read_bytes())
    assert refused("merge", lonely) == (
        f"webbkg: {lonely}: its exposure lonely_rate.fits is not beside it; tell where it is with "
        "--rates"
    )
    assert refused("merge", science[0]) == (
        f"webbkg: {science[0]}: is no masked rate, *_masked_source_emission_rate.fits is needed; "
        "make it with webbkg i4i mask"
    )


def test_nothing_to_be_subtracted(
    refused: Callable[..., str], science: list[Path], tmp_path: Path
) -> None:
    assert refused("subtract", tmp_path / "in") == (
        f"webbkg: {tmp_path / 'in'}: holds no */calibrated2_cals/*_asn.json; give the output "
        "directory of webbkg i4i merge"
    )
    association = Layout(tmp_path / "out").association(science[0])
    assert refused("subtract", science[0]) == (
        f"webbkg: {science[0]}: has no association {association}; make its background with "
        "webbkg i4i merge"
    )


@pytest.mark.parametrize("words", [(), ("seed",), ("merge",), ("mosaic",)])
def test_nothing_is_given(cli: Cli, words: tuple[str, ...], tmp_path: Path) -> None:
    ran: Ran = cli("i4i", *words, "-o", tmp_path / "out")
    assert ran.code == 2
    assert not os.path.lexists(tmp_path / "out")
