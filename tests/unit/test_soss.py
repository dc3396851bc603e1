"""`soss` on small exposures: what it returns, options and bad input."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from webbkg.errors import FitError, InputError, NoBackgroundPixelsError, ParameterError, ShapeError
from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.soss import SossParams, soss
from webbkg.methods.soss_shift import shifted
from webbkg.sky_reference import SkyReference

NX, EDGE = 1000, 702
#: The right side is brighter than most pixels: the pipeline would not see it.
PIPELINE = SossParams(rule="pipeline", source_percentile=80.0)
PARAMS = {"mode": SossParams(), "pipeline": PIPELINE}
WINDOW = Window(1802, 0, 96, NX)


def template(level=4.0, *, slope=0.1, err=0.0, name="template", window=WINDOW):
    """A sky that rises by half at column 702."""
    x = np.arange(NX)
    row = level * (1.0 + slope * x / NX) * (1.0 + 0.25 * (1.0 + np.tanh((x - EDGE + 0.5) / 4.0)))
    image = np.tile(row.astype(np.float32), (window.ny, 1))
    return SkyReference(
        name, image, np.full_like(image, err), np.zeros(image.shape, np.uint32), window, {}
    )


def exposure(reference, scales=(0.9, 1.0), *, seed=1, n=None, noise=0.1, **keywords):
    """The sky with a bright trace in a third of the rows and its noise."""
    rng = np.random.default_rng(seed)
    ny = reference.window.ny
    sky = reference.image * np.where(np.arange(NX) < EDGE, *scales)
    rows = np.arange(ny)[:, np.newaxis]
    light = 300.0 * np.exp(-0.5 * ((rows - 0.7 * ny) / 4.0) ** 2)
    shape = (ny, NX) if n is None else (n, ny, NX)
    data = (sky + light + noise * rng.standard_normal(shape)).astype(np.float32)
    dq = np.zeros(shape, np.uint32)
    for side in (np.s_[..., :4], np.s_[..., -4:]):
        data[side], dq[side] = np.nan, 1 | 1 << 31
    err = np.full(shape, noise, np.float32)
    for array in (data, err, dq):
        array.setflags(write=False)
    arrays = {"data": data, "err": err, "dq": dq} | keywords
    return MemoryHandle(**arrays, window=reference.window, name="x_rateints.fits")


@pytest.mark.parametrize("rule", ["mode", "pipeline"])
def test_layout_and_byte_order_of_arrays_do_not_matter(rule):
    reference = template()
    handle = exposure(reference, n=3)
    expected = soss(handle, [reference], PARAMS[rule])
    before = handle.load()
    arrays = {name: np.asfortranarray(getattr(before, name)) for name in ("data", "err", "dq")}
    swapped = {name: arrays[name].astype(arrays[name].dtype.newbyteorder()) for name in arrays}
    image = np.asfortranarray(reference.image)
    for kind, other in ((arrays, image), (swapped, image.astype(">f4"))):
        again = MemoryHandle(**kind, window=WINDOW, name="x_rateints.fits")
        result = soss(again, [replace(reference, image=other)], PARAMS[rule])
        assert result.scales == expected.scales
        np.testing.assert_array_equal(result.exposure.data, expected.exposure.data)
        np.testing.assert_array_equal(result.exposure.err, expected.exposure.err)


@pytest.mark.parametrize("rule", ["mode", "pipeline"])
@pytest.mark.parametrize("n", [None, 3])
def test_what_is_returned(rule, n):
    reference = template()
    handle = exposure(reference, n=n)
    result = soss(handle, [reference], PARAMS[rule])
    assert result.scales == pytest.approx((0.9, 1.0), rel=0.02 if rule == "pipeline" else 0.005)
    before, after = handle.load(), result.exposure
    assert after.data.shape == before.data.shape
    assert after.data.dtype == after.err.dtype == np.float32
    known = np.isfinite(before.data)
    background = np.broadcast_to(result.background, before.data.shape)
    np.testing.assert_allclose(
        (before.data - after.data)[known], background[known], rtol=1e-4, atol=1e-4
    )
    added = after.err.astype(np.float64) ** 2 - before.err.astype(np.float64) ** 2
    np.testing.assert_allclose(
        added, np.broadcast_to(result.background_var, added.shape), rtol=0.1, atol=1e-7
    )
    planes = list(result.planes())
    assert len(planes) == (n or 1)
    for index, plane in enumerate(planes):
        whole = after.data if n is None else after.data[index]
        np.testing.assert_array_equal(plane.data, whole)
        np.testing.assert_array_equal(result.plane(index).err, plane.err)
    diagnostics = result.diagnostics
    assert diagnostics.rule == rule
    assert diagnostics.templates == result.used == ("template",)
    assert diagnostics.weights == (1.0,)
    assert diagnostics.step_column == pytest.approx(EDGE, abs=1)
    assert diagnostics.step_shift == 0.0
    assert not diagnostics.one_side
    assert len(diagnostics.rms) == 1
    assert math.isfinite(diagnostics.rms[0])
    assert result.template.recipe["parameters"]["rule"] == rule
    assert (result.right == (np.arange(NX) >= diagnostics.step_column)).mean() > 0.99
    # The trace told nothing, sky away from it did.
    assert result.mask[60:75].mean() > 0.99
    assert result.mask[:24, 10:600].mean() < 0.1
    assert all(0.0 < part < 1.0 for part in diagnostics.used_fractions)


def test_errors_that_are_kept():
    reference = template(err=0.2)
    handle = exposure(reference, n=2)
    result = soss(handle, [reference], SossParams(errors="keep"))
    before = handle.load()
    # Not copied: a time series may be large.
    assert result.exposure.err is before.err
    assert np.shares_memory(result.plane(1).err, before.err)
    assert np.shares_memory(result.exposure.dq, before.dq)


def test_error_of_the_template_counts():
    reference = template(err=0.2)
    result = soss(exposure(reference), [reference], SossParams())
    var = result.background_var[:, 10:600]
    np.testing.assert_allclose(var, (0.9 * 0.2) ** 2, rtol=0.02)
    without = soss(exposure(reference), [template()], SossParams()).background_var[50, 300]
    assert without == pytest.approx((result.scale_errs[0] * reference.image[50, 300]) ** 2)


def test_nothing_known_of_errors():
    reference = template()
    handle = exposure(reference, err=None)
    result = soss(handle, [reference])
    assert result.scales == pytest.approx((0.9, 1.0), rel=0.005)
    assert np.isnan(result.exposure.err).all()


@pytest.mark.parametrize("rule", ["mode", "pipeline"])
def test_each_integration_has_its_factors(rule):
    reference = template()
    true = np.array([[0.9, 1.0], [1.0, 1.1], [0.8, 0.9]])
    parts = [exposure(reference, tuple(pair), seed=k).load() for k, pair in enumerate(true)]
    handle = MemoryHandle(
        np.stack([part.data for part in parts]),
        np.stack([part.err for part in parts]),
        np.stack([part.dq for part in parts]),
        window=WINDOW,
    )
    result = soss(handle, [reference], PARAMS[rule].changed(per_integration=True))
    rel = 0.005 if rule == "mode" else 0.02
    np.testing.assert_allclose(result.integration_scales, true, rtol=rel)
    assert result.integration_scale_errs.shape == (3, 2)
    assert (result.integration_scale_errs > 0).all()
    assert result.scales == pytest.approx(tuple(result.integration_scales.mean(axis=0)))
    assert result.has_own_variances
    columns = np.arange(NX) < result.diagnostics.step_column
    for index, plane in enumerate(result.planes()):
        np.testing.assert_array_equal(plane.data, result.exposure.data[index])
        np.testing.assert_array_equal(plane.err, result.exposure.err[index])
        off = parts[index].data - plane.data
        factor = np.where(columns, *result.integration_scales[index])
        np.testing.assert_allclose(off[10, 4:-4], (reference.image * factor)[10, 4:-4], rtol=1e-3)
        added = plane.err.astype(np.float64) ** 2 - parts[index].err.astype(np.float64) ** 2
        np.testing.assert_allclose(result.variance(index), added, rtol=0.1, atol=1e-7)
    together = soss(handle, [reference], PARAMS[rule])
    assert together.integration_scales is None
    assert not together.has_own_variances


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_side_without_pixels(side):
    reference = template()
    handle = exposure(reference, (0.9, 0.9))
    dq = handle.load().dq.copy()
    dq[:, : EDGE + 20] |= 1 if side == "left" else 0
    dq[:, EDGE - 20 :] |= 1 if side == "right" else 0
    blind = replace(handle.load(), dq=dq)
    result = soss(MemoryHandle.of(blind), [reference])
    assert result.diagnostics.one_side
    assert result.scales[0] == result.scales[1] == pytest.approx(0.9, rel=0.01)
    assert f"{side} of the step too few pixels are usable" in result.diagnostics.warnings[0]
    # The pipeline does not scale such an exposure.
    with pytest.raises(FitError):
        soss(MemoryHandle.of(blind), [reference], PIPELINE)


def test_mask_of_the_exposure_counts():
    reference = template()
    handle = exposure(reference)
    data = handle.load().data.copy()
    spoilt = np.zeros(data.shape, bool)
    spoilt[:, 100:600] = True
    data[spoilt] *= 0.5
    for rule in ("mode", "pipeline"):
        whole = MemoryHandle.of(replace(handle.load(), data=data, mask=spoilt))
        result = soss(whole, [reference], PARAMS[rule])
        assert result.scales == pytest.approx((0.9, 1.0), rel=0.03)


def test_holes_in_a_template_are_flagged():
    reference = template()
    reference.image[30:34, 200:210] = np.nan
    handle = exposure(template())
    result = soss(handle, [reference])
    hole = np.s_[30:34, 200:210]
    assert np.isnan(result.background[hole]).all()
    assert (result.exposure.dq[hole] & 1 == 1).all()
    np.testing.assert_array_equal(result.exposure.data[hole], handle.load().data[hole])
    np.testing.assert_array_equal(result.exposure.err[hole], handle.load().err[hole])
    assert np.count_nonzero(result.exposure.dq != handle.load().dq) == 40
    assert result.scales == pytest.approx((0.9, 1.0), rel=0.005)


@pytest.mark.parametrize("bad", ["nan", "zero", "flag"])
@pytest.mark.parametrize(
    "hole", [np.s_[40:41, 695:696], np.s_[40:50, 690:696], np.s_[:, 695:696], np.s_[30:60, 660:740]]
)
def test_holes_at_the_step_of_a_template_do_not_move_it(bad, hole):
    reference = template()
    if bad == "flag":
        # Whatever is there.
        reference.image[hole], reference.dq[hole] = 99.0, 1
    else:
        reference.image[hole] = {"nan": np.nan, "zero": 0.0}[bad]
    handle = exposure(template())
    result = soss(handle, [reference])
    assert result.diagnostics.step_shift == 0.0
    assert result.scales == pytest.approx((0.9, 1.0), rel=0.005)
    inside = np.zeros(WINDOW.shape, bool)
    inside[hole] = True
    np.testing.assert_array_equal(result.exposure.dq != handle.load().dq, inside)
    truth = handle.load().data - template().image * np.where(np.arange(NX) < EDGE, 0.9, 1.0)
    off = np.abs(result.exposure.data - truth)[~inside]
    assert np.nanmax(off) < 0.01 * 6.0


@pytest.mark.parametrize("rule", ["mode", "pipeline"])
def test_templates_without_values_are_passed_over(rule):
    references = [template(slope=slope, name=f"slope {slope}") for slope in (0.0, 0.1, 0.2, 0.3)]
    references[0].image[:] = np.nan
    references[3].image[:] = 0.0
    result = soss(exposure(template()), references, PARAMS[rule])
    assert result.used == ("slope 0.1",)
    assert np.isinf([result.diagnostics.rms[k] for k in (0, 3)]).all()
    with pytest.raises(InputError, match=r"the sky template slope 0\.0 has no value other than 0"):
        soss(exposure(template()), [references[0], references[3]], PARAMS[rule])


@pytest.mark.filterwarnings("error")
def test_template_without_a_step():
    x = np.linspace(0.0, 1.0, NX, dtype=np.float32)
    for row in (np.full(NX, 4.0, np.float32), 4.0 + x):
        reference = replace(template(), image=np.tile(row, (96, 1)))
        result = soss(exposure(reference, (0.9, 0.9)), [reference])
        assert result.scales == pytest.approx((0.9, 0.9), rel=0.005)
        assert result.diagnostics.step_shift == 0.0


def test_small_strip_takes_its_rows_of_a_large_template():
    window = Window(1792, 0, 256, NX)
    large = template(window=window)
    large.image[:10] *= 3.0
    large.image[106:] *= 3.0
    result = soss(exposure(template()), [large])
    assert result.scales == pytest.approx((0.9, 1.0), rel=0.005)


def test_best_of_a_library():
    references = [template(slope=slope, name=f"slope {slope}") for slope in (-0.2, 0.0, 0.1, 0.3)]
    for rule in ("mode", "pipeline"):
        result = soss(exposure(references[2]), references, PARAMS[rule])
        assert result.used == ("slope 0.1",)
        assert int(np.argmin(result.diagnostics.rms)) == 2


def test_result_does_not_depend_on_threads():
    reference = template()
    handle = exposure(reference, n=5)
    one, two = (soss(handle, [reference], SossParams(threads=n)) for n in (1, 2))
    assert one.scales == pytest.approx(two.scales, rel=1e-6)
    np.testing.assert_allclose(one.exposure.data, two.exposure.data, rtol=1e-5, atol=1e-5)


def test_shifted_step():
    image = template(slope=0.0).image
    edges = np.full(96, EDGE)
    moved = shifted(image, edges, 3.0)
    near = slice(EDGE - 15, EDGE + 15)
    np.testing.assert_allclose(moved[:, near], image[:, EDGE - 18 : EDGE + 12], rtol=1e-5)
    np.testing.assert_array_equal(moved[:, :600], image[:, :600])
    np.testing.assert_array_equal(moved[:, 800:], image[:, 800:])
    assert shifted(image, edges, 0.0) is image


def test_empty_library():
    with pytest.raises(
        InputError,
        match=r"^x_rateints\.fits: the library of sky templates is empty; give at least one tem",
    ):
        soss(exposure(template()), [])


def test_template_without_values():
    reference = template()
    reference.image[:] = 0.0
    with pytest.raises(InputError, match="the sky template template has no value other than 0"):
        soss(exposure(template()), [reference])


@pytest.mark.parametrize("rule", ["mode", "pipeline"])
def test_unknown_height(rule):
    window = Window(1802, 0, 64, NX)
    handle = exposure(template(window=window))
    with pytest.raises(
        ShapeError,
        match=r"^x_rateints\.fits: it has 64x1000 pixels and the sky template template has 96x1",
    ):
        soss(handle, [template()], PARAMS[rule])


def test_too_few_columns():
    narrow = np.ones((96, 600), np.float32)
    reference = SkyReference(
        "narrow", narrow, narrow, np.zeros((96, 600), np.uint32), Window(0, 0, 96, 600), {}
    )
    with pytest.raises(ShapeError, match="it has 600 columns, but the step of the sky lies near"):
        soss(MemoryHandle(narrow), [reference])


@pytest.mark.parametrize("rule", ["mode", "pipeline"])
def test_no_integration(rule):
    arrays = (np.empty((0, 96, NX), kind) for kind in (np.float32, np.float32, np.uint32))
    empty = MemoryHandle(*arrays, window=WINDOW, name="x_rateints.fits")
    with pytest.raises(InputError, match=r"^x_rateints\.fits: has no integration; give a file"):
        soss(empty, [template()], PARAMS[rule])


@pytest.mark.parametrize("rule", ["mode", "pipeline"])
def test_memory_bounds_the_threads(rule):
    reference = template(window=Window(1792, 0, 256, NX))
    handle = exposure(reference, n=24)
    tracemalloc.start()
    try:
        soss(handle, [reference], PARAMS[rule].changed(max_memory=16, threads=24))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The result beside it.
    assert peak < 32e6


def test_no_usable_pixel():
    handle = exposure(template(), dq=np.ones((96, NX), np.uint32))
    with pytest.raises(
        NoBackgroundPixelsError, match=r"^x_rateints\.fits: no pixel is usable, all are flagged"
    ):
        soss(handle, [template()])
    with pytest.raises(FitError, match="none of the 1 sky templates can be scaled"):
        soss(handle, [template()], PIPELINE)


def test_few_usable_pixels():
    dq = np.ones((96, NX), np.uint32)
    dq[:8, 100:116] = 0
    with pytest.raises(NoBackgroundPixelsError, match="too few pixels are usable on both sides"):
        soss(exposure(template(), dq=dq), [template()])


def test_no_sky():
    reference = template()
    empty = MemoryHandle(-reference.image, window=WINDOW, name="x_rate.fits")
    with pytest.raises(FitError, match=r"^x_rate\.fits: no sky template has a factor above 0; "):
        soss(empty, [reference])


def test_parameters():
    with pytest.raises(ParameterError):
        SossParams(rule="median")
    with pytest.raises(ParameterError):
        SossParams(source_percentile=0.0)
    for low, high in ((50.0, 25.0), (30.0, 30.0)):
        with pytest.raises(ParameterError, match="bkg_percentile_low must be below"):
            SossParams(bkg_percentile_low=low, bkg_percentile_high=high)
    with pytest.raises(ParameterError, match="unknown data-quality flag 'COLD'"):
        SossParams(bad_flags="COLD")
