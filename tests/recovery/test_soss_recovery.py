"""Factors, template and step of the simulated SOSS sky are found, with honest errors."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from webbkg.exposure import MemoryHandle
from webbkg.methods.soss import SossParams, soss
from webbkg.validate.niriss_soss import library, residual_level, scale_errors, simulate

SEEDS = range(101, 111)


@cache
def series(seed, n_integrations=1, **overrides):
    return simulate(seed, n_integrations=n_integrations, **overrides)


@cache
def found(seed, n_integrations=1):
    one = series(seed, n_integrations)
    return soss(one.handle, library(), SossParams(threads=1))


@pytest.mark.parametrize("n_integrations", [1, 10])
def test_factors_and_their_errors(n_integrations):
    errors, pulls = [], []
    for seed in SEEDS:
        pair = scale_errors(series(seed, n_integrations), found(seed, n_integrations))
        errors.append(pair[0])
        pulls.append(pair[1])
        # Two thirds of the pixels have light of sources.
        assert 0.5 < series(seed, n_integrations).contaminated[:, 4:951].mean() < 0.75
    assert np.abs(errors).max() < 0.5
    assert 0.6 < np.sqrt(np.mean(np.square(pulls))) < 1.4


@pytest.mark.parametrize("seed", SEEDS)
def test_template_is_found(seed):
    one = series(seed)
    assert found(seed).used == (f"template {one.template}",)


def test_units_of_templates_do_not_matter():
    """A library may hold templates of any level."""
    one, plain = series(3), library()
    factors = np.random.default_rng(1).uniform(0.4, 2.5, len(plain)).astype(np.float32)
    scaled = [
        replace(each, image=each.image * factor)
        for each, factor in zip(plain, factors, strict=True)
    ]
    result = soss(one.handle, scaled)
    assert result.used == found(3).used == (f"template {one.template}",)
    np.testing.assert_allclose(
        result.scales, np.array(found(3).scales) / factors[one.template], rtol=1e-4
    )
    assert result.diagnostics.rms == pytest.approx(found(3).diagnostics.rms, rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_step_is_found(seed):
    assert found(seed).diagnostics.step_shift == pytest.approx(series(seed).step_shift, abs=0.5)


@pytest.mark.parametrize("shift", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize("subarray", ["SUBSTRIP256", "SUBSTRIP96"])
def test_step_of_both_strips(shift, subarray):
    one = series(7, 3, step_shift=shift, subarray=subarray, template=0)
    result = soss(one.handle, library(1))
    assert result.diagnostics.step_shift == pytest.approx(shift, abs=0.5)
    middle = slice(660, 740)
    off = one.sky[:80, middle] - result.background[:80, middle]
    still = soss(one.handle, library(1), SossParams(rule="pipeline")).background[:80, middle]
    if shift:
        worst = np.abs(off.mean(axis=0)).max(), np.abs((one.sky[:80, middle] - still).mean(axis=0))
        assert worst[0] < 0.75 * worst[1].max()


def test_little_is_left():
    levels = [residual_level(series(seed, 10), found(seed, 10)) for seed in SEEDS]
    assert max(levels) < 0.5


def test_pipeline_is_biased():
    """What the default rule is for."""
    errors = [
        scale_errors(series(s), soss(series(s).handle, library(), SossParams(rule="pipeline")))[0]
        for s in list(SEEDS)[:4]
    ]
    assert np.abs(errors).max() > 1.5


def test_factors_of_integrations():
    """The sky of a series that brightens: changes are found far better than the level itself."""
    one = series(5, 6, template=1)
    ramp = 1.0 + 0.01 * np.arange(6)[:, np.newaxis, np.newaxis]
    data = one.before.data + one.sky * (ramp - 1.0).astype(np.float32)
    handle = MemoryHandle(data, one.before.err, one.before.dq, window=one.before.window)
    result = soss(handle, library(2)[1:], SossParams(per_integration=True))
    changes = result.integration_scales / result.integration_scales[0]
    np.testing.assert_allclose(changes[:, 0], ramp[:, 0, 0], atol=1.5e-3)
    np.testing.assert_allclose(changes[:, 1], ramp[:, 0, 0], atol=3e-3)
    np.testing.assert_allclose(
        result.integration_scales / one.scales, np.repeat(ramp[:, :, 0], 2, axis=1), atol=5e-3
    )


def test_stripes_are_in_the_errors():
    """Noise that whole columns share moves the factors, and is told."""
    quiet = series(6, 10, template=0)
    loud = series(6, 10, template=0, stripe_rms=0.1)
    errs = [soss(one.handle, library(1)).scale_errs for one in (quiet, loud)]
    assert errs[1][0] > 1.2 * errs[0][0]


def test_mixture_of_templates():
    """A sky between two templates is better described by a combination of them."""
    one = series(8, 10, template=1, n_templates=8, step_shift=0.0)
    other = library()[6].image * np.float32(np.mean(one.scales))
    sky = np.float32(0.6) * one.sky + np.float32(0.4) * other
    data = one.before.data + (sky - one.sky)
    handle = MemoryHandle(data, one.before.err, one.before.dq, window=one.before.window)
    pair = [library()[k] for k in (1, 6)]
    result = soss(handle, pair)
    assert result.diagnostics.weights == pytest.approx((0.6, 0.4), abs=0.05)
    alone = soss(handle, pair[:1])
    left = np.s_[:250, 4:660]
    off = [np.abs(each.background[left] / sky[left] - 1.0).mean() for each in (result, alone)]
    assert off[0] < 0.5 * off[1]
