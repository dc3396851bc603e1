import gc
import gzip
import re
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from webbkg.errors import InputError, ShapeError, WebbkgError
from webbkg.exposure import ExposureHandle, MemoryHandle, Window
from webbkg.io.files import FileHandle, checksum

SHAPE = (6, 5)
KEYWORDS = {
    "INSTRUME": "MIRI",
    "DETECTOR": "MIRIMAGE",
    "FILTER": "F770W",
    "SUBSTRT1": 21,
    "SUBSTRT2": 11,
}


def pixels(shape=SHAPE, seed=1):
    rng = np.random.default_rng(seed)
    sci = rng.normal(10, 1, shape).astype(np.float32)
    sci.flat[3], sci.flat[8] = np.nan, -np.inf
    dq = rng.integers(0, 2**32, shape, np.uint32)
    dq.flat[:4] = 0, 1, 2**31, 2**32 - 1
    return {"SCI": sci, "ERR": rng.random(shape, np.float32), "DQ": dq}


def write(path, arrays=None, *, keywords=KEYWORDS, extra=()):
    primary = fits.PrimaryHDU()
    primary.header.update(keywords)
    hdus = [primary]
    for name, array in (pixels() if arrays is None else arrays).items():
        hdus.append(fits.ImageHDU(array, name=name))
    hdus[1].header["BUNIT"] = "DN/s"
    fits.HDUList([*hdus, *extra]).writeto(path, overwrite=True)
    return path


def assert_pixels(exposure, path, index=...):
    """Same numbers as astropy reads."""
    with fits.open(path) as hdus:
        for name, ours in (("SCI", exposure.data), ("ERR", exposure.err), ("DQ", exposure.dq)):
            theirs = hdus[name].data[index]
            assert ours.dtype == (np.uint32 if name == "DQ" else np.float32)
            np.testing.assert_array_equal(ours, theirs.astype(ours.dtype))


# Good files


def test_what_is_known_without_loading(tmp_path):
    handle = FileHandle(write(tmp_path / "a_rate.fits"))
    assert isinstance(handle, ExposureHandle)
    assert handle.name == "a_rate.fits"
    assert handle.path == tmp_path / "a_rate.fits"
    assert handle.plain_path == handle.path
    assert handle.window == Window(10, 20, 6, 5)
    assert dict(handle.meta) == KEYWORDS | {"BUNIT": "DN/s"}
    assert handle.n_integrations is None
    assert FileHandle(write(tmp_path / "b.fits", pixels((3, *SHAPE)))).n_integrations == 3
    assert FileHandle(str(handle.path)).window == handle.window


@pytest.mark.parametrize("shape", [SHAPE, (3, *SHAPE), (1, *SHAPE)])
def test_pixels_are_those_of_astropy(tmp_path, shape):
    path = write(tmp_path / "a.fits", pixels(shape))
    handle = FileHandle(path)
    whole = handle.load()
    assert_pixels(whole, path)
    assert (whole.window, whole.name, whole.meta) == (handle.window, handle.name, handle.meta)
    for start, stop in ((0, 6), (0, 1), (2, 5), (5, 6)):
        part = handle.load_rows(start, stop)
        assert_pixels(part, path, (..., slice(start, stop), slice(None)))
        assert part.window == Window(10 + start, 20, stop - start, 5)
    for index in range(shape[0] if len(shape) == 3 else 1):
        plane = handle.load_integration(index)
        assert_pixels(plane, path, index if len(shape) == 3 else ...)
        assert plane.window == handle.window


def test_loads_do_not_share_memory(tmp_path):
    handle = FileHandle(write(tmp_path / "a.fits"))
    first = handle.load_rows(0, 2)
    kept = first.data.copy()
    handle.load_rows(2, 4)
    np.testing.assert_array_equal(first.data, kept)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("SCI", np.float64),
        ("SCI", np.int16),
        ("SCI", np.uint16),
        ("ERR", np.float64),
        ("DQ", np.uint8),
        ("DQ", np.int16),
        ("DQ", np.int32),
        ("DQ", np.uint16),
    ],
)
@pytest.mark.parametrize("shape", [SHAPE, (2, *SHAPE)])
def test_other_types_of_pixels(tmp_path, name, stored, shape):
    arrays = pixels(shape)
    arrays[name] = np.random.default_rng(2).integers(0, 100, shape).astype(stored)
    path = write(tmp_path / "a.fits", arrays)
    assert_pixels(FileHandle(path).load(), path)
    assert_pixels(FileHandle(path).load_rows(1, 3), path, (..., slice(1, 3), slice(None)))


@pytest.mark.parametrize("shape", [SHAPE, (2, *SHAPE)])
def test_scaled_integers_with_blanks(tmp_path, shape):
    """Value = 0.5 stored + 100, and -1 stored means no value."""
    arrays = pixels(shape)
    stored = np.random.default_rng(2).integers(0, 100, shape).astype(np.int16)
    stored.flat[7] = -1
    arrays["SCI"] = stored
    path = write(tmp_path / "a.fits", arrays)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus["SCI"].header.update({"BSCALE": 0.5, "BZERO": 100.0, "BLANK": -1})
    expected = np.where(stored == -1, np.nan, 0.5 * stored + 100.0).astype(np.float32)
    np.testing.assert_array_equal(FileHandle(path).load().data, expected)
    np.testing.assert_array_equal(FileHandle(path).load_rows(1, 2).data, expected[..., 1:2, :])


def test_flags_stored_as_signed_integers(tmp_path):
    """The highest bit is then the sign."""
    arrays = pixels()
    arrays["DQ"] = arrays["DQ"].view(np.int32)
    assert arrays["DQ"].min() < 0
    loaded = FileHandle(write(tmp_path / "a.fits", arrays)).load()
    np.testing.assert_array_equal(loaded.dq, arrays["DQ"].view(np.uint32))


def test_without_err_and_dq(tmp_path):
    for shape in (SHAPE, (2, *SHAPE)):
        path = write(tmp_path / "a.fits", {"SCI": pixels(shape)["SCI"]})
        handle = FileHandle(path)
        for part in (handle.load(), handle.load_rows(1, 3), handle.load_integration(0)):
            assert part.err.shape == part.dq.shape == part.data.shape
            assert np.isnan(part.err).all()
            assert not part.dq.any()


def test_other_extensions_do_not_matter(tmp_path):
    extra = [
        fits.ImageHDU(np.ones((2, 2)), name="VAR_POISSON"),
        fits.BinTableHDU(np.array([(1,)], dtype=[("A", "i4")]), name="HDRTAB"),
    ]
    path = write(tmp_path / "a.fits", extra=extra)
    assert_pixels(FileHandle(path).load(), path)


def test_padding_of_the_last_extension_may_be_missing(tmp_path):
    path = write(tmp_path / "a.fits")
    expected = FileHandle(path).load().dq
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 2880 + 4 * 30)
    np.testing.assert_array_equal(FileHandle(path).load().dq, expected)


def test_gzip(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    plain = write(tmp_path / "a_rate.fits")
    packed = tmp_path / "b_rate.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    handle = FileHandle(packed)
    assert_pixels(handle.load(), plain)
    assert (handle.name, handle.path) == ("b_rate.fits.gz", packed)
    assert handle.plain_path.read_bytes() == plain.read_bytes()
    assert handle.checksum == checksum(packed)
    assert [handle.plain_path] == list(scratch.iterdir())
    del handle
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_compression_is_seen_whatever_the_name(tmp_path):
    plain = write(tmp_path / "a.fits")
    packed = tmp_path / "b.fits"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert_pixels(FileHandle(packed).load(), plain)


def test_threads_may_load_at_once(tmp_path):
    path = write(tmp_path / "a.fits", pixels((4, *SHAPE)))
    handle = FileHandle(path)
    found = {}

    def load(number):
        for _ in range(20):
            found[number] = handle.load_rows(number % 5, number % 5 + 1).data

    threads = [threading.Thread(target=load, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = fits.getdata(path, "SCI")
    for number in range(10):
        np.testing.assert_array_equal(found[number], whole[:, number % 5 : number % 5 + 1])


# Bad files


def refused(path, message, kind=InputError):
    with pytest.raises(kind, match=f"^{re.escape(message)}$") as caught:
        FileHandle(path)
    assert type(caught.value) is kind


def test_missing_file(tmp_path):
    refused(tmp_path / "a.fits", f"{tmp_path}/a.fits: no such file")


def test_directory(tmp_path):
    refused(tmp_path, f"{tmp_path}: cannot be read as a FITS exposure (Is a directory)")


def test_empty_file(tmp_path):
    path = tmp_path / "a.fits"
    path.touch()
    refused(path, f"{path}: is empty (0 bytes), a FITS exposure is needed")


@pytest.mark.parametrize(
    "content", [b"x", b"SIMPLE", b"<html>not found</html>" * 300, b"\0" * 5000]
)
def test_no_fits_file(tmp_path, content):
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    message = f"{path}: cannot be read as a FITS exposure (no FITS header at byte 0)"
    refused(path, message)


def remark_on_length(length):
    """What is wrong with a primary header, and SCI, ERR and DQ of a header and 30 pixels each."""
    block, rest = divmod(length, 2880)
    if block == 1 and rest == 0:
        return (
            "needs one SCI extension, has 0 (extensions: none); give a rate, rateints or cal file "
            "of one exposure"
        )
    if block > 0 and block % 2 == 0 and rest < 120:
        name = {2: "SCI", 4: "ERR", 6: "DQ"}[block]
        end = block * 2880 + 120
        return (
            f"truncated, extension {name} ends at byte {end} but the file has {length}; fetch it "
            "again"
        )
    if (block == 0 or block % 2 == 1) and rest > 0:
        reason = "ends inside the header" if rest >= 9 else "no FITS header"
        return f"cannot be read as a FITS exposure ({reason} at byte {block * 2880})"
    # Only padding is missing, or whole extensions are, which nothing tells.
    return None


def test_truncated_at_any_length(tmp_path):
    whole = write(tmp_path / "whole.fits").read_bytes()
    assert len(whole) == 7 * 2880
    path = tmp_path / "a.fits"
    steps = [start + rest for start in range(0, 7 * 2880, 2880) for rest in (0, 8, 9, 119, 120)]
    for length in sorted({*range(1, len(whole), 317), *steps} - {0}):
        path.write_bytes(whole[:length])
        remark = remark_on_length(length)
        if remark is None:
            assert_pixels_or_defaults(FileHandle(path).load(), pixels(), length)
        else:
            refused(path, f"{path}: {remark}")


def assert_pixels_or_defaults(exposure, arrays, length):
    np.testing.assert_array_equal(exposure.data, arrays["SCI"])
    if length > 4 * 2880:
        np.testing.assert_array_equal(exposure.err, arrays["ERR"])
    else:
        assert np.isnan(exposure.err).all()


def test_truncated_gzip(tmp_path):
    path = tmp_path / "a.fits.gz"
    packed = gzip.compress(write(tmp_path / "a.fits").read_bytes())
    for length in (3, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed[:length])
        refused(
            path,
            f"{path}: cannot be read as a FITS exposure (Compressed file ended before the "
            "end-of-stream marker was reached)",
        )


def test_damaged_gzip(tmp_path):
    path = tmp_path / "a.fits.gz"
    packed = bytearray(gzip.compress(write(tmp_path / "a.fits").read_bytes()))
    packed[40:60] = bytes(byte ^ 255 for byte in packed[40:60])
    path.write_bytes(packed)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: cannot be read as a FITS"):
        FileHandle(path)


def test_gzip_with_a_wrong_checksum(tmp_path):
    path = tmp_path / "a.fits.gz"
    packed = bytearray(gzip.compress(write(tmp_path / "a.fits").read_bytes()))
    packed[-8] ^= 255
    path.write_bytes(packed)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: cannot .* \\(CRC check failed"):
        FileHandle(path)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "none"),
        (("ERR", "DQ"), "ERR, DQ"),
        (("SCI", "ERR", "SCI", "ERR"), "SCI, ERR, SCI, ERR"),
    ],
)
def test_not_one_sci(tmp_path, names, found):
    path = tmp_path / "a.fits"
    hdus = [fits.ImageHDU(np.zeros(SHAPE, np.float32), name=name) for name in names]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    refused(
        path,
        f"{path}: needs one SCI extension, has {names.count('SCI')} (extensions: {found}); give a "
        "rate, rateints or cal file of one exposure",
    )


@pytest.mark.parametrize("shape", [(5,), (2, 3, *SHAPE)])
def test_number_of_axes(tmp_path, shape):
    path = write(tmp_path / "a.fits", {"SCI": np.zeros(shape, np.float32)})
    refused(
        path,
        f"{path}: SCI has {len(shape)} axes {shape}, needed are 2 (rate) or 3 (rateints); run "
        "calwebb_detector1 on ramps first",
        ShapeError,
    )


@pytest.mark.parametrize("name", ["ERR", "DQ"])
@pytest.mark.parametrize("shape", [(5, 6), (2, 6, 5), (6,)])
def test_other_shape_than_sci(tmp_path, name, shape):
    path = write(tmp_path / "a.fits", pixels() | {name: np.zeros(shape, np.float32)})
    refused(
        path,
        f"{path}: {name} has shape {shape} but SCI has {SHAPE}; fetch or make the file again",
        ShapeError,
    )


@pytest.mark.parametrize("shape", [(0, 5), (6, 0), (2, 0, 5), (0, 6, 5)])
def test_sci_without_pixels(tmp_path, shape):
    path = write(tmp_path / "a.fits", {"SCI": np.zeros(shape, np.float32)})
    with pytest.raises(ShapeError, match=r"a\.fits: SCI has "):
        FileHandle(path)


def test_sci_of_unknown_type(tmp_path):
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(name="SCI")]).writeto(path)
    good, bad = b"BITPIX  =                    8", b"BITPIX  =                    7"
    head, tail = path.read_bytes()[:2880], path.read_bytes()[2880:]
    assert good in tail
    path.write_bytes(head + tail.replace(good, bad))
    with pytest.raises(InputError, match=r"a\.fits: "):
        FileHandle(path)


def test_sci_that_is_no_image(tmp_path):
    path = tmp_path / "a.fits"
    table = fits.BinTableHDU(np.array([(1,)], dtype=[("A", "i4")]), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    refused(
        path,
        f"{path}: extension SCI is no plain image but BINTABLE; unpack it first if it is "
        "compressed (funpack)",
    )


def test_compressed_images(tmp_path):
    path = tmp_path / "a.fits"
    image = fits.CompImageHDU(np.zeros((32, 32), np.float32), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    refused(
        path,
        f"{path}: extension SCI is no plain image but BINTABLE; unpack it first if it is "
        "compressed (funpack)",
    )


def test_sub_array_of_unknown_place(tmp_path):
    path = write(tmp_path / "a_rate.fits", keywords={"INSTRUME": "MIRI", "SUBSTRT1": 1})
    refused(
        path,
        "a_rate.fits: SCI is 6x5, not a full frame of 1024x1032, and the keywords SUBSTRT1 and "
        "SUBSTRT2 that tell its place on the detector are missing; add them to the primary header",
    )


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"INSTRUME= 'MIRI    '", b"INSTRUME= MIRI      "),
        (b"SUBSTRT1=                   21", b"SUBSTRT1= 'N/A               '"),
    ],
)
def test_keywords_that_cannot_be_read(tmp_path, good, bad):
    path = write(tmp_path / "a.fits")
    content = path.read_bytes()
    assert content.count(good) == 1
    path.write_bytes(content.replace(good, bad))
    with pytest.raises(InputError, match=r"a\.fits: "):
        FileHandle(path)


def test_damaged_headers_are_refused_with_the_name(tmp_path):
    """Random letters anywhere in the headers: it is read, or refused by an error of ours."""
    whole = write(tmp_path / "whole.fits").read_bytes()
    path = tmp_path / "a.fits"
    rng = np.random.default_rng(3)
    headers = [block * 2880 + place for block in (0, 1, 3, 5) for place in range(2880)]
    used = [place for place in headers if whole[place] != ord(" ")]
    n_refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.choice(used, 3):
            damaged[place] = rng.integers(32, 127)
        path.write_bytes(damaged)
        try:
            FileHandle(path).load()
        except WebbkgError as error:
            n_refused += 1
            assert path.name in str(error)  # noqa: PT017
    assert n_refused > 50


def test_file_that_shrinks_after_it_was_opened(tmp_path):
    path = write(tmp_path / "a.fits")
    handle = FileHandle(path)
    with path.open("r+b") as stream:
        stream.truncate(2 * 2880 + 50)
    message = f"{path}: cannot be read as a FITS exposure (extension SCI ends early)"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        handle.load()


def test_file_that_vanishes_after_it_was_opened(tmp_path):
    path = write(tmp_path / "a.fits")
    handle = FileHandle(path)
    path.unlink()
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}: no such file')}$"):
        handle.load_rows(0, 1)


# Identity


def test_is_same(tmp_path):
    path = write(tmp_path / "a.fits")
    handle = FileHandle(path)
    link, hard, copy = tmp_path / "link.fits", tmp_path / "hard.fits", tmp_path / "copy.fits"
    link.symlink_to(path)
    hard.hardlink_to(path)
    copy.write_bytes(path.read_bytes())
    for other in (path, link, hard, copy):
        assert handle.is_same(FileHandle(other))
        assert FileHandle(other).is_same(handle)


def test_is_not_same(tmp_path):
    handle = FileHandle(write(tmp_path / "a.fits"))
    other_pixels = FileHandle(write(tmp_path / "b.fits", pixels(seed=2)))
    other_header = FileHandle(write(tmp_path / "c.fits", keywords=KEYWORDS | {"FILTER": "F560W"}))
    for other in (other_pixels, other_header, MemoryHandle(pixels()["SCI"])):
        assert not handle.is_same(other)


def test_files_are_read_for_comparison_only_if_they_must_be(tmp_path, monkeypatch):
    """Of hundreds of files, each pair is compared."""
    path = write(tmp_path / "a.fits")
    other = write(tmp_path / "b.fits", keywords=KEYWORDS | {"FILTER": "F560W"})
    link = tmp_path / "link.fits"
    link.symlink_to(path)

    def refuse(_):
        raise AssertionError("a whole file is read")

    monkeypatch.setattr("webbkg.io.files.checksum", refuse)
    assert not FileHandle(path).is_same(FileHandle(other))
    assert FileHandle(path).is_same(FileHandle(link))


def test_is_same_of_gzip_files(tmp_path):
    packed = gzip.compress(write(tmp_path / "a.fits").read_bytes())
    one, other = tmp_path / "b.fits.gz", tmp_path / "c.fits.gz"
    one.write_bytes(packed)
    other.write_bytes(packed)
    assert FileHandle(one).is_same(FileHandle(one))
    assert FileHandle(one).is_same(FileHandle(other))


def test_compressed_copy_is_same(tmp_path):
    plain = write(tmp_path / "a.fits")
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert FileHandle(plain).is_same(FileHandle(packed))


def test_checksum(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(path) == digest
    fits_path = write(tmp_path / "a.fits")
    assert FileHandle(fits_path).checksum == checksum(Path(fits_path))
