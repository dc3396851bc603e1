"""Level-2 associations: which exposures belong together, and as what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webbkg.errors import InputError

__all__ = ["AssociationProduct", "read_association"]

#: Member types of level-2 associations; only the first two are used here.
_EXPTYPES = (
    "science",
    "background",
    "imprint",
    "sourcecat",
    "segmap",
    "direct_image",
    "selfcal",
    "psf",
    "acq",
    "target_acquisition",
    "autowave",
    "autoflat",
)


@dataclass(frozen=True)
class AssociationProduct:
    """
    One product of an association.

    Parameters
    ----------
    name : str
        Name of the product, stem of its files.
    science : pathlib.Path
        Science exposure.
    backgrounds : tuple of pathlib.Path
        Background exposures.
    """

    name: str
    science: Path
    backgrounds: tuple[Path, ...]


def read_association(path: Path) -> tuple[AssociationProduct, ...]:
    """
    Read a level-2 association.

    Parameters
    ----------
    path : pathlib.Path
        JSON file; the members' names are relative to its folder.

    Returns
    -------
    tuple of AssociationProduct
        All products, in order. Whether their files exist is not checked.

    Raises
    ------
    InputError
        If the file is not a level-2 association with one science member for each product.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a valid JSON association ({error})") from error
    products = content.get("products") if isinstance(content, dict) else None
    if not isinstance(products, list) or not products:
        raise InputError(
            f"{path}: an association needs a list 'products' with at least one entry, got "
            f"{'none' if not products else type(products).__name__}; make it with asn_from_list"
        )
    read = tuple(_read_product(path, number, item) for number, item in enumerate(products, 1))
    names = [product.name for product in read]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two products are named {name!r}; give each its own name")
    return read


def _read_product(path: Path, number: int, item: Any) -> AssociationProduct:
    where = f"{path}: product {number}"
    name = item.get("name") if isinstance(item, dict) else None
    members = item.get("members") if isinstance(item, dict) else None
    if not isinstance(name, str) or not name or Path(name).name != name or "\0" in name:
        raise InputError(f"{where} needs a 'name' that is a plain file name, got {name!r}")
    if not isinstance(members, list) or not members:
        raise InputError(
            f"{where} ({name}) has no members; list a science and background exposures"
        )
    files: dict[str, list[Path]] = {"science": [], "background": []}
    for member in members:
        expname = member.get("expname") if isinstance(member, dict) else None
        exptype = member.get("exptype") if isinstance(member, dict) else None
        if not isinstance(expname, str) or not isinstance(exptype, str) or "\0" in expname:
            raise InputError(
                f"{where} ({name}): each member needs 'expname' and 'exptype', got {member!r}"
            )
        if exptype.lower() not in _EXPTYPES:
            raise InputError(
                f"{where} ({name}): {expname} has the unknown exptype {exptype!r}; known are "
                + ", ".join(_EXPTYPES)
            )
        files.setdefault(exptype.lower(), []).append(path.parent / expname)
    if len(files["science"]) != 1:
        raise InputError(
            f"{where} ({name}) needs one science member, has {len(files['science'])}; give each "
            "science exposure a product of its own"
        )
    return AssociationProduct(name, files["science"][0], tuple(files["background"]))
