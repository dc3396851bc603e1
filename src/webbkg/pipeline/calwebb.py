"""Run the stages of the JWST pipeline in this process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from webbkg.io.atomic import make_directory
from webbkg.pipeline.running import Steps, existing, full_paths, product_names, reference_files, run

__all__ = ["detector1", "image2", "image3"]


def detector1(
    files: Iterable[str | Path],
    output: str | Path,
    cache: str | Path | None = None,
    *,
    steps: Steps | None = None,
    verbose: bool = False,
) -> tuple[Path, ...]:
    """
    Make rates of ramps with ``calwebb_detector1``.

    Parameters
    ----------
    files : iterable of str or pathlib.Path
        Uncalibrated products.
    output : str or pathlib.Path
        Directory of the products; it is made if it is not there.
    cache : str or pathlib.Path, optional
        Local CRDS cache; the one that the environment names if not given.
    steps : mapping, optional
        Parameters of the pipeline's steps by name, such as ``{"jump": {"skip": True}}``.
    verbose : bool, optional
        Whether log lines of the pipeline are printed.

    Returns
    -------
    tuple of pathlib.Path
        Rate products in the order of `files`. Those of single integrations are beside them.

    Raises
    ------
    InputError
        If a file is not there, or neither `cache` nor the environment names reference files.
    """
    from jwst.pipeline import Detector1Pipeline

    paths = [existing(Path(file)) for file in files]
    folder = make_directory(Path(output))
    with reference_files(cache):
        for path in paths:
            run(Detector1Pipeline, path, folder, steps, verbose)
    return tuple(folder / f"{path.stem.removesuffix('_uncal')}_rate.fits" for path in paths)


def image2(
    association: str | Path,
    output: str | Path,
    cache: str | Path | None = None,
    *,
    steps: Steps | None = None,
    verbose: bool = False,
) -> tuple[Path, ...]:
    """
    Calibrate images with ``calwebb_image2``.

    Parameters
    ----------
    association : str or pathlib.Path
        Level-2 association, whose members are found beside it or by their full paths; or a single
        rate product.
    output, cache, steps, verbose : as of `detector1`
        Directory of the products, reference files, parameters of steps, and log lines.

    Returns
    -------
    tuple of pathlib.Path
        Calibrated products, one for each product of the association.

    Raises
    ------
    InputError
        If a file is not there, or neither `cache` nor the environment names reference files.
    """
    from jwst.pipeline import Image2Pipeline

    path = existing(Path(association))
    folder = make_directory(Path(output))
    with reference_files(cache), full_paths(path, folder) as table:
        names = run(Image2Pipeline, table, folder, steps, verbose)
    return tuple(folder / name for name in names)


def image3(
    association: str | Path,
    output: str | Path,
    cache: str | Path | None = None,
    *,
    steps: Steps | None = None,
    verbose: bool = False,
) -> Path:
    """
    Make a mosaic with ``calwebb_image3``.

    Parameters
    ----------
    association : str or pathlib.Path
        Level-3 association, whose members are found beside it, in `output` or by full paths.
    output, cache, steps, verbose : as of `detector1`
        Directory of the products, reference files, parameters of steps, and log lines.

    Returns
    -------
    pathlib.Path
        Mosaic.

    Raises
    ------
    InputError
        If a file is not there, or neither `cache` nor the environment names reference files.
    """
    from jwst.pipeline import Image3Pipeline

    path = existing(Path(association))
    folder = make_directory(Path(output))
    with reference_files(cache), full_paths(path, folder) as table:
        run(Image3Pipeline, table, folder, steps, verbose)
    return existing(folder / f"{product_names(path)[0]}_i2d.fits")
