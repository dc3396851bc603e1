"""Which files a command may write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from webbkg.errors import InputError, OutputError
from webbkg.io.atomic import check_free

__all__ = ["check_distinct", "check_targets"]


def check_distinct(products: Iterable[tuple[Path, Path]]) -> None:
    """
    Refuse two exposures with one product.

    Parameters
    ----------
    products : iterable of tuple of pathlib.Path
        Exposure and its product, or the stem of its products.

    Raises
    ------
    InputError
        If two have the same.
    """
    owners: dict[Path, Path] = {}
    for exposure, product in products:
        if product in owners:
            raise InputError(
                f"{exposure} and {owners[product]}: their products would both be named "
                f"{product.name}; run them with different output directories"
            )
        owners[product] = exposure


def check_targets(targets: Iterable[Path], inputs: Iterable[Path], *, overwrite: bool) -> None:
    """
    Refuse to write over what is there, and over inputs even if products may be replaced.

    Parameters
    ----------
    targets : iterable of pathlib.Path
        Files to be written.
    inputs : iterable of pathlib.Path
        Files that are read.
    overwrite : bool
        Whether products may be replaced.

    Raises
    ------
    OutputError
        If a target is there and may not be replaced, or is an input.
    """
    wanted = list(targets)
    for target in wanted:
        check_free(target, overwrite=overwrite)
    read = {path.resolve() for path in inputs}
    for target in wanted:
        if target.resolve() in read and not target.is_symlink():
            raise OutputError(
                f"{target}: is an input of this run; choose another directory with -o"
            )
