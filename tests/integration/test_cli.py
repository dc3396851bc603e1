"""The command on good input: products, report, every option, terminals and exit codes."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import SHAPE, Cli, Command, Files, command_path, environment, tree
from numpy.testing import assert_array_equal
from stdatamodels.jwst import datamodels

import webbkg
from webbkg.cli import batch
from webbkg.methods import stack

DO_NOT_USE, JUMP_DET = 1, 4


def pixels(path):
    """SCI, ERR and DQ of a file."""
    with fits.open(path) as hdus:
        return [np.array(hdus[name].data) for name in ("SCI", "ERR", "DQ")]


def same(first, second):
    """Whether two lists of images are equal bit by bit, NaN too."""
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(first, second, strict=True)
    )


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """
    A science exposure and five backgrounds in which each option makes a difference.

    One value is moderately high (clipped or not by sigma), one very high; two pixels of one
    background are flagged, one pixel of all of them.
    """
    files = Files(tmp_path_factory.mktemp("five"))
    science = files.make("five_rate.fits", level=12.0)
    backgrounds = []
    for index in range(5):
        rng = np.random.default_rng(50 + index)
        data = (10.0 + rng.standard_normal(SHAPE)).astype(np.float32)
        dq = np.zeros(SHAPE, np.uint32)
        dq[7, 7] = DO_NOT_USE
        if index == 0:
            data[3, 3], data[4, 4] = 16.0, 1000.0
            dq[5, 5], dq[6, 6] = JUMP_DET, DO_NOT_USE
        backgrounds.append(files.make(f"b{index}.fits", extensions={"SCI": data, "DQ": dq}))
    return science, backgrounds


@pytest.fixture(scope="module")
def plain(five, tmp_path_factory):
    """Products of the five backgrounds at the defaults."""
    out = tmp_path_factory.mktemp("plain") / "out"
    ran = Cli()("average", five[0], "--bkg", *five[1], "-o", out)
    assert (ran.code, ran.err) == (0, "")
    return out


@pytest.fixture(scope="module")
def observed(simulated, tmp_path_factory):
    """A whole run as a process: an association, from another directory, in a pipe."""
    folder = simulated.association.parent
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    before = tree(folder)
    name = os.path.relpath(simulated.association, elsewhere)
    ran = Command()("average", name, "-o", "new/out", cwd=elsewhere)
    assert tree(folder) == before
    return ran, elsewhere / "new" / "out"


# The whole job


def test_association_from_another_directory(observed, simulated):
    ran, out = observed
    assert (ran.code, ran.err) == (0, "")
    names = [path.name.replace("_rate.", "_bsub.") for path in simulated.science]
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*names, "webbkg-report.html", "metrics.json"]
    )
    lines = ran.out.splitlines()
    assert [line.split(":")[0] for line in lines] == [*names, "report"]
    assert lines[-1] == f"report: {Path('new/out/webbkg-report.html')}"


def test_products_are_what_python_gives(observed, simulated):
    for science in simulated.science:
        result = webbkg.average(science, simulated.backgrounds)
        product = observed[1] / science.name.replace("_rate.", "_bsub.")
        corrected = result.exposure
        for ours, expected in zip(
            pixels(product), (corrected.data, corrected.err, corrected.dq), strict=True
        ):
            assert_array_equal(ours, expected)
        assert_array_equal(fits.getdata(product, "VAR_BKG"), result.background_var)
        # Every pixel: the science pixel lowered by the mean of at most four values near the sky.
        before = pixels(science)[0]
        taken = (before - corrected.data)[np.isfinite(result.background)]
        assert 55 < np.median(taken) < 65


def test_products_open_with_validation(observed, simulated, monkeypatch):
    monkeypatch.setenv("STRICT_VALIDATION", "true")
    for science in simulated.science:
        product = observed[1] / science.name.replace("_rate.", "_bsub.")
        with datamodels.open(product) as model, datamodels.open(science) as before:
            model.validate()
            assert type(model) is type(before) is datamodels.ImageModel
            assert model.meta.cal_step.bkg_subtract == "COMPLETE"
            assert model.meta.filename == product.name
            assert model.meta.wcsinfo.crpix1 == before.meta.wcsinfo.crpix1
            assert model.meta.wcsinfo.cdelt1 == pytest.approx(before.meta.wcsinfo.cdelt1)
            assert_array_equal(model.var_poisson, before.var_poisson)
            assert_array_equal(model.var_rnoise, before.var_rnoise)


def test_provenance_table(observed, simulated):
    import hashlib

    product = observed[1] / simulated.science[0].name.replace("_rate.", "_bsub.")
    rows = fits.getdata(product, "WEBBKG")
    inputs = {row["NAME"]: row["SHA256"] for row in rows if row["ROLE"] != "parameters"}
    expected = [simulated.science[0], *simulated.backgrounds]
    assert inputs == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in expected}
    given = json.loads(next(row["VALUE"] for row in rows if row["ROLE"] == "parameters"))
    assert given == webbkg.AverageParams().as_dict()
    header = fits.getheader(product)
    assert (header["WB_METH"], header["WB_NUSED"], header["S_BKDSUB"]) == ("average", 4, "COMPLETE")
    assert "subtracted the mean of 4 background exposures" in " ".join(header["HISTORY"])


def test_backgrounds_of_one_name_keep_their_own_checksums(cli, files, tmp_path):
    import hashlib

    science = files.make("s_rate.fits")
    backgrounds = [files.make(f"{folder}/b_rate.fits") for folder in "pqr"]
    assert cli("average", science, "--bkg", *backgrounds, "-o", tmp_path / "o").code == 0
    rows = fits.getdata(tmp_path / "o" / "s_bsub.fits", "WEBBKG")
    found = [row["SHA256"] for row in rows if row["ROLE"] == "background"]
    assert found == [hashlib.sha256(p.read_bytes()).hexdigest() for p in backgrounds]


def test_metrics_agree_with_the_pixels(observed, simulated):
    content = json.loads(
        (observed[1] / "metrics.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
    assert content["webbkg"] == version("webbkg")
    assert content["parameters"] == webbkg.AverageParams().as_dict()
    assert content["command"].startswith("webbkg average ../")
    assert [e["name"] for e in content["exposures"]] == [p.name for p in simulated.science]
    for entry, science in zip(content["exposures"], simulated.science, strict=True):
        assert (entry["status"], entry["error"], entry["warnings"]) == ("COMPLETE", "", [])
        check_metrics(entry, science, observed[1] / entry["products"]["result"])


def check_metrics(entry, science, product):
    """Compare the numbers of a report with what the files say, source-free pixels alone."""
    numbers = entry["metrics"]
    before, after = pixels(science), pixels(product)
    taken = before[0] - after[0]
    defined = (after[2] & DO_NOT_USE) == 0
    assert numbers["level"] == pytest.approx(np.median(taken[defined]), rel=2e-3)
    assert numbers["n_backgrounds"] == len(numbers["backgrounds"]) == 4
    with fits.open(product) as hdus:
        header = hdus[0].header
        assert header["WB_LEVEL"] == pytest.approx(numbers["level"])
        assert header["WB_RMSB"] == pytest.approx(numbers["noise_before"])
        assert header["WB_RMSA"] == pytest.approx(numbers["noise_after"])
        assert header["WB_RMSE"] == pytest.approx(numbers["noise_expected"])
        assert header["WB_COVER"] == pytest.approx(numbers["coverage"])
    good = defined & np.isfinite(after[0])
    middle, noise = np.median(after[0][good]), numbers["noise_after"]
    blank = good & (np.abs(after[0] - middle) < 4 * noise)
    rms = 1.4826 * np.median(np.abs(after[0][blank] - np.median(after[0][blank])))
    assert noise == pytest.approx(rms, rel=0.3)
    expected = np.sqrt(np.mean(np.square(after[1][blank], dtype=np.float64)))
    assert numbers["noise_expected"] == pytest.approx(expected, rel=0.25)
    assert numbers["noise_before"] > numbers["noise_after"]
    assert 0 < numbers["blank_fraction"] <= 1


def test_integrations(cli, simulated_ints, tmp_path):
    files = simulated_ints
    ran = cli("average", files.science[0], "--bkg", *files.backgrounds, "-o", tmp_path / "o")
    assert (ran.code, ran.err) == (0, "")
    product = tmp_path / "o" / files.science[0].name.replace("_rateints.", "_bsubints.")
    with datamodels.open(product) as model, datamodels.open(files.science[0]) as before:
        model.validate()
        assert isinstance(model, datamodels.CubeModel)
        assert_array_equal(model.int_times, before.int_times)
    expected = webbkg.average(files.science[0], files.backgrounds).exposure
    assert same(pixels(product), [expected.data, expected.err, expected.dq])
    entry = json.loads((tmp_path / "o" / "metrics.json").read_text())["exposures"][0]
    assert (entry["metrics"]["n_integrations"], entry["metrics"]["integration_shown"]) == (4, 2)


def test_compressed_files(cli, five, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    packed = []
    for path in (five[0], *five[1]):
        packed.append(tmp_path / f"{path.name}.gz")
        packed[-1].write_bytes(gzip.compress(path.read_bytes()))
    ran = cli("average", packed[0], "--bkg", *packed[1:], "-o", tmp_path / "o")
    assert (ran.code, ran.err) == (0, "")
    product = tmp_path / "o" / "five_bsub.fits"
    assert same(pixels(product), pixels(plain / "five_bsub.fits"))
    assert fits.getheader(product)["FILENAME"] == "five_bsub.fits"
    assert list((tmp_path / "temporary").iterdir()) == []


# Ways to say it


@pytest.mark.parametrize(
    "words",
    [
        "SCI --bkg B0 B1 B2 -o OUT --dry-run",
        "SCI --bkg B0 B1 B2 --dry-run -o OUT",
        "--dry-run -o OUT SCI --bkg B0 B1 B2",
        "-o OUT --dry-run --bkg B0 B1 B2 -- SCI",
        "--bkg B0 B1 B2 -o OUT SCI --dry-run",
        "--bkg B0 --bkg B1 --bkg B2 -o OUT --dry-run SCI",
        "SCI --bkg B0 --bkg B1 B2 --output OUT --dry-run",
        "SCI --bkg=B0 --bkg=B1 --bkg=B2 --output=OUT --dry-run",
        "SCI --bkg=B0 B1 B2 --output=OUT --dry-run",
        "SCI --dry-run --bkg B0 B1 --sigma 3 --bkg B2 -oOUT",
    ],
)
def test_forms_of_the_call(cli, five, tmp_path, words):
    names = {"SCI": five[0], "OUT": tmp_path / "out"} | {f"B{i}": b for i, b in enumerate(five[1])}
    text = re.sub(r"SCI|OUT|B\d", lambda found: str(names[found[0]]), words)
    ran = cli("average", *text.split())
    product = tmp_path / "out" / "five_bsub.fits"
    assert ran == type(ran)(
        0, f"five_rate.fits -> {product}: 3 backgrounds (b0.fits, b1.fits, b2.fits)\n", ""
    )
    assert not (tmp_path / "out").exists()


def test_several_science_exposures_and_associations(cli, files, tmp_path):
    for name in ("s1_rate.fits", "s2_rate.fits", "b1.fits", "b2.fits", "b3.fits"):
        files.make(name)
    both = [
        ("one", [("s1_rate.fits", "science"), ("b1.fits", "background"), ("b2.fits", "BACKGROUND")])
    ]
    both.append(("two", [("s2_rate.fits", "science"), ("b3.fits", "background")]))
    files.association("a.json", *both)
    files.association("b.json", ("three", both[1][1]))
    ran = cli("average", "a.json", "b.json", "-o", "../out", "--dry-run", cwd=files.folder)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "s1_rate.fits -> ../out/one_bsub.fits: 2 backgrounds (b1.fits, b2.fits)",
        "s2_rate.fits -> ../out/two_bsub.fits: 1 backgrounds (b3.fits)",
        "s2_rate.fits -> ../out/three_bsub.fits: 1 backgrounds (b3.fits)",
    ]
    science = [files.folder / f"s{i}_rate.fits" for i in (1, 2)]
    ran = cli("average", *science, "--bkg", files.folder / "b1.fits", "-o", "o", "--dry-run")
    assert len(ran.out.splitlines()) == 2


# Options


@pytest.mark.parametrize(
    ("words", "values", "changed"),
    [
        ("--sigma 30", {"sigma": 30.0}, {"SCI", "ERR"}),
        ("--clip std", {"clip": "std"}, {"SCI", "ERR"}),
        ("--clip std --sigma 1.2", {"clip": "std", "sigma": 1.2}, {"SCI", "ERR"}),
        ("--dq or", {"dq": "or"}, {"DQ"}),
        ("--dq keep", {"dq": "keep"}, {"DQ"}),
        ("--errors keep", {"errors": "keep"}, {"ERR"}),
        ("--bad-flags NONE", {"bad_flags": "NONE"}, {"SCI", "ERR", "DQ"}),
        ("--min-coverage 5", {"min_coverage": 5}, {"SCI", "ERR", "DQ"}),
        ("--preset pipeline", None, {"SCI", "ERR", "DQ"}),
    ],
)
def test_options_change_what_they_say(cli, five, plain, tmp_path, words, values, changed):
    ran = cli("average", five[0], "--bkg", *five[1], "-o", tmp_path, *words.split())
    assert ran.code == 0
    default, product = pixels(plain / "five_bsub.fits"), pixels(tmp_path / "five_bsub.fits")
    differ = {
        name
        for name, a, b in zip(("SCI", "ERR", "DQ"), default, product, strict=True)
        if not np.array_equal(a, b, equal_nan=True)
    }
    assert differ == changed
    build = webbkg.AverageParams
    params = build(**values) if values is not None else build.build(preset="pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        expected = webbkg.average(five[0], five[1], params).exposure
    assert same(product, [expected.data, expected.err, expected.dq])
    written = json.loads((tmp_path / "metrics.json").read_text())["parameters"]
    assert written == params.as_dict()


def test_sigma_decides_about_an_outlier(five, plain):
    before = pixels(five[0])[0]
    taken = before - pixels(plain / "five_bsub.fits")[0]
    values = [pixels(path)[0] for path in five[1]]
    assert taken[3, 3] == pytest.approx(np.mean([v[3, 3] for v in values[1:]]), rel=1e-6)
    assert taken[4, 4] == pytest.approx(np.mean([v[4, 4] for v in values[1:]]), rel=1e-6)
    assert taken[6, 6] == pytest.approx(np.mean([v[6, 6] for v in values[1:]]), rel=1e-6)
    assert taken[7, 7] == 0.0


def test_flags_of_the_backgrounds(cli, five, plain, tmp_path):
    assert [pixels(plain / "five_bsub.fits")[2][k, k] for k in (5, 6, 7)] == [0, 0, DO_NOT_USE]
    words = ["average", five[0], "--bkg", *five[1]]
    cli(*words, "-o", tmp_path / "or", "--dq", "or")
    cli(*words, "-o", tmp_path / "keep", "--dq", "keep")
    found = {k: pixels(tmp_path / k / "five_bsub.fits")[2] for k in ("or", "keep")}
    assert [found["or"][k, k] for k in (5, 6, 7)] == [JUMP_DET, DO_NOT_USE, DO_NOT_USE]
    assert not found["keep"].any()


def test_errors_keep_leaves_err_alone(cli, five, plain, tmp_path):
    cli("average", five[0], "--bkg", *five[1], "-o", tmp_path, "--errors", "keep")
    assert_array_equal(pixels(tmp_path / "five_bsub.fits")[1], pixels(five[0])[1])
    with (
        fits.open(tmp_path / "five_bsub.fits") as kept,
        fits.open(plain / "five_bsub.fits") as ours,
    ):
        assert "VAR_BKG" not in kept
        assert ours["VAR_BKG"].header["BUNIT"] == "(DN/s)^2"


def test_maxiters(cli, files, tmp_path):
    # Two rounds are needed: the far value hides the nearer one at first.
    values = [10.0, 10.1, 9.9, 10.05, 9.95, 10.02, 12.0, 1000.0]
    science = files.make("s_rate.fits")
    backgrounds = [
        files.make(f"b{i}.fits", extensions={"SCI": np.full(SHAPE, v, np.float32)})
        for i, v in enumerate(values)
    ]
    taken = {}
    for rounds in (1, 2):
        words = [
            "--clip",
            "std",
            "--sigma",
            "2",
            "--maxiters",
            rounds,
            "-o",
            tmp_path / str(rounds),
        ]
        assert cli("average", science, "--bkg", *backgrounds, *words).code == 0
        product = pixels(tmp_path / str(rounds) / "s_bsub.fits")[0]
        taken[rounds] = float(np.median(pixels(science)[0] - product))
    assert taken[1] == pytest.approx(np.mean(values[:7]), abs=1e-4)
    assert taken[2] == pytest.approx(np.mean(values[:6]), abs=1e-4)


def test_memory_and_threads_reach_the_kernel_and_change_no_bit(
    cli, five, plain, tmp_path, monkeypatch
):
    seen = {}
    combine = stack.combine_stack

    def spy(*args, **options):
        seen.update(options)
        return combine(*args, **options)

    monkeypatch.setattr(stack, "combine_stack", spy)
    words = ["--max-memory", "32", "--threads", "3", "-o", tmp_path]
    assert cli("average", five[0], "--bkg", *five[1], *words).code == 0
    assert (seen["max_bytes"], seen["n_threads"]) == (32_000_000, 3)
    assert same(pixels(tmp_path / "five_bsub.fits"), pixels(plain / "five_bsub.fits"))


def test_combined_background(cli, simulated, observed, tmp_path):
    science = simulated.science[1]
    words = ["--save-combined-background", "-o", tmp_path]
    assert cli("average", science, "--bkg", *simulated.backgrounds, *words).code == 0
    stem = science.name.removesuffix("_rate.fits")
    assert not list(observed[1].glob("*combinedbackground*"))
    with datamodels.open(tmp_path / f"{stem}_combinedbackground.fits") as model:
        model.validate()
        assert isinstance(model, datamodels.ImageModel)
        taken = pixels(science)[0] - model.data
        defined = np.isfinite(model.data)
        assert_array_equal(taken[defined], pixels(tmp_path / f"{stem}_bsub.fits")[0][defined])
        assert_array_equal(defined, (model.dq & DO_NOT_USE) == 0)
    coverage = fits.getdata(tmp_path / f"{stem}_combinedbackground.fits", "COVERAGE")
    assert coverage.max() == 4
    products = json.loads((tmp_path / "metrics.json").read_text())["exposures"][0]["products"]
    assert set(products.values()) == {f"{stem}_bsub.fits", f"{stem}_combinedbackground.fits"}


def test_precedence_of_parameters(cli, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[average]\nsigma = 2.5\ndq = "keep"\nthreads = 2\n', encoding="utf-8")

    def values(*words):
        ran = cli("average", "--dump-config", *words)
        assert (ran.code, ran.err) == (0, "")
        return tomllib.loads(ran.out)["average"]

    default, preset = values(), values("--preset", "pipeline")
    assert (default["sigma"], default["dq"], default["errors"]) == (3.0, "quorum", "propagate")
    assert (preset["sigma"], preset["dq"], preset["errors"]) == (3.0, "or", "keep")
    both = values("--preset", "pipeline", "--config", config)
    assert (both["sigma"], both["dq"], both["errors"], both["threads"]) == (2.5, "keep", "keep", 2)
    last = values("--preset", "pipeline", "--config", config, "--sigma", "2", "--dq", "or")
    assert (last["sigma"], last["dq"], last["errors"]) == (2.0, "or", "keep")
    config.write_text('[average]\npreset = "pipeline"\nsave_combined_background = true\n')
    assert values("--config", config)["dq"] == "or"
    assert values("--config", config)["save_combined_background"] is True
    words = ("--config", config, "--no-save-combined-background")
    assert values(*words)["save_combined_background"] is False


@pytest.mark.parametrize("words", ["", "--preset pipeline", "--maxiters 3 --threads 1 --clip std"])
def test_dumped_configuration_is_read_back(cli, tmp_path, words):
    first = cli("average", "--dump-config", *words.split())
    (tmp_path / "c.toml").write_text(first.out, encoding="utf-8")
    again = cli("average", "--dump-config", "--config", tmp_path / "c.toml")
    assert (again.code, again.out) == (0, first.out)


def test_overwrite(cli, five, plain, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(plain, out)
    before = tree(out)
    words = ["average", five[0], "--bkg", *five[1][:4], "-o", out]
    ran = cli(*words)
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(
        rf"webbkg: {out}/\S+: exists already; use --overwrite to replace it", ran.line
    )
    assert tree(out) == before
    assert cli(*words, "--overwrite").code == 0
    assert set(tree(out)) == set(before)
    assert (
        json.loads((out / "metrics.json").read_text())["exposures"][0]["metrics"]["n_backgrounds"]
        == 4
    )
    assert fits.getheader(out / "five_bsub.fits")["WB_NUSED"] == 4


@pytest.mark.parametrize("name", ["five_bsub.fits", "webbkg-report.html", "metrics.json"])
def test_any_existing_output_stops_the_run_before_it_starts(cli, five, tmp_path, name):
    (tmp_path / name).write_text("precious")
    ran = cli("average", five[0], "--bkg", *five[1], "-o", tmp_path)
    assert ran.code == 1
    assert f"{tmp_path / name}: exists already" in ran.line
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "precious")]


def test_dry_run_writes_nothing(cli, five, tmp_path):
    before = tree(five[0].parent)
    missing = tmp_path / "missing_rate.fits"
    ran = cli(
        "average", five[0], missing, "--bkg", *five[1], "-o", tmp_path / "a" / "b", "--dry-run"
    )
    assert ran.code == 1
    assert f"{missing}: no such file" in ran.line
    assert "five_rate.fits -> " in ran.out
    assert list(tmp_path.iterdir()) == []
    assert tree(five[0].parent) == before


def test_dry_run_finds_existing_products(cli, five, plain):
    before = tree(plain)
    ran = cli("average", five[0], "--bkg", *five[1], "-o", plain, "--dry-run")
    assert ran.code == 1
    assert "exists already; use --overwrite" in ran.line
    assert tree(plain) == before


def test_verbosity(cli, five, tmp_path):
    words = ["average", five[0], "--bkg", five[1][0]]
    usual = cli(*words, "-o", tmp_path / "usual")
    quiet = cli(*words, "-o", tmp_path / "quiet", "-q")
    verbose = cli(*words, "-o", tmp_path / "verbose", "-v")
    assert "one background only" in usual.line
    assert [len(usual.out.splitlines()), quiet.out, quiet.err, quiet.code] == [2, "", "", 0]
    assert len((verbose.out + verbose.err).splitlines()) > len((usual.out + usual.err).splitlines())
    failed = cli("average", tmp_path / "no.fits", "--bkg", five[1][0], "-o", tmp_path / "x", "-qq")
    assert failed.code == 1
    assert "no such file" in failed.line
    # What was quiet is still in the report.
    entry = json.loads((tmp_path / "quiet" / "metrics.json").read_text())["exposures"][0]
    assert "one background only" in entry["warnings"][0]


# Terminals


def in_terminal(words, *, stdout):
    """Run the command with stderr (and stdout, if None is given) on a pseudo-terminal."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [command_path(), *map(str, words)],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env=environment(),
        )
        os.close(slave)
        seen = b""
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    part = os.read(master, 65536)
                except OSError:  # Linux says so when the other side has closed
                    break
                if not part:
                    break
                seen += part
            elif process.poll() is not None:
                break
        return process.wait(10), seen.decode()
    finally:
        os.close(master)


def test_a_bar_on_a_terminal_and_what_is_redirected_goes_there(five, tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as stream:
        words = ["average", five[0], "--bkg", *five[1][:1], "-o", tmp_path / "o"]
        code, seen = in_terminal(words, stdout=stream)
    assert code == 0
    assert "subtracting" in seen
    assert "\x1b[" in seen
    lines = log.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["five_bsub.fits", "report"]


def screen(text):
    """What a terminal shows in the end: carriage returns, lines up and lines erased are obeyed."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[1A":
            row = max(0, row - 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line for line in lines if line.strip()]


def test_messages_and_bar_share_a_terminal(five, tmp_path):
    missing = tmp_path / "no_rate.fits"
    words = ["average", five[0], missing, "--bkg", five[1][0], "-o", tmp_path / "o"]
    code, seen = in_terminal(words, stdout=None)
    assert code == 1
    assert "subtracting" in seen
    shown = screen(seen)
    # Nothing is left of the bar, and long lines are left for the terminal to wrap.
    starts = [
        "webbkg: warning: five",
        "five_bsub.fits: ",
        f"webbkg: {missing}: no such",
        "report: ",
    ]
    assert len(shown) == len(starts), shown
    assert all(line.startswith(start) for line, start in zip(shown, starts, strict=True)), shown


def test_quiet_on_a_terminal_is_quiet(five, tmp_path):
    words = ["average", five[0], "--bkg", *five[1], "-o", tmp_path / "o", "-q"]
    assert in_terminal(words, stdout=None) == (0, "")


# Exit codes


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "at least one science exposure"),
        ("s.fits --bkg b.fits", "output directory with -o"),
        ("s.fits --bkg -o out", "requires at least one file"),
        ("s.fits -o out --bkg", "requires at least one file"),
        ("--bkg b.fits s.fits -o out", "at least one science exposure"),
        ("s.fits --bkg b.fits -o out --nonsense", "--nonsense"),
        ("s.fits --bkg b.fits -o out --clip median", "'median' is not one of"),
        ("s.fits --bkg b.fits -o out --sigma much", "'much' is not a valid float"),
        ("s.fits --bkg b.fits -o out --sigma 0", "sigma must be greater than 0, got 0"),
        ("s.fits --bkg b.fits -o out --sigma nan", "sigma must be finite, got nan"),
        ("s.fits --bkg b.fits -o out --maxiters 0", "maxiters must be at least 1, got 0"),
        ("s.fits --bkg b.fits -o out --threads 0", "threads must be at least 1, got 0"),
        ("s.fits --bkg b.fits -o out --max-memory 0", "max_memory must be at least 1, got 0"),
        ("s.fits --bkg b.fits -o out --bad-flags HOTT", "unknown data-quality flag 'HOTT'"),
        ("s.fits --bkg b.fits -o out --preset best", "'best' is not"),
        ("s.fits --bkg b.fits -o out --config no.toml", "no.toml: cannot be read"),
        ("a.json --bkg b.fits -o out", "without --bkg"),
        ("a.json s.fits -o out", "without"),
    ],
)
def test_wrong_calls(cli, tmp_path, words, text):
    ran = cli("average", *words.split(), cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[average\n", "not a valid TOML file"),
        ("[destripe]\nsigma = 3\n", r"needs a table \[average\], got \['destripe'\]"),
        (
            "[average]\nsigmas = 3\n",
            r"has no parameter 'sigmas' in .*c.toml \(did you mean 'sigma'\?\); known are",
        ),
        ("[average]\nsigma = '3'\n", "sigma must be of type float, got '3'"),
        ("[average]\nsigma = true\n", "sigma must be of type float, got True"),
        ("[average]\npreset = 'best'\n", "preset must be one of pipeline, got 'best'"),
        ("[average]\npreset = ['best']\n", "preset must be one of pipeline"),
        ("average = 3\n", r"needs a table \[average\]"),
    ],
)
def test_wrong_configurations(cli, tmp_path, content, text):
    (tmp_path / "c.toml").write_text(content)
    words = ["s.fits", "--bkg", "b.fits", "-o", "out", "--config", "c.toml"]
    ran = cli("average", *words, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert re.search(text, ran.line)
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]


def test_exit_codes_of_the_real_command(command, five, tmp_path):
    ran = command("average", tmp_path / "no_rate.fits", "--bkg", five[1][0], "-o", tmp_path / "o")
    assert (ran.code, ran.out) == (1, "")
    assert ran.line == f"webbkg: {tmp_path / 'no_rate.fits'}: no such file"
    assert command("average").code == 2
    assert command("nonsense").code == 2
    assert list(tmp_path.iterdir()) == []


def test_interrupted(five, tmp_path):
    # A pipe nobody writes to: opening it waits until the signal comes.
    os.mkfifo(tmp_path / "slow_rate.fits")
    words = ["average", tmp_path / "slow_rate.fits", "--bkg", five[1][0], "-o", tmp_path / "o"]
    process = subprocess.Popen(
        [command_path(), *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background has them ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    waiting = Path(f"/proc/{process.pid}/wchan")
    limit = time.monotonic() + 30
    while time.monotonic() < limit and (
        not (tmp_path / "o").exists() or "wait_for_partner" not in waiting.read_text()
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    # A blank line ends the one on which the terminal shows ^C.
    assert (process.returncode, out, err.strip()) == (130, "", "webbkg: interrupted")
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


# Start


def test_help_comes_at_once(command):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        ran = command("--help")
        times.append(time.perf_counter() - start)
        assert ran.code == 0
        assert "average" in ran.out
        assert "demo" in ran.out
    assert min(times) < 0.3, times


def test_version_and_help_of_a_method(command, cli):
    assert command("--version").out == f"webbkg, version {version('webbkg')}\n"
    ran = cli("average", "--help")
    assert ran.code == 0
    for field in webbkg.AverageParams.fields():
        assert field.option in ran.out
    assert not {
        option
        for option in ("--preset", "--config", "--dump-config", "--overwrite", "--dry-run")
        if option not in ran.out
    }


def test_help_imports_nothing_heavy():
    code = (
        "import sys, webbkg.cli.main as m; sys.argv = ['webbkg', '--help']\n"
        "try: m.main()\nexcept SystemExit: pass\n"
        "print([n for n in ('numpy', 'astropy', 'numba', 'jwst', 'rich') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_backgrounds_are_combined_once_for_all_exposures(cli, simulated, tmp_path, monkeypatch):
    calls = []
    combine = batch.combine_backgrounds
    monkeypatch.setattr(
        batch, "combine_backgrounds", lambda *a, **k: calls.append(1) or combine(*a, **k)
    )
    words = ["--bkg", *simulated.backgrounds, "-o", tmp_path]
    assert cli("average", *simulated.science[:2], *words).code == 0
    assert len(calls) == 1
