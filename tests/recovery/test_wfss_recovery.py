"""Whether `wfss` finds the sky of simulated grism exposures, with honest errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from webbkg.exposure import MemoryHandle
from webbkg.methods.wfss import WfssParams, wfss
from webbkg.sim import nircam_wfss, niriss_wfss
from webbkg.sky_reference import SkyReference
from webbkg.validate.niriss_wfss import frame_of, percent_off, structure


def frame(preset=niriss_wfss, seed=1, **overrides):
    return frame_of(preset(seed=seed, n_science=1, **overrides))


def solve(one, params=None, **kwargs):
    return wfss(MemoryHandle.of(one.before), [one.template], params, **kwargs)


@pytest.fixture(scope="module")
def many():
    """A full frame of 600 sources."""
    return frame(n_sources=600)


def test_factor_of_a_full_frame(many):
    found = solve(many, mask=many.catalog)
    off, err = percent_off(many, found)
    assert abs(off) < 0.03
    assert abs(off) < 4 * err < 0.06
    alone = solve(many)
    off, err = percent_off(many, alone)
    assert abs(off) < 0.03
    assert abs(off) < 4 * err < 0.06
    assert structure(many, alone) < 0.3
    # What the pipeline's rule makes of it without a catalogue.
    assert percent_off(many, solve(many, WfssParams(rule="pipeline")))[0] > 0.2


def test_spectra_are_masked_and_blank_sky_is_not(many):
    mask = solve(many).mask
    bright = many.light > np.median(many.before.err[np.isfinite(many.before.err)])
    blank = many.light < 1e-5
    assert mask[bright].mean() > 0.94
    assert mask[blank].mean() < 0.04


def test_flux_of_spectra_is_kept(many):
    found = solve(many)
    bright = many.light > 0.1
    left = (found.exposure.data - many.light)[bright & np.isfinite(many.before.data)]
    assert abs(left.mean()) < 1e-3 * many.light[bright].mean()


@pytest.mark.slow
def test_pulls_of_small_frames():
    pulls = []
    for seed in range(1, 13):
        one = frame(seed=seed, small=True, n_sources=900)
        off, err = percent_off(one, solve(one))
        pulls.append(off / err)
    # 12 values: the width of the rms is a fifth.
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.6


@pytest.mark.parametrize("grism", ["GR150R", "GR150C"])
def test_lines_along_and_across_the_dispersion(grism):
    one = frame(small=True, n_sources=600, stripe_rms=0.0044, grism=grism, seed=3)
    found = solve(one)
    plain = solve(one, WfssParams(joint_1f=False))
    off, err = percent_off(one, found)
    assert abs(off) < 4 * err
    assert found.diagnostics.lines_rms == pytest.approx(0.0044, rel=0.4)
    assert abs(off) < abs(percent_off(one, plain)[0]) + err


def test_lines_of_a_full_frame_are_no_spectra():
    """What neighbouring lines have in common looks like light in wide boxes."""
    one = frame(n_sources=600, stripe_rms=0.0022)
    found = solve(one)
    off, err = percent_off(one, found)
    assert abs(off) < 0.05
    assert abs(off) < 3 * err
    assert found.mask[one.light < 1e-5].mean() < 0.05


def test_nircam_and_subarrays():
    for overrides in ({"small": True}, {"subarray": "SUBGRISM64"}):
        one = frame(nircam_wfss, n_sources=600, **overrides)
        off, err = percent_off(one, solve(one))
        assert abs(off) < 4 * err < 1.5


def test_extended_light():
    one = frame(small=True, n_sources=600, extended=True, seed=2)
    off, _ = percent_off(one, solve(one, mask=one.catalog))
    assert abs(off) < 1.0
    assert percent_off(one, solve(one, WfssParams(rule="pipeline")))[0] > 5.0


def test_template_with_a_mistake_has_a_larger_error():
    one = frame(small=True, n_sources=300, seed=4)
    y = np.linspace(0.0, 2.0 * np.pi, one.template.image.shape[0])
    mistake = np.sin(2.0 * y + 0.3)[:, np.newaxis] + np.sin(3.0 * y + 1.0)
    sky = replace(
        one.template, image=(one.template.image * (1.0 + 0.01 * mistake)).astype(np.float32)
    )
    handle = MemoryHandle.of(one.before)
    right, found = (wfss(handle, [template]) for template in (one.template, sky))
    assert found.scale_errs[0] > 1.5 * right.scale_errs[0]
    off, err = percent_off(one, found)
    assert abs(off) < 4 * err
    # Half of the sky is brighter than the template says, and no spectrum.
    assert found.mask.mean() < right.mask.mean() + 0.05


def test_two_skies_are_told_apart():
    one = frame(small=True, n_sources=100, seed=5)
    ny, nx = one.template.image.shape
    glow = np.exp(-0.5 * ((np.arange(nx) - 0.6 * nx) / (0.2 * nx)) ** 2)
    stray = SkyReference(
        name="stray light",
        image=np.tile(glow.astype(np.float32), (ny, 1)),
        err=np.zeros((ny, nx), np.float32),
        dq=np.zeros((ny, nx), np.uint32),
        window=one.template.window,
        meta={},
    )
    data = (one.before.data + 0.1 * stray.image).astype(np.float32)
    handle = MemoryHandle.of(replace(one.before, data=data))
    found = wfss(handle, [one.template, stray])
    assert found.scales[0] == pytest.approx(one.factor, rel=0.01)
    assert found.scales[1] == pytest.approx(0.1, rel=0.03)
