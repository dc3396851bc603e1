"""The method wfss, on small exposures whose sky is known."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from webbkg.errors import (
    FitError,
    InputError,
    NoBackgroundPixelsError,
    NoOverlapError,
    ShapeError,
)
from webbkg.exposure import Exposure, MemoryHandle, Window
from webbkg.masks.flags import DO_NOT_USE, FLAG_BITS
from webbkg.methods.wfss import WfssParams, wfss
from webbkg.methods.wfss_rules import dispersion_axis_of
from webbkg.sky_reference import SkyReference

SHAPE = (256, 320)
LEVEL, READ, GAIN = 0.22, 1.2e-5, 1175.0
META = {"INSTRUME": "NIRISS", "FILTER": "GR150R", "FASTAXIS": -2, "NOUTPUTS": 1}


def waves(shape=SHAPE, n=3.0):
    """A sky with structure."""
    y, x = (np.linspace(0.0, 1.0, size) for size in shape)
    image = 1.0 + 0.2 * np.sin(n * y)[:, np.newaxis] + 0.1 * np.cos(2.0 * n * x)
    return image.astype(np.float32)


def template(image=None, *, err=0.0, dq=0, name="sky.fits", window=None):
    image = waves() if image is None else image
    return SkyReference(
        name=name,
        image=image,
        err=np.full(image.shape, err, np.float32),
        dq=np.full(image.shape, dq, np.uint32),
        window=window or Window(0, 0, *image.shape),
        meta={},
    )


def exposure_of(sky, *, light=0.0, seed=1, meta=None, **changes):
    """An exposure with the noise of its light; its arrays cannot be written to."""
    rng = np.random.default_rng(seed)
    model = np.asarray(sky + light, np.float64)
    err = np.sqrt(READ + np.maximum(model, 0.0) / GAIN)
    arrays = {
        "data": (model + err * rng.standard_normal(model.shape)).astype(np.float32),
        "err": err.astype(np.float32),
        "dq": np.zeros(model.shape, np.uint32),
    }
    arrays |= {key: np.array(value) for key, value in changes.items()}
    for array in arrays.values():
        array.flags.writeable = False
    ny, nx = model.shape
    return Exposure(
        **arrays,
        window=Window(0, 0, ny, nx),
        name="jw1_rate.fits",
        meta=META if meta is None else meta,
    )


def handle_of(*args, **kwargs):
    return MemoryHandle.of(exposure_of(*args, **kwargs))


def spectra(n=6, height=0.3, seed=5):
    """Spectra along columns, and where they are."""
    light = np.zeros(SHAPE)
    rng = np.random.default_rng(seed)
    for x, y in zip(rng.integers(5, 310, n), rng.integers(0, 180, n), strict=True):
        light[y : y + 70, x : x + 3] += height
    return light, light > 0


@pytest.mark.parametrize("rule", ["model", "pipeline"])
def test_layout_and_byte_order_of_arrays_do_not_matter(rule):
    params = WfssParams(rule=rule)
    light, place = spectra()
    before, sky = exposure_of(LEVEL * waves(), light=light), template()
    expected = wfss(MemoryHandle.of(before), [sky], params, mask=place)
    turned = {name: np.asfortranarray(getattr(before, name)) for name in ("data", "err", "dq")}
    swapped = {name: turned[name].astype(turned[name].dtype.newbyteorder()) for name in turned}
    image = np.asfortranarray(sky.image)
    for arrays, other in (
        (turned, template(image)),
        (swapped, template(image.astype(">f4"))),
        (turned, template(sky.image.astype(np.float64))),
    ):
        result = wfss(
            MemoryHandle.of(replace(before, **arrays)),
            [other],
            params,
            mask=np.asfortranarray(place),
        )
        assert result.scales == expected.scales
        assert_array_equal(result.exposure.data, expected.exposure.data)
        assert_array_equal(result.mask, expected.mask)


def test_sky_is_taken_off():
    light, place = spectra()
    handle = handle_of(LEVEL * waves(), light=light)
    result = wfss(handle, [template()])
    found = result.diagnostics
    assert abs(result.scales[0] / LEVEL - 1.0) < 5 * result.scale_errs[0] / LEVEL
    assert 1e-4 < result.scale_errs[0] / LEVEL < 1e-3
    assert result.mask[place].mean() > 0.95
    assert 0.5 < found.used_fraction < 0.95
    assert found.masked_fraction == 0.0
    assert found.chi2 == pytest.approx(1.0, abs=0.02)
    assert found.factors[-1] == result.scales[0]
    assert_allclose(result.background, np.float32(result.scales[0]) * waves(), rtol=1e-6)
    assert_allclose(result.exposure.data, handle.load().data - result.background, rtol=1e-6)
    assert result.used == ("sky.fits",)
    assert found.rule == "model"
    assert found.warnings == ()


def test_errors_of_factor_and_template_are_added():
    handle = handle_of(LEVEL * waves())
    result = wfss(handle, [template(err=0.01)])
    (factor,), (error,) = result.scales, result.scale_errs
    expected = (factor * 0.01) ** 2 + (waves() * error) ** 2
    assert_allclose(result.background_var, expected, rtol=1e-5)
    assert_allclose(result.exposure.err, np.sqrt(handle.load().err ** 2.0 + expected), rtol=1e-5)
    kept = wfss(handle, [template(err=0.01)], WfssParams(errors="keep"))
    assert_array_equal(kept.exposure.err, handle.load().err)


def test_weights_are_not_those_of_the_data():
    # As the pipeline has it: errors that grow with the noise of their own pixel.
    model = LEVEL * waves()
    rng = np.random.default_rng(4)
    sigma = np.sqrt(READ + model * 100 / GAIN)
    data = model + sigma * rng.standard_normal(SHAPE)
    err = np.sqrt(np.maximum(READ + data * 100 / GAIN, READ)).astype(np.float32)
    handle = handle_of(model, data=data.astype(np.float32), err=err)
    off = [
        wfss(handle, [template()], WfssParams(rule=rule, maxiter=0, joint_1f=False)).scales[0]
        / LEVEL
        - 1.0
        for rule in ("model", "pipeline")
    ]
    assert off[1] < -0.1
    assert abs(off[0]) < 0.01


def test_undefined_template_is_flagged_and_not_subtracted():
    image = waves()
    image[10:20, 30:40] = np.nan
    image[100:110] = 0.0
    handle = handle_of(LEVEL * np.nan_to_num(image))
    result = wfss(handle, [template(image, dq=4)])
    hole = np.isnan(image) | (image == 0)
    assert_array_equal(result.exposure.data[hole], handle.load().data[hole])
    assert (result.exposure.dq[hole] == DO_NOT_USE).all()
    assert (result.exposure.dq[~hole] == 0).all()
    assert result.scales[0] == pytest.approx(LEVEL, rel=2e-3)
    assert np.isnan(result.background[hole]).all()
    assert result.diagnostics.coverage == pytest.approx(1 - hole.mean())


def test_rule_pipeline_adds_flags_and_leaves_nan():
    image = waves()
    image[10:20, 30:40] = np.nan
    handle = handle_of(LEVEL * np.nan_to_num(image))
    result = wfss(handle, [template(image, dq=4)], WfssParams(rule="pipeline"))
    assert (result.exposure.dq == 4).all()
    assert np.isnan(result.exposure.data[10:20, 30:40]).all()
    assert not result.mask.any()


@pytest.mark.parametrize(("maxiter", "rms_stop"), [(5, 0.0), (0, 0.0), (5, 2.0)])
def test_rule_pipeline_gives_the_number_of_the_pipeline(maxiter, rms_stop):
    from jwst.background.background_sub_wfss import ScalingFactorComputer

    light, place = spectra()
    handle = handle_of(LEVEL * waves(), light=light)
    given = place.copy()
    given[:, :100] = False
    params = WfssParams(rule="pipeline", maxiter=maxiter, rms_stop=rms_stop)
    result = wfss(handle, [template()], params, mask=given)
    one = handle.load()
    # The pipeline takes a fraction, not percent, for this one.
    rule = ScalingFactorComputer(
        p=1.0, maxiter=maxiter, delta_rms_thresh=rms_stop / 100, dispersion_axis=2
    )
    expected, _ = rule(one.data.copy(), waves(), one.err**2, mask=given.copy())
    assert result.scales[0] == pytest.approx(expected, rel=1e-6)
    assert_array_equal(result.mask, given)
    assert result.diagnostics.masked_fraction == pytest.approx(given.mean())
    assert result.scale_errs[0] > 0


def test_rule_pipeline_wants_enough_pixels():
    handle = handle_of(LEVEL * waves())
    mask = np.ones(SHAPE, bool)
    mask[:12] = False  # 4.7 % of all.
    params = WfssParams(rule="pipeline")
    with pytest.raises(NoBackgroundPixelsError, match=r"jw1_rate.fits: 3840 pixels .* 4096"):
        wfss(handle, [template()], params, mask=mask)
    assert wfss(handle, [template()], params, mask=mask, least_fraction=0.0).scales[0] > 0
    mask[12:14] = False
    assert wfss(handle, [template()], params, mask=mask).scales[0] > 0
    # Pixels without template count only where the mask is a user's, as in the pipeline.
    dark = waves()
    dark[:14] = 0.0
    with pytest.raises(NoBackgroundPixelsError, match="0 pixels are left"):
        wfss(handle, [template(dark)], params, mask=mask)
    with pytest.raises(FitError, match=r"jw1_rate.fits: the factor .* not finite"):
        wfss(handle, [template(dark)], params, mask=mask, least_fraction=0.0)


def test_mask_that_covers_nearly_all_is_not_followed():
    light, _ = spectra()
    handle = handle_of(LEVEL * waves(), light=light)
    mask = np.ones(SHAPE, bool)
    mask[:3] = False
    result = wfss(handle, [template()], mask=mask)
    assert result.scales[0] == pytest.approx(LEVEL, rel=3e-3)
    (warning,) = result.diagnostics.warnings
    assert "the mask leaves 960 usable pixels, more than 4096 are needed" in warning
    assert result.mask.mean() < 0.5
    # A user's own mask is followed as long as it leaves anything.
    assert wfss(handle, [template()], mask=mask, least_fraction=0.0).mask.mean() > 0.98
    with pytest.raises(NoBackgroundPixelsError, match="outside the mask that was given"):
        wfss(handle, [template()], mask=np.ones(SHAPE, bool), least_fraction=0.0)


def test_given_mask_counts():
    # More than half of the frame is brighter, which nothing but the mask can tell.
    mask = np.zeros(SHAPE, bool)
    mask[:, 120:] = True
    handle = handle_of(LEVEL * waves() * np.where(mask, 1.3, 1.0))
    found = wfss(handle, [template()], mask=mask)
    assert found.scales[0] == pytest.approx(LEVEL, rel=2e-3)
    assert found.mask[:, 120:].all()
    assert found.diagnostics.masked_fraction == pytest.approx(mask.mean())
    assert wfss(handle, [template()]).scales[0] > 1.1 * LEVEL


def test_several_templates_are_combined():
    other = waves(n=9.0)[:, ::-1].copy()
    handle = handle_of(LEVEL * waves() + 0.1 * other)
    found = wfss(handle, [template(), template(other, name="stray.fits")])
    assert_allclose(found.scales, [LEVEL, 0.1], atol=4 * max(found.scale_errs))
    assert found.used == ("sky.fits", "stray.fits")
    assert_allclose(
        found.background, found.scales[0] * waves() + found.scales[1] * other, rtol=1e-5
    )
    none = wfss(handle_of(LEVEL * waves() - 0.05 * other), [template(), template(other)])
    assert none.scales[1] == 0.0
    with pytest.raises(InputError, match="the rule pipeline scales one sky template, got 2"):
        wfss(handle, [template(), template(other)], WfssParams(rule="pipeline"))
    with pytest.raises(FitError, match="the same but for a factor"):
        wfss(handle, [template(), template(2.0 * waves())])


@pytest.mark.parametrize("shape", [(300, 48), (300, 16), (16, 300), (64, 5), (40, 1)])
@pytest.mark.parametrize("joint", [True, False])
def test_few_lines(shape, joint):
    handle = handle_of(LEVEL * waves(shape), meta={**META, "SUBARRAY": "SMALL"})
    found = wfss(handle, [template(waves(shape))], WfssParams(joint_1f=joint))
    assert 0 < found.scale_errs[0] < 0.1 * LEVEL
    assert abs(found.scales[0] - LEVEL) < 5 * found.scale_errs[0]
    assert np.isfinite(found.exposure.err).all()


def test_lines_are_solved_for():
    rng = np.random.default_rng(2)
    lines = 0.004 * rng.standard_normal(SHAPE[1])
    lines -= lines.mean()
    light, _ = spectra(3)
    handle = handle_of(LEVEL * waves() + lines, light=light)
    found = wfss(handle, [template()])
    assert found.diagnostics.lines_rms == pytest.approx(0.004, rel=0.25)
    assert abs(found.scales[0] / LEVEL - 1.0) < 4 * found.scale_errs[0] / LEVEL
    assert math.isnan(wfss(handle, [template()], WfssParams(joint_1f=False)).diagnostics.lines_rms)
    meta = {key: value for key, value in META.items() if key != "FASTAXIS"}
    blind = wfss(handle_of(LEVEL * waves(), meta=meta), [template()])
    assert "needs FASTAXIS" in blind.diagnostics.warnings[0]
    assert "1/f lines are not solved for" in blind.diagnostics.warnings[0]


def test_given_factors_are_used_as_they_are():
    handle = handle_of(LEVEL * waves())
    result = wfss(handle, [template()], scales=((0.5,), (0.02,)))
    assert result.scales == (0.5,)
    assert result.scale_errs == (0.02,)
    assert_allclose(result.background, 0.5 * waves(), rtol=1e-6)
    assert_allclose(result.background_var, (0.02 * waves()) ** 2, rtol=1e-5)
    with pytest.raises(InputError, match="1 sky templates need as many factors and errors"):
        wfss(handle, [template()], scales=((0.5, 0.1), (0.02, 0.1)))


def test_bad_pixels_are_not_used():
    light, _ = spectra(2)
    before = exposure_of(LEVEL * waves(), light=light)
    data, dq, err = before.data.copy(), before.dq.copy(), before.err.copy()
    data[::7, ::5] = 1e4
    dq[::7, ::5] = DO_NOT_USE
    data[3::40, 3::40] = 5.0  # Unflagged.
    data[1::9, 1::9] += 0.1
    dq[1::9, 1::9] = FLAG_BITS["JUMP_DET"]
    err[2::11, 2::11] = 0.0
    err[5::11, 2::11] = np.nan
    data[6, 6] = np.nan
    handle = handle_of(LEVEL * waves(), data=data, dq=dq, err=err)
    result = wfss(handle, [template()])
    assert abs(result.scales[0] / LEVEL - 1.0) < 5 * result.scale_errs[0] / LEVEL
    # A bad pixel is no spectrum.
    assert result.mask[3::40, 3::40].mean() < 0.2


def test_photon_noise_is_told_from_read_noise():
    sky = np.geomspace(0.02, 20.0, SHAPE[0], dtype=np.float32)[:, np.newaxis]
    sky = np.repeat(sky, SHAPE[1], axis=1)
    handle = handle_of(LEVEL * sky)
    found = wfss(handle, [template(sky)], WfssParams(joint_1f=False))
    best = 1.0 / math.sqrt(np.sum(np.square(sky / handle.load().err, dtype=float)))
    assert best == pytest.approx(found.scale_errs[0], rel=0.35)
    assert found.diagnostics.chi2 == pytest.approx(1.0, abs=0.05)


def test_no_sky_at_all():
    handle = handle_of(np.zeros(SHAPE), seed=3)
    result = wfss(handle, [template()])
    assert abs(result.scales[0]) < 5 * result.scale_errs[0] + 1e-4
    assert np.isfinite(result.exposure.data).all()


@pytest.mark.parametrize("bad", ["nan", "zero", "flag"])
def test_holes_of_a_template_are_flagged(bad):
    sky = template()
    hole = np.s_[100:120, 40:70]
    if bad == "flag":
        # Whatever is there.
        sky.image[hole], sky.dq[hole] = 99.0, DO_NOT_USE
    else:
        sky.image[hole] = {"nan": np.nan, "zero": 0.0}[bad]
    handle = handle_of(LEVEL * waves())
    result = wfss(handle, [sky])
    assert result.scales[0] == pytest.approx(LEVEL, rel=0.002)
    inside = np.zeros(SHAPE, bool)
    inside[hole] = True
    assert_array_equal(result.exposure.dq & DO_NOT_USE != 0, inside)
    assert_array_equal(result.exposure.data[hole], handle.load().data[hole])
    # One that is 0 where another is not has a value there.
    glow = template(np.where(inside, waves(), np.float32(0.0)), name="glow.fits")
    if bad == "zero":
        both = wfss(handle, [sky, glow])
        assert not both.exposure.dq.any()
        assert both.scales == pytest.approx((LEVEL, LEVEL), rel=0.01)


def test_factors_that_are_given_are_finite():
    handle = handle_of(LEVEL * waves())
    for scales in (([np.nan], [0.1]), ([0.2], [np.inf])):
        with pytest.raises(InputError, match="factors and errors of the sky templates must be fin"):
            wfss(handle, [template()], scales=scales)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dq": np.full(SHAPE, DO_NOT_USE, np.uint32)}, NoBackgroundPixelsError, "no pixel has"),
        ({"err": np.zeros(SHAPE, np.float32)}, NoBackgroundPixelsError, "an error above 0"),
        ({"err": np.full(SHAPE, np.nan, np.float32)}, NoBackgroundPixelsError, "check SCI, ERR"),
        ({"data": np.full(SHAPE, np.nan, np.float32)}, NoBackgroundPixelsError, "finite value"),
    ],
)
def test_exposures_without_pixels_are_refused(changes, error, message):
    handle = handle_of(LEVEL * waves(), **changes)
    with pytest.raises(error, match=f"jw1_rate.fits: .*{message}") as caught:
        wfss(handle, [template()])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_errors_of_zero_leave_the_pipeline_no_factor():
    handle = handle_of(LEVEL * waves(), err=np.zeros(SHAPE, np.float32))
    with pytest.raises(FitError, match=r"jw1_rate.fits: the factor of the sky .* not finite"):
        wfss(handle, [template()], WfssParams(rule="pipeline"))


def test_bad_input_is_refused():
    handle = handle_of(LEVEL * waves())
    with pytest.raises(InputError, match="no sky template was given"):
        wfss(handle, [])
    with pytest.raises(ShapeError, match=r"the mask has shape \(4, 4\) but"):
        wfss(handle, [template()], mask=np.zeros((4, 4), bool))
    with pytest.raises(InputError, match=r"sky.fits: the sky template is 0 or NaN in all"):
        wfss(handle, [template(np.full(SHAPE, np.nan, np.float32))])
    with pytest.raises(NoOverlapError, match="do not overlap"):
        wfss(handle, [template(window=Window(1000, 1000, *SHAPE))])
    blind = handle_of(LEVEL * waves(), meta={"INSTRUME": "NIRISS"})
    with pytest.raises(InputError, match="needs the direction of the dispersion"):
        wfss(blind, [template()])
    with pytest.raises(InputError, match="needs the direction of the dispersion"):
        wfss(blind, [template()], WfssParams(rule="pipeline", rms_stop=1.0))
    assert wfss(blind, [template()], WfssParams(rule="pipeline")).scales[0] > 0
    assert wfss(blind, [template()], dispersion_axis=2).scales[0] > 0
    cube = Exposure(
        *(np.zeros((2, 8, 8), kind) for kind in (np.float32, np.float32, np.uint32)),
        Window(0, 0, 8, 8),
        "jw1_rateints.fits",
        META,
    )
    with pytest.raises(ShapeError, match="sky templates are scaled to 2-D exposures"):
        wfss(MemoryHandle.of(cube), [template(waves((8, 8)))])


def test_small_exposures_work():
    for shape in ((8, 8), (16, 2), (64, 3)):
        sky = waves(shape)
        result = wfss(handle_of(LEVEL * sky), [template(sky)])
        assert result.scales[0] == pytest.approx(LEVEL, rel=0.2)


def test_direction_of_the_dispersion():
    assert dispersion_axis_of({"FILTER": "GR150C", "PUPIL": "F150W"}) == 1
    assert dispersion_axis_of({"FILTER": "F444W", "PUPIL": "GRISMC"}) == 2
    assert dispersion_axis_of({"DISPAXIS": 1, "FILTER": "GR150R"}) == 1
    assert dispersion_axis_of({"FILTER": "F150W"}) is None
