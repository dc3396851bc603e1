import math
import re

import numpy as np
import pytest

from webbkg.errors import FitError, InputError
from webbkg.exposure import MemoryHandle
from webbkg.methods.groups import Group
from webbkg.methods.partners import choose_partners, plan_group, plan_groups
from webbkg.methods.relations import relate
from webbkg.sim import miri_i4i
from webbkg.sky import TangentMap

MIRI = {
    "INSTRUME": "MIRI",
    "DETECTOR": "MIRIMAGE",
    "FILTER": "F770W",
    "PROGRAM": "01345",
    "OBSERVTN": "002",
    "EXPSTART": 60000.0,
}
NAME = "jw01345_obs002_MIRI_F770W"
REMEDY = "give more and wider dithers, or a dedicated background to webbkg average"
DISTANCES = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
SHAPE = (12, 16)


def handle(index=0, meta=MIRI, **changes):
    """Give an exposure with noise of its own."""
    values = {key.replace("_", "-"): value for key, value in (meta | changes).items()}
    values = {key: value for key, value in values.items() if value is not None}
    data = np.random.default_rng(index).normal(size=SHAPE)
    return MemoryHandle(data, name=f"{index}_rate.fits", meta=values)


def sky(offset=0.0, *, roll=0.0, scale=0.11, shape=SHAPE):
    """Look at a field some pixels to the north."""
    reference = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    return TangentMap(shape, 150.0, 2.0 + offset * scale / 3600, reference, scale, roll)


def no_maps(asked):
    raise AssertionError("sky maps take time and are not needed")


def group(handles):
    return Group(("key",), tuple(handles), NAME)


def plan(handles, maps, *, max_days=7.0, min_separation=None):
    def maps_of(asked):
        return [maps[handles.index(one)] for one in asked]

    return plan_group(group(handles), maps_of, max_days=max_days, min_separation=min_separation)


def line(distances=DISTANCES, **changes):
    handles = [handle(index, **changes) for index in range(len(distances))]
    return handles, [sky(distance) for distance in distances]


def choose(index, handles, maps, max_days=7.0, min_separation_px=3.0):
    return choose_partners(
        index,
        handles,
        relate(handles, maps),
        max_days=max_days,
        min_separation_px=min_separation_px,
    )


class Nowhere(TangentMap):
    """Undefined over part of the detector."""

    def to_sky(self, x, y):
        ra, dec = super().to_sky(x, y)
        return np.where(x < self.roll, np.nan, ra), dec


# Distances


def test_distances_on_the_sky():
    handles, maps = line((0.0, 30.0, 50.0))
    found = relate(handles, maps).separations_px
    expected = [[0.0, 30.0, 50.0], [30.0, 0.0, 20.0], [50.0, 20.0, 0.0]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_distances_across_the_meridian_and_at_the_pole():
    maps = [TangentMap(SHAPE, ra, 0.0, (7.5, 5.5), 0.36) for ra in (0.0, 359.999)]
    found = relate([handle(0), handle(1)], maps).separations_px
    assert found[0, 1] == pytest.approx(10.0, rel=1e-6)
    maps = [TangentMap(SHAPE, ra, 90.0 - 0.001, (7.5, 5.5), 0.36, ra) for ra in (0.0, 180.0)]
    assert relate([handle(0), handle(1)], maps).separations_px[0, 1] == pytest.approx(
        20.0, rel=1e-4
    )


def test_fields_far_apart():
    maps = [sky(0.0), TangentMap(SHAPE, 330.0, -2.0, (7.5, 5.5), 0.11)]
    found = relate([handle(0), handle(1)], maps).separations_px[0, 1]
    assert found == pytest.approx(180 * 3600 / 0.11, rel=1e-3)


def test_a_roll_about_the_centre_sets_most_of_the_frame_apart():
    shape = (1024, 1032)
    maps = [sky(shape=shape), sky(shape=shape, roll=3.0)]
    found = relate([handle(0), handle(1)], maps).separations_px[0, 1]
    y, x = np.meshgrid(np.linspace(-511.5, 511.5, 5), np.linspace(-515.5, 515.5, 5))
    assert found == pytest.approx(np.median(2 * np.hypot(x, y) * np.sin(np.radians(1.5))), rel=1e-4)
    assert found > 20


@pytest.mark.parametrize(("undefined", "expected"), [(4.0, 30.0), (12.0, np.inf)])
def test_a_map_that_is_not_defined_everywhere(undefined, expected):
    partly = Nowhere(SHAPE, 150.0, 2.0 + 30 * 0.11 / 3600, (7.5, 5.5), 0.11, undefined)
    maps = [sky(roll=undefined), partly, sky(40.0, roll=undefined)]
    found = relate([handle(index) for index in range(3)], maps).separations_px
    assert found[0, 1] == pytest.approx(expected, rel=1e-5)
    assert found[1, 0] == pytest.approx(expected, rel=1e-5)
    assert found[0, 2] == pytest.approx(40.0, rel=1e-5)


# The same exposure by another name


def test_the_same_exposure_under_other_names():
    one, other = handle(0), handle(1)
    link = MemoryHandle(one._source, name="link.fits")
    saved_anew = handle(0, FILTER="F560W")
    found = relate([one, other, link, saved_anew, other], [sky(d) for d in (0, 20, 0, 0, 20)])
    assert found.same_as == (0, 1, 0, 0, 1)


@pytest.mark.parametrize(
    ("start", "same_as"), [(60000.0, (0, 0)), (None, (0, 0)), (60000.001, (0, 1))]
)
def test_one_date_and_the_same_pixels_are_the_same_exposure(start, same_as):
    handles = [handle(0), handle(0, EXPSTART=start)]
    assert relate(handles, [sky(), sky()]).same_as == same_as


def test_a_copy_is_the_same_though_its_pixels_do_not_tell():
    one = MemoryHandle(np.ones(SHAPE), meta=MIRI)
    copy = MemoryHandle(one._source, meta=MIRI)
    other = MemoryHandle(np.ones(SHAPE), meta=MIRI)
    assert relate([one, other, copy], [sky(), sky(), sky()]).same_as == (0, 1, 0)


def test_one_date_alone_is_not():
    assert relate([handle(0), handle(1)], [sky(), sky()]).same_as == (0, 1)


# Partners


def test_partners_of_one_exposure():
    handles, maps = line((0.0, 20.0, 2.0, 60.0))
    handles[1] = handle(1, EXPSTART=60006.0)
    found = choose(0, handles, maps)
    assert [partner.handle for partner in found] == handles[1:]
    assert [partner.used for partner in found] == [True, False, True]
    assert [partner.reason for partner in found] == [
        "",
        "2.00 px apart on the sky, less than 3.00",
        "",
    ]
    assert [partner.days for partner in found] == [6.0, 0.0, 0.0]
    assert [partner.separation_px for partner in found] == pytest.approx([20, 2, 60])


def test_limits_are_allowed():
    handles, maps = line((0.0, 20.0, 40.0))
    handles[1] = handle(1, EXPSTART=60007.0)
    exactly = float(relate(handles, maps).separations_px[0, 1])
    used = [p.used for p in choose(0, handles, maps, min_separation_px=exactly)]
    assert used == [True, True]


def test_too_far_apart_in_time():
    handles, maps = line((0.0, 20.0, 40.0))
    handles[1] = handle(1, EXPSTART=60007.06, EFFEXPTM=8640.0)
    first, second = choose(0, handles, maps)
    assert first.reason == "7.1 days apart, more than 7"
    assert first.days == pytest.approx(7.11)
    assert not first.used
    assert second.used


def test_without_dates_partners_are_used():
    handles, maps = line((0.0, 20.0, 40.0))
    handles[2] = handle(2, EXPSTART=None)
    first, second = choose(0, handles, maps, max_days=1e-9)
    assert (first.used, first.days) == (True, 0.0)
    assert second.used
    assert math.isnan(second.days)


def test_the_same_exposure_is_used_once_and_not_for_itself():
    handles, maps = line((0.0, 20.0, 40.0))
    handles.append(MemoryHandle(handles[1]._source, name="again.fits", meta=MIRI))
    maps.append(maps[1])
    assert [partner.reason for partner in choose(0, handles, maps)] == [
        "",
        "",
        "the same exposure as 1_rate.fits",
    ]
    assert [partner.reason for partner in choose(1, handles, maps)] == [
        "",
        "",
        "the same exposure under another name",
    ]
    assert [partner.reason for partner in choose(3, handles, maps)] == [
        "",
        "the same exposure under another name",
        "",
    ]


# Groups


def test_a_good_group():
    handles, maps = line()
    found = plan(handles, maps)
    assert (found.error, found.warnings, found.small_dithers) == ("", (), False)
    assert found.group.members == tuple(handles)
    assert [item.exposure for item in found.exposures] == handles
    assert found.usable == found.exposures
    for index, item in enumerate(found.exposures):
        assert item.used == tuple(other for n, other in enumerate(handles) if n != index)
    assert found.fwhm_px == pytest.approx(2.4238, abs=1e-4)
    # In the middle of the line: 20, 20, 40, 40, 60.
    assert found.closest_px == pytest.approx(40.0)


def refused(message, handles, maps, **limits):
    found = plan(handles, maps, **limits)
    assert found.error == f"{NAME}: {message}"
    assert found.usable == ()
    with pytest.raises(InputError, match=f"^{re.escape(found.error)}$"):
        plan_groups(
            handles,
            lambda asked: [maps[handles.index(one)] for one in asked],
            **({"max_days": 7.0, "min_separation": None} | limits),
        )
    return found


def test_a_single_exposure():
    message = (
        "one exposure, needed are 3 or more, as each one's background is built from at least 2 "
        f"others; {REMEDY}"
    )
    found = refused(message, *line((0.0,)))
    assert found.exposures == ()


def test_two_exposures():
    message = (
        "2 exposures, needed are 3 or more, as each one's background is built from at least 2 "
        f"others; {REMEDY}"
    )
    refused(message, *line((0.0, 20.0)))


def test_too_few_different_exposures():
    handles, maps = line((0.0, 20.0))
    handles.append(MemoryHandle(handles[1]._source, name="again.fits", meta=MIRI))
    message = (
        "2 exposures of 3 that can be used, needed are 3 or more, as each one's background is "
        f"built from at least 2 others; {REMEDY}"
    )
    found = refused(message, handles, [*maps, maps[1]])
    assert found.exposures[2].error == (
        "again.fits: is the same exposure as 1_rate.fits, which is used"
    )


def test_identical_pointings():
    message = (
        "its 4 exposures have one pointing, the widest are 1.00 px apart where 3.64 px are "
        f"needed, and cannot separate sky from source; {REMEDY}"
    )
    found = refused(message, *line((0.0, 0.5, 1.0, 0.0)))
    assert not any(item.used for item in found.exposures)


def test_nobody_has_two_partners():
    handles, maps = line((0.0, 20.0, 40.0, 60.0))
    handles[2:] = [handle(index, EXPSTART=60100.0) for index in (2, 3)]
    message = (
        "none of its 4 exposures has 2 others within 7 days and at least 3.64 px away on the sky; "
        f"relax --max-days or --min-separation, or {REMEDY}"
    )
    found = refused(message, handles, maps)
    assert found.exposures[0].error == (
        "0_rate.fits: 1 of the 3 other exposures can be used for its background, needed are 2; "
        "relax --max-days or --min-separation"
    )
    assert plan(handles, maps, max_days=100.5).error == ""


def test_an_exposure_without_partners_is_left_out():
    handles, maps = line()
    handles[5] = handle(5, EXPSTART=60100.0)
    found = plan(handles, maps)
    error = (
        "5_rate.fits: 0 of the 5 other exposures can be used for its background, needed are 2; "
        "relax --max-days or --min-separation"
    )
    assert found.exposures[5].error == error
    assert found.usable == found.exposures[:5]
    assert (found.error, found.warnings) == ("", (error,))


def test_an_exposure_given_twice_is_treated_once():
    handles, maps = line()
    handles.insert(1, MemoryHandle(handles[0]._source, name="again.fits", meta=MIRI))
    found = plan(handles, [maps[0], *maps])
    assert found.warnings == ("again.fits: is the same exposure as 0_rate.fits, which is used",)
    assert [item.exposure for item in found.usable] == [handles[0], *handles[2:]]
    assert all(handles[1] not in item.used for item in found.usable)


def test_min_separation():
    handles, maps = line((0.0, 3.5, 20.0, 40.0, 60.0, 80.0))
    assert [len(item.used) for item in plan(handles, maps).exposures] == [4, 4, 5, 5, 5, 5]
    allowed = plan(handles, maps, min_separation=3.0)
    assert [len(item.used) for item in allowed.exposures] == [5] * 6
    # 1.5 FWHM are less than 3 px here.
    sharp = [
        handle(index, INSTRUME="NIRCAM", DETECTOR="NRCA1", FILTER="F070W") for index in range(6)
    ]
    maps[1] = sky(2.9)
    assert len(plan(sharp, maps).exposures[0].used) == 4


@pytest.mark.parametrize(("number", "noise"), [(3, 22), (4, 15)])
def test_few_exposures(number, noise):
    found = plan(*line(DISTANCES[:number]))
    message = (
        f"{NAME}: backgrounds from as few as {number - 1} other exposures, whose noise alone adds "
        f"up to {noise} % to that of the result; 5 dithers or more are better"
    )
    assert (found.error, found.warnings) == ("", (message,))
    assert plan(*line(DISTANCES[:5])).warnings == ()


def test_the_fewest_partners_count():
    (warning,) = plan(*line((0.0, 1.0, 50.0, 100.0, 150.0))).warnings
    assert "as few as 3 other exposures" in warning


def test_partners_that_are_not_used_do_not_make_dithers_small():
    assert plan(*line((0.0, 1.0, 2.0, 50.0, 100.0))).closest_px == pytest.approx(49.5)


def test_dates_missing():
    handles, maps = line()
    handles[2:4] = [handle(index, EXPSTART=None) for index in (2, 3)]
    found = plan(handles, maps, max_days=1.0)
    message = (
        f"{NAME}: --max-days is not applied to 2 of 6 exposures, which have no date (EXPMID, "
        "EXPSTART or DATE-OBS): 2_rate.fits, 3_rate.fits"
    )
    assert (found.error, found.warnings) == ("", (message,))
    assert len(found.exposures[3].used) == 5


def test_small_dithers():
    found = plan(*line((0.0, 7.0, 14.0, 21.0, 28.0)))
    assert (found.closest_px, found.small_dithers) == (pytest.approx(10.5), False)
    assert found.warnings == ()
    found = plan(*line((0.0, 3.8, 7.6, 11.4, 15.2)))
    message = (
        f"{NAME}: SMALL DITHERS: an exposure has half of its partners within 5.7 px on the sky, "
        "needed are 10.0 px (3 FWHM and no less than 10 px); the exposures cannot separate sky "
        f"from source, and flux is lost, most of it from extended sources; {REMEDY}"
    )
    assert found.small_dithers
    assert found.warnings == (message,)


@pytest.mark.parametrize("number", [4, 8, 16])
@pytest.mark.parametrize(("size", "small"), [(8.0, True), (20.0, False), (60.0, False)])
def test_dithers_of_the_simulator(number, size, small):
    pointings = [e.pointing for e in miri_i4i(n_science=number, dither_size=size, seed=1).science]
    x, y = pointings[0].to_pixels(*pointings[0].to_sky(500.0, 500.0))
    distances = []
    for pointing in pointings:
        ra, dec = pointing.to_sky(x, y)
        distances.append(TangentMap(SHAPE, float(ra), float(dec), (7.5, 5.5), 0.11))
    handles = [handle(index) for index in range(number)]
    assert plan(handles, distances).small_dithers is small


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"S_BKDSUB": "COMPLETE"},
            (
                "its background has been subtracted already (S_BKDSUB=COMPLETE); give the exposure "
                "before that"
            ),
        ),
        (
            {"EXP_TYPE": "MIR_WFSS"},
            (
                "EXP_TYPE is MIR_WFSS, whose sky is a scaled template and not an average of "
                "exposures; use webbkg wfss"
            ),
        ),
        (
            {"SUBSIZE1": 16, "SUBSIZE2": 13},
            (
                "SCI is 12x16 but SUBSIZE2 and SUBSIZE1 say 13x16, so its place on the detector "
                "is in doubt; correct the keywords or the pixels"
            ),
        ),
    ],
    ids=lambda value: str(value)[:12],
)
def test_exposures_that_cannot_be_used(changes, problem):
    handles, maps = line()
    data = handles[2]._source
    meta = MIRI | changes
    handles[2] = MemoryHandle(data, name="2_rate.fits", meta=meta)
    found = plan(handles, maps)
    assert (found.error, found.warnings) == ("", (f"2_rate.fits: {problem}",))
    assert found.exposures[2].error == f"2_rate.fits: {problem}"
    assert found.exposures[2].partners == ()
    assert [item.exposure for item in found.usable] == handles[:2] + handles[3:]
    assert handles[2] not in [p.handle for p in found.exposures[0].partners]


def test_integrations_cannot_be_used():
    cubes = [
        MemoryHandle(np.zeros((3, *SHAPE)), name=f"{index}_rateints.fits", meta=MIRI)
        for index in range(3)
    ]
    found = plan(cubes, [])
    assert found.error == (
        f"{NAME}: 0 exposures of 3 that can be used, needed are 3 or more, as each one's "
        f"background is built from at least 2 others; {REMEDY}"
    )
    assert found.warnings[1] == (
        "1_rateints.fits: holds 3 integrations, needed is one image of the exposure; give its "
        "rate file"
    )


@pytest.mark.parametrize("error", [InputError, FitError])
def test_no_sky_map(error):
    def maps_of(asked):
        raise error("a_rate.fits: RA_V1 missing")

    handles, _ = line()
    found = plan_group(group(handles), maps_of, max_days=7.0, min_separation=None)
    assert (found.error, found.exposures) == ("a_rate.fits: RA_V1 missing", ())


# Several groups


def test_a_group_too_small_does_not_stop_the_others():
    handles, maps = line()
    asked = []

    def maps_of(members):
        asked.append(tuple(members))
        return [maps[handles.index(member)] for member in members]

    lone = handle(9, FILTER="F560W")
    found = plan_groups([lone, *handles], maps_of, max_days=7.0, min_separation=None)
    assert [item.group.name for item in found] == ["jw01345_obs002_MIRI_F560W", NAME]
    assert found[0].error.startswith("jw01345_obs002_MIRI_F560W: one exposure, needed are 3")
    assert found[1].error == ""
    assert asked == [tuple(handles)]


def test_all_groups_too_small():
    handles = [handle(0), handle(1, FILTER="F560W")]
    one = (
        "one exposure, needed are 3 or more, as each one's background is built from at least 2 "
        f"others; {REMEDY}"
    )
    message = (
        f"none of the 2 groups has a background: {NAME}: {one}; jw01345_obs002_MIRI_F560W: {one}"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        plan_groups(handles, no_maps, max_days=7.0, min_separation=None)


def test_no_exposures():
    with pytest.raises(InputError, match=r"^no exposure was given$"):
        plan_groups([], no_maps, max_days=7.0, min_separation=None)
