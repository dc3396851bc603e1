"""Small exact cases of the average method."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest

from webbkg.errors import InputError, NoBackgroundPixelsError, NoOverlapError, ParameterError
from webbkg.exposure import MemoryHandle, Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.methods.average import (
    AverageParams,
    average,
    combine_backgrounds,
    subtract,
)

SHAPE = (3, 4)
DO_NOT_USE, SATURATED, JUMP, HOT = (
    FLAG_BITS[name] for name in ("DO_NOT_USE", "SATURATED", "JUMP_DET", "HOT")
)


def flat(value, err=1.0, shape=SHAPE, **kwargs):
    return MemoryHandle(np.full(shape, float(value)), np.full(shape, float(err)), **kwargs)


def run(science, backgrounds, **kwargs):
    return average(science, backgrounds, AverageParams(**({"threads": 1} | kwargs)))


def warnings_of(result):
    return list(result.diagnostics.warnings)


def assert_everywhere(array, value, rtol=1e-6):
    np.testing.assert_allclose(array, np.full(array.shape, value), rtol=rtol)


def assert_same(one, other):
    """Bit for bit."""
    for left, right in (
        (one.exposure.data, other.exposure.data),
        (one.exposure.err, other.exposure.err),
        (one.exposure.dq, other.exposure.dq),
        (one.background, other.background),
        (one.template.n_used, other.template.n_used),
    ):
        assert left.tobytes() == right.tobytes()
    assert one.diagnostics == other.diagnostics


# Numbers


def test_rate():
    result = run(flat(100.0, 3.0), [flat(value, 2.0) for value in (9.0, 10.0, 11.0, 12.0)])
    assert_everywhere(result.background, 10.5)
    assert_everywhere(result.template.err, 1.0)
    assert_everywhere(result.background_var, 1.0)
    assert_everywhere(result.exposure.data, 89.5)
    assert_everywhere(result.exposure.err, math.sqrt(10.0))
    assert not result.exposure.dq.any()
    assert_everywhere(result.template.n_used, 4)
    assert result.scales == (1.0,)
    assert result.used == ("array",) * 4


def test_diagnostics():
    names = [f"b{index}_rate.fits" for index in range(4)]
    sky = [flat(10.0, name=name) for name in names]
    sky[0].load().data[0, :2] = 500.0
    sky[1].load().data[1, 1] = np.nan
    result = run(flat(100.0), sky)
    found = result.diagnostics
    assert result.used == tuple(names)
    assert found.n_backgrounds == 4
    assert found.n_used_mean == pytest.approx(45 / 12)
    # 47 usable values, of which clipping rejects 2.
    assert found.clipped_fraction == pytest.approx(2 / 47)
    assert found.coverage == 1.0
    assert found.level == 10.0
    assert found.noise_factors == (1.0,) * 4
    assert found.level_offsets == (0.0,) * 4
    assert found.warnings == ()
    assert found.clip_rule == "noise expected from ERR, 4 sigma below and 3 above the median"
    recipe = result.template.recipe
    assert recipe["method"] == "average"
    assert recipe["inputs"] == tuple(names)
    assert recipe["parameters"] == AverageParams(threads=1).as_dict()


@pytest.mark.parametrize(
    ("kwargs", "err", "rule"),
    [
        ({"clip": "std", "sigma": 2.5}, 1.0, "standard deviation of the values, 2.5 sigma"),
        ({"sigma": 6.0}, 1.0, "noise expected from ERR, 8 sigma below and 6 above the median"),
        ({}, np.nan, "median absolute deviation (no ERR), 4 sigma below and 3 above the median"),
    ],
)
def test_rule_in_words(kwargs, err, rule):
    result = run(flat(1.0), [flat(1.0, err) for _ in range(9)], **kwargs)
    assert result.diagnostics.clip_rule == rule


def test_defaults_are_those_of_the_parameters():
    sky = [flat(1.0) for _ in range(3)]
    assert_same(average(flat(5.0), sky), run(flat(5.0), sky, threads=None))


def test_integrations_are_combined_first():
    """Each exposure counts once, whatever its number of integrations."""
    many = MemoryHandle(
        np.stack([np.full(SHAPE, value) for value in (8.0, 10.0, 12.0)]), np.full((3, *SHAPE), 3.0)
    )
    two = MemoryHandle(
        np.stack([np.full(SHAPE, value) for value in (19.0, 21.0)]), np.full((2, *SHAPE), 2.0)
    )
    one = flat(30.0, 2.0)
    result = run(flat(100.0), [many, two, one], sigma=100.0)
    assert_everywhere(result.background, 20.0)
    # (9/3 + 4/2 + 4/1) / 3^2
    assert_everywhere(result.background_var, 1.0)
    assert_everywhere(result.template.n_used, 3)


def test_integrations_are_clipped_before_the_exposures():
    data = np.full((5, *SHAPE), 10.0)
    data[3, 1, 2] = 1e5
    result = run(flat(100.0), [MemoryHandle(data, np.ones_like(data)), flat(10.0), flat(10.0)])
    assert_everywhere(result.background, 10.0)
    assert result.background_var[1, 2] == pytest.approx((1 / 4 + 2) / 9, rel=1e-6)
    assert result.background_var[0, 0] == pytest.approx((1 / 5 + 2) / 9, rel=1e-6)


@pytest.mark.parametrize("science_ints", [None, 3])
@pytest.mark.parametrize("sky_ints", [None, 2])
def test_images_and_integrations_in_all_combinations(science_ints, sky_ints):
    def shape(n):
        return SHAPE if n is None else (n, *SHAPE)

    values = np.arange(math.prod(shape(science_ints)), dtype=float).reshape(shape(science_ints))
    science = MemoryHandle(values, np.full_like(values, 2.0), window=Window(5, 6, *SHAPE))
    sky = [flat(value, 1.0, shape(sky_ints), window=science.window) for value in (9, 10, 11)]
    result = run(science, sky)
    var = 1.0 / 3.0 / (sky_ints or 1)
    assert result.exposure.data.shape == shape(science_ints)
    np.testing.assert_array_equal(result.exposure.data, values - 10.0)
    assert_everywhere(result.exposure.err, math.sqrt(4.0 + var))
    assert result.background.shape == SHAPE
    planes = list(result.planes())
    assert len(planes) == (science_ints or 1)
    for index, plane in enumerate(planes):
        whole = result.exposure.data if science_ints is None else result.exposure.data[index]
        np.testing.assert_array_equal(plane.data, whole)
        assert plane.window == science.window
        assert_everywhere(plane.err, math.sqrt(4.0 + var))
    assert result.template.window == science.window


def test_nan_of_the_science_stays():
    data = np.full(SHAPE, 5.0)
    data[1, 1] = np.nan
    result = run(MemoryHandle(data, np.ones(SHAPE)), [flat(1.0) for _ in range(3)])
    expected = data - 1.0
    np.testing.assert_array_equal(result.exposure.data, np.float32(expected))


# Errors


def test_errors_are_kept():
    result = run(flat(100.0, 3.0), [flat(10.0, 2.0) for _ in range(4)], errors="keep")
    assert_everywhere(result.exposure.err, 3.0)
    assert not result.propagate_errors
    assert_everywhere(result.background_var, 1.0)


def test_unknown_errors_of_one_background_are_those_of_the_others():
    result = run(flat(9.0), [flat(1.0, 2.0), flat(1.0, np.nan), flat(1.0, 2.0), flat(1.0, 0.0)])
    assert_everywhere(result.background_var, 1.0)


def test_unknown_errors_of_all_backgrounds_come_from_their_scatter():
    result = run(flat(9.0, 2.0), [flat(value, np.nan) for value in (1.0, 2.0, 3.0)], sigma=50.0)
    assert_everywhere(result.background_var, 1.0 / 3.0)


def test_one_background_without_errors_makes_the_error_unknown():
    result = run(flat(9.0, 2.0), [flat(1.0, np.nan)])
    assert_everywhere(result.exposure.data, 8.0)
    assert np.isnan(result.background_var).all()
    assert np.isnan(result.exposure.err).all()


# Sub-arrays

NUMBERS = 10.0 + np.arange(20 * 20, dtype=np.float32).reshape(20, 20) / 64.0


def placed(window, **kwargs):
    """The background of every pixel of the detector is its own number."""
    data = NUMBERS[window.y0 : window.y1, window.x0 : window.x1]
    return MemoryHandle(data, np.ones(window.shape), window=window, **kwargs)


OFFSETS = [-4, -2, 0, 1, 3]


@pytest.mark.parametrize(("y", "x"), list(itertools.product(OFFSETS, repeat=2)))
@pytest.mark.parametrize("larger", ["science", "background"])
def test_sub_arrays_at_any_offset(y, x, larger):
    """Either is larger than the other; only the overlap is used, at its true place."""
    big, small = Window(5, 5, 8, 9), Window(5 + y, 5 + x, 5, 6)
    ours, theirs = (big, small) if larger == "science" else (small, big)
    science = placed(ours)
    result = run(science, [placed(theirs) for _ in range(3)])
    expected = np.full((20, 20), np.nan, np.float32)
    shared = ours.intersection(theirs)
    expected[shared.y0 : shared.y1, shared.x0 : shared.x1] = 0.0
    expected = expected[ours.y0 : ours.y1, ours.x0 : ours.x1]
    covered = np.isfinite(expected)
    np.testing.assert_array_equal(result.exposure.data[covered], 0.0)
    # What is not covered is left as it is, and flagged.
    np.testing.assert_array_equal(result.exposure.data[~covered], science.load().data[~covered])
    np.testing.assert_array_equal(result.exposure.dq == DO_NOT_USE, ~covered)
    assert_everywhere(result.exposure.err[~covered], 1.0)
    np.testing.assert_array_equal(np.isnan(result.background), ~covered)
    assert result.diagnostics.coverage == pytest.approx(covered.mean())


def test_mixture_of_full_frames_and_sub_arrays():
    science = placed(Window(2, 2, 10, 10))
    windows = [Window(0, 0, 20, 20), Window(4, 0, 4, 20), Window(0, 7, 20, 3), Window(11, 11, 9, 9)]
    result = run(science, [placed(window) for window in windows])
    np.testing.assert_array_equal(result.exposure.data, np.zeros((10, 10)))
    expected = np.ones((10, 10))
    expected[2:6, :] += 1
    expected[:, 5:8] += 1
    expected[9, 9] += 1
    np.testing.assert_array_equal(result.template.n_used, expected)
    np.testing.assert_allclose(result.background_var, 1.0 / expected, rtol=1e-6)


def test_integrations_of_a_sub_array():
    theirs = Window(4, 3, 5, 6)
    cube = np.stack([placed(theirs).load().data + step for step in (-0.5, 0.0, 0.5)])
    sky = MemoryHandle(cube, np.ones_like(cube), window=theirs)
    result = run(placed(Window(5, 5, 8, 9)), [sky])
    np.testing.assert_array_equal(result.exposure.data[:4, :4], 0.0)
    assert np.isnan(result.background[4:]).all()
    assert np.isnan(result.background[:, 4:]).all()


def test_backgrounds_without_overlap_are_left_out():
    sky = [placed(Window(0, 0, 4, 4), name="far.fits")]
    sky += [placed(Window(5, 5, 8, 9), name=f"b{index}.fits") for index in range(3)]
    result = run(placed(Window(5, 5, 8, 9)), sky)
    assert result.used == ("b0.fits", "b1.fits", "b2.fits")
    assert warnings_of(result) == ["far.fits: does not overlap the science exposure, not used"]


def test_no_overlap_at_all():
    sky = [placed(Window(0, 0, 4, 4), name="a.fits"), placed(Window(0, 5, 4, 4), name="b.fits")]
    message = (
        "s_rate.fits: none of the 2 backgrounds covers any of its window Window(y0=5, x0=5, ny=8, "
        "nx=9); the first, a.fits, has Window(y0=0, x0=0, ny=4, nx=4); give backgrounds of the "
        "same sub-array or full frames"
    )
    with pytest.raises(NoOverlapError, match=f"^{re.escape(message)}$"):
        run(placed(Window(5, 5, 8, 9), name="s_rate.fits"), sky)


# Flags


def flagged(*bits, value=10.0):
    """A background whose first pixels carry flags, and values that must not be used there."""
    dq = np.zeros(SHAPE, np.uint32)
    data = np.full(SHAPE, value)
    for pixel, bit in enumerate(bits):
        dq[0, pixel] = bit
        if bit & (DO_NOT_USE | SATURATED):
            data[0, pixel] = 1e30
    return MemoryHandle(data, np.ones(SHAPE), dq)


def test_flagged_values_are_not_used():
    sky = [flagged(DO_NOT_USE, SATURATED, JUMP, HOT), flagged(), flagged()]
    result = run(flat(100.0), sky)
    assert_everywhere(result.background, 10.0)
    np.testing.assert_array_equal(result.template.n_used[0], [2, 2, 3, 3])


def test_only_the_given_flags_matter():
    sky = [flagged(DO_NOT_USE, HOT, value=value) for value in (8.0, 10.0, 12.0)]
    result = run(flat(100.0), sky, bad_flags="HOT", sigma=9.0)
    assert np.isnan(result.background[0, 1])
    assert result.background[0, 0] == np.float32(1e30)
    result = run(flat(100.0), sky, bad_flags="NONE", sigma=9.0)
    assert result.background[0, 1] == 10.0


@pytest.mark.parametrize(
    ("dq", "expected"),
    [
        # One usable background is enough, and its flags are no one else's.
        ("quorum", [HOT, DO_NOT_USE, 0, 0]),
        ("or", [HOT | DO_NOT_USE, DO_NOT_USE | SATURATED, JUMP, 0]),
        ("keep", [HOT, 0, 0, 0]),
    ],
)
def test_flags_of_the_result(dq, expected):
    sky = [
        flagged(DO_NOT_USE, DO_NOT_USE, JUMP),
        flagged(0, SATURATED, 0),
        flagged(0, DO_NOT_USE, 0),
    ]
    result = run(flagged(HOT), sky, dq=dq)
    np.testing.assert_array_equal(result.exposure.dq[0], expected)
    assert not result.exposure.dq[1:].any()
    # The science keeps its value where no background is.
    assert result.exposure.data[0, 1] == 10.0
    np.testing.assert_array_equal(result.template.dq[0, 1] & DO_NOT_USE, DO_NOT_USE)


def test_flags_are_added_to_every_integration():
    sky = [flagged(DO_NOT_USE) for _ in range(3)]
    cube = MemoryHandle(np.ones((2, *SHAPE)), np.ones((2, *SHAPE)), np.full((2, *SHAPE), HOT))
    result = run(cube, sky)
    np.testing.assert_array_equal(result.exposure.dq[:, 0, 0], [HOT | DO_NOT_USE] * 2)
    np.testing.assert_array_equal(result.exposure.dq[:, 0, 1], [HOT] * 2)


@pytest.mark.parametrize("min_coverage", [1, 2, 3])
def test_coverage_that_is_needed(min_coverage):
    sky = [flagged(DO_NOT_USE, DO_NOT_USE), flagged(0, DO_NOT_USE), flagged()]
    result = run(flat(100.0), sky, min_coverage=min_coverage)
    undefined = np.array([2, 1, 3, 3]) < min_coverage
    np.testing.assert_array_equal(np.isnan(result.background[0]), undefined)
    np.testing.assert_array_equal(np.isnan(result.template.err[0]), undefined)
    np.testing.assert_array_equal(result.exposure.data[0], np.where(undefined, 100.0, 90.0))
    np.testing.assert_array_equal(result.exposure.dq[0], np.where(undefined, DO_NOT_USE, 0))
    assert not result.background_var[0][undefined].any()
    np.testing.assert_array_equal(result.template.n_used[0], [2, 1, 3, 3])


def test_more_coverage_than_there_are_backgrounds():
    result = run(flat(100.0), [flat(1.0) for _ in range(3)], min_coverage=4)
    assert_everywhere(result.exposure.data, 100.0)
    assert result.diagnostics.coverage == 0.0
    assert math.isnan(result.diagnostics.level)
    assert warnings_of(result) == [
        "12 good pixels (100.00 %) have no background: left as they are, flagged DO_NOT_USE"
    ]


def test_masked_values_are_not_used():
    mask = np.zeros(SHAPE, bool)
    mask[0, 0] = True
    data = np.full(SHAPE, 10.0)
    data[0, 0] = 1e6
    sky = [MemoryHandle(data, np.ones(SHAPE), mask=mask), flat(10.0), flat(10.0)]
    result = run(flat(100.0), sky)
    assert_everywhere(result.background, 10.0)
    assert result.template.n_used[0, 0] == 2


def test_masked_integrations_are_not_used():
    mask = np.zeros((2, *SHAPE), bool)
    mask[1] = True
    data = np.stack([np.full(SHAPE, 10.0), np.full(SHAPE, 1e6)])
    result = run(flat(100.0), [MemoryHandle(data, np.ones_like(data), mask=mask)])
    assert_everywhere(result.background, 10.0)


# Few backgrounds


def with_stars(n, *stars):
    sky = [flat(10.0) for _ in range(n)]
    for index in stars:
        sky[index].load().data[1, 1] = 60.0
    return sky


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_star_in_one_background_leaves_no_hole(n):
    result = run(flat(100.0), with_stars(n, n - 1))
    assert_everywhere(result.exposure.data, 90.0)
    assert result.template.n_used[1, 1] == n - 1
    assert result.background_var[1, 1] == pytest.approx(1 / (n - 1), rel=1e-6)
    assert warnings_of(result) == []


@pytest.mark.parametrize(("n", "reach"), [(3, "2.12"), (4, "2.31"), (7, "2.86")])
def test_clipping_by_std_cannot_reject_it_and_says_so(n, reach):
    result = run(flat(100.0), with_stars(n, 0), clip="std", sigma=3.0)
    assert result.exposure.data[1, 1] == pytest.approx(90.0 - 50.0 / n, rel=1e-6)
    assert warnings_of(result) == [
        (
            f"clip=std at 3 sigma can reject nothing from {n} values, whose largest possible "
            f"deviation is {reach}; use clip=auto"
        )
    ]


@pytest.mark.parametrize(("low", "n_used"), [(-5.0, 3), (-4.8, 4), (-3.7, 4)])
def test_lower_limit_is_the_wider_one(low, n_used):
    """Of 3 sigma, 4 below: 4.9 times the noise, and 3.67 times above."""
    sky = with_stars(4)
    sky[2].load().data[1, 1] = 10.0 + low
    assert run(flat(100.0), sky).template.n_used[1, 1] == n_used
    sky[2].load().data[1, 1] = 13.7
    assert run(flat(100.0), sky).template.n_used[1, 1] == 3


def test_clipping_by_std_can_reject_it_from_eight():
    result = run(flat(100.0), with_stars(8, 0), clip="std", sigma=3.0)
    assert_everywhere(result.exposure.data, 90.0)
    assert warnings_of(result) == []


def test_clipping_by_std_of_four_at_two_sigma():
    result = run(flat(100.0), with_stars(4, 0), clip="std", sigma=2.0)
    assert_everywhere(result.exposure.data, 90.0)
    assert warnings_of(result) == []


def test_two_stars_in_four_backgrounds():
    assert_everywhere(run(flat(100.0), with_stars(4, 0, 2)).exposure.data, 90.0)


def test_most_rounds():
    sky = with_stars(4, 0, 2)
    result = run(flat(100.0), sky, maxiters=1)
    assert result.exposure.data[1, 1] == pytest.approx(100.0 - 80.0 / 3.0, rel=1e-6)
    assert result.template.n_used[1, 1] == 3


@pytest.mark.parametrize("clip", ["auto", "std"])
@pytest.mark.parametrize(("n", "count"), [(1, "one background"), (2, "two backgrounds")])
def test_too_few_backgrounds_are_used_with_a_warning(n, count, clip):
    result = run(flat(100.0), with_stars(n, 0), clip=clip)
    assert result.exposure.data[0, 0] == 90.0
    assert result.exposure.data[1, 1] == 90.0 - 50.0 / n
    assert warnings_of(result) == [
        (
            f"{count} only: nothing can be clipped, sources in the background leave holes in the "
            "science exposure; give 3 or more"
        )
    ]


def test_star_is_found_without_errors():
    sky = [MemoryHandle(np.array([[value]])) for value in (10.0, 10.5, 9.8, 60.0)]
    result = run(MemoryHandle(np.array([[100.0]])), sky)
    assert result.background[0, 0] == pytest.approx(10.1, rel=1e-6)


# Nothing to work with


def test_no_background():
    message = "no background exposure was given; name at least one"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        run(flat(1.0), [])


@pytest.mark.parametrize("why", ["dq", "mask", "nan", "inf"])
@pytest.mark.parametrize(("n", "names"), [(1, "b0.fits"), (3, "b0.fits, b1.fits, b2.fits")])
def test_no_usable_background_pixel(why, n, names):
    data = np.full(SHAPE, {"nan": np.nan, "inf": np.inf}.get(why, 1.0))
    kwargs = {"dq": np.ones(SHAPE, int)} if why == "dq" else {}
    kwargs |= {"mask": np.ones(SHAPE, bool)} if why == "mask" else {}
    sky = [MemoryHandle(data, np.ones(SHAPE), name=f"b{k}.fits", **kwargs) for k in range(n)]
    message = (
        f"{names}: every background pixel is flagged, masked or not finite; check their DQ, or "
        "say with bad_flags (--bad-flags) which flags matter"
    )
    for clip in ("auto", "std"):
        with pytest.raises(NoBackgroundPixelsError, match=f"^{re.escape(message)}$"):
            run(flat(1.0), sky, clip=clip)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [SHAPE, (2, *SHAPE)])
def test_no_usable_science_pixel(value, shape):
    message = "s_rate.fits: every science pixel is flagged or not finite; check its DQ and SCI"
    science = flat(value, shape=shape, name="s_rate.fits")
    with pytest.raises(NoBackgroundPixelsError, match=f"^{re.escape(message)}$"):
        run(science, [flat(1.0) for _ in range(3)])
    science = MemoryHandle(np.ones(shape), None, np.ones(shape, int), name="s_rate.fits")
    with pytest.raises(NoBackgroundPixelsError, match=f"^{re.escape(message)}$"):
        run(science, [flat(1.0) for _ in range(3)])


def test_one_usable_science_pixel_is_enough():
    data = np.full((2, *SHAPE), np.nan)
    data[1, 0, 3] = 5.0
    result = run(MemoryHandle(data), [flat(1.0) for _ in range(3)])
    assert result.exposure.data[1, 0, 3] == 4.0


def test_science_that_is_all_masked():
    science = MemoryHandle(np.ones(SHAPE), mask=np.ones(SHAPE, bool), name="s_rate.fits")
    with pytest.raises(NoBackgroundPixelsError):
        run(science, [flat(1.0) for _ in range(3)])


def test_background_that_has_nothing_usable():
    sky = [flat(10.0, name=f"b{index}.fits") for index in range(3)]
    sky.append(flat(np.nan, name="nan.fits"))
    result = run(flat(100.0), sky)
    assert result.used == ("b0.fits", "b1.fits", "b2.fits")
    assert result.diagnostics.n_backgrounds == 3
    assert warnings_of(result) == ["nan.fits: has no usable pixel there, not used"]


@pytest.mark.parametrize(
    ("dq", "consequence"),
    [("quorum", "left as they are, flagged DO_NOT_USE"), ("keep", "left as they are")],
)
def test_good_pixels_without_background_are_counted(dq, consequence):
    # A pixel that all backgrounds flag is no news, one that is NaN in all of them is.
    sky = []
    for _ in range(3):
        handle = flagged(DO_NOT_USE)
        handle.load().data[2, :3] = np.nan
        sky.append(handle)
    result = run(flat(100.0), sky, dq=dq)
    assert warnings_of(result) == [f"3 good pixels (25.00 %) have no background: {consequence}"]


# Noise and levels are measured where there are enough pixels

FRAME = (32, 32)


@pytest.fixture
def few_pixels_are_enough(monkeypatch):
    """A sample of four rows of a frame, out of those that all exposures share."""
    monkeypatch.setattr("webbkg.methods.stack._SAMPLE_PIXELS", 128)
    monkeypatch.setattr("webbkg.kernels.noise.MIN_PIXELS", 100)


def drifting(levels, *, sigma=1.0, shape=FRAME, err=1.0):
    rng = np.random.default_rng(3)
    return [
        MemoryHandle(10.0 + level + rng.normal(0.0, sigma, shape), np.full(shape, float(err)))
        for level in levels
    ]


@pytest.mark.usefixtures("few_pixels_are_enough")
@pytest.mark.parametrize("shape", [FRAME, (5, *FRAME)])
def test_levels_are_matched_before_clipping(shape):
    """Otherwise all of the exposure that is 30 sigma brighter would be rejected."""
    result = run(flat(50.0, shape=FRAME), drifting([0, 0, 30, -2], shape=shape))
    assert result.diagnostics.level_offsets == pytest.approx([-7, -7, 23, -9], abs=0.5)
    assert result.diagnostics.n_used_mean > 3.98
    # The mean of the levels is what is subtracted.
    assert result.background.mean() == pytest.approx(17.0, abs=0.1)
    unmatched = run(flat(50.0, shape=FRAME), drifting([0, 0, 30, -2], shape=shape), clip="std")
    assert unmatched.diagnostics.level_offsets == (0.0,) * 4


@pytest.mark.usefixtures("few_pixels_are_enough")
def test_levels_of_integrations_are_matched():
    cube = drifting([0.0], shape=(5, *FRAME))[0].load().data.copy()
    cube[3] += 40.0
    result = run(flat(50.0, shape=FRAME), [MemoryHandle(cube, np.ones_like(cube))])
    assert result.background.mean() == pytest.approx(18.0, abs=0.1)


@pytest.mark.usefixtures("few_pixels_are_enough")
def test_errors_that_are_too_small_widen_the_limits():
    result = run(flat(50.0, shape=FRAME), drifting([0.0] * 4, sigma=2.0))
    assert result.diagnostics.noise_factors == pytest.approx([2.0] * 4, rel=0.25)
    assert result.diagnostics.clipped_fraction < 0.003
    # What the errors say is not changed.
    assert result.template.err.max() <= np.float32(math.sqrt(1.0 / 2.0))


@pytest.mark.usefixtures("few_pixels_are_enough")
def test_what_is_measured_does_not_depend_on_the_science_window():
    sky = drifting([0.0, 0.0, 5.0, -5.0], sigma=2.0)
    whole = run(flat(50.0, shape=FRAME), sky)
    window = Window(9, 3, 4, 20)
    part = run(flat(50.0, shape=window.shape, window=window), sky)
    assert part.diagnostics.level_offsets == whole.diagnostics.level_offsets
    np.testing.assert_array_equal(part.background, whole.background[9:13, 3:23])


def test_backgrounds_that_share_no_pixel():
    """Nothing can be compared; each covers its own part."""
    sky = [placed(Window(0, 0, 9, 20)), placed(Window(9, 0, 11, 20)), placed(Window(0, 0, 20, 20))]
    result = run(placed(Window(0, 0, 20, 20)), sky)
    np.testing.assert_array_equal(result.exposure.data, np.zeros((20, 20)))
    assert_everywhere(result.template.n_used, 2)
    assert result.diagnostics.level_offsets == (0.0,) * 3


# Memory and threads


def noisy(n, shape, *, seed=1, window=None):
    rng = np.random.default_rng(seed)
    handles = []
    for _ in range(n):
        data = rng.normal(10.0, 1.0, shape)
        data[rng.random(shape) < 0.02] += 50.0
        data[rng.random(shape) < 0.02] = np.nan
        dq = np.where(rng.random(shape) < 0.02, DO_NOT_USE, 0)
        handles.append(MemoryHandle(data, np.ones(shape), dq, window=window))
    return handles


def test_bands_that_a_background_does_not_reach(monkeypatch):
    monkeypatch.setattr("webbkg.methods.stack._MAX_BAND_PIXELS", 20)
    sky = [placed(Window(3, 2, 4, 9)), placed(Window(15, 0, 5, 20)), placed(Window(0, 0, 20, 20))]
    result = run(placed(Window(0, 0, 20, 20)), sky)
    np.testing.assert_array_equal(result.exposure.data, np.zeros((20, 20)))
    expected = np.ones((20, 20))
    expected[3:7, 2:11] += 1
    expected[15:] += 1
    np.testing.assert_array_equal(result.template.n_used, expected)


@pytest.mark.parametrize("clip", ["auto", "std"])
@pytest.mark.parametrize("shape", [(31, 32), (3, 31, 32)])
def test_bands_and_threads_change_nothing(clip, shape, monkeypatch):
    """All rows at once in one thread; row by row, in one and in four."""
    science, sky = noisy(1, shape, seed=9)[0], noisy(9, shape)
    whole = run(science, sky, clip=clip)
    monkeypatch.setattr("webbkg.methods.stack._MAX_BAND_PIXELS", 1)
    for threads in (1, 4):
        assert_same(run(science, sky, clip=clip, threads=threads), whole)


@pytest.mark.parametrize("threads", [1, 4])
def test_tiny_memory_changes_nothing(threads, monkeypatch):
    science, sky = noisy(1, (31, 32), seed=9)[0], noisy(30, (4, 31, 32))
    whole = run(science, sky)
    bands = []
    from webbkg.methods.stack import Stack

    load = Stack.load

    def counted(self, region, scratch=None):
        bands.append(region.ny)
        return load(self, region, scratch)

    monkeypatch.setattr(Stack, "load", counted)
    # Room for the result, and 2.5 rows of all.
    row = 32 * (8 * 30 + 22) + 32 * 20 * 4
    monkeypatch.setattr(
        "webbkg.methods.stack._OVERHEAD_BYTES", 1_000_000 - 14 * 31 * 32 - int(2.5 * row)
    )
    tiny = run(science, sky, max_memory=1, threads=threads)
    assert_same(tiny, whole)
    # The first call measures the stack. Two threads have a row each, four do not.
    assert max(bands[1:]) == (2 if threads == 1 else 1)
    assert sum(bands[1:]) == 31


def test_too_little_memory():
    message = (
        "max_memory of 16 MB is too little for 3 backgrounds of 4 columns; give at least 17 MB"
    )
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        run(flat(1.0), [flat(1.0) for _ in range(3)], max_memory=16)
    run(flat(1.0), [flat(1.0) for _ in range(3)], max_memory=17)


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_adds_up_to_one(threads, monkeypatch):
    monkeypatch.setattr("webbkg.methods.stack._MAX_BAND_PIXELS", 64)
    done = []
    sky = noisy(3, (31, 32))
    average(noisy(1, (31, 32))[0], sky, AverageParams(threads=threads), progress=done.append)
    assert len(done) == 16
    assert sum(done) == pytest.approx(1.0)
    assert min(done) > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_error_of_a_band_ends_the_work(threads, monkeypatch):
    monkeypatch.setattr("webbkg.methods.stack._MAX_BAND_PIXELS", 32)
    sky = noisy(3, (31, 32))
    calls = []

    class Broken(MemoryHandle):
        def load_rows(self, start, stop):
            calls.append(start)
            if start == 5:
                raise InputError("b.fits: truncated")
            return super().load_rows(start, stop)

    broken = Broken(sky[0].load().data)
    with pytest.raises(InputError, match=r"^b\.fits: truncated$"):
        run(noisy(1, (31, 32))[0], [broken, *sky], threads=threads)


# Parts


def test_several_science_exposures_share_a_background():
    params = AverageParams(threads=1)
    sky = [flat(10.0) for _ in range(3)]
    combined = combine_backgrounds(Window(0, 0, *SHAPE), sky, params)
    for value in (20.0, 30.0):
        science = flat(value)
        assert_same(subtract(science, combined, params), average(science, sky, params))


def test_result_is_frozen():
    result = run(flat(1.0), [flat(1.0) for _ in range(3)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.used = ()
    assert result.exposure is result.exposure


def test_meta_and_name_of_the_science_stay():
    science = flat(1.0, name="s_rate.fits", meta={"FILTER": "F770W"}, window=Window(4, 5, *SHAPE))
    sky = [flat(1.0, window=Window(0, 0, 9, 12), shape=(9, 12)) for _ in range(3)]
    exposure = run(science, sky).exposure
    assert (exposure.name, exposure.window) == ("s_rate.fits", Window(4, 5, *SHAPE))
    assert dict(exposure.meta) == {"FILTER": "F770W"}
    assert exposure.data.dtype == exposure.err.dtype == np.float32
    assert exposure.dq.dtype == np.uint32


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_integrations", [None, 2])
def test_errors_beyond_the_squares_of_float32(n_integrations):
    """Bad pixels of real products have errors of 1e20 and more."""
    shape = SHAPE if n_integrations is None else (n_integrations, *SHAPE)
    err = np.full(shape, 0.3, np.float32)
    err[..., 0, 0], err[..., 0, 1], err[..., 0, 2] = 3e25, 2e-23, 1e30
    flags = np.zeros(SHAPE, np.uint32)
    flags[0, 1:3] = 1
    sky = [MemoryHandle(np.ones(SHAPE), np.full(SHAPE, 0.8), flags) for _ in range(4)]
    found = run(MemoryHandle(np.ones(shape), err), sky).exposure.err
    # Where nothing was subtracted the error is that of the input, bit by bit.
    np.testing.assert_array_equal(found[..., 0, :3], err[..., 0, :3])
    np.testing.assert_allclose(found[..., 1:, :], 0.5, rtol=1e-6)


def test_backgrounds_that_disagree_have_the_error_of_their_scatter():
    values = [50.0, 150.0, 170.0]
    sky = [MemoryHandle(np.full(SHAPE, value), np.full(SHAPE, 0.4)) for value in values]
    result = run(flat(50.0), sky)
    # Two of three are kept, and no more can be rejected.
    assert_everywhere(result.background, 160.0)
    assert_everywhere(np.sqrt(result.background_var), 10.0)
    assert result.diagnostics.disputed_fraction == 1.0
    assert "in 100 % of the pixels the backgrounds differ" in warnings_of(result)[0]
