"""What holds for levels, masks and shrunk backgrounds whatever the data are."""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from webbkg.exposure import MemoryHandle
from webbkg.kernels.pattern import Pattern, Sample, measure_pattern
from webbkg.kernels.shrink import shrink
from webbkg.methods.coadd import PackedMask
from webbkg.methods.i4i import I4iParams, i4i
from webbkg.methods.levels import fit_level

laws = settings(
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SIGMA = 0.35


@st.composite
def scenes(draw):
    """Noise on a pattern, with places where values are missing, wild, or of unknown error."""
    shape = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    level = draw(st.sampled_from([0.0, 60.0, -30.0, 1e4]))
    pattern = draw(st.sampled_from([0.0, 0.3, 3.0])) * rng.normal(size=shape)
    stack = level + pattern + SIGMA * rng.normal(size=(3, *shape))
    var = np.full(stack.shape, SIGMA**2)
    for array, values in (
        (stack, (np.nan, 1e4, -1e4)),
        (var, (np.nan, 0.0, 1e6)),
    ):
        for value in values:
            share = draw(st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0]))
            array[rng.random(array.shape) < share] = value
    return stack.astype(np.float32), var.astype(np.float32)


@laws
@given(scenes())
def test_shrunk_values_are_finite_and_bounded(scene):
    stack, var = scene
    samples = [Sample(stack[i], var[i], stack[2], var[2]) for i in range(2)]
    pattern = measure_pattern(samples) or Pattern.nothing(stack[2].shape)
    found = shrink(stack[2], var[2], pattern)
    known = np.isfinite(stack[2]) & np.isfinite(var[2])
    if not known.any():
        np.testing.assert_array_equal(found.image, stack[2])
        return
    # Holes stay only at edges; errors are known wherever there is a value.
    assert not (np.isnan(found.image) & ~(pattern.edges & ~known)).any()
    defined = np.isfinite(found.image)
    np.testing.assert_array_equal(np.isfinite(found.var), defined)
    assert (found.var[defined] >= 0.0).all()
    assert not found.own[~known].any()
    np.testing.assert_array_equal(found.image[found.own], stack[2][found.own])
    np.testing.assert_array_equal(found.var[found.own], var[2][found.own])
    # No value is far beyond those given.
    low, high = stack[2][known].min(), stack[2][known].max()
    margin = 0.7 * (high - low) + 1e-3 * abs(high) + 1e-6
    assert found.image[defined].min() >= low - margin
    assert found.image[defined].max() <= high + margin
    # Powers of two scale all of it exactly.
    double = [Sample(2 * s.image, 4 * s.var, 2 * s.template, 4 * s.template_var) for s in samples]
    other = measure_pattern(double) or Pattern.nothing(stack[2].shape)
    np.testing.assert_allclose(other.power, 4 * pattern.power, rtol=1e-5)
    twice = shrink(2 * stack[2], 4 * var[2], other)
    np.testing.assert_array_equal(twice.own, found.own)
    np.testing.assert_allclose(twice.image, 2 * found.image, rtol=1e-5, atol=1e-6 * margin)


@laws
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.2, 1.0, 1.07, 30.0]),
    st.sampled_from([-5.0, 0.0, 0.01, 200.0]),
    st.sampled_from([0.0, 0.05, 0.4]),
    st.booleans(),
)
def test_levels(seed, factor, offset, outliers, multiplicative):
    """Any value is found, whatever a minority of the pixels says."""
    rng = np.random.default_rng(seed)
    template = (60.0 + rng.normal(0, 0.5, (50, 61))).astype(np.float32)
    data = factor * template if multiplicative else template + np.float32(offset)
    data = data + rng.normal(0, SIGMA, template.shape).astype(np.float32)
    struck = rng.random(template.shape) < outliers
    data[struck] = rng.choice([np.nan, 1e5, np.inf], template.shape)[struck]
    use = rng.random(template.shape) < 0.8
    data[~use] = 1e9
    found = fit_level(data.astype(np.float32), template, use, multiplicative=multiplicative)
    assert abs(found.value - (factor if multiplicative else offset)) < 6 * found.err
    expected = SIGMA / np.sqrt((use & ~struck).sum()) / (60.0 if multiplicative else 1.0)
    assert 0.8 * expected < found.err < 1.2 * expected


@laws
@given(arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 40))), st.data())
def test_packed_masks(mask, data):
    packed = PackedMask(mask)
    start = data.draw(st.integers(0, len(mask) - 1))
    stop = data.draw(st.integers(start + 1, len(mask)))
    np.testing.assert_array_equal(packed.rows(start, stop), mask[start:stop])
    np.testing.assert_array_equal(packed.whole(), mask)
    assert packed.fraction == mask.mean()


@st.composite
def groups(draw):
    """Exposures of a sky, each with its own level, flags, masks and missing values."""
    n, shape = draw(st.integers(3, 6)), (40, 44)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pattern = 60.0 + 0.3 * rng.normal(size=shape)
    data = pattern * rng.uniform(0.9, 1.1, (n, 1, 1)) + SIGMA * rng.normal(size=(n, *shape))
    data[rng.random(data.shape) < draw(st.sampled_from([0.0, 0.01, 0.2]))] = np.nan
    dq = (rng.random(data.shape) < draw(st.sampled_from([0.0, 0.02]))).astype(np.uint32)
    masks = rng.random(data.shape) < draw(st.sampled_from([0.0, 0.1, 0.5]))
    return data.astype(np.float32), dq, masks


def run_of(data, dq, masks, **params):
    err = np.full(data.shape[1:], SIGMA, np.float32)
    handles = [
        MemoryHandle(*planes, name=f"e{k}", meta={"DETECTOR": "NIS"})
        for k, planes in enumerate(zip(data, [err] * len(data), dq, strict=True))
    ]
    return i4i(handles, [], I4iParams(iterations=0, threads=1, **params), masks=list(masks))


@laws
@given(
    groups(),
    st.sampled_from(["shrink", "raw"]),
    st.sampled_from(["mean", "median"]),
    st.sampled_from(["auto", "additive"]),
)
def test_every_pixel_is_subtracted_or_flagged(group, template_noise, combine, scaling):
    data, dq, masks = group
    work = run_of(data, dq, masks, template_noise=template_noise, combine=combine, scaling=scaling)
    usable = np.isfinite(data) & (dq == 0)
    used = usable & ~masks
    for i in range(len(data)):
        found = work.subtraction(i)
        others = np.delete(used, i, axis=0).sum(axis=0)
        # Counted as values that may serve; some are clipped.
        assert (found.template.n_used <= others).all()
        assert (found.template.n_used >= np.minimum(others, 1)).all()
        result, flags = found.exposure, found.exposure.dq
        undefined = ~np.isfinite(found.template.image)
        assert ((flags & 1) > 0)[undefined].all()
        np.testing.assert_array_equal(
            result.data, data[i] - np.where(undefined, 0, found.background)
        )
        filled = (flags & (1 << 28)) > 0
        np.testing.assert_array_equal(filled | undefined, found.template.n_used < 2)
        good = usable[i] & ~undefined
        assert np.abs(result.data[good]).max() < 9 * SIGMA
        assert (result.err[good] >= np.float32(SIGMA)).all()


@laws
@given(groups(), st.integers(0, 2), st.sampled_from([1e4, np.nan, -50.0]))
def test_ones_own_values_never_matter(group, index, value):
    data, dq, masks = group
    other = data.copy()
    other[index] = value
    # Unscaled, so that levels do not tell one's own brightness to the others.
    kwargs = {"scaling": "none", "template_noise": "raw"}
    planes = [run_of(d, dq, masks, **kwargs).planes for d in (data, other)]
    seen = planes[0].n_used[index] >= 2
    np.testing.assert_array_equal(planes[0].n_used[index], planes[1].n_used[index])
    for one, two in zip(*planes, strict=True):
        np.testing.assert_array_equal(one[index][seen], two[index][seen])
