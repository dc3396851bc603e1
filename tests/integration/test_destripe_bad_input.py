"""
``webbkg destripe`` on bad input: one line that helps, exit 1, and nothing written.

Or a warning and a product, where something can be done.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import tree
from destripe_helpers import cut, exposures, originals, set_keywords

from webbkg.masks.flags import FLAG_BITS

__all__ = ["exposures", "originals"]

UNCORRECTED = FLAG_BITS["UNRELIABLE_BIAS"]


@pytest.fixture
def refused(cli, tmp_path):
    """Call the command, check that it refuses in one line and leaves no trace, return the line."""

    def call(*words, code=1, out=tmp_path / "out"):
        before = tree(tmp_path)
        ran = cli("destripe", *words, "-o", out)
        assert ran.code == code, ran
        assert ran.out == ""
        assert "Traceback" not in ran.err
        assert tree(tmp_path) == before
        if code == 1:
            assert ran.line.startswith("webbkg: ")
            return ran.line
        return ran.err

    return call


@pytest.fixture
def product(cli, tmp_path):
    """Call the command, which must succeed; give the product and the warnings."""

    def call(*words):
        ran = cli("destripe", *words, "-o", tmp_path / "out")
        assert ran.code == 0, ran
        [path] = [
            path
            for path in (tmp_path / "out").glob("*.fits")
            if "_destripe" in path.name or "_rowbgsub" in path.name
        ]
        return path, ran.err

    return call


def says(line, *patterns):
    """Check that a line has all these patterns."""
    for pattern in patterns:
        assert re.search(pattern, line), f"{pattern!r} is not in: {line}"


def set_pixels(value, *, name="SCI", rows=slice(None), columns=slice(None)):
    """Change pixels of an image, of all integrations."""

    def change(hdus):
        hdus[name].data[..., rows, columns] = value

    return change


# Files that are none


def test_missing_file(refused, exposures):
    says(refused(exposures.folder / "no_rate.fits"), r"no_rate.fits: no such file")


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", r"is empty \(0 bytes\)"), (b"<html>404</html>" * 500, r"no FITS header at byte 0")],
    ids=["empty", "html"],
)
def test_no_fits(refused, exposures, content, text):
    path = exposures.folder / "x_rate.fits"
    path.write_bytes(content)
    says(refused(path), r"x_rate.fits: ", text)


@pytest.mark.parametrize("length", [2879, 9000, 60000])
def test_truncated(refused, exposures, length):
    path = exposures()
    path.write_bytes(path.read_bytes()[:length])
    says(refused(path), rf"{path.name}: .*(truncated|ends inside|has 0)")


def test_no_science(refused, exposures):
    def drop(hdus):
        del hdus["SCI"]

    says(refused(exposures(change=drop)), "needs one SCI extension, has 0", "give a rate")


def test_ramps(refused, exposures):
    def stack(hdus):
        hdus["SCI"].data = np.zeros((2, 3, 64, 64), np.float32)
        del hdus["ERR"], hdus["DQ"]

    says(refused(exposures(change=stack)), "SCI has 4 axes", "run calwebb_detector1")


# How it was read


@pytest.mark.parametrize("axis", [None, 0, 3, "x"])
def test_fast_axis_that_is_none(refused, exposures, axis):
    path = exposures(change=set_keywords(FASTAXIS=axis))
    says(refused(path), f"{path.name}: needs FASTAXIS of 1, 2, -1 or -2", f"got {axis}", "set it")


@pytest.mark.parametrize("n", [3, -1])
def test_outputs_that_do_not_fit(refused, exposures, n):
    path = exposures(change=set_keywords(NOUTPUTS=n))
    says(refused(path), rf"{n} outputs \(NOUTPUTS\) cannot share 64 pixels", "correct")


def test_header_of_another_size(refused, exposures, product):
    path = exposures(change=set_keywords(SUBSIZE2=32))
    says(refused(path), "SCI is 64x64 but SUBSIZE2 and SUBSIZE1 say 32x64", "--force overrides")
    says(product(path, "--force")[1], "warning: .*forced: .*SUBSIZE2")


# Done before


def test_stripes_removed_by_the_pipeline(refused, exposures, product):
    path = exposures(change=set_keywords(S_CLNFNS="COMPLETE"))
    says(
        refused(path),
        rf"{path.name}: its stripes have been removed already \(S_CLNFNS=COMPLETE\)",
        "give the exposure before that",
        "--force overrides",
    )
    says(product(path, "--force")[1], "warning: .*forced: .*removed already")


@pytest.mark.parametrize("status", ["SKIPPED", "FAILED"])
def test_stripes_that_the_pipeline_did_not_remove(product, exposures, status):
    product(exposures(change=set_keywords(S_CLNFNS=status, WB_DSTRP=status)))


@pytest.mark.parametrize("method", ["rows", "model"])
def test_product_of_ours(refused, product, exposures, cli, tmp_path, method):
    first, _ = product(exposures(), "--method", method)
    line = refused(first, out=tmp_path / "again")
    says(line, rf"{first.name}: its stripes have been removed already \(WB_DSTRP={method}\)")
    ran = cli("destripe", first, "--force", "-o", tmp_path / "again")
    assert ran.code == 0
    [second] = (tmp_path / "again").glob("*_destripe*.fits")
    # The variance of both is known, and each says what it was.
    assert np.all(fits.getdata(second, "VAR_BKG") >= fits.getdata(first, "VAR_BKG"))
    assert len(fits.getdata(second, "WEBBKG")) == 4


# Masks


def write_mask(exposures, shape=(64, 64), *, fraction=0.1, dtype=np.uint8):
    mask = np.random.default_rng(1).random(shape) < fraction
    return exposures.image("mask.fits", mask.astype(dtype))


@pytest.mark.parametrize("shape", [(32, 64), (2048, 2048), (64, 65), (3, 64, 64)])
def test_mask_of_another_shape(refused, exposures, shape):
    path = exposures()
    line = refused(path, "--mask", write_mask(exposures, shape))
    says(line, rf"mask.fits: the mask has shape \({', '.join(map(str, shape))}\)")
    says(line, rf"{path.name} needs one of \(64, 64\)", "give a mask")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_mask_of_the_opposite_sense(refused, exposures, dtype):
    path = exposures()
    line = refused(path, "--mask", write_mask(exposures, fraction=0.95, dtype=dtype))
    says(line, r"mask.fits: masks 9[45]\.\d+? % of the pixels of " + path.name, "opposite sense")
    says(line, "invert it", "--force overrides")


def test_mask_of_most_pixels_if_it_is_meant_so(product, exposures):
    mask = write_mask(exposures, fraction=0.95)
    path, _ = product(exposures(), "--mask", mask, "--force")
    assert fits.getval(path, "WB_MFRAC") > 0.9


def test_mask_of_nine_tenths_is_fine(product, exposures):
    product(exposures(), "--mask", write_mask(exposures, fraction=0.85))


@pytest.mark.parametrize("forced", [False, True])
def test_mask_of_all_pixels(refused, exposures, forced):
    mask = write_mask(exposures, fraction=2.0)
    line = refused(exposures(), "--mask", mask, *(["--force"] if forced else []))
    says(line, "sources cover every usable pixel" if forced else "masks 100 % of the pixels")


def test_mask_that_is_no_word_and_no_file(refused, exposures):
    says(refused(exposures(), "--mask", "tier"), "tier: no such file")


def test_mask_that_is_no_fits(refused, exposures):
    path = exposures.folder / "mask.fits"
    path.write_text("mask")
    says(refused(exposures(), "--mask", path), "mask.fits: cannot be read as a FITS image")


def test_mask_without_image(refused, exposures):
    path = exposures.folder / "mask.fits"
    fits.HDUList([fits.PrimaryHDU()]).writeto(path)
    says(refused(exposures(), "--mask", path), "mask.fits: has no image")


def test_mask_does_not_stop_exposures_that_it_fits(cli, exposures, tmp_path):
    wide, fitting = exposures("wide", "wide_rate.fits"), exposures()
    ran = cli("destripe", wide, fitting, "--mask", write_mask(exposures), "-o", tmp_path / "out")
    assert ran.code == 1
    says(ran.err, r"the mask has shape \(64, 64\) but wide_rate.fits needs one of \(160, 160\)")
    assert len(list((tmp_path / "out").glob("*_destripe_rate.fits"))) == 1


# Flat fields


def test_flat_of_another_shape(refused, exposures):
    flat = exposures.image("flat.fits", np.ones((32, 32), np.float32))
    says(refused(exposures(), "--flat", flat), "flat.fits: SCI is 32x32, not a full frame")


def test_flat_of_another_place(refused, exposures):
    flat = exposures.image("flat.fits", np.ones((64, 64), np.float32), SUBSTRT1=101, SUBSTRT2=1)
    line = refused(exposures(), "--flat", flat)
    says(line, "covers rows 1-64 and columns 101-164", "has rows 1-64 and columns 1-64")


@pytest.mark.parametrize("key", ["DETECTOR", "FILTER"])
def test_flat_of_another_detector_or_filter(refused, product, exposures, key):
    flat = exposures.image("flat.fits", np.ones((64, 64), np.float32), **{key: "OTHER"})
    path = exposures()
    says(refused(path, "--flat", flat), f"flat field of {key.lower()} OTHER but {path.name} has")
    product(path, "--flat", flat, "--force")


def test_flat_that_is_none(refused, exposures):
    flat = exposures.image("flat.fits", np.zeros((64, 64), np.float32))
    says(refused(exposures(), "--flat", flat), "flat.fits: no pixel of the flat field is positive")


def test_flat_for_what_has_been_flat_fielded(refused, product, exposures):
    flat = exposures.image("flat.fits", np.ones((64, 64), np.float32))
    path = exposures(change=set_keywords(S_FLAT="COMPLETE"))
    says(refused(path, "--flat", flat), r"flat field already \(S_FLAT=COMPLETE\)", "leave out")
    says(product(path, "--flat", flat, "--force")[1], "warning: .*forced: .*S_FLAT")


# Pixels that tell nothing


@pytest.mark.parametrize("method", ["rows", "amplifiers", "model"])
@pytest.mark.parametrize("kind", ["nircam-short", "integrations"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (set_pixels(np.nan), "no pixel is usable, all are flagged or not finite"),
        (set_pixels(np.inf), "no pixel is usable, all are flagged or not finite"),
        (set_pixels(1, name="DQ"), "no pixel is usable, all are flagged or not finite"),
        (set_pixels(0.0), "all usable pixels are 0"),
    ],
    ids=["NaN", "infinite", "flagged", "zero"],
)
def test_frames_without_a_value(refused, exposures, change, text, kind, method):
    path = exposures(kind, change=change)
    says(refused(path, "--method", method), f"{path.name}: {text}", "check its SCI")


@pytest.mark.parametrize("method", ["rows", "amplifiers", "model"])
def test_lines_without_a_pixel(product, exposures, method):
    path = exposures()
    mask = np.zeros((64, 64), np.uint8)
    mask[20:24] = 1
    done, err = product(path, "--mask", exposures.image("mask.fits", mask), "--method", method)
    # With the reference pixels there are more than the 4 that are masked.
    says(err, r"warning: .*lines have no pixel without a source")
    says(err, "that of their neighbours" if method == "model" else "left as they are and flagged")
    before, after = fits.getdata(path), fits.getdata(done)
    flagged = (fits.getdata(done, "DQ") & UNCORRECTED) > 0
    if method != "model":
        np.testing.assert_array_equal(after[20:24], before[20:24])
        assert flagged[20:24].all()
        assert fits.getval(done, "WB_NLEFT") >= 4
    else:
        assert not np.array_equal(after[20:24], before[20:24])
        assert not flagged[8:-8].any()
        # They are less certain than their neighbours.
        variance = fits.getdata(done, "VAR_BKG")
        assert variance[21, 32] > 1.5 * variance[32, 32]
    assert not flagged[8:20].any()
    assert np.isfinite(after[8:-8, 8:-8]).mean() > 0.97


@pytest.mark.parametrize("method", ["rows", "amplifiers", "model"])
def test_amplifier_without_a_pixel(product, exposures, method):
    path = exposures()
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 16:32] = 1
    done, _ = product(path, "--mask", exposures.image("mask.fits", mask), "--method", method)
    before, after = fits.getdata(path), fits.getdata(done)
    assert np.array_equal(np.isnan(before), np.isnan(after))
    # Its lines take the level of the others.
    assert not np.array_equal(after[8:-8, 16:32], before[8:-8, 16:32], equal_nan=True)


@pytest.mark.parametrize("method", ["rows", "amplifiers", "model"])
def test_rows_of_nan(product, exposures, method):
    path = exposures(change=set_pixels(np.nan, rows=slice(30, 33)))
    done, _ = product(path, "--method", method)
    after = fits.getdata(done)
    assert np.isnan(after[30:33]).all()
    assert np.isfinite(after[8:30, 8:-8]).mean() > 0.97


def test_one_integration_without_a_value(refused, exposures):
    def spoil(hdus):
        hdus["SCI"].data[1] = np.nan

    path = exposures("integrations", change=spoil)
    says(refused(path), f"{path.name}: ", "usable pixel")


def test_no_flags_and_lines_without_a_level(product, exposures):
    def drop(hdus):
        del hdus["DQ"]
        hdus["SCI"].data[30:33] = np.nan

    done, err = product(exposures(change=drop), "--method", "rows")
    says(err, "has no DQ, so no pixel is flagged")
    dq = fits.getdata(done, "DQ")
    assert ((dq[30:33] & UNCORRECTED) > 0).all()
    assert not dq[10:30].any()


def test_no_errors(product, exposures):
    def drop(hdus):
        del hdus["ERR"]

    done, err = product(exposures(change=drop))
    says(err, "has no ERR, so its errors are unknown")
    with fits.open(done) as hdus:
        assert "ERR" not in hdus
        assert np.all(hdus["VAR_BKG"].data[8:-8] > 0)


# Where to write


def test_product_exists(refused, product, exposures):
    path = exposures()
    done, _ = product(path)
    says(refused(path), "exists already; use --overwrite")
    report = done.parent / "webbkg-report.html"
    report.unlink()
    (done.parent / "metrics.json").unlink()
    says(refused(path), rf"{done.name}: exists already; use --overwrite")


@pytest.mark.parametrize("words", [["--method", "rows"], ["--save-masked"]])
def test_other_product_exists(refused, exposures, tmp_path, words):
    path = exposures()
    stem = path.name.removesuffix("_rate.fits")
    (tmp_path / "out").mkdir()
    name = f"detections_segm_{stem}.fits" if "rows" in words else f"{stem}_masked.fits"
    (tmp_path / "out" / name).touch()
    says(refused(path, *words), rf"{name}: exists already; use --overwrite")


def test_inputs_are_never_replaced(refused, exposures):
    path = exposures(name="a_destripe_rate.fits")
    path.rename(path.with_name("a_rate.fits"))
    mask = exposures.image("a_destripe_rate.fits", np.zeros((64, 64), np.uint8))
    line = refused(
        path.with_name("a_rate.fits"), "--mask", mask, "--overwrite", out=exposures.folder
    )
    says(line, "a_destripe_rate.fits: is an input of this run; choose another directory with -o")


def test_two_exposures_with_one_product(refused, exposures, tmp_path):
    path = exposures()
    (tmp_path / "other").mkdir()
    other = path.rename(tmp_path / "other" / path.name)
    line = refused(exposures(), other)
    says(line, "their products would both be named .*_destripe_rate.fits", "output directories")


def test_rates_and_cals_of_one_exposure(cli, refused, exposures, tmp_path):
    paths = [exposures(name="a_rate.fits"), exposures(name="a_cal.fits")]
    says(refused(*paths, "--method", "rows"), "both be named a_rowbgsub.fits")
    assert cli("destripe", *paths, "-o", tmp_path / "out").code == 0


def test_output_that_is_a_file(refused, exposures, tmp_path):
    (tmp_path / "file").touch()
    says(refused(exposures(), out=tmp_path / "file"), "file")


def test_nothing_is_left_of_a_write_that_fails(cli, exposures, tmp_path, monkeypatch):
    path = exposures()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("webbkg.io.destripe_products._fits_bytes", fail)
    before = tree(tmp_path)
    ran = cli("destripe", path, "-o", tmp_path / "out")
    assert ran.code == 1
    says(ran.line, "_destripe_rate.fits: cannot be written .No space left on device")
    assert tree(tmp_path) == before


# Calls


def test_no_file(refused):
    says(refused(code=2), "Give at least one exposure")


def test_no_output(cli, exposures):
    ran = cli("destripe", exposures())
    assert ran.code == 2
    says(ran.err, "Give the output directory with -o")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--method", "median"], "'median' is not one of 'model', 'amplifiers', 'rows'"),
        (["--n-sigma", "0"], "n_sigma must be greater than 0, got 0.0"),
        (["--bad-flags", "DEADLY"], "unknown data-quality flag 'DEADLY'"),
        (["--no-such"], "No such option"),
    ],
)
def test_bad_options(refused, exposures, words, text):
    says(refused(exposures(), *words, code=2), text)


def test_bad_config(refused, exposures, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[destripe]\nmetod = "rows"\n')
    says(refused(exposures(), "--config", config, code=2), "metod", "did you mean 'method'")


def test_bad_file_among_good_ones_is_as_it_was(cli, exposures, tmp_path):
    bad = exposures(name="bad_rate.fits", change=set_pixels(np.nan))
    before = cut(bad, "SCI")
    ran = cli("destripe", bad, exposures(), "-o", tmp_path / "out")
    assert ran.code == 1
    assert cut(bad, "SCI") == before
    assert not list((tmp_path / "out").glob("bad*"))
