"""Products open in the pipeline's tools, keep what they do not know, and are whole or absent."""

import dataclasses
import gzip
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, OutputError
from webbkg.exposure import MemoryHandle, Window
from webbkg.io.files import FileHandle
from webbkg.io.products import product_stem, write_combined_background, write_product
from webbkg.io.provenance import Provenance
from webbkg.methods.average import AverageParams, average
from webbkg.sim import miri_imaging, write_observation

SHAPE = (24, 32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rate")
    return write_observation(miri_imaging(shape=SHAPE, n_science=1, n_background=4), folder)


@pytest.fixture(scope="module")
def ints_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rateints")
    observation = miri_imaging(shape=SHAPE, n_science=1, n_background=3, n_integrations=3)
    return write_observation(observation, folder)


def provenance(params, names=(), **kwargs):
    return Provenance("average", params, [(name, "ab" * 32) for name in names], **kwargs)


def subtract(science, backgrounds, **kwargs):
    params = AverageParams(threads=1, **kwargs)
    handles = [FileHandle(path) for path in backgrounds]
    subtraction = average(FileHandle(science), handles, params)
    return subtraction, provenance(params, [h.name for h in handles], noise_before=0.5)


def produce(science, backgrounds, target, **kwargs):
    subtraction, found = subtract(science, backgrounds, **kwargs)
    write_product(subtraction, found, target)
    return subtraction


def changed(source, target, change):
    """Copy a file and change its HDUs."""
    with fits.open(source) as hdus:
        change(hdus)
        hdus.writeto(target, overwrite=True)
    return target


def names_of(path):
    with fits.open(path) as hdus:
        return [hdu.name for hdu in hdus]


def cut(path, name):
    """Header and data of one extension, as the bytes they are."""
    with fits.open(path) as hdus:
        info = hdus[name].fileinfo()
    return path.read_bytes()[info["hdrLoc"] : info["datLoc"] + info["datSpan"]]


def assert_array(path, name, expected):
    found = fits.getdata(path, name)
    assert found.dtype.newbyteorder("=") == expected.dtype
    np.testing.assert_array_equal(found, expected)


# Pixels


def test_pixels_are_those_of_the_result(files, tmp_path):
    target = tmp_path / "a_bsub.fits"
    result = produce(files.science[0], files.backgrounds, target)
    assert_array(target, "SCI", result.exposure.data)
    assert_array(target, "ERR", result.exposure.err)
    assert_array(target, "DQ", result.exposure.dq)
    assert_array(target, "VAR_BKG", result.background_var)
    assert fits.getval(target, "BUNIT", "VAR_BKG") == "(DN/s)^2"
    assert fits.getval(target, "BUNIT", "SCI") == "DN/s"
    assert np.isfinite(result.exposure.data).any()


def test_integrations_are_written_one_by_one(ints_files, tmp_path, monkeypatch):
    """The product is that of the whole exposure in memory, which is never loaded."""
    target = tmp_path / "a_bsubints.fits"
    result, found = subtract(ints_files.science[0], ints_files.backgrounds)
    whole = result.exposure
    streamed, _ = subtract(ints_files.science[0], ints_files.backgrounds)

    def refuse(_):
        raise AssertionError("all integrations are in memory at once")

    monkeypatch.setattr(FileHandle, "load", refuse)
    write_product(streamed, found, target)
    assert whole.data.shape == (3, *SHAPE)
    assert_array(target, "SCI", whole.data)
    assert_array(target, "ERR", whole.err)
    assert_array(target, "DQ", whole.dq)
    assert fits.getdata(target, "VAR_BKG").shape == SHAPE


def test_kept_errors(files, tmp_path):
    target = tmp_path / "a_bsub.fits"
    produce(files.science[0], files.backgrounds, target, errors="keep")
    assert "VAR_BKG" not in names_of(target)
    assert "WEBBKG" in names_of(target)
    assert cut(target, "ERR") == cut(files.science[0], "ERR")


def test_pixels_of_other_types_become_those_of_products(files, tmp_path):
    def store_otherwise(hdus):
        hdus["SCI"].data = np.nan_to_num(hdus["SCI"].data).astype(np.int16)
        hdus["SCI"].header["BLANK"] = -9
        hdus["ERR"].data = hdus["ERR"].data.astype(np.float64)
        hdus["DQ"].data = hdus["DQ"].data.astype(np.int16)

    science = changed(files.science[0], tmp_path / "a_rate.fits", store_otherwise)
    target = tmp_path / "a_bsub.fits"
    result = produce(science, files.backgrounds, target)
    assert_array(target, "SCI", result.exposure.data)
    assert_array(target, "ERR", result.exposure.err)
    assert_array(target, "DQ", result.exposure.dq)
    assert "BLANK" not in fits.getheader(target, "SCI")


def test_sub_array_of_compressed_file(files, tmp_path):
    packed = tmp_path / "a_rate.fits.gz"
    packed.write_bytes(gzip.compress(files.science[0].read_bytes()))
    target = tmp_path / "a_bsub.fits"
    result = produce(packed, files.backgrounds, target)
    assert_array(target, "SCI", result.exposure.data)


def test_dq_is_made_where_it_is_needed(files, tmp_path):
    def drop(hdus):
        del hdus["DQ"]

    science = changed(files.science[0], tmp_path / "a_rate.fits", drop)
    flagged, clean = tmp_path / "flagged.fits", tmp_path / "clean.fits"
    result = produce(science, files.backgrounds, flagged)
    assert result.flag_bits.any()
    assert_array(flagged, "DQ", result.flag_bits)
    assert fits.getheader(flagged, "DQ")["BZERO"] == 2**31
    produce(science, files.backgrounds, clean, dq="keep")
    assert "DQ" not in names_of(clean)
    assert names_of(flagged)[-4:] == ["DQ", "VAR_BKG", "WEBBKG", "ASDF"]


def test_dq_of_integrations_is_made(ints_files, tmp_path):
    def drop(hdus):
        del hdus["DQ"]

    science = changed(ints_files.science[0], tmp_path / "a_rateints.fits", drop)
    target = tmp_path / "a.fits"
    result = produce(science, ints_files.backgrounds, target)
    assert_array(target, "DQ", np.broadcast_to(result.flag_bits, (3, *SHAPE)))


# What survives


def test_order_and_bytes_of_what_is_not_changed(files, tmp_path):
    odd = fits.ImageHDU(np.arange(30, dtype=np.int16).reshape(5, 6), name="ODD")
    odd.header["LONGWORD"] = ("x" * 30, "of another program")
    table = fits.BinTableHDU(np.array([(1, b"ab")], dtype=[("A", "i4"), ("B", "S2")]), name="MINE")

    def insert(hdus):
        hdus.insert(2, odd)
        hdus.insert(len(hdus) - 1, table)

    science = changed(files.science[0], tmp_path / "a_rate.fits", insert)
    before = names_of(science)
    assert before[2] == "ODD"
    assert before[-2:] == ["MINE", "ASDF"]
    target = tmp_path / "a_bsub.fits"
    produce(science, files.backgrounds, target)
    assert names_of(target) == [*before[:-1], "VAR_BKG", "WEBBKG", "ASDF"]
    for name in ("ODD", "MINE", "ASDF", "VAR_POISSON", "VAR_RNOISE"):
        assert cut(target, name) == cut(science, name)


def test_file_without_asdf(files, tmp_path):
    def drop(hdus):
        del hdus["ASDF"]

    science = changed(files.science[0], tmp_path / "a_rate.fits", drop)
    target = tmp_path / "a_bsub.fits"
    result = produce(science, files.backgrounds, target)
    assert names_of(target) == [*names_of(science), "VAR_BKG", "WEBBKG"]
    assert_array(target, "DQ", result.exposure.dq)


def test_missing_padding_of_the_input_is_made(files, tmp_path):
    def drop(hdus):
        del hdus["ASDF"]

    science = changed(files.science[0], tmp_path / "a_rate.fits", drop)
    with fits.open(science) as hdus:
        last = hdus[-1]
        end = last.fileinfo()["datLoc"] + last.data.nbytes
        name = last.name
    assert name not in ("SCI", "ERR", "DQ")
    whole = cut(science, name)
    with science.open("r+b") as stream:
        stream.truncate(end)
    target = tmp_path / "a_bsub.fits"
    produce(science, files.backgrounds, target)
    assert cut(target, name) == whole
    assert target.stat().st_size % 2880 == 0


def test_pixels_of_the_last_extension(files, tmp_path):
    """Pixels are written after all else, also where nothing follows them."""

    def keep(hdus):
        while len(hdus) > 2:
            del hdus[2]

    science = changed(files.science[0], tmp_path / "a_rate.fits", keep)
    target = tmp_path / "a_bsub.fits"
    produce(science, files.backgrounds, target, dq="keep")
    assert target.stat().st_size % 2880 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names_of(target) == ["PRIMARY", "SCI", "VAR_BKG", "WEBBKG"]


def test_pixels_after_the_asdf_extension(files, tmp_path):
    """No writer is bound to any order; a reader finds a whole last block all the same."""

    def move(hdus):
        hdus.append(hdus.pop("DQ"))

    science = changed(files.science[0], tmp_path / "a_rate.fits", move)
    assert names_of(science)[-2:] == ["ASDF", "DQ"]
    target = tmp_path / "a_bsub.fits"
    result = produce(science, files.backgrounds, target)
    assert names_of(target)[-4:] == ["VAR_BKG", "WEBBKG", "ASDF", "DQ"]
    assert names_of(target).count("DQ") == 1
    assert_array(target, "DQ", result.exposure.dq)
    assert target.stat().st_size % 2880 == 0


def test_header_order_and_unknown_keywords_survive(files, tmp_path):
    def add(hdus):
        hdus[0].header.insert("TELESCOP", ("MYWORD", 12, "not of JWST"))
        hdus[0].header["HISTORY"] = "calibrated by hand"
        hdus["SCI"].header["MYSCI"] = -1.5

    science = changed(files.science[0], tmp_path / "a_rate.fits", add)
    target = tmp_path / "a_bsub.fits"
    produce(science, files.backgrounds, target)
    before, after = fits.getheader(science), fits.getheader(target)
    kept = [card.keyword for card in before.cards]
    assert [key for key in (card.keyword for card in after.cards) if key in kept][
        : len(kept)
    ] == kept
    for card in before.cards:
        if card.keyword not in ("FILENAME", "DATE", "HISTORY", "", "COMMENT"):
            assert (after[card.keyword], after.comments[card.keyword]) == (card.value, card.comment)
    assert after["HISTORY"][0] == "calibrated by hand"
    assert list(fits.getheader(target, "SCI")) == list(fits.getheader(science, "SCI"))
    assert fits.getheader(target, "SCI")["MYSCI"] == -1.5


def test_checksums_of_the_input_do_not_stay(files, tmp_path):
    science = tmp_path / "a_rate.fits"
    with fits.open(files.science[0]) as hdus:
        hdus.writeto(science, checksum=True)
    target = tmp_path / "a_bsub.fits"
    produce(science, files.backgrounds, target)
    with fits.open(target, checksum=True) as hdus:
        assert "CHECKSUM" not in hdus[0].header
        assert "CHECKSUM" not in hdus["SCI"].header
        assert hdus["VAR_POISSON"].verify_checksum() == 1


def test_second_subtraction_replaces_the_extensions_of_the_first(files, tmp_path):
    first, second = tmp_path / "a_bsub.fits", tmp_path / "a_bsub2.fits"
    produce(files.science[0], files.backgrounds, first)
    result = produce(first, files.backgrounds[:3], second, errors="propagate")
    assert names_of(second) == names_of(first)
    assert_array(second, "VAR_BKG", result.background_var)
    assert len(fits.getdata(second, "WEBBKG")) == 5


# What it says


def test_keywords_and_history(files, tmp_path):
    target = tmp_path / "a_bsub.fits"
    result = produce(files.science[0], files.backgrounds, target)
    header = fits.getheader(target)
    assert header["S_BKDSUB"] == "COMPLETE"
    assert header["FILENAME"] == "a_bsub.fits"
    assert header["WB_NUSED"] == 4
    assert header["WB_LEVEL"] == result.diagnostics.level
    assert header["WB_RMSB"] == 0.5
    assert "WB_RMSA" not in header
    assert "BKGLEVEL" not in header
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}$", header["DATE"])
    words = " ".join(str(line).strip() for line in header["HISTORY"])
    assert "average: subtracted the mean of 4 background exposures, median level" in words
    assert max(len(str(line)) for line in header["HISTORY"]) <= 72


def test_table(files, tmp_path):
    target = tmp_path / "a_bsub.fits"
    produce(files.science[0], files.backgrounds, target, sigma=2.5)
    rows = fits.getdata(target, "WEBBKG")
    assert rows.names == ["ROLE", "NAME", "SHA256", "VALUE"]
    assert rows["ROLE"].tolist() == ["science", *["background"] * 4, "parameters"]
    assert rows["NAME"].tolist()[1:5] == [path.name for path in files.backgrounds]
    assert rows["SHA256"].tolist() == ["", *["ab" * 32] * 4, ""]
    assert json.loads(rows["VALUE"][-1])["sigma"] == 2.5


def test_name_as_long_as_those_of_jwst(files, tmp_path):
    target = tmp_path / ("jw" + "0" * 60 + "_bsub.fits")
    produce(files.science[0], files.backgrounds, target)
    assert fits.getval(target, "FILENAME") == target.name


# Data models


@pytest.mark.parametrize("dq", ["quorum", "or", "keep"])
@pytest.mark.parametrize("errors", ["propagate", "keep"])
def test_products_are_valid(files, tmp_path, dq, errors):
    target = tmp_path / "a_bsub.fits"
    result = produce(files.science[0], files.backgrounds, target, dq=dq, errors=errors)
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()
        assert type(model) is datamodels.ImageModel
        assert model.meta.filename == target.name
        np.testing.assert_array_equal(model.data, result.exposure.data)
        np.testing.assert_array_equal(model.err, result.exposure.err)
        np.testing.assert_array_equal(model.dq, result.exposure.dq)


def test_status_as_the_pipeline_reads_it(files, tmp_path):
    target = tmp_path / "a_bsub.fits"
    produce(files.science[0], files.backgrounds, target)
    with datamodels.open(target) as model:
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"


def test_integrations_are_valid(ints_files, tmp_path):
    target = tmp_path / "a_bsubints.fits"
    produce(ints_files.science[0], ints_files.backgrounds, target)
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()
        assert type(model) is datamodels.CubeModel
        assert model.data.shape == (3, *SHAPE)
        assert len(model.int_times) == 3


def test_product_with_a_made_dq_is_valid(files, tmp_path):
    def drop(hdus):
        del hdus["DQ"]

    science = changed(files.science[0], tmp_path / "a_rate.fits", drop)
    target = tmp_path / "a_bsub.fits"
    result = produce(science, files.backgrounds, target)
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()
        np.testing.assert_array_equal(model.dq, result.exposure.dq)


# Combined background


def test_combined_background(files, tmp_path):
    target = tmp_path / "a_combinedbackground.fits"
    result, found = subtract(files.science[0], files.backgrounds)
    write_combined_background(result, found, target)
    assert names_of(target) == ["PRIMARY", "SCI", "ERR", "DQ", "COVERAGE", "WEBBKG"]
    assert_array(target, "SCI", result.template.image)
    assert_array(target, "ERR", result.template.err)
    assert_array(target, "DQ", result.template.dq)
    assert_array(target, "COVERAGE", result.template.n_used.astype(np.int32))
    header = fits.getheader(target)
    assert (header["FILENAME"], header["FILTER"]) == (target.name, "F770W")
    assert "S_BKDSUB" not in header
    assert len(fits.getdata(target, "WEBBKG")) == 6
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()
        assert type(model) is datamodels.ImageModel
        assert model.meta.bunit_data == "DN/s"


def test_combined_background_of_integrations_is_an_image(ints_files, tmp_path):
    target = tmp_path / "a_combinedbackground.fits"
    result, found = subtract(ints_files.science[0], ints_files.backgrounds)
    write_combined_background(result, found, target)
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()
        assert type(model) is datamodels.ImageModel
        assert model.data.shape == SHAPE
        assert model.meta.exposure.nints is None


# Whole or absent

WRITERS = [write_product, write_combined_background]


@pytest.mark.parametrize("writer", WRITERS)
def test_existing_target(files, tmp_path, writer):
    target = tmp_path / "a.fits"
    target.write_text("precious")
    result, found = subtract(files.science[0], files.backgrounds)
    message = f"{target}: exists already; use --overwrite to replace it"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        writer(result, found, target)
    assert target.read_text() == "precious"
    writer(result, found, target, overwrite=True)
    assert "WEBBKG" in names_of(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("writer", WRITERS)
def test_missing_directory(files, tmp_path, writer):
    target = tmp_path / "none" / "a.fits"
    result, found = subtract(files.science[0], files.backgrounds)
    message = f"{target}: cannot be written (No such file or directory)"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        writer(result, found, target)


def test_failure_on_the_way_leaves_nothing(ints_files, tmp_path, monkeypatch):
    science = tmp_path / "in" / "a_rateints.fits"
    science.parent.mkdir()
    science.write_bytes(ints_files.science[0].read_bytes())
    result, found = subtract(science, ints_files.backgrounds)
    folder = tmp_path / "out"
    folder.mkdir()
    loaded = result.science.load_integration

    def fail_at_the_second(index):
        if index == 1:
            science.unlink()
        return loaded(index)

    monkeypatch.setattr(result.science, "load_integration", fail_at_the_second)
    message = f"{science}: no such file"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        write_product(result, found, folder / "a_bsubints.fits")
    assert list(folder.iterdir()) == []


def test_full_disk_leaves_nothing(files, tmp_path, monkeypatch):
    result, found = subtract(files.science[0], files.backgrounds)
    target = tmp_path / "a_bsub.fits"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("webbkg.io.products._write_rows", fail)
    for writer in WRITERS:
        message = f"{target}: cannot be written (No space left on device)"
        with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
            writer(result, found, target)
        assert list(tmp_path.iterdir()) == []


def test_input_may_be_replaced_by_its_product(files, tmp_path):
    path = tmp_path / "a_rate.fits"
    path.write_bytes(files.science[0].read_bytes())
    result, found = subtract(path, files.backgrounds)
    expected = result.exposure
    write_product(result, found, path, overwrite=True)
    assert_array(path, "SCI", expected.data)


@pytest.mark.parametrize("writer", WRITERS)
def test_arrays_have_no_product(files, tmp_path, writer):
    result, found = subtract(files.science[0], files.backgrounds)
    exposure = FileHandle(files.science[0]).load()
    memory = dataclasses.replace(result, science=MemoryHandle.of(exposure))
    message = f"{exposure.name}: is no file, so there is no product to write of it"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        writer(memory, found, tmp_path / "a.fits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_letters_that_are_not_ascii_in_the_input(files, tmp_path, writer):
    """The standard forbids them; astropy reads them as question marks."""
    science = tmp_path / "a_rate.fits"
    content = files.science[0].read_bytes()
    title = b"Simulated observation"
    assert content.count(title) >= 1
    science.write_bytes(content.replace(title, b"Simulated observati\xf3n", 1))
    result, found = subtract(science, files.backgrounds)
    writer(result, found, tmp_path / "a_bsub.fits")
    assert "WEBBKG" in names_of(tmp_path / "a_bsub.fits")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("jw01_nis_rate.fits", "jw01_nis"),
        ("jw01_nis_rateints.fits.gz", "jw01_nis"),
        ("jw01_nis_bsub.fits", "jw01_nis"),
        ("jw01_nis_other.fits", "jw01_nis_other"),
        ("rate.fits", "rate"),
        ("_rate.fits", "_rate"),
        ("plain", "plain"),
    ],
)
def test_stem(name, stem):
    assert product_stem(Path("/somewhere_rate") / name) == stem


def test_product_of_a_sub_array(tmp_path):
    """Rows 4 to 19 of a larger detector, whose backgrounds are full frames."""
    window = Window(4, 0, 16, 32)
    cut_out = miri_imaging(shape=SHAPE, n_science=1, n_background=0, window=window)
    whole = miri_imaging(shape=SHAPE, n_science=1, n_background=3)
    science = write_observation(cut_out, tmp_path / "sub").science[0]
    backgrounds = write_observation(whole, tmp_path / "full").backgrounds
    target = tmp_path / "a_bsub.fits"
    result = produce(science, backgrounds, target)
    assert_array(target, "SCI", result.exposure.data)
    with datamodels.open(target, strict_validation=True) as model:
        model.validate()
        assert model.meta.subarray.ystart == 5
