"""
The pipeline's second and third stage for exposures with a background of their own.

The pipeline and the CRDS client keep settings in the process: do not run these on several threads.
Worker processes take as long to import the pipeline as to calibrate four exposures of MIRI: with 16
exposures on 2 cores they gained nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from webbkg.errors import InputError
from webbkg.io.atomic import check_free, make_directory, replacing
from webbkg.io.i4i_calibrated import complete_calibrated
from webbkg.io.i4i_files import read_level2, write_level3
from webbkg.io.products import product_stem
from webbkg.pipeline.calwebb import image2, image3
from webbkg.pipeline.running import Steps, existing

__all__ = ["calibrate", "mosaic"]

_SKIP = {"skip": True}
#: Pixels between those whose place on the sky is computed, not interpolated. With cubic splines the
#: mosaic of 4 MIRI exposures took 4.5 s instead of 11 s and differed by at most 3e-5 MJy/sr, next
#: to bright stars (jwst 3.0.0).
_SPARSE = {"pixmap_stepsize": 10.0, "pixmap_order": 3}


def calibrate(
    source: str | Path,
    output: str | Path,
    cache: str | Path | None = None,
    *,
    propagate_errors: bool = True,
    steps: Steps | None = None,
    overwrite: bool = False,
    verbose: bool = False,
) -> Path:
    """
    Calibrate an exposure with ``calwebb_image2``, its background subtracted or not.

    Parameters
    ----------
    source : str or pathlib.Path
        Level-2 association of an exposure and its background, as `io.i4i_files.write_level2`
        writes it, or a rate, which is calibrated as it is.
    output : str or pathlib.Path
        Directory of the product; it is made if it is not there.
    cache : str or pathlib.Path, optional
        Local CRDS cache; the one that the environment names if not given.
    propagate_errors : bool, optional
        Whether the error of the background is added to that of the product.
    steps : mapping, optional
        Parameters of the pipeline's steps by name. Its ``resample`` is skipped if not told
        otherwise: nothing here uses an image of a single exposure.
    overwrite : bool, optional
        Whether the product may replace another.
    verbose : bool, optional
        Whether log lines of the pipeline are printed.

    Returns
    -------
    pathlib.Path
        Calibrated exposure, ``<product>_cal.fits``. With a background, its ERR holds that of the
        background, which the pipeline drops, and it has the extensions ``VAR_BKG`` and ``WEBBKG``.

    Raises
    ------
    InputError
        If a file is not there or cannot be used, the background was not subtracted, or neither
        `cache` nor the environment names reference files.
    OutputError
        If the product exists and may not be replaced, or cannot be written.
    """
    path, folder = existing(Path(source)), make_directory(Path(output))
    product = read_level2(path) if path.suffix == ".json" else None
    target = folder / f"{product.name if product else product_stem(path)}_cal.fits"
    check_free(target, overwrite=overwrite)
    with _workshop(folder) as temporary:
        given = _with_defaults(steps, resample=_SKIP)
        with _files_that_stay(path):
            [made] = image2(path, temporary, cache, steps=given, verbose=verbose)
        if product is None:
            _move(made, target, overwrite=overwrite)
        else:
            complete_calibrated(
                made, product, target, propagate_errors=propagate_errors, overwrite=overwrite
            )
    return target


def mosaic(
    calibrated: Sequence[Path],
    name: str,
    output: str | Path,
    cache: str | Path | None = None,
    *,
    like: Path | None = None,
    match_sky: bool = False,
    steps: Steps | None = None,
    overwrite: bool = False,
    verbose: bool = False,
) -> Path:
    """
    Make a mosaic with ``calwebb_image3``.

    Parameters
    ----------
    calibrated : sequence of pathlib.Path
        Calibrated exposures.
    name : str
        Name of the mosaic without suffix.
    output : str or pathlib.Path
        Directory of the mosaic and of its association, ``<name>_asn.json``, which is written anew.
    cache : str or pathlib.Path, optional
        Local CRDS cache; the one that the environment names if not given.
    like : pathlib.Path, optional
        Mosaic of the pipeline whose pixel grid is to be used, so that the two can be compared
        pixel by pixel.
    match_sky : bool, optional
        Whether the pipeline levels the skies of the exposures. It takes the lowest for zero: what
        has no background left loses its level by that.
    steps : mapping, optional
        Parameters of the pipeline's steps by name. If not told otherwise, ``source_catalog`` is
        skipped, and positions are interpolated between every tenth pixel.
    overwrite : bool, optional
        Whether the mosaic may replace another.
    verbose : bool, optional
        Whether log lines of the pipeline are printed.

    Returns
    -------
    pathlib.Path
        Mosaic, ``<name>_i2d.fits``.

    Raises
    ------
    InputError
        If an exposure is not there or cannot be used, `like` has no grid, or neither `cache` nor
        the environment names reference files.
    OutputError
        If the mosaic exists and may not be replaced, or cannot be written.

    Notes
    -----
    The errors in a mosaic are those of ``VAR_POISSON``, ``VAR_RNOISE`` and ``VAR_FLAT`` of its
    exposures; the pipeline has no place for that of a background (jwst 3.0.0).
    """
    folder = make_directory(Path(output))
    association, target = folder / f"{name}_asn.json", folder / f"{name}_i2d.fits"
    check_free(target, overwrite=overwrite)
    if not calibrated:
        raise InputError(f"{name}: a mosaic needs at least one calibrated exposure, got none")
    write_level3(calibrated, association, overwrite=True)
    with _workshop(folder) as temporary:
        grid = {} if like is None else {"output_wcs": str(_write_grid(like, temporary))}
        given = _with_defaults(
            steps,
            skymatch={"skip": not match_sky},
            outlier_detection=_SPARSE,
            resample={**_SPARSE, **grid},
            source_catalog=_SKIP,
        )
        with _files_that_stay(association):
            made = image3(association, temporary, cache, steps=given, verbose=verbose)
        _move(made, target, overwrite=overwrite)
    return target


def _with_defaults(steps: Steps | None, **defaults: Mapping[str, Any]) -> Steps:
    """Add what the caller did not set, parameter by parameter."""
    given = steps or {}
    names = [*defaults, *(name for name in given if name not in defaults)]
    return {name: {**defaults.get(name, {}), **given.get(name, {})} for name in names}


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """Give a hidden directory beside the product, so that no half of it is ever seen."""
    with TemporaryDirectory(prefix=".webbkg-", suffix=".part", dir=folder) as temporary:
        yield Path(temporary)


def _move(made: Path, target: Path, *, overwrite: bool) -> None:
    with replacing(target, overwrite=overwrite) as temporary:
        made.replace(temporary)


@contextmanager
def _files_that_stay(path: Path) -> Iterator[None]:
    """Tell in the package's words that a file went away while the pipeline ran."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{path.name}: {error.filename or error} went away while the pipeline ran; run the "
            "stage before again"
        ) from error


def _write_grid(like: Path, folder: Path) -> Path:
    """Write the pixel grid of a mosaic in the form that the resample step reads."""
    import asdf
    from stdatamodels.jwst import datamodels

    target = folder / "grid.asdf"
    with datamodels.open(existing(like)) as model:
        wcs = getattr(model.meta, "wcs", None)
        if wcs is None:
            raise InputError(
                f"{like}: has no WCS of the JWST pipeline to take the pixel grid from; give a "
                "mosaic (i2d) made by calwebb_image3"
            )
        # Else the pipeline computes the area anew, and PIXAR_SR differs in the seventh digit.
        area = model.meta.photometry.pixelarea_arcsecsq
        tree = {"wcs": wcs, "array_shape": model.data.shape, "pixel_area": area}
        asdf.AsdfFile(tree).write_to(target)
    return target
