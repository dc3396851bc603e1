"""``webbkg simulate``: what it writes, says and refuses."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import Cli, Command, command_path, environment, tree

from webbkg.cli.simulate import command as group
from webbkg.sim import PRESETS, simulate
from webbkg.sim.presets.miri import MiriImagingParams

#: 64x72 pixels: quick.
TINY = ("miri-imaging", "--subarray", "SUB64", "--n-science", "2", "--n-background", "1")
STEM = "jw0999900{}001_02101_0000{}_mirimage"
RATES = [f"{STEM.format(*numbers)}_rate.fits" for numbers in ((1, 1), (1, 2), (2, 1))]


def test_list(cli: Cli) -> None:
    ran = cli("simulate", "--list")
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split("  ", 1) for line in ran.out.splitlines()]
    assert [name for name, _ in rows] == list(PRESETS)
    assert [doc.strip() for _, doc in rows] == [preset.doc for preset in PRESETS.values()]
    assert max(map(len, ran.out.splitlines())) <= 110


def test_help_lists_the_presets(cli: Cli) -> None:
    ran = cli("simulate", "--help")
    assert ran.code == 0
    assert all(name in ran.out for name in PRESETS)
    assert "simulate" in cli("--help").out


@pytest.mark.parametrize("name", PRESETS)
def test_help_of_a_preset_has_all_its_parameters(cli: Cli, name: str) -> None:
    ran = cli("simulate", name, "--help")
    assert ran.code == 0
    for item in PRESETS[name].params.fields():
        assert f"  {item.option}" in ran.out
    for option in ("-o, --output", "--seed", "--level", "--config", "--overwrite"):
        assert option in ran.out


@pytest.mark.parametrize("name", PRESETS)
def test_no_parameter_hides_an_option_of_the_command(name: str) -> None:
    names = [p.name for p in group.get_command(None, name).params]
    assert len(set(names)) == len(names)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['webbkg', 'simulate', 'miri-imaging', '--help']\n"
        "from webbkg.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'astropy', 'stdatamodels', 'jwst', 'scipy', 'numba', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_it_writes_what_python_gives(cli: Cli, tmp_path: Path) -> None:
    ran = cli("simulate", *TINY, "-o", "new/sim", "--seed", "7", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    folder = tmp_path / "new/sim"
    observation = simulate("miri-imaging", seed=7, subarray="SUB64", n_science=2, n_background=1)
    for exposure, name in zip(observation.exposures, RATES, strict=True):
        with fits.open(folder / name) as hdus:
            assert hdus["SCI"].data.astype("<f4").tobytes() == exposure.data.tobytes()
        assert json.loads((folder / name.replace("rate.fits", "truth.json")).read_text())["seed"]
    assert ran.out.splitlines() == [
        f"new/sim/{RATES[0]} (1 of 3)",
        f"new/sim/{RATES[1]} (2 of 3)",
        f"new/sim/{RATES[2]} (3 of 3)",
        (
            "new/sim: 2 exposures and 1 of a blank field, seed 7, their truth (*_truth.fits, "
            "*_truth.json), source catalogue, associations and reference files"
        ),
        "to run the pipeline on them:",
        "  source new/sim/crds.env",
        "  strun calwebb_image2 new/sim/jw09999-o001_image2_00001_asn.json --output_dir=new/sim",
        "  strun calwebb_image3 new/sim/jw09999-o001_image3_00001_asn.json --output_dir=new/sim",
    ]


def test_configuration_and_options(cli: Cli, tmp_path: Path) -> None:
    dumped = cli("simulate", "miri-imaging", "--n-science", "3", "--sky", "12.5", "--dump-config")
    assert dumped.code == 0
    config = tmp_path / "scene.toml"
    config.write_text(dumped.out + "\n[another]\nx = 1\n", encoding="utf-8")
    read = MiriImagingParams.build(config=config)
    assert read == MiriImagingParams(n_science=3, sky=12.5)
    words = ["--config", config, "--n-science", "2", "--subarray", "SUB64", "-o", tmp_path / "o"]
    assert cli("simulate", "miri-imaging", *words, "--n-background", "0").code == 0
    tables = sorted((tmp_path / "o").glob("*_truth.json"))
    assert len(tables) == 2
    assert json.loads(tables[0].read_text())["layers"]["sky"]["level"] == 12.5


def test_ramps(cli: Cli, tmp_path: Path) -> None:
    words = ("--level", "uncal", "--n-groups", "6", "-o", tmp_path / "a b")
    ran = cli("simulate", *TINY, *words)
    assert (ran.code, ran.err) == (0, "")
    place = f"'{tmp_path}/a b'"
    assert (
        f'  for ramp in {place}/*_uncal.fits; do strun calwebb_detector1 "$ramp" '
        f"--output_dir={place}; done\n"
    ) in ran.out
    ramps = sorted(path.name for path in (tmp_path / "a b").glob("*_uncal.fits"))
    assert ramps == [name.replace("rate", "uncal") for name in RATES]
    assert fits.getdata(tmp_path / "a b" / ramps[0]).shape == (1, 6, 64, 72)
    assert not list((tmp_path / "a b").glob("*_rate.fits"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning")
def test_calibrated_images(cli: Cli, tmp_path: Path) -> None:
    ran = cli("simulate", *TINY, "--level", "cal", "-o", tmp_path)
    assert ran.code == 0, ran.err
    assert "calwebb_image2" not in ran.out
    assert "  strun calwebb_image3 " in ran.out
    for name in RATES:
        with (
            fits.open(tmp_path / name) as rate,
            fits.open(tmp_path / name.replace("_rate", "_cal")) as cal,
        ):
            assert cal["SCI"].header["BUNIT"] == "MJy/sr"
            assert cal[0].header["S_PHOTOM"] == "COMPLETE"
            assert cal[0].header.get("S_BKDSUB") != "COMPLETE"
            ratio = cal["SCI"].data / rate["SCI"].data
            # The sky is still in it.
            assert np.nanmedian(ratio) == pytest.approx(cal["SCI"].header["PHOTMJSR"])
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


def test_spectra_cannot_be_calibrated_as_images(cli: Cli, tmp_path: Path) -> None:
    names = [n for n in PRESETS if n.endswith(("soss", "lrs", "nods", "wfss"))]
    for name in names[:1]:
        ran = cli("simulate", name, "--small", "--level", "cal", "-o", tmp_path / "out")
        assert (ran.code, ran.out) == (2, "")
        assert re.search(
            rf"level cal is for images alone, but {name} has [A-Z_, ]+; choose uncal or rate$",
            ran.line,
        )
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["miri-imagin"],
            r"^webbkg: there is no preset 'miri-imagin' \(did you mean 'miri-imaging'\?\); known ",
        ),
        (["nothing", "--help"], r"^webbkg: there is no preset 'nothing'; known are miri-imaging"),
        (["miri-imaging", "--sky", "-1"], "sky must be at least 0 and at most 100000, got -1.0$"),
        (["miri-imaging", "--sky", "nan"], "sky must be finite, got nan$"),
        (["miri-imaging", "--n-visits", "9"], "n_visits must be at most the number of exposures,"),
        (["miri-imaging", "--dither-size", "1500"], "moves the field off the 1024x1032 pixels"),
        (
            ["miri-imaging", "--subarray", "SUB64", "--dither-size", "2000"],
            "dither_size of 2000 px moves the field off the 64x72 pixels of MIRIMAGE",
        ),
        (
            ["miri-imaging", "--small", "--subarray", "SUB256"],
            "MIRIMAGE: the sub-array .* leaves the detector of 512x520 pixels$",
        ),
        (["miri-imaging", "--config", "none.toml"], r"none.toml: cannot be read \(No such file"),
    ],
)
def test_bad_calls_are_one_line(cli: Cli, tmp_path: Path, words: list[str], text: str) -> None:
    ran = cli("simulate", *words, "-o", "out", cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert re.search(text, ran.line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            "[miri-imaging]\nn_sience = 3\n",
            r"no parameter 'n_sience' in c.toml \(did you mean 'n_science'\?\); known are",
        ),
        ("[miri-imaging]\nsky = 'high'\n", "sky must be of type float, got 'high'"),
        ("[miri-imaging]\nn_science = 0\n", "n_science must be at least 1"),
        ("[miri-imaging\n", "not a valid TOML file"),
        ("[miri]\nn_science = 1\n", r"c.toml: needs a table \[miri-imaging\], got \['miri'\]"),
    ],
)
def test_bad_configurations(cli: Cli, tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "c.toml").write_text(content, encoding="utf-8")
    ran = cli("simulate", "miri-imaging", "--config", "c.toml", "-o", "out", cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert re.search(text, ran.line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["miri-imaging"], "Give the output directory with -o"),
        (["miri-imaging", "-o", "out", "--n-scienc", "3"], "Did you mean '--n-science'"),
        (["miri-imaging", "-o", "out", "--level", "cl"], "'cl' is not one of 'uncal', 'rate'"),
        (["miri-imaging", "-o", "out", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["miri-imaging", "-o", "out", "--filter", "F200W"], "'F200W' is not one of 'F560W'"),
        (["miri-imaging", "more", "-o", "out"], "unexpected extra argument"),
    ],
)
def test_wrong_usage(cli: Cli, tmp_path: Path, words: list[str], text: str) -> None:
    ran = cli("simulate", *words, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert text in " ".join(ran.err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_files_is_refused_before_the_work(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/notes.txt").write_text("mine")
    before = tree(tmp_path)
    started = time.perf_counter()
    ran = cli("simulate", "miri-imaging", "-o", "out", cwd=tmp_path)
    assert time.perf_counter() - started < 1
    assert (ran.code, ran.out) == (1, "")
    assert ran.line == (
        "webbkg: out: is not empty, it holds 2 files (notes.txt, sub); choose another directory "
        "with -o or use --overwrite"
    )
    assert tree(tmp_path) == before
    assert cli("simulate", *TINY, "-q", "-o", "out", "--overwrite", cwd=tmp_path).code == 0
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert (tmp_path / "out" / RATES[0]).is_file()


def test_an_empty_directory_will_do(cli: Cli, tmp_path: Path) -> None:
    assert cli("simulate", *TINY, "-q", "-o", tmp_path).code == 0


@pytest.mark.parametrize(
    ("out", "text"),
    [
        ("file", r"^webbkg: file: is a file, but a directory is needed; choose another with -o$"),
        ("file/sub", r"^webbkg: file/sub: .*; choose another with -o$"),
        ("/proc/webbkg", r"^webbkg: /proc/webbkg: not a directory that can be written to \(.*-o$"),
        ("link", r"^webbkg: link: not a directory that can be written to \(File exists\); choose "),
    ],
)
def test_places_that_cannot_be_used(cli: Cli, tmp_path: Path, out: str, text: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    before = tree(tmp_path)
    ran = cli("simulate", *TINY, "-o", out, cwd=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert re.search(text, ran.line)
    assert tree(tmp_path) == before


def whole(folder: Path) -> None:
    """Check that no file is cut short and no temporary one left."""
    assert not [path for path in folder.rglob("*") if ".part" in path.name]
    for path in folder.rglob("*.fits"):
        with fits.open(path) as hdus:
            assert all(hdu.data is None or hdu.data.size for hdu in hdus)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize("n_bytes", [2000, 110_000])
def test_a_file_that_cannot_be_written_whole_is_not_there(
    command: Command, tmp_path: Path, n_bytes: int
) -> None:
    """As on a full disk, but by a limit on the size of files: early, and in the middle."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    ran = command("simulate", *TINY, "-o", tmp_path / "out", preexec_fn=limit)
    assert ran.code == 1
    assert re.search(r"^webbkg: .*/out/.*: cannot be written \(.*(too large|requested)", ran.line)
    whole(tmp_path)
    assert not (tmp_path / "out/crds.env").exists()


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C in the middle: exit code 130, and what is there is whole."""
    out = tmp_path / "out"
    words = ("simulate", "miri-imaging", "--small", "--n-science", "40", "-o", str(out))
    process = subprocess.Popen(
        [command_path(), *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the signal.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.endswith("(1 of 44)\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # A blank line ends the one on which the terminal shows ^C.
    assert (process.returncode, err.strip()) == (130, "webbkg: interrupted")
    assert 1 <= len(list(out.glob("*_rate.fits"))) < 40
    whole(out)
    assert not (out / "crds.env").exists()
