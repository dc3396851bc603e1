"""Associations: which exposures belong together, and as what."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webbkg.errors import InputError
from webbkg.io.products import product_stem

__all__ = ["AssociationProduct", "Level3", "exposures_from", "read_association", "read_level3"]

#: Member types of associations; the first two are exposures that every product may have.
_USED = ("science", "background")
_EXPTYPES = (
    *_USED,
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

#: Folder of an exposure in which the scripts for image-for-image backgrounds keep its rate file.
_RATES = "calibrated1_rates"

#: Name of an exposure as the archive gives it: program, observation and visit, group, sequence and
#: activity, number, segment of a long exposure, detector.
_ARCHIVE_NAME = re.compile(r"jw\d{11}_[0-9a-z]{5}_\d{5}(-seg\d{3})?_[0-9a-z]+", re.IGNORECASE)

#: Rates made of exposures, which are none themselves.
_MADE_OF_EXPOSURES = re.compile(r"^merged_other_visits|masked_source_emission_rate", re.IGNORECASE)


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
    others : mapping
        All other members by their type, such as ``sourcecat``.
    """

    name: str
    science: Path
    backgrounds: tuple[Path, ...]
    others: Mapping[str, tuple[Path, ...]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Level3:
    """
    A level-3 association, seen from the exposures that its mosaic is made of.

    Parameters
    ----------
    name : str
        Name of the mosaic, stem of its files.
    members : tuple of pathlib.Path
        Rate files of the science members.
    """

    name: str
    members: tuple[Path, ...]


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
    return _level2(path, _products(path)[1])


def read_level3(path: Path) -> Level3:
    """
    Read a level-3 association of images, and find the rate files of its members.

    Parameters
    ----------
    path : pathlib.Path
        JSON file. Its members may be named by any product of theirs (``_cal``, ``_crf``, ...);
        names are relative to its folder.

    Returns
    -------
    Level3
        The mosaic's name and the rate files of the science members, in order.

    Raises
    ------
    InputError
        If the file is not an association of one mosaic, or a rate file is not found.

    Notes
    -----
    A rate file is looked for where the member is, beside the association, and in the folders
    ``<exposure>/calibrated1_rates`` beside the member's folder, in the association's folder and
    beside that.
    """
    kind, products = _products(path)
    return _level3(path, kind, products)


def exposures_from(inputs: Sequence[Path]) -> list[Path]:
    """
    List the rate files that a user means.

    Parameters
    ----------
    inputs : sequence of pathlib.Path
        Rate files, level-2 and level-3 associations of images, which end in ``.json``, and
        directories, whose ``*_rate.fits`` and ``*/calibrated1_rates/*_rate.fits`` are meant.

    Returns
    -------
    list of pathlib.Path
        Rate files in order, each once. Whether those that were named exist is not checked.

    Raises
    ------
    InputError
        If nothing is found, an association cannot be used, or a file is no exposure but was made
        of exposures by an earlier run.
    """
    found: dict[object, Path] = {}
    for item in inputs:
        for path in _rates_of(item):
            if _MADE_OF_EXPOSURES.search(path.name):
                raise InputError(
                    f"{path}: is no exposure but was made of exposures by an image-for-image run; "
                    "leave it out, or give the directory, where such files are passed over"
                )
            found.setdefault(_identity(path), path)
    if not found:
        raise InputError(
            "no exposure was given; give *_rate.fits files, level-3 or level-2 associations, or a "
            "directory of rate files"
        )
    return list(found.values())


def _rates_of(item: Path) -> Iterator[Path]:
    if item.is_dir():
        yield from _rates_in(item)
    elif item.suffix.lower() == ".json":
        kind, products = _products(item)
        # Those made by hand may not say their type; level 3 has one product.
        if kind.endswith("2") or (not kind and len(products) > 1):
            _check_kind(item, kind, "image2")
            yield from (product.science for product in _level2(item, products))
        else:
            yield from _level3(item, kind, products).members
    else:
        yield item


def _rates_in(folder: Path) -> list[Path]:
    found = [*folder.glob("*_rate.fits"), *folder.glob(f"*/{_RATES}/*_rate.fits")]
    # Files of a leading dot are being written, or left by other systems.
    rates = [
        path
        for path in sorted(found)
        if not path.name.startswith(".") and not _MADE_OF_EXPOSURES.search(path.name)
    ]
    if not rates:
        raise InputError(
            f"{folder}: holds no exposure, neither as *_rate.fits nor as */{_RATES}/*_rate.fits; "
            "give the directory of the rate files"
        )
    return rates


def _identity(path: Path) -> object:
    """Tell files apart, whatever the path that leads there."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _level2(path: Path, products: list[Any]) -> tuple[AssociationProduct, ...]:
    read = tuple(_read_product(path, number, item) for number, item in enumerate(products, 1))
    names = [product.name for product in read]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two products are named {name!r}; give each its own name")
    return read


def _level3(path: Path, kind: str, products: list[Any]) -> Level3:
    _check_kind(path, kind, "image3")
    if len(products) != 1:
        raise InputError(
            f"{path}: a level-3 association has one product, this one has {len(products)}; give "
            "each mosaic an association of its own"
        )
    where = f"{path}: product 1"
    name, files = _read_members(path, where, products[0])
    if not files["science"]:
        raise InputError(f"{where} ({name}) has no science member; list its exposures")
    return Level3(name, tuple(_rate_of(path, member) for member in files["science"]))


def _check_kind(path: Path, kind: str, needed: str) -> None:
    if kind and kind != needed:
        raise InputError(
            f"{path}: is an association of type {kind!r}, needed is image3 or image2; only images "
            "have an image-for-image background"
        )


def _rate_of(association: Path, member: Path) -> Path:
    """Find the rate file of an exposure that is named by any of its products."""
    standard = _ARCHIVE_NAME.match(member.name)
    exposure = standard.group() if standard else product_stem(member)
    rate = f"{exposure}_rate.fits"
    # Made absolute first: the folder above the working directory has no name otherwise.
    home, near = (Path(os.path.normpath(path.absolute())).parent for path in (association, member))
    places = dict.fromkeys(
        (
            near,
            home,
            near.parent / _RATES,
            home / exposure / _RATES,
            home.parent / exposure / _RATES,
        )
    )
    for place in places:
        if (place / rate).is_file():
            return place / rate
    raise InputError(
        f"{association}: member {member.name} needs its {rate}, which is in none of "
        f"{', '.join(map(str, places))}; put it there, or give the rate files themselves"
    )


def _products(path: Path) -> tuple[str, list[Any]]:
    """Type of an association, empty if it has none, and its products."""
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
    kind = content.get("asn_type")
    return kind.lower() if isinstance(kind, str) and kind.lower() != "none" else "", products


def _read_product(path: Path, number: int, item: Any) -> AssociationProduct:
    where = f"{path}: product {number}"
    name, files = _read_members(path, where, item)
    if len(files["science"]) != 1:
        raise InputError(
            f"{where} ({name}) needs one science member, has {len(files['science'])}; give each "
            "science exposure a product of its own"
        )
    others = {kind: tuple(paths) for kind, paths in files.items() if kind not in _USED}
    return AssociationProduct(name, files["science"][0], tuple(files["background"]), others)


def _read_members(path: Path, where: str, item: Any) -> tuple[str, dict[str, list[Path]]]:
    """Name of a product and its members by their type."""
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
    return name, files
