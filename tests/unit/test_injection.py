"""Sources put into exposures, and what is measured of them."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from webbkg.errors import NoBackgroundPixelsError, ParameterError
from webbkg.exposure import MemoryHandle, Scratch
from webbkg.masks.flags import DO_NOT_USE
from webbkg.sky import TangentMap
from webbkg.validate.injection import (
    InjectedFluxes,
    InjectedHandle,
    Injection,
    blank_grid,
    measure_injected,
    plan_injection,
    stamp,
)

FWHM = 2.4
SHAPE = (120, 140)
SKY = TangentMap((160, 180), 150.0, 2.0, reference=(90.0, 80.0), scale=0.1)
#: Exposures that see the grid's pixel (x, y) at (x - dx, y - dy).
OFFSETS = ((10, 10), (30, 25), (20, 15), (25, 30))
MAPS = [
    TangentMap(SHAPE, 150.0, 2.0, reference=(90.0 - dx, 80.0 - dy), scale=0.1) for dx, dy in OFFSETS
]
NOISE = [0.4, 0.5, 0.5, 0.6]


def blank():
    mask = np.ones(SKY.shape, np.bool_)
    mask[60:70, 70:90] = False
    return mask


def plan(n=12, *, seed=3, mask=None, **changes):
    values = {"n": n, "noise": NOISE, "fwhm": FWHM, "seed": seed} | changes
    return plan_injection(MAPS, SKY, blank() if mask is None else mask, **values)


def injection_at(x, y, flux=1000.0, *, n_exposures=1):
    places = np.full((n_exposures, 1), x), np.full((n_exposures, 1), y)
    one = np.zeros(1)
    return Injection(
        ra=one,
        dec=one,
        flux=np.array([flux]),
        is_bright=np.array([True]),
        x=places[0],
        y=places[1],
        fwhm=FWHM,
    )


def frozen(shape=SHAPE, level=60.0):
    arrays = np.full(shape, level, np.float32), np.full(shape, 0.5, np.float32)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def test_stamp_holds_the_light_and_has_the_width():
    box, light = stamp(70.0, 60.0, FWHM, SHAPE)
    assert light.sum() == pytest.approx(1.0, abs=2e-3)
    row = light[24]
    # Half of the peak is crossed at half the width, within what a pixel blurs.
    assert np.interp(row.max() / 2, row[24:28][::-1], [3, 2, 1, 0]) == pytest.approx(1.25, abs=0.1)
    assert np.allclose(light, light[::-1, ::-1])
    # Wings are weak, and much above those of a Gaussian.
    assert 1e-5 < light[24, 24 + 12] / light.max() < 1e-2
    assert (box[0].start, box[1].start) == (36, 46)


def test_stamp_keeps_flux_and_place_between_pixels():
    box, light = stamp(70.4, 59.7, FWHM, SHAPE)
    y, x = np.mgrid[box]
    assert light.sum() == pytest.approx(1.0, abs=2e-3)
    assert (light * x).sum() / light.sum() == pytest.approx(70.4, abs=0.02)
    assert (light * y).sum() / light.sum() == pytest.approx(59.7, abs=0.02)


def test_stamp_at_an_edge_is_a_part_of_the_whole():
    whole_box, whole = stamp(62.0, 53.0, FWHM, SHAPE)
    box, part = stamp(2.0, 3.0, FWHM, SHAPE)
    assert box == (slice(0, 28), slice(0, 27))
    assert np.array_equal(part, whole[-28:, -27:])
    assert whole_box[0].stop - whole_box[0].start == 49


def test_places_are_blank_apart_and_seen():
    found = plan()
    x, y = SKY.to_pixels(found.ra, found.dec)
    rows, columns = np.nonzero(~blank())
    for k in range(len(found)):
        # From centre to centre, less half a pixel's diagonal.
        assert np.hypot(rows - y[k], columns - x[k]).min() > 3 * FWHM - 0.75
        others = np.delete(np.arange(len(found)), k)
        assert np.hypot(x[others] - x[k], y[others] - y[k]).min() >= 8 * FWHM
    radius = found.radius
    inside = (found.x > radius) & (found.x < SHAPE[1] - 1 - radius)
    inside &= (found.y > radius) & (found.y < SHAPE[0] - 1 - radius)
    assert inside.sum(axis=0).min() >= 2
    assert len(found) == 12
    np.testing.assert_allclose(found.x[1], x - 30, atol=1e-6)
    np.testing.assert_allclose(found.y[1], y - 25, atol=1e-6)


def test_every_second_source_is_bright():
    found = plan(16)
    ratio = found.flux / (0.5 * math.sqrt(math.pi) * 2.5 * FWHM)
    assert np.array_equal(found.is_bright, np.arange(len(found)) % 2 == 1)
    assert 5 <= ratio[::2].min() < ratio[::2].max() <= 20
    assert 50 <= ratio[1::2].min() < ratio[1::2].max() <= 500


def test_a_seed_gives_the_same_sources():
    assert np.array_equal(plan().ra, plan().ra)
    assert not np.array_equal(plan().ra, plan(seed=4).ra)


def test_no_room():
    message = (
        "no source can be injected: nowhere is the sky free within 3 FWHM (7.2 px) in half of the "
        "exposures; leave out --inject"
    )
    with pytest.raises(NoBackgroundPixelsError, match=f"^{re.escape(message)}$"):
        plan(mask=np.zeros(SKY.shape, np.bool_))


@pytest.mark.parametrize("changes", [{"n": 0}, {"noise": NOISE[:2]}, {"mask": np.ones((3, 3))}])
def test_what_cannot_be_planned(changes):
    with pytest.raises(ParameterError, match="an injection needs at least one source, got "):
        plan(**changes)


def test_handles_add_the_light_and_nothing_else():
    data, err = frozen()
    handle = MemoryHandle(data, err, name="one_rate.fits", meta={"FILTER": "F770W"})
    injection = injection_at(70.2, 60.6)
    (injected,) = injection.handles([handle])
    light = injection.image(0, SHAPE)
    assert light.sum() == pytest.approx(1000.0, rel=2e-3)
    whole = injected.load()
    np.testing.assert_array_equal(whole.data, data + light)
    np.testing.assert_array_equal(whole.err, err)
    assert data.max() == 60.0
    for part in (
        injected.load_rows(50, 70),
        injected.load_rows_into(Scratch(), 50, 70),
    ):
        np.testing.assert_array_equal(part.data, whole.data[50:70])
    np.testing.assert_array_equal(injected.load_integration(0).data, whole.data)
    assert (injected.name, injected.n_integrations) == ("one_rate.fits", None)
    assert injected.meta["FILTER"] == "F770W"
    assert injected.window == handle.window
    assert injected.is_same(handle)
    assert injected.is_same(InjectedHandle(handle, injection, 0))
    assert not injected.is_same(MemoryHandle(np.zeros(SHAPE)))


def test_scratch_memory_of_the_exposure_is_not_changed():
    class Scratching(MemoryHandle):
        def load_rows_into(self, scratch, start, stop):
            assert isinstance(scratch, Scratch)
            return self.load_rows(start, stop)

    data, err = frozen()
    handle = Scratching(data, err)
    (injected,) = injection_at(70.0, 60.0).handles([handle])
    rows = injected.load_rows_into(Scratch(), 55, 65)
    assert rows.data.max() > 100.0
    assert handle.load().data.max() == 60.0


def test_sources_lie_where_the_detector_is_lit():
    shape = (1024, 1032)
    handle = MemoryHandle(np.zeros(shape), meta={"DETECTOR": "MIRIMAGE"})
    (injected,) = injection_at(357.0, 700.0).handles([handle])
    light = injected.load().data
    assert light[:, :358].max() == 0.0
    assert light[700, 360] > 1.0


def test_number_of_exposures():
    message = (
        "sources were planned for 1 exposures, got 2; give those whose maps they were planned with"
    )
    handle = MemoryHandle(np.zeros(SHAPE))
    with pytest.raises(ParameterError, match=f"^{message}$"):
        injection_at(10.0, 10.0).handles([handle, handle])


def test_blank_grid_needs_a_search():
    work = SimpleNamespace(grid=None, coadd=None, sources=None)
    with pytest.raises(ParameterError, match=r"^sources are injected beside those found, but"):
        blank_grid(work)
    image = np.zeros((4, 5), np.float32)
    image[0, 0] = np.nan
    sources = np.zeros((4, 5), np.bool_)
    sources[1, 1] = True
    work = SimpleNamespace(
        grid=SimpleNamespace(sky=SKY), coadd=SimpleNamespace(image=image), sources=sources
    )
    sky, free = blank_grid(work)
    assert sky is SKY
    assert np.argwhere(~free).tolist() == [[0, 0], [1, 1]]


def result_of(injection, *, keeps=1.0, level=0.0, seed=1, bad=()):
    """A run whose results hold a part of the sources, and a level."""
    handles, results = [], []
    for index in range(len(injection.x)):
        noise = np.random.default_rng([seed, index]).normal(0.0, 0.5, SHAPE)
        data = noise + level + keeps * injection.image(index, SHAPE)
        dq = np.zeros(SHAPE, np.uint32)
        for pixel in bad:
            dq[pixel], data[pixel] = DO_NOT_USE, 1e6
        handles.append(MemoryHandle(data, np.full(SHAPE, 0.5), dq))
        results.append(SimpleNamespace(exposure=handles[-1].load()))
    return SimpleNamespace(
        handles=handles,
        regions=np.ones(SHAPE, np.uint8),
        subtraction=results.__getitem__,
        source_mask=lambda index: injection.image(index, SHAPE) > 0.1,
    )


def test_pairs_tell_what_is_lost_exactly():
    injection = injection_at(70.2, 60.6, n_exposures=3)
    work, without = result_of(injection, keeps=0.9), result_of(injection, keeps=0.0)
    found = measure_injected(work, injection, without=without)
    assert found.is_paired
    assert found.bias(bright=True).percent == pytest.approx(-10.0, abs=0.01)
    assert found.bias(bright=True).n == 3
    assert math.isnan(found.bias(bright=False).percent)
    assert found.snr[0] == pytest.approx(found.true[0] / (0.5 * math.sqrt(113)), rel=0.02)


def test_a_level_does_not_enter_fluxes_of_single_runs():
    injection = injection_at(70.2, 60.6, 4000.0, n_exposures=8)
    work = result_of(injection, level=5.0)
    found = measure_injected(work, injection)
    assert not found.is_paired
    pulls = (found.measured - found.true) / found.err
    assert np.abs(pulls).max() < 4.0
    assert abs(pulls.mean()) < 4.0 / math.sqrt(8)


def test_bad_pixels_are_left_out_of_both_fluxes():
    injection = injection_at(70.0, 60.0)
    pixels = ((60, 70), (58, 71))
    work = result_of(injection, bad=pixels)
    found = measure_injected(work, injection, without=result_of(injection, keeps=0.0))
    assert found.measured[0] == pytest.approx(found.true[0], rel=1e-4)
    assert found.true[0] < 0.9 * measure_injected(result_of(injection), injection).true[0]


def test_sources_that_are_cut_off_are_left_out():
    injection = injection_at(5.9, 60.0)
    assert measure_injected(result_of(injection), injection).true.size == 0
    half_bad = [(row, column) for row in range(50, 70) for column in range(60, 71)]
    injection = injection_at(70.0, 60.0)
    assert measure_injected(result_of(injection, bad=half_bad), injection).true.size == 0


def test_mean_is_weighted_and_its_error_is_that_between_sources():
    found = InjectedFluxes(
        source=np.array([0, 0, 1, 2]),
        exposure=np.array([0, 1, 0, 0]),
        is_bright=np.array([True, True, True, False]),
        true=np.array([100.0, 100.0, 200.0, 10.0]),
        measured=np.array([101.0, 101.0, 198.0, 20.0]),
        err=np.ones(4),
        is_paired=True,
    )
    bias = found.bias(bright=True)
    # Weights 1, 1 and 4 of +1, +1 and -1 %.
    assert bias.percent == pytest.approx(-1.0 / 3.0)
    # Sums of weighted deviations of the two sources: 2 * 4/3 and -4 * 2/3.
    assert bias.error == pytest.approx(math.sqrt(2.0 * 2.0 * (8.0 / 3.0) ** 2) / 6.0)
    assert bias.n == 3
    faint = found.bias(bright=False)
    assert faint.percent == pytest.approx(100.0)
    assert math.isnan(faint.error)
