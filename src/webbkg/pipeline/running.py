"""How the stages of the JWST pipeline are run: reference files, associations and log lines."""

from __future__ import annotations

import gc
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from webbkg.errors import InputError
from webbkg.sim.crds import local_crds

__all__ = ["Steps", "existing", "full_paths", "product_names", "quietly", "reference_files", "run"]

Steps = Mapping[str, Mapping[str, Any]]
_VARIABLES = ("CRDS_PATH", "CRDS_SERVER_URL")


def run(pipeline: Any, path: Path, folder: Path, steps: Steps | None, verbose: bool) -> list[str]:
    """
    Run a pipeline and let go of its models.

    Parameters
    ----------
    pipeline : type
        Class of the pipeline.
    path : pathlib.Path
        Exposure or association.
    folder : pathlib.Path
        Directory of the products.
    steps : mapping or None
        Parameters of the steps by name.
    verbose : bool
        Whether log lines are printed.

    Returns
    -------
    list of str
        File names of the models that the pipeline returned.
    """
    given = {name: dict(values) for name, values in (steps or {}).items()}
    with _few_collections() if verbose else quietly():
        results = pipeline.call(
            str(path), save_results=True, output_dir=str(folder), steps=given, configure_log=verbose
        )
    models = results if isinstance(results, list) else [results]
    names = []
    for model in filter(None, models):
        names.append(Path(model.meta.filename).name)
        model.close()
    return names


@contextmanager
def quietly() -> Iterator[None]:
    """
    Run steps without anything printed, and quickly.

    Yields
    ------
    None
        Nothing.
    """
    with _without_console(), _few_collections():
        yield


def reference_files(cache: str | Path | None) -> AbstractContextManager[None]:
    """
    Choose reference files.

    Parameters
    ----------
    cache : str, pathlib.Path or None
        Local CRDS cache, or None for the one that the environment names.

    Returns
    -------
    context manager
        Within it the pipeline uses that cache.

    Raises
    ------
    InputError
        If there is none.
    """
    if cache is not None:
        return local_crds(existing(Path(cache)))
    if not any(os.environ.get(name) for name in _VARIABLES):
        raise InputError(
            f"the pipeline needs reference files, but neither {' nor '.join(_VARIABLES)} is set; "
            "set them as the JWST pipeline's documentation tells, or pass a local cache"
        )
    return nullcontext()


@contextmanager
def full_paths(path: Path, *folders: Path) -> Iterator[Path]:
    """
    Write an association anew with full paths: the second stage opens members where it is started.

    Parameters
    ----------
    path : pathlib.Path
        Association; any other file is taken as it is.
    *folders : pathlib.Path
        Where members may be, besides the association's own directory.

    Yields
    ------
    pathlib.Path
        Copy of the same name; it is gone at the end.

    Raises
    ------
    InputError
        If a member is not there.
    """
    if path.suffix != ".json":
        yield path.resolve()
        return
    table = _read(path)
    places = (path.parent, *folders)
    for member in (member for product in table["products"] for member in product["members"]):
        paths = [place / member["expname"] for place in places]
        found = next((p for p in paths if p.is_file()), None)
        if found is None:
            raise InputError(
                f"{path.name}: its member {member['expname']} is not in "
                f"{' or '.join(map(str, dict.fromkeys(places)))}; run the stage before, or move it "
                "there"
            )
        member["expname"] = str(found.resolve())
    with TemporaryDirectory(prefix="webbkg-") as temporary:
        copy = Path(temporary) / path.name
        copy.write_text(json.dumps(table), encoding="utf-8")
        yield copy


def product_names(path: Path) -> list[str]:
    """
    Read the names of an association's products.

    Parameters
    ----------
    path : pathlib.Path
        Association.

    Returns
    -------
    list of str
        Names without suffix.
    """
    return [product["name"] for product in _read(path)["products"]]


def existing(path: Path) -> Path:
    """
    Check that a file or directory is there.

    Parameters
    ----------
    path : pathlib.Path
        The path.

    Returns
    -------
    pathlib.Path
        The same path.

    Raises
    ------
    InputError
        If it is not.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or directory; check the path")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {**table, "products": [{**p, "members": [*p["members"]]} for p in table["products"]]}
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: not an association that can be read ({error})") from error


@contextmanager
def _without_console() -> Iterator[None]:
    """
    Keep quiet what a user can do nothing about.

    The CRDS client, the only one to print of itself, and warnings of our making or about the
    pipeline's own code.
    """
    from crds.core import log

    prints = log.THE_LOGGER.console is not None
    if prints:
        log.remove_console_handler()
    # Without any handler logging prints errors by itself.
    nowhere = logging.NullHandler()
    log.THE_LOGGER.logger.addHandler(nowhere)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input association file contains path", UserWarning)
            # A polynomial for readers without gwcs is not as good as the WCS itself.
            warnings.filterwarnings("ignore", "Failed to achieve requested SIP")
            warnings.filterwarnings("ignore", "'get_cache_lock' is deprecated", DeprecationWarning)
            yield
    finally:
        log.THE_LOGGER.logger.removeHandler(nowhere)
        if prints:
            log.add_console_handler()


@contextmanager
def _few_collections() -> Iterator[None]:
    """Spare the steps, each of which collects garbage, to look through all that is imported."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
