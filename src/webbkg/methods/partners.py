"""Which exposures of a group serve as background of which, and whether they can."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from webbkg.errors import InputError, WebbkgError
from webbkg.exposure import ExposureHandle
from webbkg.methods.groups import Group, fwhm_px, group_exposures
from webbkg.methods.inputs import cut_short, of_other_kind, subtracted_already
from webbkg.methods.relations import Relations, mid_time, relate

if TYPE_CHECKING:
    from webbkg.sky import SkyMap

__all__ = [
    "ExposurePlan",
    "GroupPlan",
    "Partner",
    "check_group",
    "choose_partners",
    "plan_group",
    "plan_groups",
]

#: Exposures that a background needs at least: with one alone nothing tells source from sky.
MIN_PARTNERS = 2
#: Below so many the background adds more than 12 % to the noise, and little can be rejected.
FEW_PARTNERS = 4
#: Partners nearer than this see wings of the sources that the exposure has in the same pixels.
_WIDE_IN_FWHM = 3.0
#: Masks of sources are wider than that, whatever the filter [px].
_WIDE_PIXELS = 10.0
#: Least distance of partners, in pixels and in FWHM.
_NEAR_PIXELS, _NEAR_IN_FWHM = 3.0, 1.5

_REMEDY = "give more and wider dithers, or a dedicated background to webbkg average"

#: Gives the sky maps of exposures, in their order.
SkyMaps = Callable[[Sequence[ExposureHandle]], "Sequence[SkyMap]"]


@dataclass(frozen=True)
class Partner:
    """
    Another exposure of the group, and whether it serves as background.

    Parameters
    ----------
    handle : ExposureHandle
        The other exposure.
    used : bool
        Whether it is used.
    reason : str
        Why not; empty if it is used.
    days : float
        Time between the middles of the two exposures [d]. NaN if unknown.
    separation_px : float
        Distance on the sky between what a pixel sees in the two exposures [px], see
        `Relations`.
    """

    handle: ExposureHandle
    used: bool
    reason: str
    days: float
    separation_px: float


@dataclass(frozen=True)
class ExposurePlan:
    """
    How the background of one exposure is built.

    Parameters
    ----------
    exposure : ExposureHandle
        The exposure.
    partners : tuple of Partner
        The others of the group, used or not, but for those that cannot be used for any; none if
        the exposure itself is such a one.
    error : str, optional
        Why no background can be built; empty if it can.
    """

    exposure: ExposureHandle
    partners: tuple[Partner, ...]
    error: str = ""

    @property
    def used(self) -> tuple[ExposureHandle, ...]:
        """The exposures that its background is built from."""
        return tuple(partner.handle for partner in self.partners if partner.used)


@dataclass(frozen=True)
class GroupPlan:
    """
    What is done with a group.

    Parameters
    ----------
    group : Group
        The group.
    exposures : tuple of ExposurePlan
        One for each member, in their order; none if the group was excluded before.
    fwhm_px : float
        Width of a point source [px].
    warnings : tuple of str, optional
        Sentences for the user.
    error : str, optional
        Why nothing is done with it; empty if something is.
    """

    group: Group
    exposures: tuple[ExposurePlan, ...]
    fwhm_px: float
    warnings: tuple[str, ...] = ()
    error: str = ""

    @property
    def usable(self) -> tuple[ExposurePlan, ...]:
        """The exposures whose background can be built; none if the group is excluded."""
        return tuple(plan for plan in self.exposures if not plan.error)

    @property
    def closest_px(self) -> float:
        """Median distance of an exposure's partners where it is smallest [px]; inf for none."""
        medians = (
            float(np.median([partner.separation_px for partner in plan.partners if partner.used]))
            for plan in self.usable
        )
        return min(medians, default=math.inf)

    @property
    def small_dithers(self) -> bool:
        """Whether half of an exposure's partners see its sources where it has them itself."""
        return self.closest_px < self.wide_px

    @property
    def wide_px(self) -> float:
        """Distance of partners that see other sources in a pixel [px]."""
        return max(_WIDE_IN_FWHM * self.fwhm_px, _WIDE_PIXELS)


def choose_partners(
    index: int,
    handles: Sequence[ExposureHandle],
    relations: Relations,
    *,
    max_days: float,
    min_separation_px: float,
) -> tuple[Partner, ...]:
    """
    Choose the exposures that serve as background of one of them.

    Parameters
    ----------
    index : int
        Which exposure the background is for.
    handles : sequence of ExposureHandle
        Exposures of a group.
    relations : Relations
        How far they are from each other.
    max_days : float
        Longest time between the middles of two exposures [d]; not applied where a date is missing.
    min_separation_px : float
        Smallest distance on the sky [px].

    Returns
    -------
    tuple of Partner
        All others, in order, with the reason why one is not used.
    """
    partners = []
    for other, handle in enumerate(handles):
        if other == index:
            continue
        days = float(relations.days[index, other])
        separation = float(relations.separations_px[index, other])
        first = relations.same_as[other]
        reason = ""
        if first == relations.same_as[index]:
            reason = "the same exposure under another name"
        elif first != other:
            reason = f"the same exposure as {handles[first].name}"
        elif days > max_days:
            reason = f"{days:.1f} days apart, more than {max_days:g}"
        elif separation < min_separation_px:
            reason = f"{separation:.2f} px apart on the sky, less than {min_separation_px:.2f}"
        partners.append(Partner(handle, not reason, reason, days, separation))
    return tuple(partners)


def plan_groups(
    handles: Iterable[ExposureHandle],
    maps_of: SkyMaps,
    *,
    max_days: float,
    min_separation: float | None,
    needs_maps: bool = True,
) -> list[GroupPlan]:
    """
    Plan the backgrounds of exposures of any detectors, filters and sub-arrays.

    Parameters
    ----------
    handles : iterable of ExposureHandle
        Exposures.
    maps_of : callable
        Gives the sky maps of exposures; called once for each group that needs them.
    max_days : float
        Longest time between the middles of two exposures [d].
    min_separation : float or None
        Smallest distance on the sky [px]; the larger of 3 px and 1.5 FWHM if none.
    needs_maps : bool, optional
        Whether a group without sky maps is excluded, see `plan_group`.

    Returns
    -------
    list of GroupPlan
        Plans of all groups, those that are excluded with their error.

    Raises
    ------
    InputError
        If all groups are excluded.
    """
    plans = [
        plan_group(
            group,
            maps_of,
            max_days=max_days,
            min_separation=min_separation,
            needs_maps=needs_maps,
        )
        for group in group_exposures(handles)
    ]
    errors = [plan.error for plan in plans if plan.error]
    if len(errors) == len(plans):
        several = f"none of the {len(plans)} groups has a background: " if len(plans) > 1 else ""
        raise InputError(several + "; ".join(errors) if errors else "no exposure was given")
    return plans


def plan_group(
    group: Group,
    maps_of: SkyMaps,
    *,
    max_days: float,
    min_separation: float | None,
    needs_maps: bool = True,
    unusable: Mapping[str, str] | None = None,
) -> GroupPlan:
    """
    Plan the backgrounds of the exposures of a group.

    Parameters
    ----------
    group : Group
        The group.
    maps_of : callable
        Gives the sky maps of exposures; called once, or not at all if the group is excluded.
    max_days : float
        Longest time between the middles of two exposures [d].
    min_separation : float or None
        Smallest distance on the sky [px]; the larger of 3 px and 1.5 FWHM if none.
    needs_maps : bool, optional
        Whether the group is excluded if it has no sky maps. If not, and `min_separation` is none,
        all distances are taken for large, and a warning says so.
    unusable : mapping, optional
        Why members cannot be used, by their names, besides what is seen in them.

    Returns
    -------
    GroupPlan
        Partners of each exposure, or the error for which the group is excluded: too few exposures,
        a single pointing, no partner within reach, no sky maps.
    """
    fwhm = fwhm_px(group.members[0].meta)
    needs_maps = needs_maps or min_separation is not None
    if min_separation is None:
        min_separation = max(_NEAR_PIXELS, _NEAR_IN_FWHM * fwhm)
    known = unusable or {}
    problems = [known.get(member.name) or _problem(member) for member in group.members]
    fit = [member for member, problem in zip(group.members, problems, strict=True) if not problem]
    unfit = tuple(problem for problem in problems if problem)
    try:
        _check_number(group, len(fit))
        maps, remarks = _maps_if_any(group.name, fit, maps_of, needed=needs_maps)
        relations = relate(fit, maps)
    except WebbkgError as error:
        return GroupPlan(group, (), fwhm, unfit, str(error))
    planned = (
        _plan_exposure(index, fit, relations, max_days=max_days, min_separation_px=min_separation)
        for index in range(len(fit))
    )
    exposures = tuple(
        ExposurePlan(member, (), problem) if problem else next(planned)
        for member, problem in zip(group.members, problems, strict=True)
    )
    warnings = unfit + remarks + _without_dates(group.name, fit)
    plan = GroupPlan(group, exposures, fwhm, warnings)
    try:
        found = check_group(plan, relations, max_days=max_days, min_separation_px=min_separation)
    except InputError as error:
        return replace(plan, error=str(error))
    return replace(plan, warnings=plan.warnings + found)


def check_group(
    plan: GroupPlan, relations: Relations, *, max_days: float, min_separation_px: float
) -> tuple[str, ...]:
    """
    Check that the exposures of a group can separate sky from source.

    Parameters
    ----------
    plan : GroupPlan
        Plan of the group.
    relations : Relations
        How far its exposures are from each other.
    max_days : float
        Longest time between the middles of two exposures [d].
    min_separation_px : float
        Smallest distance on the sky [px].

    Returns
    -------
    tuple of str
        Sentences for the user: exposures that are left out, few partners, small dithers.

    Raises
    ------
    InputError
        If there are fewer than 3 different exposures, all have one pointing, or none has 2
        partners.
    """
    name, n_exposures = plan.group.name, len(set(relations.same_as))
    _check_number(plan.group, n_exposures)
    extent = float(relations.separations_px.max())
    if extent < min_separation_px:
        raise InputError(
            f"{name}: its {n_exposures} exposures have one pointing, the widest are "
            f"{extent:.2f} px apart where {min_separation_px:.2f} px are needed, and cannot "
            f"separate sky from source; {_REMEDY}"
        )
    if not plan.usable:
        raise InputError(
            f"{name}: none of its {n_exposures} exposures has {MIN_PARTNERS} others within "
            f"{max_days:g} days and at least {min_separation_px:.2f} px away on the sky; relax "
            f"--max-days or --min-separation, or {_REMEDY}"
        )
    # Those that cannot be used at all are in the plan's warnings.
    warnings = [item.error for item in plan.exposures if item.error and item.partners]
    fewest = min(len(item.used) for item in plan.usable)
    if fewest < FEW_PARTNERS:
        noise = 100.0 * (math.sqrt(1.0 + 1.0 / fewest) - 1.0)
        warnings.append(
            f"{name}: backgrounds from as few as {fewest} other exposures, whose noise alone adds "
            f"up to {noise:.0f} % to that of the result; 5 dithers or more are better"
        )
    if plan.small_dithers:
        warnings.append(
            f"{name}: SMALL DITHERS: an exposure has half of its partners within "
            f"{plan.closest_px:.1f} px on the sky, needed are {plan.wide_px:.1f} px "
            f"({_WIDE_IN_FWHM:g} FWHM and no less than {_WIDE_PIXELS:g} px); the exposures cannot "
            "separate sky from source, and flux is lost, most of it from extended sources; "
            f"{_REMEDY}"
        )
    return tuple(warnings)


def _maps_if_any(
    name: str, handles: Sequence[ExposureHandle], maps_of: SkyMaps, *, needed: bool
) -> tuple[Sequence[SkyMap] | None, tuple[str, ...]]:
    """Give sky maps; if there are none and none are needed, a sentence for the user instead."""
    try:
        return maps_of(handles), ()
    except WebbkgError as error:
        if needed:
            raise
        sentence = (
            f"{name}: distances on the sky are not checked, all other exposures serve as "
            f"background ({error})"
        )
        return None, (sentence,)


def _check_number(group: Group, n_exposures: int) -> None:
    if n_exposures > MIN_PARTNERS:
        return
    n_given = len(group.members)
    count = "one exposure" if n_exposures == 1 else f"{n_exposures} exposures"
    of_given = f" of {n_given} that can be used" if n_given > n_exposures else ""
    raise InputError(
        f"{group.name}: {count}{of_given}, needed are {MIN_PARTNERS + 1} or more, as each one's "
        f"background is built from at least {MIN_PARTNERS} others; {_REMEDY}"
    )


def _problem(handle: ExposureHandle) -> str:
    """Why an exposure can be used in no group, empty if it can."""
    found = subtracted_already(handle) + of_other_kind(handle) + cut_short(handle)
    if handle.n_integrations is not None:
        found.append(
            f"{handle.name}: holds {handle.n_integrations} integrations, needed is one image of "
            "the exposure; give its rate file"
        )
    return found[0] if found else ""


def _plan_exposure(
    index: int,
    handles: Sequence[ExposureHandle],
    relations: Relations,
    *,
    max_days: float,
    min_separation_px: float,
) -> ExposurePlan:
    handle, first = handles[index], relations.same_as[index]
    partners = choose_partners(
        index, handles, relations, max_days=max_days, min_separation_px=min_separation_px
    )
    n_used, error = sum(partner.used for partner in partners), ""
    if first != index:
        error = f"{handle.name}: is the same exposure as {handles[first].name}, which is used"
    elif n_used < MIN_PARTNERS:
        error = (
            f"{handle.name}: {n_used} of the {len(partners)} other exposures can be used for its "
            f"background, needed are {MIN_PARTNERS}; relax --max-days or --min-separation"
        )
    return ExposurePlan(handle, partners, error)


def _without_dates(name: str, handles: Sequence[ExposureHandle]) -> tuple[str, ...]:
    names = [handle.name for handle in handles if math.isnan(mid_time(handle.meta))]
    if not names:
        return ()
    sentence = (
        f"{name}: --max-days is not applied to {len(names)} of {len(handles)} exposures, which "
        f"have no date (EXPMID, EXPSTART or DATE-OBS): {', '.join(names)}"
    )
    return (sentence,)
