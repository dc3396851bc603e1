"""The stages of an image-for-image job, each on files of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from webbkg.errors import InputError, OutputError, WebbkgError
from webbkg.io.associations import exposures_from
from webbkg.io.atomic import check_free, make_directory, removing_empty
from webbkg.io.files import FileHandle
from webbkg.io.i4i_calibrated import subtract_merged
from webbkg.io.i4i_files import Layout, read_level2, write_background, write_masked_rate
from webbkg.io.products import product_stem
from webbkg.io.provenance import Provenance
from webbkg.io.seed import read_seed
from webbkg.jobs.group import members_of
from webbkg.jobs.i4i import check_references
from webbkg.jobs.pieces import (
    Maps,
    check_masks,
    filter_remark,
    masked_pixels,
    project_seed,
    seed_of_mosaic,
)
from webbkg.jobs.talk import Talk
from webbkg.methods.groups import group_exposures
from webbkg.methods.i4i import I4iParams
from webbkg.methods.image_for_image import ImageForImage
from webbkg.methods.partners import GroupPlan, plan_groups

__all__ = ["make_masks", "make_merged", "make_mosaics", "make_seed", "make_subtracted"]

_MASKED = "_masked_source_emission"


def make_seed(
    mosaic: Path, output: Path, params: I4iParams, talk: Talk, *, overwrite: bool = False
) -> int:
    """
    Find the sources of a mosaic.

    Parameters
    ----------
    mosaic : pathlib.Path
        Mosaic (``i2d``), or any image with a celestial WCS.
    output : pathlib.Path
        Output directory.
    params : I4iParams
        Parameters.
    talk : Talk
        Who is told.
    overwrite : bool, optional
        Whether the seed image may be replaced.

    Returns
    -------
    int
        0, as nothing failed.

    Raises
    ------
    InputError
        If the mosaic cannot be used.
    OutputError
        If the seed image exists and may not be replaced, or cannot be written.
    """
    target = Layout(output).seed(product_stem(mosaic).removesuffix("_i2d"))
    check_free(target, overwrite=overwrite)
    with removing_empty(target.parent):
        make_directory(target.parent)
        masked = seed_of_mosaic(mosaic, target, params, overwrite=overwrite)
    talk.say(f"{target}: {100 * masked:.1f} % of {mosaic.name} has sources")
    return 0


def make_masks(
    seed: Path,
    inputs: Sequence[Path],
    output: Path,
    params: I4iParams,
    talk: Talk,
    *,
    overwrite: bool = False,
) -> int:
    """
    Write exposures without the sources of a seed image.

    Parameters
    ----------
    seed : pathlib.Path
        Seed image.
    inputs : sequence of pathlib.Path
        Rates, associations or directories.
    output : pathlib.Path
        Output directory.
    params : I4iParams
        Parameters.
    talk : Talk
        Who is told.
    overwrite : bool, optional
        Whether masked rates may be replaced.

    Returns
    -------
    int
        0, as nothing failed.

    Raises
    ------
    InputError
        If a file cannot be used, or no exposure overlaps with the seed image.
    NoBackgroundPixelsError
        If sources cover every pixel.
    OutputError
        If a masked rate exists and may not be replaced, or cannot be written.
    """
    handles, layout = [FileHandle(path) for path in exposures_from(inputs)], Layout(output)
    layout.check_distinct([handle.path for handle in handles])
    for handle in handles:
        check_free(layout.masked_rate(handle.path), overwrite=overwrite)
    read = read_seed(seed)
    masks, remarks = project_seed(read, handles, Maps()(handles), grow=params.grow, name=seed.name)
    scarce = check_masks(masks, handles)
    others = (text for handle in handles for text in filter_remark(read.meta, handle, seed.name))
    for text in dict.fromkeys((*remarks, *scarce, *others)):
        talk.warn(text)
    for handle, mask in zip(handles, masks, strict=True):
        target = layout.masked_rate(handle.path)
        layout.make_directories(handle.path)
        write_masked_rate(handle, mask, target, seed=seed.name, overwrite=overwrite)
        talk.say(f"{target}: {100 * mask.mean():.1f} % masked")
        talk.advance(1.0 / len(handles))
    return 0


def make_merged(
    masked: Sequence[Path],
    rates: Sequence[Path],
    output: Path,
    params: I4iParams,
    talk: Talk,
    *,
    overwrite: bool = False,
) -> int:
    """
    Build backgrounds of masked rates, with their lists and associations.

    Parameters
    ----------
    masked : sequence of pathlib.Path
        Masked rates.
    rates : sequence of pathlib.Path
        The exposures they were made of, or directories of them; those beside the masked rates
        need not be given.
    output : pathlib.Path
        Output directory.
    params : I4iParams
        Parameters; sources are not looked for.
    talk : Talk
        Who is told.
    overwrite : bool, optional
        Whether files may be replaced.

    Returns
    -------
    int
        Number of groups and exposures that could not be done.

    Raises
    ------
    InputError
        If a file cannot be used, an exposure is not found, or no group has a background.
    OutputError
        If a file exists and may not be replaced, or cannot be written.
    """
    masks = _pairs(masked, rates)
    layout = Layout(output)
    layout.check_distinct(list(masks))
    maps = Maps()
    plans = plan_groups(
        [FileHandle(path) for path in masks],
        maps,
        max_days=params.max_days,
        min_separation=params.min_separation,
        needs_maps=False,
    )
    for path in (item.exposure for plan in plans for item in plan.usable):
        if isinstance(path, FileHandle):
            check_free(layout.merged_rate(path.path), overwrite=overwrite)
            check_free(layout.association(path.path), overwrite=overwrite)
    n_failed = sum(1 if plan.error else len(plan.exposures) - len(plan.usable) for plan in plans)
    failed: list[str] = []
    for plan in plans:
        if plan.error:
            talk.fail(plan.error)
            continue
        for text in plan.warnings:
            talk.warn(text)
        with _going_on(talk, failed):
            _merge(plan, masks, layout, params, maps, talk, overwrite)
    return n_failed + len(failed)


@contextmanager
def _going_on(talk: Talk, failed: list[str]) -> Iterator[None]:
    """Tell of an error and go on with the next; a full disk would not get better."""
    try:
        yield
    except OutputError:
        raise
    except WebbkgError as error:
        talk.fail(str(error))
        failed.append(str(error))


def _merge(
    plan: GroupPlan,
    masks: dict[Path, Path],
    layout: Layout,
    params: I4iParams,
    maps: Maps,
    talk: Talk,
    overwrite: bool,
) -> None:
    handles, partners, wanted = members_of(plan)
    found = [masked_pixels(masks[handle.path]) for handle in handles]
    for text in check_masks(found, handles):
        talk.warn(text)
    try:
        positions = maps(handles)
    except InputError:
        # Without them the background below sources is that of the pixels around.
        positions = ()
    work = ImageForImage(
        handles, positions, params.changed(iterations=0), partners=partners, masks=found
    )
    work.run()
    for index in wanted:
        chosen = [handles[k] for k in partners[index]]
        provenance = Provenance(
            "i4i", params, [(handle.name, handle.checksum) for handle in (handles[index], *chosen)]
        )
        association = write_background(
            layout,
            work.subtraction(index),
            provenance,
            [handle.path for handle in chosen],
            overwrite=overwrite,
        )
        talk.say(f"{association}: background of {len(chosen)} other exposures")
        talk.advance(1.0 / len(wanted))


def _pairs(masked: Sequence[Path], rates: Sequence[Path]) -> dict[Path, Path]:
    """Masked rate of each exposure."""
    given = {product_stem(path): path for path in exposures_from(rates)} if rates else {}
    pairs = {}
    for path in masked:
        stem = product_stem(path).removesuffix(_MASKED)
        if stem == product_stem(path):
            raise InputError(
                f"{path}: is no masked rate, *{_MASKED}_rate.fits is needed; make it with webbkg "
                "i4i mask"
            )
        places = [given.get(stem), path.with_name(f"{stem}_rate.fits")]
        rate = next((place for place in places if place is not None and place.is_file()), None)
        if rate is None:
            raise InputError(
                f"{path}: its exposure {stem}_rate.fits is not beside it; tell where it is with "
                "--rates"
            )
        pairs[rate] = path
    return pairs


def make_subtracted(
    inputs: Sequence[Path],
    output: Path | None,
    talk: Talk,
    *,
    calibrated: bool = True,
    overwrite: bool = False,
) -> int:
    """
    Subtract the backgrounds of exposures, and calibrate them by ``calwebb_image2``.

    Parameters
    ----------
    inputs : sequence of pathlib.Path
        Output directories of the stage before, or exposures.
    output : pathlib.Path or None
        That directory, for exposures.
    talk : Talk
        Who is told.
    calibrated : bool, optional
        Whether exposures are calibrated; if not, corrected rates are written.
    overwrite : bool, optional
        Whether products may be replaced.

    Returns
    -------
    int
        Number of exposures that could not be done.

    Raises
    ------
    InputError
        If there are no reference files, or nothing to be calibrated.
    OutputError
        If a product exists and may not be replaced, or cannot be written.
    """
    if calibrated:
        check_references()
    associations = [path for item in inputs for path in _associations(item, output)]
    for path in associations:
        check_free(_target(path, calibrated=calibrated), overwrite=overwrite)
    failed: list[str] = []
    for path in associations:
        with _going_on(talk, failed):
            talk.say(f"{_subtract(path, calibrated=calibrated, overwrite=overwrite)}")
        talk.advance(1.0 / len(associations))
    return len(failed)


def _associations(item: Path, output: Path | None) -> list[Path]:
    if item.is_dir():
        found = sorted(item.glob("*/calibrated2_cals/*_asn.json"))
        if not found:
            raise InputError(
                f"{item}: holds no */calibrated2_cals/*_asn.json; give the output directory of "
                "webbkg i4i merge"
            )
        return found
    if item.suffix == ".json":
        return [item]
    if output is None:
        raise InputError(
            f"{item}: give the directory of its background, the output of webbkg i4i merge, with -o"
        )
    path = Layout(output).association(item)
    if not path.is_file():
        raise InputError(
            f"{item}: has no association {path}; make its background with webbkg i4i merge"
        )
    return [path]


def _subtract(association: Path, *, calibrated: bool, overwrite: bool) -> Path:
    """Make the product of an association."""
    if calibrated:
        # The pipeline takes seconds to import.
        from webbkg.pipeline import calibrate

        return calibrate(association, association.parent, overwrite=overwrite)
    target = _target(association, calibrated=False)
    subtract_merged(read_level2(association), target, overwrite=overwrite)
    return target


def _target(association: Path, *, calibrated: bool) -> Path:
    """File of the product of an association."""
    if calibrated:
        return association.with_name(association.name.replace("_asn.json", "_cal.fits"))
    product = read_level2(association)
    return product.backgrounds[0].with_name(f"{product_stem(product.science)}_bsub.fits")


def make_mosaics(
    calibrated: Sequence[Path],
    output: Path,
    talk: Talk,
    *,
    like: Path | None = None,
    match_sky: bool = False,
    overwrite: bool = False,
) -> int:
    """
    Make a mosaic of each filter and instrument, by ``calwebb_image3``.

    Parameters
    ----------
    calibrated : sequence of pathlib.Path
        Calibrated exposures.
    output : pathlib.Path
        Output directory.
    talk : Talk
        Who is told.
    like : pathlib.Path, optional
        Mosaic whose pixel grid is to be used.
    match_sky : bool, optional
        Whether the pipeline levels the skies.
    overwrite : bool, optional
        Whether mosaics may be replaced.

    Returns
    -------
    int
        Number of mosaics that could not be made.

    Raises
    ------
    InputError
        If there are no reference files, or an exposure cannot be used.
    OutputError
        If a mosaic exists and may not be replaced, or cannot be written.
    """
    check_references()
    groups = group_exposures(FileHandle(path) for path in calibrated)
    for group in groups:
        check_free(output / f"{group.name}_i2d.fits", overwrite=overwrite)
    from webbkg.pipeline import mosaic

    failed: list[str] = []
    with removing_empty(output):
        for group in groups:
            paths = [member.path for member in group.members if isinstance(member, FileHandle)]
            with _going_on(talk, failed):
                made = mosaic(
                    paths,
                    group.name,
                    output,
                    like=like,
                    match_sky=match_sky,
                    overwrite=overwrite,
                )
                talk.say(f"{made}: {len(paths)} exposures")
            talk.advance(1.0 / len(groups))
    return len(failed)
