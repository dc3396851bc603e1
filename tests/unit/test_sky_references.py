"""Templates of the sky in files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, NoOverlapError, ShapeError
from webbkg.exposure import MemoryHandle, Window
from webbkg.io.sky_references import check_reference, read_sky_references

NIRISS = {
    "INSTRUME": "NIRISS",
    "DETECTOR": "NIS",
    "FILTER": "GR150R",
    "PUPIL": "F150W",
    "EXP_TYPE": "NIS_WFSS",
}
SOSS = {"INSTRUME": "NIRISS", "DETECTOR": "NIS", "FILTER": "CLEAR", "PUPIL": "GR700XD"}


def place(y, x, ny, nx):
    return {"SUBSTRT1": x + 1, "SUBSTRT2": y + 1, "SUBSIZE1": nx, "SUBSIZE2": ny}


def write(path, data, *, err=None, dq=None, name="SCI", **keywords):
    hdus = fits.HDUList([fits.PrimaryHDU()])
    hdus[0].header.update(keywords)
    hdus.append(fits.ImageHDU(data, name=name))
    for label, pixels in (("ERR", err), ("DQ", dq)):
        if pixels is not None:
            hdus.append(fits.ImageHDU(pixels, name=label))
    hdus.writeto(path)
    return path


def image(shape=(6, 8), seed=0):
    return np.random.default_rng(seed).normal(1, 0.1, shape).astype(np.float32)


def test_reference_file_of_a_grism(tmp_path: Path) -> None:
    model = datamodels.WfssBkgModel(data=image(), err=image(seed=1))
    model.dq = np.arange(48, dtype=np.uint32).reshape(6, 8) + np.uint32(2**31)
    model.data[2, 3], model.data[4, 4], model.err[0, 0] = np.nan, 0.0, np.nan
    model.meta.instrument.name, model.meta.instrument.filter = "NIRISS", "GR150R"
    model.meta.subarray.xstart, model.meta.subarray.ystart = 11, 21
    model.meta.subarray.xsize, model.meta.subarray.ysize = 8, 6
    path = tmp_path / "sky.fits"
    model.save(path)
    [reference] = read_sky_references(path)
    assert reference.name == "sky.fits"
    assert reference.window == Window(20, 10, 6, 8)
    # NaN and 0 stay, unknown errors are 0.
    assert_array_equal(reference.image, model.data)
    assert_array_equal(reference.err, np.nan_to_num(model.err))
    assert_array_equal(reference.dq, model.dq)
    assert {array.dtype for array in (reference.image, reference.err)} == {np.dtype(np.float32)}
    assert reference.dq.dtype == np.uint32
    assert reference.meta["FILTER"] == "GR150R"


def test_image_of_any_origin(tmp_path: Path) -> None:
    path = tmp_path / "mine.fits"
    fits.PrimaryHDU(np.ones((2048, 2048), np.int16)).writeto(path)
    [reference] = read_sky_references(str(path))
    assert reference.window == Window(0, 0, 2048, 2048)
    assert not reference.err.any()
    assert not reference.dq.any()


@pytest.mark.parametrize(("height", "first"), [(256, 1792), (96, 1802)])
def test_library_of_soss_lies_by_its_height(tmp_path: Path, height: int, first: int) -> None:
    model = datamodels.SossBkgModel(data=image((3, height, 20)))
    model.meta.instrument.name = "NIRISS"
    # As of a reference file whose keywords are those of the first row.
    model.meta.subarray.xstart = model.meta.subarray.ystart = 1
    model.save(tmp_path / "soss.fits")
    references = read_sky_references(tmp_path / "soss.fits")
    assert [reference.name for reference in references] == [f"soss.fits[{k}]" for k in (1, 2, 3)]
    for plane, reference in zip(model.data, references, strict=True):
        assert_array_equal(reference.image, plane)
        assert reference.window == Window(first, 0, height, 20)


def test_templates_of_a_library_are_read_when_asked_for(tmp_path: Path) -> None:
    planes = np.zeros((24, 256, 2048), np.float32)
    planes += np.arange(24, dtype=np.float32)[:, np.newaxis, np.newaxis]
    path = write(tmp_path / "soss.fits", planes, err=planes, **SOSS, EXP_TYPE="NIS_SOSS")
    tracemalloc.start()
    try:
        references = read_sky_references(path)
        levels = [float(reference.image[0, 0]) for reference in references]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert levels == list(range(24))
    assert peak < planes.nbytes / 2
    assert (references[-1].err == 23.0).all()
    assert [reference.name for reference in references[1:3]] == ["soss.fits[2]", "soss.fits[3]"]
    with pytest.raises(IndexError):
        references[24]


def test_low_soss_subarray_is_a_cut_out_of_the_high_one(tmp_path: Path) -> None:
    path = write(tmp_path / "soss.fits", image((1, 256, 20)), **SOSS, EXP_TYPE="NIS_SOSS")
    [reference] = read_sky_references(path)
    low = reference.on(Window(1802, 0, 96, 20), "science")
    assert_array_equal(low.image, reference.image[10:106])


@pytest.mark.real
def test_real_references(shared_data: Path) -> None:
    folder = shared_data / "crds" / "references" / "jwst"
    [grism] = read_sky_references(folder / "nircam" / "jwst_nircam_bkg_f356w_a_grismr.fits.gz")
    assert grism.window == Window(0, 0, 2048, 2048)
    assert grism.meta["PUPIL"] == "GRISMR"
    [soss] = read_sky_references(folder / "niriss" / "jwst_niriss_bkg_soss96.fits")
    assert soss.window == Window(1802, 0, 96, 2048)


def test_bad_files(tmp_path: Path) -> None:
    def message(path, kind=InputError):
        with pytest.raises(kind) as caught:
            read_sky_references(path)
        return str(caught.value)

    missing = tmp_path / "missing.fits"
    assert message(missing) == f"{missing}: no such file"
    text = tmp_path / "text.fits"
    text.write_text("no FITS")
    assert message(text).startswith(f"{text}: cannot be read as a FITS image (")
    empty = write(tmp_path / "empty.fits", None)
    assert "has no image" in message(empty)
    library = tmp_path / "library.fits"
    header = fits.ImageHDU(image((1, 256, 20)), name="SCI").header
    header["NAXIS3"] = 0
    hdu = fits.ImageHDU(np.zeros((0, 256, 20), np.float32), header=header, name="SCI")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(library)
    assert message(library) == (
        f"{library}: its library has no template, SCI has shape (0, 256, 20); give a reference "
        "file with at least one"
    )
    line = write(tmp_path / "four.fits", image((1, 1, 6, 8)))
    assert message(line, ShapeError) == (
        f"{line}: the sky template has 4 axes (1, 1, 6, 8), needed are 2, or 3 for a library; give "
        "a reference file of type bkg"
    )
    odd = write(tmp_path / "odd.fits", image(), err=image((6, 7)), **place(0, 0, 6, 8))
    assert message(odd, ShapeError) == (
        f"{odd}: ERR has shape (6, 7) but the sky template has (6, 8); make or fetch the file again"
    )
    low = write(tmp_path / "low.fits", image((1, 60, 20)), **SOSS, EXP_TYPE="NIS_SOSS")
    assert message(low, ShapeError) == (
        f"{low}: its SOSS templates have 60 rows, needed are 256 or 96; give a reference file of "
        "SUBSTRIP256 or SUBSTRIP96"
    )
    nowhere = write(tmp_path / "nowhere.fits", image())
    assert "SUBSTRT1 and SUBSTRT2 that tell its place on the detector are missing" in (
        message(nowhere)
    )


def test_elsewhere_on_the_detector(tmp_path: Path) -> None:
    path = write(tmp_path / "sky.fits", image(), **NIRISS, **place(0, 0, 6, 8))
    [reference] = read_sky_references(path)
    with pytest.raises(NoOverlapError, match=r"^science: it lies at Window.*sky template sky.fits"):
        reference.on(Window(100, 100, 4, 4), "science")


def science(**changes):
    meta = {key: value for key, value in {**NIRISS, **changes}.items() if value is not None}
    return MemoryHandle(image(), name="science.fits", meta=meta)


def reference_with(tmp_path, **changes):
    keywords = {key: value for key, value in {**NIRISS, **changes}.items() if value is not None}
    path = write(tmp_path / "sky.fits", image(), **keywords, **place(0, 0, 6, 8))
    return read_sky_references(path)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"FILTER": None, "PUPIL": None},
        {"FILTER": "N/A"},
        {"PUPIL": "ANY", "DETECTOR": "ANY"},
        {"FILTER": "gr150r"},
        # An exposure with fewer keywords than the template.
        {"MODULE": "A"},
    ],
)
def test_templates_that_agree(tmp_path: Path, changes: dict[str, str | None]) -> None:
    assert check_reference(reference_with(tmp_path, **changes), science()) == []


@pytest.mark.parametrize(
    ("changes", "theirs", "ours"),
    [
        ({"FILTER": "GR150C"}, "filter GR150C, pupil F150W", "filter GR150R, pupil F150W"),
        ({"PUPIL": "F200W"}, "filter GR150R, pupil F200W", "filter GR150R, pupil F150W"),
        ({"DETECTOR": "NRCALONG"}, "detector NRCALONG", "detector NIS"),
        (
            {"INSTRUME": "NIRCAM", "FILTER": "F150W", "PUPIL": "GRISMR"},
            "instrument NIRCAM, filter F150W, pupil GRISMR",
            "instrument NIRISS, filter GR150R, pupil F150W",
        ),
    ],
)
def test_templates_of_another_grism_or_filter(
    tmp_path: Path, changes: dict[str, str], theirs: str, ours: str
) -> None:
    reference = reference_with(tmp_path, **changes)
    problem = f"sky.fits: is a sky template of {theirs} but science.fits has {ours}"
    with pytest.raises(InputError) as caught:
        check_reference(reference, science())
    assert str(caught.value) == f"{problem}; give one of the same (--force overrides)"
    assert check_reference(reference, science(), force=True) == [f"forced: {problem}"]


def test_module(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"template of module B but science.fits has module A; "):
        check_reference(reference_with(tmp_path, MODULE="B"), science(MODULE="A"))
