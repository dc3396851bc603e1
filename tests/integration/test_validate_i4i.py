"""``webbkg validate miri-i4i``, and what it measures."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from webbkg.errors import InputError
from webbkg.exposure import MemoryHandle
from webbkg.masks.flags import DO_NOT_USE
from webbkg.masks.regions import region_map
from webbkg.methods.i4i import FILLED, I4iParams
from webbkg.validate.fields import (
    Field,
    Outcome,
    block_level,
    filled_error,
    galaxy_bias,
    noise_ratios,
    pull_widths,
    region_levels,
    unsubtracted,
)
from webbkg.validate.miri_i4i import SMALL, VALIDATION

PARAMS = I4iParams()
TINY = replace(SMALL, shape=(192, 194), n_stars=15)


@pytest.fixture(scope="module")
def field():
    with Field.of(TINY.simulate(4, 1, spiral=True), PARAMS, on_disk=False) as made:
        yield made


def perfect(field, *, scale=1.0, level=0.0, flux=1.0, broken=()):
    """Results with the noise of the exposures alone, or with known faults."""
    handles, results = [], []
    regions = field_regions(field)
    for index, truth in enumerate(field.truths):
        data = scale * truth.noise + level + truth.sources + (flux - 1.0) * truth.galaxy
        dq = truth.exposure.dq.copy()
        for change in broken:
            change(index, data, dq)
        handle = MemoryHandle(data, truth.exposure.err, dq, name=truth.exposure.name)
        handles.append(handle)
        results.append(SimpleNamespace(exposure=handle.load()))
    work = SimpleNamespace(handles=handles, subtraction=results.__getitem__, regions=regions)
    return Outcome(work)


def field_regions(field):
    return region_map(field.handles[0].meta, field.handles[0].window)


def test_noise_of_a_perfect_result_is_that_of_the_exposure(field):
    ours, louder = noise_ratios(field, perfect(field), perfect(field, scale=1.1))
    assert ours == pytest.approx([1.0] * 4, abs=1e-5)
    assert louder == pytest.approx([1.1] * 4, abs=1e-5)


def test_flagged_pixels_do_not_count_for_noise(field):
    def spoil(flag):
        def change(index, data, dq):
            data[100:110] += 100.0
            dq[100:110] |= np.uint32(flag)

        return change

    for flag in (FILLED, DO_NOT_USE):
        ours, other = noise_ratios(field, perfect(field, broken=[spoil(flag)]), perfect(field))
        assert ours == pytest.approx([1.0] * 4, abs=1e-5)
        assert ours == pytest.approx(other)
    spoilt = noise_ratios(field, perfect(field, broken=[spoil(0)]), perfect(field))[0]
    assert min(spoilt) > 10.0


def test_cosmic_rays_do_not_count_for_noise(field):
    def strike(index, data, dq):
        data[field.truths[index].struck] += 100.0

    struck, other = noise_ratios(field, perfect(field, broken=[strike]), perfect(field))
    assert struck == pytest.approx(other)


def test_pulls_of_a_perfect_result(field):
    assert pull_widths(field, perfect(field)) == pytest.approx([1.0] * 4, abs=0.02)
    assert pull_widths(field, perfect(field, scale=1.2)) == pytest.approx([1.2] * 4, abs=0.03)


def test_levels_of_regions_in_standard_errors(field):
    found = region_levels(field, perfect(field), (2, 3, 4, 5))
    assert len(found) == 16
    assert np.abs(found).max() < 4.5
    assert 0.5 < np.std(found) < 1.7
    assert min(region_levels(field, perfect(field, level=1.0), (2, 3))) > 10.0


def test_standard_error_counts_correlated_noise():
    rng = np.random.default_rng(5)
    # Blocks of 4x4 pixels share their noise: the error of a mean is four times that of white noise.
    off = np.kron(rng.normal(0.0, 1.0, (50, 50)), np.ones((4, 4))).astype(np.float32)
    use = rng.random(off.shape) < 0.8
    _, error = block_level(off, use)
    assert error == pytest.approx(1.0 / 50, rel=0.2)
    assert all(map(math.isnan, block_level(off, np.zeros_like(use))))


def test_holes_are_counted_unless_they_are_flagged(field):
    def hole(flag):
        def change(index, data, dq):
            # In the imager, and between the fields, where there is no sky.
            for where in (np.s_[60:62, 120:123], np.s_[40:44, 52:56]):
                data[where] = field.truths[index].exposure.data[where]
                dq[where] |= np.uint32(flag)

        return change

    n_known = sum(int(np.isfinite(truth.noise[60:62, 120:123]).sum()) for truth in field.truths)
    assert unsubtracted(field, perfect(field)) == 0
    assert unsubtracted(field, perfect(field, broken=[hole(0)])) == n_known > 20
    assert unsubtracted(field, perfect(field, broken=[hole(DO_NOT_USE)])) == 0
    assert unsubtracted(field, perfect(field, broken=[hole(FILLED)])) == 0


def test_error_of_what_is_filled_in(field):
    assert math.isnan(filled_error(field, perfect(field)))

    def fill(index, data, dq):
        where = np.s_[80:120, 120:160]
        noise = np.random.default_rng(index).normal(0.0, 0.3, (40, 40))
        data[where] += noise.astype(np.float32)
        dq[where] |= np.uint32(FILLED)

    own = np.nanmedian(field.truths[0].exposure.err[80:120, 120:160])
    found = filled_error(field, perfect(field, broken=[fill]))
    assert found == pytest.approx(0.3 / own, rel=0.1)


def test_galaxy_that_loses_light(field):
    bias, error = galaxy_bias(field, perfect(field, flux=0.97, level=0.5))
    assert bias == pytest.approx(-3.0, abs=0.05)
    assert error < 0.05


def test_exposures_that_cannot_be_used_are_an_error(field):
    first = field.plan.exposures[0]
    plan = replace(field.plan, exposures=(replace(first, error="bad"), *field.plan.exposures[1:]))
    with pytest.raises(InputError, match=r"^not all simulated exposures can be used: bad$"):
        _ = replace(field, plan=plan).partners


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning")
def test_files_and_memory_give_the_same(field):
    observation = TINY.simulate(4, 1, spiral=True)
    with Field.of(observation, PARAMS, on_disk=True) as written:
        from_files = Outcome(written.run(PARAMS)).exposures
    kept = Outcome(field.run(PARAMS)).exposures
    for a, b in zip(from_files, kept, strict=True):
        # The two maps differ by less than a hundredth of a pixel, which moves edges of masks.
        same = np.isclose(a.data, b.data, atol=1e-3, equal_nan=True)
        assert same.mean() > 0.99


@pytest.mark.slow
def test_miri_i4i_passes(command, tmp_path):
    target = tmp_path / "figures.json"
    ran = command("validate", "miri-i4i", "--small", "--seeds", "1", "--json", target)
    assert ran.code == 0, ran.out + ran.err
    limited = [check.name for check in VALIDATION.checks if check.is_limited]
    assert f"{len(limited)} of {len(limited)} checks passed" in ran.out
    (found,) = json.loads(target.read_text(), parse_constant=pytest.fail)["validations"]
    figures = {figure["name"]: figure["mean"] for figure in found["figures"]}
    # Nobody reaches these with a raw template.
    assert figures["rms_raw_4"] > 1.15
    assert figures["rms_4"] < 1.06
    assert figures["filled_4"] > 1.0


def test_ramps_are_refused(cli):
    ran = cli("validate", "miri-i4i", "--level", "uncal")
    assert ran.code in (1, 2)
    assert ran.line == "webbkg: miri-i4i starts from rates, got --level uncal; leave it out"
