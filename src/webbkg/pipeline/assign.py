"""Where exposures look, from the pipeline's own WCS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from webbkg.errors import InputError
from webbkg.io.files import FileHandle
from webbkg.io.headers import RawHeader, scan_headers
from webbkg.io.wcs import map_of_gwcs, sky_map_of
from webbkg.pipeline.running import quietly, reference_files
from webbkg.sky import SampledMap

__all__ = ["assigned_map", "assigned_model", "sky_maps"]

#: Keywords of the SCI header that tell the pointing; found by leaving out one at a time
#: (jwst 3.0.0). RA_V1, DEC_V1, PA_V3, VPARITY and V3I_YANG are not looked at by assign_wcs.
_POINTING = ("V2_REF", "V3_REF", "RA_REF", "DEC_REF", "ROLL_REF")
#: Keywords of the primary header that choose the reference files.
_IDENTITY = ("INSTRUME", "DETECTOR", "EXP_TYPE", "DATE-OBS", "TIME-OBS")
_IDENTITY_OF = {
    "MIRI": ("FILTER",),
    "NIRCAM": ("FILTER", "PUPIL", "CHANNEL", "MODULE"),
    "NIRISS": ("FILTER", "PUPIL"),
}


def sky_maps(
    paths: Iterable[str | Path], cache: str | Path | None = None
) -> tuple[SampledMap, ...]:
    """
    Find where exposures look.

    Parameters
    ----------
    paths : iterable of str or pathlib.Path
        Exposures: rates, or products of later stages.
    cache : str or pathlib.Path, optional
        Local CRDS cache for those without a WCS of their own; the one that the environment names
        if not given.

    Returns
    -------
    tuple of SampledMap
        The map that each file brings along; if it has none, what assign_wcs gives it.

    Raises
    ------
    InputError
        If a file cannot be read, or a WCS is needed and cannot be assigned.
    """
    files = [Path(path) for path in paths]
    maps = {path: sky_map_of(path) for path in files}
    missing = [path for path, found in maps.items() if found is None]
    if missing:
        with reference_files(cache), quietly():
            maps |= {path: _assigned(path) for path in missing}
    return tuple(found for path in files if (found := maps[path]) is not None)


def assigned_map(path: str | Path, cache: str | Path | None = None) -> SampledMap:
    """
    Assign a WCS to an exposure with the pipeline's assign_wcs, and sample it.

    Parameters
    ----------
    path : str or pathlib.Path
        Rate of an imager; it is not changed.
    cache : str or pathlib.Path, optional
        Local CRDS cache; the one that the environment names if not given.

    Returns
    -------
    SampledMap
        The map.

    Raises
    ------
    InputError
        If there are no reference files, keywords are missing, or the step fails.
    """
    with reference_files(cache), quietly():
        return _assigned(Path(path))


def _assigned(path: Path) -> SampledMap:
    handle = FileHandle(path)
    with assigned_model(handle) as model:
        kind, wcs = type(model).__name__, model.meta.wcs
    if wcs is None:
        raise InputError(
            f"{path}: the pipeline's assign_wcs skips a {kind}; give an image of a whole detector "
            "or sub-array (keyword DATAMODL)"
        )
    return map_of_gwcs(wcs, handle.window.shape, str(path))


@contextmanager
def assigned_model(handle: FileHandle) -> Iterator[Any]:
    """
    Assign a WCS to an exposure with the pipeline's assign_wcs.

    Parameters
    ----------
    handle : FileHandle
        Exposure.

    Yields
    ------
    stdatamodels.jwst.datamodels.JwstDataModel
        Data model with the WCS in ``meta.wcs``, None if the step skipped the exposure; it is
        closed at the end, the WCS stays usable.

    Raises
    ------
    InputError
        If keywords are missing, or the step fails.
    """
    _check_keywords(handle)
    from jwst.assign_wcs import AssignWcsStep
    from stdatamodels.jwst import datamodels

    # Not by the class's `call`: it would ask for the file's own parameters of the step, which
    # takes as long as all the rest and could only change SIP fits and NIRSpec's slits.
    step = AssignWcsStep()
    step.sip_approx = False
    with ExitStack() as opened:
        try:
            # Opened here: a step that opens a file and then fails leaves it open.
            given = opened.enter_context(datamodels.open(handle.plain_path))
            result = opened.enter_context(step.run(given))
        # The step passes on whatever the CRDS client, ASDF and gwcs stumble over.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{handle.path}: the pipeline's assign_wcs cannot tell where it looks ({reason}); "
                "check the CRDS set-up, or give its cal product, which brings a WCS along"
            ) from error
        yield result


def _check_keywords(handle: FileHandle) -> None:
    """Name the missing keywords: assign_wcs stops at None, or goes on to a WCS that is wrong."""
    with handle.plain_path.open("rb") as stream:
        headers = scan_headers(stream)
    science = next(header for header in headers if header.name == "SCI")
    instrument = str(handle.meta.get("INSTRUME"))
    identity = (*_IDENTITY, *_IDENTITY_OF.get(instrument, ()))
    missing = _missing(headers[0], identity)
    if missing:
        raise InputError(
            f"{handle.path}: assign_wcs needs the keywords {', '.join(identity)}, but "
            f"{', '.join(missing)} {_is(missing)} missing; fetch the file again"
        )
    missing = _missing(science, _POINTING)
    if missing:
        raise InputError(
            f"{handle.path}: assign_wcs needs the pointing in {', '.join(_POINTING)}, but "
            f"{', '.join(missing)} {_is(missing)} missing; run set_telescope_pointing.py on it"
        )


def _missing(header: RawHeader, keywords: Iterable[str]) -> list[str]:
    return [key for key in keywords if header.get(key) in (None, "")]


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
