import dataclasses
import math

import numpy as np
import pytest

from webbkg.errors import NoBackgroundPixelsError
from webbkg.exposure import MemoryHandle
from webbkg.methods.destripe import DestripeParams, destripe
from webbkg.methods.readout import Readout
from webbkg.validate import held_out
from webbkg.validate.held_out import line_means, measure_held_out, sky_pixels

SHAPE = (160, 128)
META = {"FASTAXIS": 1, "NOUTPUTS": 4, "INSTRUME": "NIRCAM", "BUNIT": "DN/s"}
NOISE, STRIPES = 1.0, 1.0


def stripes(seed=1):
    """Levels of the lines in 4 amplifiers, mostly common."""
    rng = np.random.default_rng(seed)
    return rng.normal(0.0, STRIPES, (SHAPE[0], 1)) + rng.normal(0.0, 0.5, (SHAPE[0], 4))


def handle(levels=0.0, seed=2, meta=META, shape=SHAPE):
    noise = np.random.default_rng(seed).normal(0.0, NOISE, shape)
    levels = np.broadcast_to(levels, (*shape[:-1], 4))
    return MemoryHandle(10.0 + noise + np.repeat(levels, shape[-1] // 4, axis=-1), meta=meta)


def run(science, mask=None, **options):
    mask = np.zeros(SHAPE, np.bool_) if mask is None else mask
    return destripe(science, DestripeParams(**{"method": "amplifiers"} | options), mask=mask)


def high(levels):
    """What a Gaussian of 20 lines leaves."""
    y = np.arange(len(levels))
    near = np.exp(-0.5 * ((y - y[:, np.newaxis]) / 20.0) ** 2)
    return levels - near @ levels / near.sum(axis=1, keepdims=True)


def test_means_of_lines_in_amplifiers_are_those_of_the_used_pixels():
    image = np.arange(12 * 48, dtype=np.float32).reshape(12, 48)
    use = np.ones(image.shape, np.bool_)
    use[2, :10], use[3, :14], use[4, 24:] = False, False, False
    image[2, 3] = np.nan
    found = line_means(image, use, Readout(True, (0, 24, 48)))
    assert found.values.shape == found.n_pixels.shape == (12, 2)
    assert found.values[0].tolist() == [image[0, :24].mean(), image[0, 24:].mean()]
    assert found.values[2, 0] == image[2, 10:24].mean()
    assert found.n_pixels[:5].tolist() == [[24, 24], [24, 24], [14, 24], [10, 24], [24, 0]]
    assert np.isnan(found.values[4, 1])
    use[3, 14] = False
    assert line_means(image, use, Readout(True, (0, 24, 48))).n_pixels[3].tolist() == [0, 24]


def test_lines_may_be_columns():
    image = np.arange(12 * 48, dtype=np.float32).reshape(12, 48)
    found = line_means(image, np.ones(image.shape, np.bool_), Readout(False, (0, 12)))
    np.testing.assert_array_equal(found.values[:, 0], image.mean(axis=0))


def test_scatter_is_that_of_the_stripes_before_and_of_both_halves_after():
    levels = stripes()
    found = measure_held_out(run(handle(levels)))
    white = NOISE / math.sqrt(16)  # half of 32 pixels
    assert found.before == pytest.approx(np.sqrt(np.mean(high(levels) ** 2) + white**2), rel=0.03)
    assert found.expected == pytest.approx(white, rel=0.05)
    # The levels of the other half are as uncertain as the means they are taken from.
    assert found.ratio == pytest.approx(math.sqrt(2.0), rel=0.06)


def test_levels_that_follow_the_noise_do_not_look_good():
    result = run(handle(stripes()))
    after = result.plane(0).data
    of_all = line_means(after, np.ones(SHAPE, np.bool_), result.stripes[0].readout)
    assert np.std(high(of_all.values)) < 0.5 * measure_held_out(result).expected


def test_what_the_method_left_is_seen():
    levels = stripes() * 0.0
    levels[:, 3] = np.random.default_rng(4).normal(0.0, 3.0, SHAPE[0])
    rows = measure_held_out(run(handle(levels), method="rows"))
    amplifiers = measure_held_out(run(handle(levels)))
    assert rows.after > 0.8 * rows.before
    assert rows.after > 3.0 * amplifiers.after


def test_power_of_white_noise_is_flat_and_known():
    found = measure_held_out(run(handle(seed=6)))
    assert found.power_expected == pytest.approx(NOISE**2 / 16, rel=0.05)
    assert found.power_before[-6:].mean() == pytest.approx(found.power_expected, rel=0.15)
    assert found.frequency[0] == 1.0 / SHAPE[0]
    assert found.frequency[-1] <= 0.5
    assert np.all(np.diff(found.frequency) > 0)
    assert found.power_before.shape == found.power_after.shape == found.frequency.shape


def test_power_is_where_the_wave_is():
    wave = 4.0 * np.sin(2.0 * np.pi * np.arange(SHAPE[0]) / 8.0)
    found = measure_held_out(run(handle(np.repeat(wave[:, np.newaxis], 4, axis=1))))
    peak = int(np.argmax(found.power_before))
    assert found.frequency[peak] == pytest.approx(1.0 / 8.0, rel=0.2)
    # Half the sum over all frequencies is the variance; the Hann taper spreads a line over 1.5.
    below = found.frequency < 0.06
    assert found.power_before[below].max() < 1e-3 * found.power_before[peak]
    assert found.power_after[peak] < 1e-2 * found.power_before[peak]


def test_sources_cosmic_rays_and_bad_pixels_do_not_count():
    plain = handle(stripes())
    data, dq = plain.load().data.copy(), np.zeros(SHAPE, np.uint32)
    mask = np.zeros(SHAPE, np.bool_)
    data[40:50, 20:60] += 500.0
    mask[40:50, 20:60] = True
    data[::13, ::11] += 300.0
    data[100, 70:90], dq[100, 70:90] = 1e4, 1
    data[110, 30] = np.nan
    found = measure_held_out(run(MemoryHandle(data, dq=dq, meta=META), mask))
    assert found.ratio == pytest.approx(math.sqrt(2.0), rel=0.1)
    assert found.means_after.n_pixels.max() == 16
    # Squares of a chequerboard: all of the amplifier's half, or none.
    assert np.all(found.means_after.n_pixels[42:48, 1] == 0)
    assert np.isnan(found.means_before.values[42:48, 1]).all()


def test_lines_without_a_level_do_not_count():
    levels = stripes()
    levels[60:64] += 40.0
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = (y // 4 == 15) & ((x // 4 + y // 4) % 2 == 0)
    found = measure_held_out(run(handle(levels), mask, method="rows"))
    assert np.isnan(found.means_after.values[60:64]).all()
    assert found.after < 0.8


def test_each_line_and_column_keeps_half_of_its_pixels():
    seen = []

    def spy(science, *args, **options):
        seen.append(science.load())
        return destripe(science, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "destripe", spy)
        found = measure_held_out(run(handle(stripes()), columns=True))
    [shown] = seen
    kept = np.isfinite(shown.data)
    assert np.all(kept.mean(axis=0) == 0.5)
    assert np.all(kept.mean(axis=1) == 0.5)
    assert found.ratio < 1.7


def test_one_integration_is_measured():
    cube = np.stack([stripes(), stripes(5) * 0.0, stripes(6)])
    science = handle(cube, shape=(3, *SHAPE))
    result = run(science)
    quiet, loud = (measure_held_out(result, index) for index in (1, 2))
    assert quiet.before < 0.3 < 0.8 < loud.before
    assert loud.ratio == pytest.approx(math.sqrt(2.0), rel=0.08)


def test_parameters_that_were_chosen_are_used_again(monkeypatch):
    result = run(handle(stripes()))
    chosen = dataclasses.replace(result.diagnostics, method="rows", columns=True)
    result = dataclasses.replace(
        result, params=dataclasses.replace(result.params, auto=True), diagnostics=chosen
    )
    given = []
    monkeypatch.setattr(
        held_out,
        "destripe",
        lambda science, params, **options: (
            given.append(params) or destripe(science, params, **options)
        ),
    )
    measure_held_out(result)
    assert (given[0].method, given[0].columns, given[0].auto) == ("rows", True, False)


def test_too_little_sky_is_no_error(monkeypatch):
    mask = np.ones(SHAPE, np.bool_)
    mask[:12] = False
    found = measure_held_out(run(handle(stripes()), mask))
    assert math.isnan(found.before)
    assert math.isnan(found.ratio)
    assert found.frequency.size == found.means_after.values.size == 0

    def fail(*_args, **_options):
        raise NoBackgroundPixelsError("none")

    result = run(handle(stripes()))
    monkeypatch.setattr(held_out, "destripe", fail)
    assert math.isnan(measure_held_out(result).after)


def test_sky_pixels_are_the_usable_ones_near_the_median_of_their_line():
    before = handle(stripes()).load()
    after = np.random.default_rng(7).uniform(-1.0, 1.0, SHAPE).astype(np.float32)
    after[:, :64] += 40.0 * np.arange(SHAPE[0])[:, np.newaxis]
    after[5, 5], after[6, 6], after[9, 100] = 207.0, np.nan, -5.0
    mask = np.zeros(SHAPE, np.bool_)
    mask[7, 7] = True
    readout = Readout(True, (0, 64, 128))
    use = sky_pixels(before, after, mask, readout)
    assert np.argwhere(~use).tolist() == [[5, 5], [6, 6], [7, 7], [9, 100]]
    mask[20, :64] = True
    assert np.count_nonzero(~sky_pixels(before, after, mask, readout)) == 4 + 64
    assert not sky_pixels(before, after, np.ones(SHAPE, np.bool_), readout).any()
