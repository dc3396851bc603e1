import io
import re

import numpy as np
import pytest
from astropy.io import fits

from webbkg.errors import InputError
from webbkg.exposure import Window
from webbkg.io.headers import padded, scan_headers
from webbkg.io.keywords import META_KEYWORDS, meta_of, window_of

VALUES = {
    "TEXT": "F770W",
    "EMPTY": "",
    "QUOTE": "O'Neill's field",
    "QUOTES": "''''",
    "SLASH": "a / b",
    "SPACES": "  leading",
    "LIKEEND": "END",
    "NUMBER": "12",
    "LONGEST": "x" * 68,
    "LOGICT": True,
    "LOGICF": False,
    "INT": 42,
    "NEGINT": -42,
    "ZERO": 0,
    "BIGINT": 2**53 + 1,
    "FLOAT": 1.5,
    "NEGFLOAT": -0.25,
    "TINY": 1.234567890123456e-300,
    "HUGE": -9.87e250,
    "THIRD": 1 / 3,
    "UNDEF": None,
}


def write(path, hdus):
    fits.HDUList(hdus).writeto(path, overwrite=True)
    with path.open("rb") as stream:
        return scan_headers(stream)


def from_cards(path, *cards):
    """Headers of a file whose primary header has these cards, written as they are."""
    fixed = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   = 0"]
    text = "".join(card.ljust(80) for card in [*fixed, *cards, "END"])
    path.write_bytes(text.ljust(padded(len(text))).encode("ascii"))
    with path.open("rb") as stream:
        return scan_headers(stream)


@pytest.mark.parametrize("comment", ["", "what it is", "a / b 'quoted' it's"])
@pytest.mark.parametrize("keyword", VALUES)
def test_values_are_those_of_astropy(tmp_path, keyword, comment):
    primary = fits.PrimaryHDU()
    primary.header[keyword] = (VALUES[keyword], "" if keyword == "LONGEST" else comment)
    header = write(tmp_path / "a.fits", [primary])[0]
    theirs = fits.getheader(tmp_path / "a.fits")[keyword]
    ours = header.get(keyword)
    assert ours == theirs
    assert type(ours) is type(theirs)


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("KEY     = 1.5D-05", 1.5e-5),
        ("KEY     =  -2.0D+03 / comment", -2000.0),
        ("KEY     = 1.E5", 1e5),
        ("KEY     = .5/no space", 0.5),
        ("KEY     = +7", 7),
        ("KEY     = 007", 7),
        ("KEY     = T", True),
        ("KEY     =                    F/ comment", False),
        ("KEY     = 'MIRI    '", "MIRI"),
        ("KEY     = 'unclosed", "unclosed"),
        ("KEY     = '' / null string", ""),
        ("KEY     = '        ' / blank string", ""),
        ("KEY     =", None),
        ("KEY     = / only a comment", None),
        ("KEY       is no value card", None),
        ("OTHER   = 5", None),
    ],
)
def test_cards_as_other_writers_make_them(tmp_path, card, value):
    found = from_cards(tmp_path / "a.fits", card)[0].get("KEY")
    assert found == value
    assert type(found) is type(value)


def test_card_that_breaks_the_standard(tmp_path):
    header = from_cards(tmp_path / "a.fits", "KEY     = MIRI", "NEXT    = 1")[0]
    with pytest.raises(ValueError, match=r"^could not convert string to float: 'MIRI'$"):
        header.get("KEY")
    assert header.get("NEXT") == 1


def test_whole_numbers(tmp_path):
    header = from_cards(tmp_path / "a.fits", "KEY     = 1.5")[0]
    assert header.integer("NAXIS") == 0
    for keyword in ("KEY", "NONE"):
        message = f"keyword {keyword} is missing or no whole number"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            header.integer(keyword)


def test_first_of_two_equal_keywords_counts_as_in_astropy(tmp_path):
    header = from_cards(tmp_path / "a.fits", "FILTER  = 'F770W'", "FILTER  = 'F1000W'")[0]
    assert fits.getheader(tmp_path / "a.fits")["FILTER"] == "F770W"
    assert header.get("FILTER") == "F770W"


def test_strings_that_are_continued(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["TARGNAME"] = "NGC-" * 40
    assert write(tmp_path / "a.fits", [primary])[0].get("TARGNAME") == "NGC-" * 40


def test_long_headers_and_all_extensions(tmp_path):
    """Several blocks of cards, commentary, and what looks like an END."""
    primary = fits.PrimaryHDU()
    for number in range(200):
        primary.header[f"KEY{number}"] = (number, "END")
        primary.header["HISTORY"] = "END of it"
        primary.header["COMMENT"] = "SIMPLE  =    F"
    table = fits.BinTableHDU(np.array([(1, b"ab")] * 3, dtype=[("A", "i4"), ("B", "S2")]), name="T")
    hdus = [
        primary,
        fits.ImageHDU(np.zeros((3, 5, 7), np.float32), name="SCI"),
        fits.ImageHDU(np.zeros((5, 7), np.int16), name="lower"),
        fits.ImageHDU(name="EMPTY"),
        fits.ImageHDU(np.zeros(2880, np.uint8)),
        table,
        fits.ImageHDU(np.zeros((5, 7)), name="LAST"),
    ]
    headers = write(tmp_path / "a.fits", hdus)
    assert [header.name for header in headers] == ["", "SCI", "LOWER", "EMPTY", "", "T", "LAST"]
    assert headers[0].get("KEY199") == 199
    with fits.open(tmp_path / "a.fits") as theirs:
        for ours, hdu in zip(headers, theirs, strict=True):
            info = hdu.fileinfo()
            assert ours.offset == info["datLoc"]
            assert padded(ours.n_bytes) == info["datSpan"]
            assert ours.shape == (hdu.data.shape if hdu.is_image and hdu.size else ours.shape)
            assert fits.Header.fromstring(ours.text) == hdu.header


@pytest.mark.parametrize("n_cards", range(30, 42))
def test_end_at_any_place_of_a_block(tmp_path, n_cards):
    """36 cards fill a block."""
    cards = [f"K{number:<7}= {number}" for number in range(n_cards)]
    header = from_cards(tmp_path / "a.fits", *cards)[0]
    assert header.get(f"K{n_cards - 1}") == n_cards - 1
    assert header.offset == (tmp_path / "a.fits").stat().st_size
    assert len(header.text) == 80 * (3 + n_cards)


@pytest.mark.parametrize("n_bytes", [0, 1, 2879, 2880, 2881])
def test_padding(n_bytes):
    assert padded(n_bytes) == {0: 0, 1: 2880, 2879: 2880, 2880: 2880, 2881: 5760}[n_bytes]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "no FITS header at byte 0"),
        (b"XTENSION= 'IMAGE   '".ljust(2880), "no FITS header at byte 0"),
        (b"SIMPLE  =                    T".ljust(2879), "ends inside the header at byte 0"),
        (b"SIMPLE  =                    T".ljust(2880), "ends inside the header at byte 0"),
    ],
)
def test_no_header(tmp_path, content, message):
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    with path.open("rb") as stream, pytest.raises(ValueError, match=f"^{message}$"):
        scan_headers(stream)


def test_junk_after_an_extension(tmp_path):
    path = tmp_path / "a.fits"
    write(path, [fits.PrimaryHDU()])
    path.write_bytes(path.read_bytes() + b"junk" * 720)
    message = "no FITS header at byte 2880"
    with path.open("rb") as stream, pytest.raises(ValueError, match=f"^{message}$"):
        scan_headers(stream)


def test_negative_length_ends(tmp_path):
    path = tmp_path / "a.fits"
    from_cards(path)
    content = (
        path.read_bytes()
        .replace(b"NAXIS   = 0", b"NAXIS   = 1")
        .replace(b"END".ljust(80), b"NAXIS1  = -2880".ljust(80) + b"END".ljust(80))
    )
    path.write_bytes(content)
    with path.open("rb") as stream, pytest.raises(ValueError, match="NAXIS1"):
        scan_headers(stream)


def test_needs_a_file():
    with pytest.raises(io.UnsupportedOperation):
        scan_headers(io.BytesIO(b""))


# Keywords


def test_meta_has_what_is_there():
    primary = fits.Header({"INSTRUME": "MIRI", "FILTER": "", "NINTS": 0, "OTHER": 1})
    primary["BKGDTARG"] = False
    primary["GWA_XTIL"] = None
    meta = meta_of({**primary, "GWA_XTIL": None}, {"BUNIT": "DN/s", "FILTER": "not here"})
    assert dict(meta) == {"INSTRUME": "MIRI", "NINTS": 0, "BKGDTARG": False, "BUNIT": "DN/s"}
    with pytest.raises(TypeError, match="does not support item assignment"):
        meta["FILTER"] = "F770W"


def test_keywords_are_listed_once():
    assert len(set(META_KEYWORDS)) == len(META_KEYWORDS)


SUB = {"SUBSTRT1": 5, "SUBSTRT2": 9}
SLIT = {"SLTSTRT1": 2, "SLTSTRT2": 3, "SLTSIZE1": 7, "SLTSIZE2": 4}


@pytest.mark.parametrize(
    ("meta", "shape", "window"),
    [
        (SUB, (4, 7), Window(8, 4, 4, 7)),
        (SUB, (3, 4, 7), Window(8, 4, 4, 7)),
        ({"INSTRUME": "MIRI"}, (1024, 1032), Window(0, 0, 1024, 1032)),
        ({"INSTRUME": "NIRCAM"}, (2, 2048, 2048), Window(0, 0, 2048, 2048)),
        ({}, (2048, 2048), Window(0, 0, 2048, 2048)),
        ({"INSTRUME": "MIRI", "SUBSTRT1": 1}, (1024, 1032), Window(0, 0, 1024, 1032)),
        # A slit that is cut out of a frame has the keywords of both.
        (SUB | SLIT, (4, 7), Window(2, 1, 4, 7)),
        (SUB | SLIT, (2, 4, 7), Window(2, 1, 4, 7)),
        (SUB | SLIT, (4, 8), Window(8, 4, 4, 8)),
    ],
)
def test_window(meta, shape, window):
    assert window_of(meta, shape, "a_rate.fits") == window


@pytest.mark.parametrize(
    ("meta", "shape", "size", "full"),
    [
        ({"INSTRUME": "MIRI"}, (256, 256), "256x256", "1024x1032"),
        ({"INSTRUME": "MIRI"}, (2048, 2048), "2048x2048", "1024x1032"),
        ({"SUBSTRT1": 1}, (3, 64, 2048), "64x2048", "2048x2048"),
        ({"SUBSTRT2": 1}, (2048, 64), "2048x64", "2048x2048"),
    ],
)
def test_unknown_place(meta, shape, size, full):
    message = (
        f"a_rate.fits: SCI is {size}, not a full frame of {full}, and the keywords SUBSTRT1 and "
        "SUBSTRT2 that tell its place on the detector are missing; add them to the primary header"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        window_of(meta, shape, "a_rate.fits")
