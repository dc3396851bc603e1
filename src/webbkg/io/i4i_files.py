"""
Files of an image-for-image background: their names, and how they are written.

Names and folders are those that scripts around the JWST pipeline look for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg._version import __version__
from webbkg.errors import InputError, ShapeError
from webbkg.exposure import MaskArray
from webbkg.io.associations import AssociationProduct, read_association
from webbkg.io.atomic import make_directory, replacing
from webbkg.io.files import FileHandle
from webbkg.io.products import (
    file_of,
    product_stem,
    write_changed,
    write_combined_background,
)
from webbkg.io.provenance import Provenance
from webbkg.masks.flags import DO_NOT_USE
from webbkg.results import Subtraction

__all__ = [
    "Layout",
    "read_level2",
    "write_background",
    "write_level2",
    "write_level3",
    "write_list",
    "write_masked_rate",
    "write_merged_rate",
]

_MASKED = "masked_source_emission"
_MERGED = f"merged_other_visits_{_MASKED}_rate"


@dataclass(frozen=True)
class Layout:
    """
    Where the files of a run are.

    Parameters
    ----------
    output : pathlib.Path
        Output directory.

    Examples
    --------
    >>> layout = Layout(Path("out"))
    >>> layout.calibrated(Path("jw1_mirimage_rate.fits")).parts[1:]
    ('jw1_mirimage', 'calibrated2_cals', 'jw1_mirimage_bkgsub_masked_source_emission_cal.fits')
    """

    output: Path

    def masked_rate(self, science: Path) -> Path:
        """The exposure without its sources."""
        return self._rates(science) / f"{product_stem(science)}_{_MASKED}_rate.fits"

    def merged_rate(self, science: Path) -> Path:
        """The exposure's background."""
        return self._rates(science) / f"{_MERGED}.fits"

    def merged_list(self, science: Path) -> Path:
        """List of what the background is made of."""
        return self._rates(science) / f"{_MERGED}.list.txt"

    def subtracted(self, science: Path) -> Path:
        """The exposure after subtraction, not calibrated."""
        return self._rates(science) / f"{product_stem(science)}_bsub.fits"

    def association(self, science: Path) -> Path:
        """Level-2 association of the exposure and its background."""
        return self._cals(science) / f"{_product(science)}_asn.json"

    def calibrated(self, science: Path) -> Path:
        """The exposure after subtraction, calibrated."""
        return self._cals(science) / f"{_product(science)}_cal.fits"

    def plain_calibrated(self, science: Path) -> Path:
        """The exposure without subtraction, calibrated."""
        return self._cals(science) / f"{product_stem(science)}_cal.fits"

    @property
    def mosaics_before(self) -> Path:
        """Directory of mosaics without subtraction."""
        return self.output / "calibrated3_mosaics"

    @property
    def mosaics_after(self) -> Path:
        """Directory of mosaics after subtraction."""
        return (
            self.output / f"calibrated3_mosaics_redone_with_{_MASKED.removeprefix('masked_')}_mask"
        )

    def mosaic_before(self, group: str) -> Path:
        """Mosaic without subtraction."""
        return self.mosaics_before / f"{group}_i2d.fits"

    def seed(self, group: str) -> Path:
        """Image of the sources."""
        return self.mosaics_before / f"{group}_i2d_galaxy_seed_image.fits"

    def mosaic_after(self, group: str) -> Path:
        """Mosaic after subtraction."""
        return self.mosaics_after / f"{group}_i2d.fits"

    def make_directories(self, science: Path) -> None:
        """Make the directories of an exposure's files."""
        make_directory(self._rates(science))
        make_directory(self._cals(science))

    def check_distinct(self, science: Sequence[Path]) -> None:
        """
        Refuse exposures that would have the same products.

        Parameters
        ----------
        science : sequence of pathlib.Path
            Exposures.

        Raises
        ------
        InputError
            If two have the same name without folder and suffix.
        """
        stems: dict[str, Path] = {}
        for path in science:
            other = stems.setdefault(product_stem(path), path)
            if other != path:
                raise InputError(
                    f"{path} and {other}: their products would both be in "
                    f"{self.output / product_stem(path)}; run them with different output "
                    "directories, or leave one out if they are one exposure"
                )

    def _rates(self, science: Path) -> Path:
        return self.output / product_stem(science) / "calibrated1_rates"

    def _cals(self, science: Path) -> Path:
        return self.output / product_stem(science) / "calibrated2_cals"


def write_masked_rate(
    science: FileHandle,
    mask: MaskArray,
    target: Path,
    *,
    seed: str = "",
    overwrite: bool = False,
) -> None:
    """
    Write an exposure without its sources.

    Parameters
    ----------
    science : FileHandle
        2-D exposure.
    mask : numpy.ndarray
        True where a source is, bool, shape ``(ny, nx)`` of the exposure.
    target : pathlib.Path
        File to write: a copy with SCI 0 and DQ's DO_NOT_USE set where a source is.
    seed : str, optional
        What the mask was made of, for the HISTORY.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    ShapeError
        If the mask has another shape.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    exposure = science.load()
    if mask.shape != exposure.data.shape:
        raise ShapeError(
            f"{science.name}: the mask has shape {mask.shape} but SCI has {exposure.data.shape}"
        )
    images: dict[str, NDArray[Any]] = {
        "SCI": np.where(mask, np.float32(0.0), exposure.data),
        "DQ": np.where(mask, exposure.dq | np.uint32(DO_NOT_USE), exposure.dq),
    }
    source = f" of {seed}" if seed else ""
    line = (
        f"webbkg {__version__} i4i: {np.count_nonzero(mask)} pixels with sources{source} set to 0 "
        "and flagged DO_NOT_USE"
    )
    write_changed(science, target, images, lines=[line], overwrite=overwrite)


def write_merged_rate(
    subtraction: Subtraction, provenance: Provenance, target: Path, *, overwrite: bool = False
) -> None:
    """
    Write the background of an exposure so that the pipeline can subtract it.

    Parameters
    ----------
    subtraction : Subtraction
        The exposure, which is a file, and its background with the level it has in this exposure.
    provenance : Provenance
        What the products shall say about it.
    target : pathlib.Path
        File to write: an ``ImageModel`` with SCI (0 where the background is undefined), ERR, DQ
        (DO_NOT_USE there), COVERAGE, the number of exposures used, and the table WEBBKG.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.

    Notes
    -----
    The pipeline subtracts 0 where it finds NaN and takes over DQ in both cases (jwst 3.0.0); it
    drops ERR, for which `io.i4i_calibrated.complete_calibrated` makes up.
    """
    write_combined_background(subtraction, provenance, target, as_rate=True, overwrite=overwrite)


def write_background(
    layout: Layout,
    subtraction: Subtraction,
    provenance: Provenance,
    partners: Sequence[Path],
    *,
    overwrite: bool = False,
) -> Path:
    """
    Write the background of an exposure, its list and, last, the association of both.

    Parameters
    ----------
    layout : Layout
        Where the files are.
    subtraction : Subtraction
        The exposure, which is a file, and its background with the level it has in this exposure.
    provenance : Provenance
        What the products shall say about it.
    partners : sequence of pathlib.Path
        Exposures the background is made of; their masked rates are listed.
    overwrite : bool, optional
        Whether files may be replaced.

    Returns
    -------
    pathlib.Path
        The association; where it is, the other files are too.

    Raises
    ------
    OutputError
        If a file exists and may not be replaced, or cannot be written.
    """
    science = file_of(subtraction)
    path, merged = science.path, layout.merged_rate(science.path)
    layout.make_directories(path)
    write_merged_rate(subtraction, provenance, merged, overwrite=overwrite)
    masked = [layout.masked_rate(partner) for partner in partners]
    write_list(masked, layout.merged_list(path), overwrite=overwrite)
    association = layout.association(path)
    write_level2(science, merged, association, overwrite=overwrite)
    return association


def write_list(paths: Iterable[Path], target: Path, *, overwrite: bool = False) -> None:
    """
    Write which files a background is made of.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        Files.
    target : pathlib.Path
        Text file to write: a full path a line.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    _write_text(target, "".join(f"{path.resolve()}\n" for path in paths), overwrite)


def write_level2(
    science: FileHandle, background: Path, target: Path, *, overwrite: bool = False
) -> None:
    """
    Write the association of an exposure and its background.

    Parameters
    ----------
    science : FileHandle
        Exposure.
    background : pathlib.Path
        Its background.
    target : pathlib.Path
        File to write, ``<product>_asn.json``; the product's name is taken of it. Members have
        their full paths, so that ``strun calwebb_image2`` works in any directory.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    members = [(science.path, "science"), (background, "background")]
    _write_association("image2", "Asn_Lv2Image", science.meta, members, target, overwrite)


def read_level2(path: Path) -> AssociationProduct:
    """
    Read an association that `write_level2` wrote.

    Parameters
    ----------
    path : pathlib.Path
        Association.

    Returns
    -------
    AssociationProduct
        Its product.

    Raises
    ------
    InputError
        If it is no association, or not one of an exposure and a background.
    """
    products = read_association(path)
    n_backgrounds = [len(product.backgrounds) for product in products]
    if n_backgrounds != [1]:
        raise InputError(
            f"{path}: needs one product with one background, has {len(products)} with "
            f"{' and '.join(map(str, n_backgrounds))}; write it with webbkg i4i merge"
        )
    return products[0]


def write_level3(calibrated: Sequence[Path], target: Path, *, overwrite: bool = False) -> None:
    """
    Write the association of a mosaic.

    Parameters
    ----------
    calibrated : sequence of pathlib.Path
        Calibrated exposures, at least one.
    target : pathlib.Path
        File to write, ``<product>_asn.json``; the product's name is taken of it. Members have
        their full paths.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the first exposure is not there or cannot be used.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    meta = FileHandle(calibrated[0]).meta
    members = [(path, "science") for path in calibrated]
    _write_association("image3", "Asn_Lv3Image", meta, members, target, overwrite)


def _product(science: Path) -> str:
    return f"{product_stem(science)}_bkgsub_{_MASKED}"


def _write_association(
    kind: str,
    rule: str,
    meta: Mapping[str, Any],
    members: Sequence[tuple[Path, str]],
    target: Path,
    overwrite: bool,
) -> None:
    product = {
        "name": target.name.removesuffix("_asn.json"),
        "members": [
            {"expname": str(path.resolve()), "exptype": exptype, "exposerr": "null"}
            for path, exptype in members
        ],
    }
    table = {
        "asn_type": kind,
        "asn_rule": rule,
        "version_id": None,
        "code_version": f"webbkg {__version__}",
        "degraded_status": "No known degraded exposures in association.",
        "program": str(meta.get("PROGRAM", "noprogram")),
        "constraints": "No constraints",
        "asn_id": f"o{meta.get('OBSERVTN', '001')}",
        "asn_pool": "none",
        "target": str(meta.get("TARGNAME", "none")),
        "products": [product],
    }
    _write_text(target, json.dumps(table, indent=1) + "\n", overwrite)


def _write_text(target: Path, text: str, overwrite: bool) -> None:
    with replacing(target, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
