"""
The command on bad input: one line that helps, exit 1, and nothing written.

Every refusal is checked for the line on stderr, the exit code, and that no file or folder was made,
changed or left, be it under a temporary name.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import SHAPE, command_path, environment, tree
from numpy.testing import assert_array_equal
from stdatamodels.jwst import datamodels

ONES = np.ones(SHAPE, np.uint32)
ROLES = ["science", "background"]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Folder for temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def good(files):
    """One science exposure and three backgrounds that fit it."""
    return files.make("s_rate.fits", level=12.0), [files.make(f"b{i}_rate.fits") for i in range(3)]


@pytest.fixture
def refused(cli, tmp_path, scratch):
    """Call the command, check that it refuses in one line and leaves no trace, return the line."""

    def call(*words, code=1, out=tmp_path / "out"):
        before = tree(tmp_path)
        ran = cli("average", *words, "-o", out)
        assert ran.code == code, ran
        assert ran.out == ""
        assert ran.line.startswith("webbkg: ")
        assert "Traceback" not in ran.err
        assert tree(tmp_path) == before
        return ran.line

    return call


@pytest.fixture
def put(good):
    """Words that put a file in one of both roles beside good ones."""

    def words(path, role):
        science, backgrounds = good
        return (
            [path, "--bkg", *backgrounds]
            if role == "science"
            else [
                science,
                "--bkg",
                backgrounds[0],
                path,
            ]
        )

    return words


def says(line, *patterns):
    """Check that a line has all these patterns."""
    for pattern in patterns:
        assert re.search(pattern, line), f"{pattern!r} is not in: {line}"


# Files that are none


@pytest.mark.parametrize("role", ROLES)
def test_missing(refused, put, tmp_path, role):
    path = tmp_path / "in" / "nope_rate.fits"
    says(refused(*put(path, role)), rf"{path}: no such file")


@pytest.mark.parametrize("role", ROLES)
def test_dangling_link(refused, put, tmp_path, role):
    path = tmp_path / "in" / "link_rate.fits"
    path.symlink_to("gone.fits")
    says(refused(*put(path, role)), rf"{path}: no such file")


@pytest.mark.parametrize("role", ROLES)
def test_folder(refused, put, tmp_path, role):
    path = tmp_path / "in"
    says(refused(*put(path, role)), rf"{path}: cannot be read as a FITS exposure", "directory")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"is empty \(0 bytes\), a FITS exposure is needed"),
        (b"\n", r"cannot be read as a FITS exposure \(no FITS header at byte 0\)"),
        (b"<html>404 Not Found</html>" * 500, r"FITS exposure \(no FITS header at byte 0\)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9000), r"FITS exposure \(no FITS header at byte 0\)"),
        (bytes(28800), r"FITS exposure \(no FITS header at byte 0\)"),
        (b"\x1f\x8b", r"cannot be read as a FITS exposure \(.+\)"),
        (b"\x1f\x8bnothing of that kind", r"cannot be read as a FITS exposure \(.+\)"),
        (gzip.compress(b""), r"FITS exposure|needs one SCI"),
        (gzip.compress(b"no FITS" * 500), r"FITS exposure \(no FITS header at byte 0\)"),
        (b"SIMPLE  =                    T" + b" " * 50 + b"END" + b" " * 2797, "keyword|SCI"),
    ],
    ids=["empty", "byte", "html", "hdf", "zeros", "gz2", "gzbad", "gzempty", "gztext", "bare"],
)
def test_no_fits(refused, put, tmp_path, role, content, text):
    path = tmp_path / "in" / "x_rate.fits"
    path.write_bytes(content)
    says(refused(*put(path, role)), rf"x_rate.fits: .*{text}")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("length", [1, 79, 80, 2879, 2880, 2881, 5760, 5761, 8000, 10879, 13000])
def test_truncated(refused, put, good, tmp_path, role, length):
    path = tmp_path / "in" / "x_rate.fits"
    path.write_bytes(good[0].read_bytes()[:length])
    says(refused(*put(path, role)), r"x_rate.fits: .*(truncated|ends inside|no FITS|has 0)")


@pytest.mark.parametrize("role", ROLES)
def test_truncated_in_the_last_extension(refused, put, good, tmp_path, role):
    path, content = tmp_path / "in" / "x_rate.fits", good[0].read_bytes()
    path.write_bytes(content[: len(content) - 3000])
    line = refused(*put(path, role))
    says(line, r"x_rate.fits: truncated, .* ends at byte \d+ but the file has \d+; fetch it again")


def test_truncated_between_extensions_is_told(cli, good, tmp_path):
    # ERR and DQ are gone and the rest is a valid file: to be used, but not silently.
    with fits.open(good[0]) as hdus:
        end = hdus["SCI"]._data_offset + hdus["SCI"]._data_size
    path = tmp_path / "in" / "x_rate.fits"
    path.write_bytes(good[0].read_bytes()[: -(-end // 2880) * 2880])
    ran = cli("average", path, "--bkg", *good[1], "-o", tmp_path / "out")
    assert ran.code == 0
    says(ran.line, "warning: .*x_rate.fits", "ERR", "DQ")


@pytest.mark.parametrize("role", ROLES)
def test_truncated_or_corrupt_gzip(refused, put, good, tmp_path, role):
    packed = gzip.compress(good[0].read_bytes())
    path = tmp_path / "in" / "x_rate.fits.gz"
    middle = len(packed) // 2
    for content in (
        packed[:middle],
        packed[:-4],
        packed[:middle] + b"\xff" * 400 + packed[middle + 400 :],
        packed[:-8] + b"\0" * 8,
    ):
        path.write_bytes(content)
        says(refused(*put(path, role)), r"x_rate.fits.gz: cannot be read as a FITS exposure \(.+\)")


@pytest.mark.parametrize("role", ROLES)
def test_broken_cards(refused, put, files, role):
    path = files.make("x_rate.fits")
    content = path.read_bytes()
    for old, new in (
        (b"'F770W   '", b"F770W     "),
        (b"BITPIX  =                  -32", b"BITPIX  =                 -3.2"),
        (b"NAXIS1  =                   40", b"NAXIS1  =                   4O"),
    ):
        assert old in content
        path.write_bytes(content.replace(old, new))
        says(refused(*put(path, role)), r"x_rate.fits: cannot be read as a FITS exposure \(.+\)")


# Exposures of the wrong form


@pytest.mark.parametrize("role", ROLES)
def test_no_science_extension(refused, put, files, role):
    path = files.make("x_rate.fits", drop=("SCI",))
    line = refused(*put(path, role))
    says(line, r"x_rate.fits: needs one SCI extension, has 0 \(extensions: ERR, DQ\); give a rate")
    with fits.open(path, mode="append") as hdus:
        hdus.append(fits.ImageHDU(np.zeros(SHAPE), name="SCI", ver=1))
        hdus.append(fits.ImageHDU(np.zeros(SHAPE), name="SCI", ver=2))
    says(refused(*put(path, role)), r"x_rate.fits: needs one SCI extension, has 2")


@pytest.mark.parametrize("role", ROLES)
def test_compressed_image_or_table(refused, put, files, role):
    path = files.make("x_rate.fits")
    data = np.zeros(SHAPE, np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, name="SCI")]).writeto(
        path, overwrite=True
    )
    says(refused(*put(path, role)), "x_rate.fits: .*SCI is no plain image but BINTABLE", "funpack")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((2, 2, *SHAPE), r"SCI has 4 axes .*needed are 2 .* or 3 .*; run calwebb_detector1"),
        ((40,), r"SCI has 1 axes .*needed are 2 .* or 3 "),
        ((0, *SHAPE), r"SCI .*\b0\b"),
        ((3, 0, 40), r"SCI .*\b0\b"),
        ((0, 40), r"SCI .*\b0\b"),
    ],
)
def test_number_of_axes(refused, put, files, role, shape, text):
    path = files.make("x_rate.fits", shape=shape)
    says(refused(*put(path, role)), rf"x_rate.fits: {text}")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["ERR", "DQ"])
def test_shapes_that_differ(refused, put, files, role, name):
    wrong = np.ones((32, 39), np.uint32 if name == "DQ" else np.float32)
    path = files.make("x_rate.fits", extensions={name: wrong})
    line = refused(*put(path, role))
    says(line, rf"x_rate.fits: {name} has shape \(32, 39\) but SCI has \(32, 40\)")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("drop", [("SUBSTRT1",), ("SUBSTRT2",), ("SUBSTRT1", "SUBSTRT2")])
def test_no_sub_array_keywords(refused, put, files, role, drop):
    line = refused(*put(files.make("x_rate.fits", drop=drop), role))
    says(line, "x_rate.fits: SCI is 32x40, not a full frame of 1024x1032", "SUBSTRT1", "add them")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("value", ["abc", -5, 1.5])
def test_sub_array_keywords_that_make_no_sense(refused, put, files, role, value):
    line = refused(*put(files.make("x_rate.fits", SUBSTRT1=value), role))
    says(line, "x_rate.fits", "SUBSTRT1", re.escape(str(value)))


def test_sub_arrays_apart(refused, good, files):
    path = files.make("far_rate.fits", SUBSTRT1=500)
    line = refused(path, "--bkg", *good[1])
    says(line, "far_rate.fits", "none of the 3 backgrounds covers", "x0=499", "b0_rate.fits", ";")


def test_shapes_of_science_and_background(cli, good, files, tmp_path):
    # A smaller background covers a part; what it leaves is flagged and told.
    small = [files.make(f"small{i}.fits", shape=(32, 30), SUBSIZE1=30) for i in range(3)]
    ran = cli("average", good[0], "--bkg", *small, "-o", tmp_path / "out")
    assert ran.code == 0
    says(ran.line, r"warning: s_rate.fits: 320 good pixels \(25.00 %\) have no background")
    with fits.open(tmp_path / "out" / "s_bsub.fits") as after, fits.open(good[0]) as before:
        assert (after["DQ"].data[:, 30:] & 1).all()
        assert_array_equal(after["SCI"].data[:, 30:], before["SCI"].data[:, 30:])
        assert not after["DQ"].data[:, :30].any()


# Exposures that do not belong together


@pytest.mark.parametrize(
    ("keyword", "ours", "theirs", "word"),
    [
        ("INSTRUME", "MIRI", "NIRCAM", "instrument"),
        ("DETECTOR", "MIRIMAGE", "MIRIFULONG", "detector"),
        ("FILTER", "F770W", "F1000W", "filter"),
        ("GRATING", "G140H", "G235H", "grating"),
        ("PUPIL", "CLEAR", "GRISMR", "pupil"),
        ("CHANNEL", "12", "34", "channel"),
        ("BAND", "SHORT", "LONG", "band"),
    ],
)
def test_other_kind_of_exposure(refused, cli, files, tmp_path, keyword, ours, theirs, word):
    science = files.make("s_rate.fits", **{keyword: ours})
    backgrounds = [files.make(f"b{i}.fits", **{keyword: ours}) for i in range(2)]
    backgrounds.append(files.make("other.fits", **{keyword: theirs}))
    line = refused(science, "--bkg", *backgrounds)
    says(line, rf"other.fits: {word} {theirs} .*s_rate.fits has {ours}; give .*--force")
    ran = cli(
        "average", science, "--bkg", *backgrounds, "-o", tmp_path / "o", "--force", "--dry-run"
    )
    assert ran.code == 0
    says(ran.line, rf"warning: .*other.fits: {word} {theirs} .*s_rate.fits has {ours}")


def test_forced_is_done_and_recorded(cli, good, files, tmp_path):
    other = files.make("other.fits", FILTER="F1000W")
    ran = cli("average", good[0], "--bkg", *good[1], other, "-o", tmp_path / "o", "--force")
    assert ran.code == 0
    says(ran.line, "warning: s_rate.fits: forced: other.fits: filter F1000W")
    entry = json.loads((tmp_path / "o" / "metrics.json").read_text())["exposures"][0]
    assert entry["metrics"]["n_backgrounds"] == 4
    says(entry["warnings"][0], "forced: other.fits: filter F1000W")
    history = " ".join(fits.getheader(tmp_path / "o" / "s_bsub.fits")["HISTORY"])
    assert "other.fits" in history


def test_other_unit(refused, good, files):
    path = files.make("cal.fits")
    fits.setval(path, "BUNIT", value="MJy/sr", ext=1)
    says(refused(good[0], "--bkg", *good[1], path), "cal.fits: unit MJy/sr", "has DN/s")


def test_other_readout(refused, good, files):
    path = files.make("slow.fits", READPATT="SLOWR1")
    says(
        refused(good[0], "--bkg", *good[1], path), "slow.fits: readout SLOWR1", "FASTR1", "--force"
    )


def test_sky_that_is_a_scaled_template(refused, good, files):
    path = files.make("grism_rate.fits", EXP_TYPE="NIS_WFSS")
    says(
        refused(path, "--bkg", *good[1]), "grism_rate.fits: EXP_TYPE is NIS_WFSS", "use webbkg wfss"
    )


@pytest.mark.parametrize("role", ROLES)
def test_subtracted_already(refused, put, cli, files, tmp_path, role):
    path = files.make("x_rate.fits", S_BKDSUB="COMPLETE")
    words = put(path, role)
    line = refused(*words)
    says(line, r"x_rate.fits: .*subtracted already \(S_BKDSUB=COMPLETE\); give .*--force overrides")
    ran = cli("average", *words, "-o", tmp_path / "o", "--force", "--dry-run")
    assert ran.code == 0
    says(ran.line, "warning: .*x_rate.fits: .*subtracted already")


def test_a_product_is_not_subtracted_again(refused, cli, good, tmp_path):
    first = tmp_path / "first"
    assert cli("average", good[0], "--bkg", *good[1], "-o", first).code == 0
    says(refused(first / "s_bsub.fits", "--bkg", *good[1]), "s_bsub.fits: .*subtracted already")


def test_forced_again_is_one_product(cli, good, tmp_path):
    words = ["--bkg", *good[1], "--force"]
    cli("average", good[0], *words, "-o", tmp_path / "one")
    assert (
        cli("average", tmp_path / "one" / "s_bsub.fits", *words, "-o", tmp_path / "two").code == 0
    )
    with fits.open(tmp_path / "two" / "s_bsub.fits") as hdus:
        names = [hdu.name for hdu in hdus]
    assert sorted(names) == sorted(set(names))


# Pixels that are all bad


def test_science_all_bad(refused, good, files):
    for path in (
        files.make("x_rate.fits", extensions={"DQ": ONES}),
        files.make("x_rate.fits", level=np.nan),
        files.make("x_rate.fits", level=np.inf),
        files.make("x_rateints.fits", shape=(3, *SHAPE), level=np.nan),
    ):
        line = refused(path, "--bkg", *good[1])
        says(line, rf"{path.name}: every science pixel is flagged or not finite; ")


def test_backgrounds_all_bad(refused, good, files):
    flagged = [files.make(f"x{i}.fits", extensions={"DQ": ONES}) for i in range(2)]
    line = refused(good[0], "--bkg", *flagged)
    says(line, "x0.fits, x1.fits: every background pixel is flagged.*; .*bad.flags")
    empty = [files.make(f"x{i}.fits", level=np.nan) for i in range(2)]
    line = refused(good[0], "--bkg", *empty)
    says(line, "x0.fits.*: every background pixel is flagged, masked or not finite; ")


def test_one_bad_background_is_left_out(cli, good, files, tmp_path):
    for number, path in enumerate(
        (
            files.make("flagged.fits", extensions={"DQ": ONES}),
            files.make("empty.fits", level=np.nan),
        )
    ):
        out = tmp_path / str(number)
        ran = cli("average", good[0], "--bkg", *good[1], path, "-o", out)
        assert ran.code == 0
        says(ran.line, rf"warning: s_rate.fits: {path.name}: has no usable pixel there, not used")
        assert fits.getheader(out / "s_bsub.fits")["WB_NUSED"] == 3


def test_more_coverage_wanted_than_there_are_backgrounds(refused, good):
    # Nothing would be subtracted, and the product would say COMPLETE.
    line = refused(good[0], "--bkg", *good[1], "--min-coverage", "4")
    says(line, "min.coverage", "4", "3")


# Too few backgrounds, or the same


def test_no_background(refused, good, files):
    line = refused(good[0])
    says(line, "s_rate.fits: no background exposure was given; name at least one with --bkg")
    asn = files.association("a.json", ("s", [("s_rate.fits", "science")]))
    says(refused(asn), "s_rate.fits: no background exposure was given; .*exptype 'background'")


def test_one_background_works_and_warns(cli, good, tmp_path):
    ran = cli("average", good[0], "--bkg", good[1][0], "-o", tmp_path / "o")
    assert ran.code == 0
    says(ran.line, "warning: s_rate.fits: one background only: nothing can be clipped")
    taken = fits.getdata(good[0], "SCI") - fits.getdata(good[1][0], "SCI")
    assert_array_equal(fits.getdata(tmp_path / "o" / "s_bsub.fits", "SCI"), taken)


def test_science_among_its_backgrounds(refused, good, files, tmp_path, monkeypatch):
    science, backgrounds = good
    folder = files.folder
    monkeypatch.chdir(folder)
    (folder / "link.fits").symlink_to(science)
    os.link(science, folder / "hard.fits")
    shutil.copy(science, folder / "copy.fits")
    (folder / "packed.fits.gz").write_bytes(gzip.compress(science.read_bytes()))
    for name in ("s_rate.fits", "../in/s_rate.fits", "link.fits", "hard.fits", "copy.fits"):
        line = refused(science, "--bkg", backgrounds[0], name, backgrounds[1])
        says(line, rf"{Path(name).name}: is the science exposure itself; .*leave it out")
    line = refused(science, "--bkg", *backgrounds, "packed.fits.gz")
    says(line, "packed.fits.gz: is the science exposure itself")


def test_science_among_its_backgrounds_saved_anew(cli, good, files, tmp_path):
    # What a data model's save does: other keywords, the same pixels. It may be another exposure
    # of a simulation, so the user is only told.
    anew = files.folder / "anew.fits"
    shutil.copy(good[0], anew)
    fits.setval(anew, "FILENAME", value="anew.fits")
    ran = cli("average", good[0], "--bkg", *good[1], anew, "-o", tmp_path / "out")
    assert ran.code == 0
    says(
        ran.err,
        "anew.fits: has the same pixels as the science exposure s_rate.fits; .*leave it out",
    )


def test_science_among_its_backgrounds_in_an_association(refused, good, files):
    members = [("s_rate.fits", "science"), ("b0_rate.fits", "background")]
    asn = files.association("a.json", ("s", [*members, ("./s_rate.fits", "background")]))
    says(refused(asn), "s_rate.fits: is the science exposure itself; .*leave it out")


def test_one_background_given_twice(cli, good, files, tmp_path):
    science, backgrounds = good
    link, packed = files.folder / "link.fits", files.folder / "packed.fits.gz"
    link.symlink_to(backgrounds[0])
    packed.write_bytes(gzip.compress(backgrounds[0].read_bytes()))
    plain = cli("average", science, "--bkg", *backgrounds, "-o", tmp_path / "plain")
    assert plain.err == ""
    for number, again in enumerate((backgrounds[0], link, packed)):
        out = tmp_path / str(number)
        ran = cli("average", science, "--bkg", *backgrounds, again, "-o", out)
        assert ran.code == 0
        says(ran.line, rf"warning: .*{again.name}: given more than once as background, used once")
        assert_array_equal(
            fits.getdata(out / "s_bsub.fits", "SCI"),
            fits.getdata(tmp_path / "plain" / "s_bsub.fits", "SCI"),
        )


# Associations

MEMBERS = [{"expname": "s_rate.fits", "exptype": "science"}]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "not a valid JSON association"),
        ("{", "not a valid JSON association"),
        ("products: []", "not a valid JSON association"),
        ("\x00\x01", "not a valid JSON association"),
        ("[" * 100_000, "not a valid JSON association"),
        ("null", "needs a list 'products' with at least one entry"),
        ("[]", "needs a list 'products' with at least one entry"),
        ("{}", "needs a list 'products' with at least one entry, got none; make it with"),
        ('{"products": []}', "needs a list 'products' with at least one entry, got none"),
        ('{"products": {"name": "a"}}', "needs a list 'products' .*got dict"),
        ('{"products": ["a"]}', "product 1 needs a 'name'"),
        ('{"products": [{"members": []}]}', "product 1 needs a 'name' .*got None"),
        ('{"products": [{"name": "a"}]}', r"product 1 \(a\) has no members; list a science"),
        ('{"products": [{"name": "a", "members": []}]}', r"product 1 \(a\) has no members"),
        ('{"products": [{"name": "a", "members": ["s.fits"]}]}', "'expname' and 'exptype', got 's"),
        (
            '{"products": [{"name": "a", "members": [{"expname": 1, "exptype": 2}]}]}',
            "'expname' and 'exptype', got",
        ),
        (json.dumps({"products": [{"name": "../a", "members": MEMBERS}]}), "plain file name"),
        (json.dumps({"products": [{"name": "/a", "members": MEMBERS}]}), "plain file name"),
        (json.dumps({"products": [{"name": "a\0", "members": MEMBERS}]}), "plain file name"),
        (json.dumps({"products": [{"name": "a" * 300, "members": MEMBERS}]}), "name|too long"),
        (
            json.dumps({"products": [{"name": "a", "members": MEMBERS}] * 2}),
            "two products are named 'a'; give each its own name",
        ),
    ],
)
def test_malformed_association(refused, good, files, content, text):
    path = files.folder / "x_asn.json"
    path.write_text(content)
    says(refused(path), rf"x_asn.json: .*{text}|{text}.*")


def test_association_that_is_no_text(refused, files, good):
    path = files.folder / "x_asn.json"
    shutil.copy(good[0], path)
    path.write_bytes(path.read_bytes() + b"\xff")
    says(refused(path), "x_asn.json: not a valid JSON association")
    path.unlink()
    says(refused(path), "x_asn.json: no such file")
    path.mkdir()
    says(refused(path), r"x_asn.json: cannot be read \(Is a directory\)")


def test_members_of_an_association(refused, files, good):
    members = [("s_rate.fits", "science"), ("b0_rate.fits", "background")]
    asn = files.association("a.json", ("p", [*members, ("b1_rate.fits", "sky")]))
    says(
        refused(asn), r"a.json: product 1 \(p\): b1_rate.fits has the unknown exptype 'sky'; known"
    )
    asn = files.association("a.json", ("p", members[1:]))
    says(refused(asn), r"a.json: product 1 \(p\) needs one science member, has 0; give")
    asn = files.association("a.json", ("p", [*members, ("b1_rate.fits", "science")]))
    says(refused(asn), r"a.json: product 1 \(p\) needs one science member, has 2; give")
    asn = files.association("a.json", ("p", [*members, ("nope.fits", "background")]))
    says(refused(asn), rf"{files.folder}/nope.fits: no such file")
    asn = files.association("a.json", ("p", [("nope.fits", "science"), members[1]]))
    says(refused(asn), rf"{files.folder}/nope.fits: no such file")
    asn = files.association("a.json", ("p", [*members, ("b\0.fits", "background")]))
    says(refused(asn), "a.json|no such file")


# Outputs


def test_no_folder_is_left(refused, put, tmp_path):
    missing = tmp_path / "in" / "nope_rate.fits"
    refused(*put(missing, "science"), out=tmp_path / "not" / "there" / "yet")
    (tmp_path / "there").mkdir()
    refused(*put(missing, "science"), out=tmp_path / "there")
    refused(*put(missing, "science"), out=tmp_path / "there" / "not yet")


def test_output_that_cannot_be_a_folder(refused, good, tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "a" / "out"):
        line = refused(good[0], "--bkg", *good[1], out=out)
        says(line, rf"{out}: not a directory that can be written to \(.+\); choose another with -o")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(refused, good, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for out in (closed, closed / "out"):
        line = refused(good[0], "--bkg", *good[1], out=out)
        says(line, rf"{out}: not a directory that can be written to \(Permission denied\)")


def test_output_on_a_system_that_lets_nobody_write(refused, good):
    out = Path("/proc/webbkg")
    says(refused(good[0], "--bkg", *good[1], out=out), rf"{out}: not a directory that can be")


def test_output_with_too_long_a_name(refused, good, tmp_path):
    out = tmp_path / ("x" * 300)
    says(refused(good[0], "--bkg", *good[1], out=out), r"too long")


def limited_run(words, n_bytes):
    """Run the command where no file may grow beyond a number of bytes, as on a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return subprocess.run(
        [command_path(), "average", *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )


def test_full_output_directory(good, tmp_path):
    before = tree(tmp_path)
    done = limited_run([good[0], "--bkg", *good[1], "-o", tmp_path / "out"], 20_000)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"webbkg: {tmp_path}/out/s_bsub.fits: cannot be written \(File too large\)\n", done.stderr
    )
    assert tree(tmp_path) == before


def test_disk_full_halfway(cli, good, files, tmp_path, monkeypatch):
    # The first product is whole and stays, of the second nothing is left.
    science = [good[0], files.make("t_rate.fits"), files.make("u_rate.fits")]
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    ran = cli("average", *science, "--bkg", *good[1], "-o", tmp_path / "out")
    assert ran.code == 1
    says(ran.line, r"t_bsub.fits: cannot be written \(No space left on device\)")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["s_bsub.fits"]
    fits.getdata(tmp_path / "out" / "s_bsub.fits", "WEBBKG")


@pytest.mark.parametrize("kept", [True, False])
def test_report_that_cannot_be_written(cli, good, tmp_path, monkeypatch, kept):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    out = tmp_path / "out"
    if kept:
        out.mkdir()
    monkeypatch.setattr(os, "fsync", full)
    ran = cli("average", good[0], "--bkg", *good[1], "-o", out)
    assert ran.code == 1
    says(ran.line, r"(webbkg-report.html|metrics.json): cannot be written \(No space left")
    assert [p.name for p in out.iterdir()] == ["s_bsub.fits"]


def test_two_exposures_of_one_product(refused, good, files):
    again = files.make("s_cal.fits")
    line = refused(good[0], again, "--bkg", *good[1])
    says(line, r"s_cal.fits and \S+s_rate.fits: their products would both be named s; ")
    line = refused(good[0], good[0], "--bkg", *good[1])
    says(line, r"s_rate.fits and \S+s_rate.fits: their products would both be named s; ")


def test_product_of_one_association_in_another(refused, good, files):
    members = [("s_rate.fits", "science"), ("b0_rate.fits", "background")]
    first, second = (files.association(f"{k}.json", ("p", members)) for k in "ab")
    says(refused(first, second), "their products would both be named p")


def test_output_beside_the_input(cli, good, files):
    before = tree(files.folder)
    ran = cli("average", "s_rate.fits", "--bkg", *good[1], "-o", ".", cwd=files.folder)
    assert ran.code == 0
    after = tree(files.folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"s_bsub.fits", "webbkg-report.html", "metrics.json"}


@pytest.mark.parametrize("name", ["x_bsub.fits", "x_bsub.fits.gz"])
def test_inputs_are_never_overwritten(cli, good, files, name):
    # Its product has its own name, and --overwrite means earlier products, not inputs.
    path = files.make("x_bsub.fits")
    before = tree(files.folder)
    words = ["--bkg", *good[1], "-o", files.folder, "--overwrite"]
    ran = cli("average", path, *words)
    assert ran.code == 1
    says(ran.line, "x_bsub.fits", "input|science")
    assert tree(files.folder) == before


def test_backgrounds_are_never_overwritten(cli, good, files):
    background = files.make("s_bsub.fits")
    (files.folder / "link.fits").symlink_to(background)
    for given in (background, files.folder / "link.fits"):
        before = tree(files.folder)
        words = ["--bkg", given, *good[1], "-o", files.folder, "--overwrite"]
        ran = cli("average", good[0], *words)
        assert ran.code == 1
        says(ran.line, "s_bsub.fits", "input|background")
        assert tree(files.folder) == before


def test_combined_background_as_background_is_not_overwritten(cli, good, files):
    background = files.make("s_combinedbackground.fits")
    before = tree(files.folder)
    words = ["--bkg", background, "-o", files.folder, "--overwrite", "--save-combined-background"]
    ran = cli("average", good[0], *words)
    assert ran.code == 1
    assert tree(files.folder) == before


def test_target_that_is_a_link_to_the_input(cli, good, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "s_bsub.fits").symlink_to(good[0])
    content = good[0].read_bytes()
    assert cli("average", good[0], "--bkg", *good[1], "-o", out).code == 1
    cli("average", good[0], "--bkg", *good[1], "-o", out, "--overwrite")
    assert good[0].read_bytes() == content


def test_killed_while_writing(cli, good, tmp_path):
    # Killed after the last byte, before the product gets its name.
    code = (
        "import os, signal, sys\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from webbkg.cli.main import main\n"
        "main()\n"
    )
    out = tmp_path / "out"
    words = ["average", good[0], "--bkg", *good[1], "-o", out]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -9
    left = [path.name for path in out.iterdir()]
    assert left
    assert all(name.startswith(".") and name.endswith(".part") for name in left)
    # The next run neither stumbles over it nor needs --overwrite.
    assert cli(*words).code == 0
    assert {"s_bsub.fits", "webbkg-report.html", "metrics.json"} <= {p.name for p in out.iterdir()}


def test_bad_exposures_in_a_batch(cli, good, files, tmp_path):
    science, backgrounds = good
    corrupt = files.folder / "corrupt_rate.fits.gz"
    packed = gzip.compress(science.read_bytes())
    corrupt.write_bytes(packed[:500] + b"\xff" * 400 + packed[900:])
    bad = [
        files.folder / "missing_rate.fits",
        files.make("flagged_rate.fits", extensions={"DQ": ONES}),
        corrupt,
        files.make("empty_rateints.fits", shape=(0, *SHAPE)),
        files.make("far_rate.fits", SUBSTRT1=400),
    ]
    last = files.make("t_rate.fits")
    ran = cli("average", science, *bad, last, "--bkg", *backgrounds, "-o", tmp_path / "o")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == len(bad)
    entries = json.loads((tmp_path / "o" / "metrics.json").read_text())["exposures"]
    assert [e["status"] for e in entries] == ["COMPLETE", *["FAILED"] * len(bad), "COMPLETE"]
    assert [e["name"] for e in entries] == [p.name for p in (science, *bad, last)]
    page = (tmp_path / "o" / "webbkg-report.html").read_text()
    for entry, line in zip(entries[1:-1], ran.err.splitlines(), strict=True):
        assert line == f"webbkg: {entry['error']}"
        assert entry["name"] in entry["error"]
        assert entry["metrics"] == {}
        assert entry["products"] == {}
        assert entry["name"] in page
    assert sorted(p.name for p in (tmp_path / "o").glob("*.fits")) == ["s_bsub.fits", "t_bsub.fits"]


def test_nothing_that_failed_touches_an_earlier_run(cli, good, files, tmp_path):
    out = tmp_path / "out"
    cli("average", good[0], "--bkg", *good[1], "-o", out)
    before = tree(out)
    flagged = files.make("flagged_rate.fits", extensions={"DQ": ONES})
    ran = cli("average", flagged, "--bkg", *good[1], "-o", out, "--overwrite")
    assert ran.code == 1
    assert "flagged_rate.fits" in ran.line
    assert tree(out) == before


# NIRSpec

NIRSPEC = {
    "INSTRUME": "NIRSPEC",
    "DETECTOR": "NRS1",
    "FILTER": "F100LP",
    "GRATING": "G140H",
    "EXP_TYPE": "NRS_IFU",
    "READPATT": "NRSRAPID",
    "GWA_XTIL": 0.3511,
    "GWA_YTIL": 0.1204,
}


def test_grating_wheel_that_moved(refused, cli, files, tmp_path):
    science = files.make("s_rate.fits", **NIRSPEC)
    moved = files.make("m_rate.fits", **(NIRSPEC | {"GWA_YTIL": 0.1204001}))
    still = files.make("b_rate.fits", **(NIRSPEC | {"GWA_YTIL": 0.1204 + 5e-9}))
    line = refused(science, "--bkg", still, moved)
    says(line, "m_rate.fits: GWA_YTIL is 0.1204001 .*s_rate.fits has 0.1204", "give backgrounds")
    files.association(
        "a.json",
        ("one", [("s_rate.fits", "science"), ("m_rate.fits", "background")]),
        ("two", [("s_rate.fits", "science"), ("b_rate.fits", "background")]),
    )
    ran = cli("average", files.folder / "a.json", "-o", tmp_path / "o")
    assert ran.code == 1
    says(
        ran.err, "webbkg: skipped: m_rate.fits: GWA_YTIL", "webbkg: warning: .*one background only"
    )
    entries = json.loads((tmp_path / "o" / "metrics.json").read_text())["exposures"]
    assert [entry["status"] for entry in entries] == ["SKIPPED", "COMPLETE"]
    says(entries[0]["error"], "GWA_YTIL")
    assert [p.name for p in (tmp_path / "o").glob("*.fits")] == ["two_bsub.fits"]


@pytest.mark.parametrize("role", ROLES)
def test_grating_wheel_of_unknown_place(refused, files, role):
    science, background = (
        files.make(f"{name}.fits", **NIRSPEC, drop=("GWA_XTIL",) if name == role else ())
        for name in ROLES
    )
    line = refused(science, "--bkg", background)
    says(line, rf"{role}.fits: is a NIRSpec exposure without the keyword GWA_XTIL", "add it")


# Unusual, but good


@pytest.mark.parametrize(
    "name",
    [
        "a b c_rate.fits",
        "étoile-β_rate.fits",
        "星_rate.fits",
        "-n_rate.fits",
        "--sigma_rate.fits",
        'it\'s "q" $HOME & <b>_rate.fits',
        "100%_rate.fits",
        "[red]x_rate.fits",
        f"{'long' * 25}_rate.fits",
        "x.y.z_rate.fits",
        ".hidden_rate.fits",
        "UPPER_RATE.FITS",
    ],
)
def test_unusual_names(cli, good, files, tmp_path, name):
    files.make(name)
    out = tmp_path / "out put"
    words = ["-o", out, "--bkg", *good[1]]
    ran = cli("average", *words, "--", name, cwd=files.folder)
    assert ran.code == 0
    (product,) = out.glob("*bsub.fits")
    stem = name.removesuffix("_rate.fits").removesuffix(".FITS")
    assert product.name == f"{stem}_bsub.fits"
    with datamodels.open(product) as model:
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"
    entry = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["exposures"][0]
    assert entry["name"] == name
    assert "<b>" not in (out / "webbkg-report.html").read_text(encoding="utf-8")


def test_unusual_names_of_backgrounds(cli, good, files, tmp_path):
    names = ["a b.fits", "β.fits", "it's.fits", "-b.fits"]
    for name in names:
        files.make(name)
    words = [*names[:3], "./-b.fits", "-o", tmp_path / "o"]
    assert cli("average", "s_rate.fits", "--bkg", *words, cwd=files.folder).code == 0
    entry = json.loads((tmp_path / "o" / "metrics.json").read_text(encoding="utf-8"))
    assert entry["exposures"][0]["metrics"]["backgrounds"] == names


def test_name_that_is_no_text(cli, good, files, tmp_path):
    # Bytes that are not UTF-8, as old archives have them.
    path = files.make(os.fsdecode(b"\xff_rate.fits"))
    ran = cli("average", path, "--bkg", *good[1], "-o", tmp_path / "o")
    assert ran.code in (0, 1)
    if ran.code == 1:
        assert "_rate.fits" in ran.line
        assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", ["f8", "i2", "i4"])
def test_other_number_types(cli, good, files, put, tmp_path, role, kind):
    data = np.rint(np.random.default_rng(9).normal(100, 9, SHAPE)).astype(kind)
    flags = np.zeros(SHAPE, np.uint8)
    path = files.make("x_rate.fits", extensions={"SCI": data, "DQ": flags})
    out = tmp_path / "o"
    ran = cli("average", *put(path, role), "-o", out, "--save-combined-background", "--sigma", "99")
    assert ran.code == 0
    product = out / ("x_bsub.fits" if role == "science" else "s_bsub.fits")
    with datamodels.open(product) as model:
        assert (model.data.dtype.kind, model.data.dtype.itemsize) == ("f", 4)
        assert (model.dq.dtype.kind, model.dq.dtype.itemsize) == ("u", 4)
        assert not model.dq.any()
        sky = fits.getdata(str(product).replace("bsub", "combinedbackground"), "SCI")
        before = fits.getdata(path if role == "science" else good[0], "SCI")
        assert_array_equal(model.data, before.astype(np.float32) - sky)
        if role == "background":
            total = data + fits.getdata(good[1][0], "SCI").astype("f8")
            assert_array_equal(sky, (total / 2).astype("f4"))


@pytest.mark.parametrize("value", [b"Ren\xe9", "René".encode()])
def test_header_that_is_no_ascii(cli, good, files, tmp_path, value):
    # Against the standard, but other tools write it: not our card to refuse.
    path = files.make("x_rate.fits", PI_NAME="#" * len(value))
    path.write_bytes(path.read_bytes().replace(b"#" * len(value), value))
    ran = cli("average", path, "--bkg", *good[1], "-o", tmp_path / "o")
    assert (ran.code, ran.err) == (0, "")
    with fits.open(tmp_path / "o" / "x_bsub.fits") as hdus:
        hdus.verify("exception")
        assert hdus[0].header["PI_NAME"].startswith("Ren")


def test_too_little_memory(refused, good):
    line = refused(good[0], "--bkg", *good[1], "--max-memory", "1", "--threads", "4")
    says(line, "max_memory of 1 MB", "3 backgrounds", r"give at least \d+ MB")
