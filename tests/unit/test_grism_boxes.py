"""Masks of the spectra of a catalogue, with a WCS that is easy to check."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from numpy.testing import assert_array_equal
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError
from webbkg.io.grism_boxes import (
    SourceCorners,
    read_corners,
    read_wavelength_ranges,
    spectra_mask,
    spectra_mask_of_wcs,
)

#: A pixel for each thousandth of a degree, 10 pixels for each micron and order, up by one.
SCALE, LENGTH = 1e-3, 10.0


class Wcs:
    """Spectra along rows."""

    def __init__(self) -> None:
        self.calls = 0

    def backward_transform(self, ra: Any, dec: Any, wavelength: float, order: int) -> Any:
        self.calls += 1
        x, y = ra / SCALE, dec / SCALE
        return x + LENGTH * order * wavelength, y + order, x, y, order


def corners(*boxes: tuple[float, float, float, float]) -> SourceCorners:
    """Boxes x0, x1, y0, y1 in pixels."""
    ra = [[x0, x1, x0, x1] for x0, x1, _, _ in boxes]
    dec = [[y0, y0, y1, y1] for _, _, y0, y1 in boxes]
    return SourceCorners(
        np.array(ra, float).reshape(-1, 4) * SCALE, np.array(dec, float).reshape(-1, 4) * SCALE
    )


def expected(shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Any:
    """Boxes x0, x1, y0, y1, both ends included."""
    mask = np.zeros(shape, bool)
    for x0, x1, y0, y1 in boxes:
        mask[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
    return mask


RANGES = {1: (1.0, 2.0)}


def masked(*boxes: Any, ranges: Any = RANGES, shape: Any = (40, 60), axis: int = 1) -> Any:
    return spectra_mask_of_wcs(Wcs(), corners(*boxes), ranges, shape, dispersion_axis=axis)


def test_a_spectrum_is_the_box_around_both_ends() -> None:
    found = masked((5, 8, 20, 22))
    assert_array_equal(found.mask, expected((40, 60), (15, 28, 21, 23)))
    assert (found.n_sources, found.n_spectra) == (1, 1)


def test_pixels_are_rounded_half_up() -> None:
    assert_array_equal(masked((5.49, 8.5, 19.5, 22.49)).mask, expected((40, 60), (15, 29, 21, 23)))


def test_all_orders_of_all_sources_in_one_pass() -> None:
    wcs = Wcs()
    ranges = {1: (1.0, 2.0), 2: (0.5, 1.0), -1: (1.0, 1.5)}
    sources = corners((20, 22, 5, 6), (30, 33, 15, 17), (25, 25, 30, 31))
    found = spectra_mask_of_wcs(wcs, sources, ranges, (40, 60), dispersion_axis=1)
    boxes = [
        *((30, 42, 6, 7), (40, 53, 16, 18), (35, 45, 31, 32)),
        *((30, 42, 7, 8), (40, 53, 17, 19), (35, 45, 32, 33)),
        *((5, 12, 4, 5), (15, 23, 14, 16), (10, 15, 29, 30)),
    ]
    assert_array_equal(found.mask, expected((40, 60), *boxes))
    assert (found.n_sources, found.n_spectra) == (3, 9)
    assert wcs.calls == 2 * len(ranges)


@pytest.mark.parametrize(
    ("box", "axis", "counts"),
    [
        # Two pixels along the dispersion, one across.
        ((-30, -19, 20, 22), 1, True),
        ((-30, -20, 20, 22), 1, False),
        ((48, 50, 20, 22), 1, True),
        ((49, 50, 20, 22), 1, False),
        ((5, 8, -5, -1), 1, True),
        ((5, 8, -5, -2), 1, False),
        ((5, 8, 38, 40), 1, True),
        ((5, 8, 39, 40), 1, False),
        ((-30, -20, 20, 22), 2, True),
        ((-30, -21, 20, 22), 2, False),
        ((5, 8, -5, 0), 2, True),
        ((5, 8, -5, -1), 2, False),
        ((5, 8, 37, 40), 2, True),
        ((5, 8, 38, 40), 2, False),
        ((5, 8, 38, 40), None, False),
    ],
)
def test_spectra_at_the_edge(box: Any, axis: int, counts: bool) -> None:
    found = masked(box, axis=axis)
    assert found.n_spectra == counts
    x0, x1, y0, y1 = box
    boxes = [(x0 + 10, x1 + 20, y0 + 1, y1 + 1)] if counts else []
    assert_array_equal(found.mask, expected((40, 60), *boxes))


def test_sources_without_a_place_are_left_out() -> None:
    boxes = [(5, 8, 20, 22), (np.nan, np.nan, 3, 4), (8, np.nan, 30, 31), (1e30, 1e30, 3, 4)]
    found = masked(*boxes)
    assert_array_equal(found.mask, expected((40, 60), (15, 28, 21, 23), (18, 28, 31, 32)))
    assert (found.n_sources, found.n_spectra) == (4, 2)


def test_no_source() -> None:
    found = masked()
    assert not found.mask.any()
    assert (found.n_sources, found.n_spectra) == (0, 0)


# Catalogues


def catalog(path: Path, magnitudes: Any, *, leave_out: tuple[str, ...] = ()) -> Path:
    n = len(magnitudes)
    table = QTable({"label": np.arange(1, n + 1), "isophotal_abmag": magnitudes})
    x0, y0 = 5.0 + np.arange(n), 20.0 + np.arange(n)
    for name, dx, dy in (("ll", 0, 0), ("lr", 3, 0), ("ul", 0, 2), ("ur", 3, 2)):
        table[f"sky_bbox_{name}"] = SkyCoord(
            (x0 + dx) * SCALE * units.deg, (y0 + dy) * SCALE * units.deg
        )
    table.remove_columns(list(leave_out))
    table.write(path, format="ascii.ecsv")
    return path


def test_corners_are_read(tmp_path: Path) -> None:
    found = read_corners(catalog(tmp_path / "cat.ecsv", [20.0, 21.0]))
    np.testing.assert_allclose(found.ra / SCALE, [[5, 8, 5, 8], [6, 9, 6, 9]], atol=1e-9)
    np.testing.assert_allclose(found.dec / SCALE, [[20, 20, 22, 22], [21, 21, 23, 23]], atol=1e-9)


def test_faint_sources_are_left_out(tmp_path: Path) -> None:
    magnitudes = [20.0, np.nan, 22.0, 22.001, -3.0, 999.5]
    path = catalog(tmp_path / "cat.ecsv", magnitudes)
    rows = np.round(read_corners(path, 22.0).ra[:, 0] / SCALE - 5).astype(int).tolist()
    # One without a magnitude may be bright.
    assert rows == [0, 1, 4]
    assert len(read_corners(path).ra) == 5


def test_masked_magnitudes_and_units(tmp_path: Path) -> None:
    from astropy.table import MaskedColumn

    column = MaskedColumn([20.0, 25.0, 30.0], mask=[False, True, False])
    assert len(read_corners(catalog(tmp_path / "masked.ecsv", column), 22.0).ra) == 2
    column = np.array([20.0, 25.0]) * units.ABmag
    assert len(read_corners(catalog(tmp_path / "unit.ecsv", column), 22.0).ra) == 1


def test_bad_catalogs(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            read_corners(path)
        return str(caught.value)

    missing = tmp_path / "missing.ecsv"
    assert message(missing) == (
        f"{missing}: there is no such source catalogue; put it there, or give another or a mask"
    )
    text = tmp_path / "text.ecsv"
    text.write_text("no table")
    assert message(text).startswith(
        f"{text}: cannot be read as a source catalogue, needed is ECSV ("
    )
    remedy = "give one made by the step source_catalog on the direct image"
    short = catalog(tmp_path / "short.ecsv", [1.0], leave_out=("isophotal_abmag", "sky_bbox_ul"))
    assert message(short) == (
        f"{short}: the source catalogue has no column isophotal_abmag, sky_bbox_ul; {remedy}"
    )
    plain = tmp_path / "plain.ecsv"
    names = [f"sky_bbox_{name}" for name in ("ll", "lr", "ul", "ur")]
    QTable({"isophotal_abmag": [1.0], **{name: [2.0] for name in names}}).write(plain)
    assert message(plain) == (
        f"{plain}: the columns {', '.join(names)} of the source catalogue are no sky positions; "
        f"{remedy}"
    )


# Wavelength ranges


def ranges_file(path: Path, kind: Any = "NIS_WFSS", extract: Any = None) -> Path:
    rows = [(1, "F150W", 1.0, 2.0), (2, "F150W", 0.5, 1.0), (1, "F200W", 1.7, 2.3)]
    model = datamodels.WavelengthrangeModel(
        wrange=rows,
        order=[1, 2],
        extract_orders=extract or [("F150W", [1]), ("F200W", [1, 2])],
        wrange_selector=["F150W", "F200W"],
        wunits=units.micron,
    )
    model.meta.instrument.name = "NIRISS"
    model.meta.exposure.type = kind
    model.meta.description = model.meta.author = model.meta.pedigree = "test"
    model.meta.useafter = "2022-01-01T00:00:00"
    model.save(path)
    return path


def test_ranges_of_the_orders_that_count(tmp_path: Path) -> None:
    path = ranges_file(tmp_path / "ranges.asdf", extract=[("F150W", [2, 1])])
    assert read_wavelength_ranges(path, "F150W", "science") == {2: (0.5, 1.0), 1: (1.0, 2.0)}


def test_bad_ranges(tmp_path: Path) -> None:
    def message(path: Any, band: str = "F150W") -> str:
        with pytest.raises(InputError) as caught:
            read_wavelength_ranges(path, band, "jw_rate.fits")
        return str(caught.value)

    assert message("N/A") == (
        "jw_rate.fits: there is no wavelengthrange reference file for it, which tells where "
        "spectra end; give a mask"
    )
    text = tmp_path / "text.asdf"
    text.write_text("nothing")
    assert message(text).startswith(f"{text}: cannot be read as a wavelengthrange reference file (")
    image = ranges_file(tmp_path / "image.asdf", kind="NRS_FIXEDSLIT")
    assert message(image) == (
        f"{image}: is a wavelengthrange file for NRS_FIXEDSLIT, needed is one for WFSS; give the "
        "one of jw_rate.fits"
    )
    good = ranges_file(tmp_path / "good.asdf")
    for band in ("F090W", "F200W"):
        # One that is not there at all, and one without the second of its orders.
        assert message(good, band) == (
            f"{good}: has no wavelength range for filter {band} of jw_rate.fits (filters there: "
            "F150W, F200W); give a file that has"
        )


# Data models


def model_of(instrument: str = "NIRISS", wcs: Any = None, extent: Any = (40, 60)) -> Any:
    return SimpleNamespace(
        data=np.zeros((40, 60)),
        meta=SimpleNamespace(
            filename="jw_rate.fits",
            wcs=wcs,
            instrument=SimpleNamespace(name=instrument, filter="GR150R", pupil="F150W"),
            subarray=SimpleNamespace(ysize=extent[0], xsize=extent[1]),
            wcsinfo=SimpleNamespace(dispersion_direction=1),
        ),
    )


def test_mask_of_a_model(tmp_path: Path) -> None:
    path, ranges = catalog(tmp_path / "cat.ecsv", [20.0, 23.0]), ranges_file(tmp_path / "w.asdf")
    for extent in ((40, 60), (None, None)):
        found = spectra_mask(model_of(wcs=Wcs(), extent=extent), path, ranges, 22.0)
        assert_array_equal(found.mask, expected((40, 60), (15, 28, 21, 23)))
    # The keywords of a sub-array tell where spectra count, not the array, as in the pipeline.
    assert spectra_mask(model_of(wcs=Wcs(), extent=(16, 60)), path, ranges).n_spectra == 0


def test_bad_models(tmp_path: Path) -> None:
    path, ranges = catalog(tmp_path / "cat.ecsv", [20.0]), ranges_file(tmp_path / "w.asdf")
    with pytest.raises(InputError) as caught:
        spectra_mask(model_of(), path, ranges)
    assert str(caught.value) == (
        "jw_rate.fits: has no WCS, which tells where the spectra of cat.ecsv fall; run assign_wcs "
        "on it first, or give a mask"
    )
    with pytest.raises(InputError) as caught:
        spectra_mask(model_of("NIRSPEC", Wcs()), path, ranges)
    assert str(caught.value) == (
        "jw_rate.fits: is of NIRSPEC, spectra of a catalogue's sources are masked for NIRCAM, "
        "MIRI, NIRISS alone; give a mask"
    )
