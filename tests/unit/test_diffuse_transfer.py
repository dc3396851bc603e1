import dataclasses
import math

import numpy as np
import pytest

from webbkg.errors import ParameterError
from webbkg.exposure import MemoryHandle
from webbkg.masks.flags import FLAG_BITS
from webbkg.methods.destripe import DestripeParams, destripe
from webbkg.validate import diffuse_transfer as module
from webbkg.validate.diffuse_transfer import diffuse_transfer

SHAPE = (96, 128)
META = {"FASTAXIS": 1, "NOUTPUTS": 1, "INSTRUME": "NIRCAM", "BUNIT": "DN/s"}
PARAMS = DestripeParams(method="amplifiers")
NO_MASK = np.zeros(SHAPE, np.bool_)


def handle(shape=SHAPE, dq=None, seed=0):
    data = 5.0 + np.random.default_rng(seed).normal(0.0, 1.0, shape)
    return MemoryHandle(data, dq=dq, meta=META, name="a_rate.fits")


class Method:
    """Stands in for `destripe`: takes a fraction of each line's mean, and remembers its inputs."""

    def __init__(self, fraction=0.0, mask=None):
        self.fraction, self.mask, self.calls = fraction, mask, []

    def __call__(self, science, params=None, *, mask=None, flat=None):
        self.calls.append((science, params, mask, flat))
        result = destripe(science, PARAMS, mask=np.zeros(science.window.shape, np.bool_))
        stripes = result.stripes[0]
        data = science.load_integration(0).data
        means = np.nanmean(np.where(np.isfinite(data), data, np.nan), axis=1, keepdims=True)
        stripes = dataclasses.replace(
            stripes, levels=(self.fraction * means).astype(np.float32), noise=2.0
        )
        found = NO_MASK if self.mask is None else self.mask
        return dataclasses.replace(result, stripes=(stripes,), mask=found)


@pytest.fixture
def method(monkeypatch):
    def use(**options):
        method = Method(**options)
        monkeypatch.setattr(module, "destripe", method)
        return method

    return use


def gaussian(found, shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]]
    r2 = (x - found.x) ** 2 + (y - found.y) ** 2
    return found.peak * np.exp(-0.5 * r2 / found.sigma**2), r2 <= (2.0 * found.sigma) ** 2


def test_a_method_that_takes_nothing_keeps_all(method):
    method()
    [found] = diffuse_transfer(handle(), sigmas=(8.0,))
    assert found.kept == pytest.approx(1.0, abs=1e-6)
    assert (found.sigma, found.x, found.y) == (8.0, 63.5, 47.5)
    assert found.peak == 1.0  # half of the noise of 2
    light, inside = gaussian(found)
    assert found.flux == pytest.approx(light[inside].sum(), rel=1e-5)
    assert found.masked == 0.0


def test_what_is_taken_from_lines_is_missing(method):
    method(fraction=0.5)
    [found] = diffuse_transfer(handle(), sigmas=(8.0,))
    light, inside = gaussian(found)
    left = light - 0.5 * light.mean(axis=1, keepdims=True)
    assert found.kept == pytest.approx(left[inside].sum() / light[inside].sum(), abs=1e-5)
    assert 0.75 < found.kept < 0.9


def test_each_gaussian_is_alone_and_in_the_order_given(method):
    used = method()
    found = diffuse_transfer(handle(), sigmas=(20.0, 5.0))
    assert [one.sigma for one in found] == [20.0, 5.0]
    bare, *lit = [science.load().data for science, *_ in used.calls]
    for one, data in zip(found, lit, strict=True):
        np.testing.assert_allclose(data - bare, gaussian(one)[0], atol=1e-5)


def test_those_that_do_not_fit_are_left_out(method):
    used = method()
    assert [one.sigma for one in diffuse_transfer(handle(), sigmas=(24.0, 24.1))] == [24.0]
    used.calls.clear()
    assert diffuse_transfer(handle(), sigmas=(60.0, 150.0)) == ()
    assert used.calls == []


def test_they_are_put_where_the_sky_is_free(method):
    mask = NO_MASK.copy()
    mask[:, 20:] = True
    method(mask=mask)
    [found] = diffuse_transfer(handle(), sigmas=(6.0,))
    assert found.x == pytest.approx(12.0, abs=1.0)
    assert found.y == pytest.approx(47.5, abs=6.0)
    assert found.masked == pytest.approx(mask[gaussian(found)[1]].mean())


def test_unusable_pixels_do_not_count_and_dark_ones_get_no_light(method):
    dq = np.zeros(SHAPE, np.uint32)
    dq[40:50] = FLAG_BITS["DO_NOT_USE"]
    dq[52, :] = FLAG_BITS["REFERENCE_PIXEL"]
    science = handle(dq=dq)
    data = science.load().data.copy()
    data[:, 60] = np.nan
    used = method(fraction=1.0)
    [found] = diffuse_transfer(MemoryHandle(data, dq=dq, meta=META), sigmas=(8.0,))
    light, inside = gaussian(found)
    light[52] = 0.0
    known = np.isfinite(data)
    left = light - (light * known).sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True)
    inside &= known & (dq == 0)
    assert found.flux == pytest.approx(light[inside].sum(), rel=1e-5)
    assert found.kept == pytest.approx(left[inside].sum() / found.flux, abs=1e-4)
    bare, lit = (science.load().data for science, *_ in used.calls)
    assert np.all((lit - bare)[52, 61:] == 0.0)


def test_no_usable_pixel_within_is_no_number(method):
    dq = np.full(SHAPE, FLAG_BITS["DO_NOT_USE"])
    dq[0] = 0
    method()
    [found] = diffuse_transfer(handle(dq=dq), sigmas=(8.0,))
    assert math.isnan(found.kept)
    assert found.flux == 0.0


def test_flat_mask_and_parameters_reach_the_method(method):
    flat = np.full(SHAPE, 0.5, np.float32)
    flat[3, 3] = np.nan
    used = method()
    params = DestripeParams(method="rows")
    [found] = diffuse_transfer(handle(), params, mask=NO_MASK, flat=flat, sigmas=(8.0,))
    assert found.kept == pytest.approx(1.0, abs=1e-6)
    light, inside = gaussian(found)
    assert found.flux == pytest.approx(0.5 * light[inside].sum(), rel=1e-5)
    for _, *given in used.calls:
        assert given[0] is params
        assert given[1] is NO_MASK
        assert given[2] is flat
    assert np.isfinite(used.calls[-1][0].load().data).all()


def test_a_result_at_hand_saves_a_run(method):
    science = handle()
    result = destripe(science, PARAMS, mask=NO_MASK)
    used = method()
    diffuse_transfer(science, without=result, sigmas=(8.0,))
    assert len(used.calls) == 1
    seen = []
    diffuse_transfer(science, sigmas=(8.0, 4.0), progress=seen.append)
    assert len(used.calls) == 1 + 3
    assert sum(seen) == pytest.approx(1.0)


def test_the_middle_integration_is_taken(method, monkeypatch):
    science = handle(shape=(5, *SHAPE))
    result = destripe(science, PARAMS, mask=NO_MASK)
    used = method()
    monkeypatch.setattr(MemoryHandle, "load", lambda _: pytest.fail("loaded everything"))
    diffuse_transfer(science, without=result, sigmas=(8.0,))
    bare = used.calls[0][0].load_integration(0).data
    np.testing.assert_array_equal(bare, science.load_integration(2).data)


def test_inputs_stay_as_they_are(method):
    method()
    data = 5.0 + np.zeros(SHAPE, np.float32)
    data.flags.writeable = False
    diffuse_transfer(MemoryHandle(data, meta=META), sigmas=(8.0,))
    assert np.all(data == 5.0)


@pytest.mark.parametrize("wrong", [{"peak": 0.0}, {"sigmas": (20.0, -1.0)}, {"peak": math.nan}])
def test_wrong_sources_are_refused(wrong):
    options = {"peak": 0.5, "sigmas": (20.0,)} | wrong
    with pytest.raises(ParameterError) as error:
        diffuse_transfer(handle(), **options)
    assert str(error.value) == (
        "injected sources need a positive peak and positive sigmas, got "
        f"{options['peak']} and {options['sigmas']}"
    )


def test_light_under_a_mask_is_kept_and_light_without_one_is_not():
    """The real method: means of lines, which know the light unless it is masked."""
    science = handle(seed=3)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = np.hypot(x - 63.5, y - 47.5) < 28.0
    params = DestripeParams(method="rows")
    [bare] = diffuse_transfer(science, params, mask=NO_MASK, sigmas=(8.0,))
    # The place that is most free is not the masked one.
    [other] = diffuse_transfer(science, params, mask=mask, sigmas=(8.0,))
    assert 0.5 < bare.kept < 0.95
    assert abs(other.x - 63.5) > 28.0
    everywhere = np.ones(SHAPE, np.bool_)
    everywhere[:, :30] = False
    # Sources so wide that the only free places are the far wings of the light.
    [found] = diffuse_transfer(science, params, mask=everywhere, sigmas=(24.0,))
    assert found.kept > bare.kept
