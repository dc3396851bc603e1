"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from webbkg.errors import OutputError

__all__ = ["make_directory", "removing_empty", "replacing"]


def make_directory(path: Path) -> Path:
    """
    Create an output directory if it is not there, and check that it can be written to.

    Parameters
    ----------
    path : pathlib.Path
        Directory.

    Returns
    -------
    pathlib.Path
        The same path.

    Raises
    ------
    OutputError
        If it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".webbkg-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{path}: not a directory that can be written to ({error.strerror}); choose another "
            "with -o"
        ) from error
    return path


@contextmanager
def removing_empty(output: Path) -> Iterator[None]:
    """
    Leave no directory behind where nothing was written.

    Parameters
    ----------
    output : pathlib.Path
        Output directory, which the block may make.

    Yields
    ------
    None
        Nothing.
    """
    new = [path for path in (output, *output.parents) if not path.exists()]
    try:
        yield
    finally:
        # These go only while they are empty.
        with suppress(OSError):
            for path in new:
                path.rmdir()


@contextmanager
def replacing(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """
    Give a temporary name to write to, and rename it to the target when all is written.

    Parameters
    ----------
    path : pathlib.Path
        Target.
    overwrite : bool, optional
        Whether a file of that name may be replaced.

    Yields
    ------
    pathlib.Path
        Name beside the target; it is removed if the block fails.

    Raises
    ------
    OutputError
        If the target exists and may not be replaced, or cannot be written.
    """
    check_free(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_free(path: Path, *, overwrite: bool) -> None:
    """
    Refuse a target that exists, unless it may be replaced.

    Parameters
    ----------
    path : pathlib.Path
        Target.
    overwrite : bool
        Whether a file of that name may be replaced.

    Raises
    ------
    OutputError
        If the file exists and `overwrite` is false.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    if exists and not overwrite:
        raise OutputError(f"{path}: exists already; use --overwrite to replace it")
