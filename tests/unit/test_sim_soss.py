"""Layers and preset of NIRISS SOSS."""

import numpy as np
import pytest

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim import CAMERAS, Pointing, SossSky, SossSpots, SossTraces, niriss_soss, sky_template
from webbkg.sim.soss import N_TEMPLATES, step_column

NIS = CAMERAS["NIS"]
STRIP, SMALL_STRIP = (NIS.subarrays[name][0] for name in ("SUBSTRIP256", "SUBSTRIP96"))
POINTING = Pointing(aperture=NIS.aperture, ra=10.0, dec=20.0)
LAYERS = [
    SossTraces(),
    SossTraces(name="other", flux=0.01, shift=(-70.0, 120.5), temperature=3500.0),
    SossSpots(spots=((900.5, 1850.0, 500.0), (2047.0, 2047.0, 300.0))),
    SossSky(template=3, scales=(0.8, 1.1), step_shift=-2.5),
]


@pytest.fixture(scope="module")
def observation():
    return niriss_soss(small=True, seed=4, n_integrations=2, stripe_rms=0.3)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_small_strip_is_cut_out_of_the_large_one(layer):
    large, small = layer.render(POINTING, STRIP), layer.render(POINTING, SMALL_STRIP)
    assert small.dtype == np.float32
    assert np.isfinite(large).all()
    np.testing.assert_array_equal(small, large[10:106])


def test_three_orders_lie_where_they_should():
    image = SossTraces().render(POINTING, STRIP)
    # Half-way between the edges at half of the height, by order and column.
    for column, first, last, centre in [
        (100, 60, 110, 81.6),
        (1400, 20, 60, 39.7),
        (2000, 40, 110, 67.6),
        (1400, 110, 170, 138.0),
        (400, 130, 190, 156.4),
    ]:
        profile = image[first:last, column]
        lit = first + np.flatnonzero(profile > 0.5 * np.median(np.sort(profile)[-18:]))
        assert (lit[0] + lit[-1]) / 2 == pytest.approx(centre, abs=1.5)
        assert 20 <= lit[-1] - lit[0] + 1 <= 27


def test_traces_hold_the_counts_of_the_star():
    bright = SossTraces(flux=2.0).render(POINTING, STRIP).astype(np.float64)
    np.testing.assert_allclose(bright, 2.0 * SossTraces().render(POINTING, STRIP), rtol=1e-5)
    # Column 1895: order 1 alone, 7280 DN/s with its wings, which leave the strip.
    column = SossTraces().render(POINTING, Window(800, 1895, 1248, 1))
    assert column.sum(dtype=np.float64) == pytest.approx(7280.0, rel=1e-3)


def test_traces_of_other_stars_are_shifted():
    target = SossTraces().render(POINTING, STRIP)
    other = SossTraces(shift=(30.0, 12.0)).render(POINTING, STRIP)
    np.testing.assert_allclose(other[130:, 512:1012], target[100:226, 500:1000], rtol=1e-4)


def test_a_cool_star_is_fainter_in_the_blue():
    ratio = SossTraces(temperature=3500.0).render(POINTING, STRIP) / SossTraces().render(
        POINTING, STRIP
    )
    red, blue = ratio[85, 20], ratio[71, 2020]
    assert blue < 0.5 * red < red < 1.0


def test_spots_hold_their_flux():
    image = SossSpots(spots=((900.5, 1920.0, 500.0),)).render(POINTING, STRIP)
    assert image.sum(dtype=np.float64) == pytest.approx(500.0, rel=1e-4)
    assert np.unravel_index(image.argmax(), image.shape) in [(128, 900), (128, 901)]


def test_sky_is_the_template_times_its_scales():
    template = sky_template(1).astype(np.float64)
    sky = SossSky(template=1, scales=(0.8, 1.2)).render(POINTING, STRIP)
    inner = (slice(0, 252), slice(4, 2044))
    ratio = sky[inner] / template[inner]
    assert ratio[:, :640] == pytest.approx(0.8, rel=1e-5)
    assert ratio[:, 780:] == pytest.approx(1.2, rel=1e-5)
    # Reference pixels of the template hold nothing.
    assert not template[252:].any()
    assert not template[:, :4].any()
    assert not template[:, 2044:].any()


def test_template_jumps_at_its_step():
    rows = np.array([0, 125, 250])
    gradient = np.diff(sky_template(0)[rows].astype(np.float64), axis=1)
    found = 680 + gradient[:, 680:730].argmax(axis=1)
    assert found == pytest.approx([696.0, 700.0, 704.0], abs=1.5)
    assert step_column(rows + 1792.0) == pytest.approx([696.0, 700.0, 704.0], abs=0.5)
    # Levels as in the reference file of flight.
    template = sky_template(0)
    assert template[50, 500] == pytest.approx(4.7, abs=0.1)
    assert template[50, 900] == pytest.approx(7.37, abs=0.1)
    assert template[50, 2000] == pytest.approx(3.6, abs=0.3)


def test_step_shifts():
    still, moved = (
        SossSky(step_shift=shift).render(POINTING, STRIP).astype(np.float64) for shift in (0.0, 4.0)
    )
    # The bump of the derivative moves by as many columns as asked for.
    x = np.arange(660, 740)
    weights = [np.diff(image[100, 660:741]).clip(0.02) - 0.02 for image in (still, moved)]
    centres = [(x * weight).sum() / weight.sum() for weight in weights]
    assert centres[1] - centres[0] == pytest.approx(4.0, abs=0.15)


def test_templates_differ_in_shape():
    shapes = []
    for index in range(N_TEMPLATES):
        template = sky_template(index)[:252].astype(np.float64)
        left, right = template[:, 20:650:50].mean(axis=0), template[:, 760:950:20].mean(axis=0)
        shapes.append(np.r_[left / left.mean(), right / right.mean()])
    for index, shape in enumerate(shapes):
        for other in shapes[:index]:
            assert np.abs(shape - other).max() > 0.008


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SossTraces(flux=0.0), "flux and temperature must be positive"),
        (lambda: SossSky(template=8), "template must be 0 to 7"),
        (lambda: SossSky(step_shift=5.5), "step_shift within 5 px of 0"),
        (lambda: SossSky(scales=(-0.1, 1.0)), "scales at least 0"),
        (lambda: sky_template(-1), "template must be 0 to 7"),
        (lambda: niriss_soss(template=4), "template must be below n_templates, 4, got 4"),
        (lambda: niriss_soss(step_shift=6.0), "step_shift must be at least -5 and at most 5"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


def test_layers_sum_to_the_exposure(observation):
    exposure = observation.science[0]
    layers = exposure.layers()
    assert {"sky", "target", "spots", "stripes", "trace-1", "trace-2"} <= set(layers)
    total = sum(image.astype(np.float64) for image in layers.values())
    model = exposure.model()
    np.testing.assert_allclose(model, np.broadcast_to(total, model.shape), rtol=1e-5, atol=1e-5)
    assert exposure.data.shape == (2, 96, 2048)
    good = exposure.dq == 0
    pulls = ((exposure.data - model) / exposure.err)[good]
    assert abs(pulls.mean()) < 5 / np.sqrt(pulls.size)
    assert 0.99 < pulls.std() < 1.01


def test_same_seed_same_bits(observation):
    again = niriss_soss(small=True, seed=4, n_integrations=2, stripe_rms=0.3).science[0]
    other = niriss_soss(small=True, seed=5, n_integrations=2, stripe_rms=0.3).science[0]
    first = observation.science[0]
    np.testing.assert_array_equal(again.data, first.data)
    np.testing.assert_array_equal(again.dq, first.dq)
    assert not np.array_equal(other.dq, first.dq)
    # Without other stars the scenes are the same, so that the noise alone differs.
    plain = {"small": True, "n_integrations": 0, "n_spots": 0, "n_traces": 0}
    first, other = (niriss_soss(seed=seed, **plain).science[0] for seed in (4, 5))
    good = (first.dq | other.dq) == 0
    noise, others = ((e.data - e.model())[good] for e in (first, other))
    assert abs(np.corrcoef(noise, others)[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("subarray", "n", "shape", "start"),
    [("SUBSTRIP256", 0, (256, 2048), 1793), ("SUBSTRIP96", 2, (2, 96, 2048), 1803)],
)
def test_products_have_their_place(subarray, n, shape, start):
    exposure = niriss_soss(subarray=subarray, n_integrations=n).science[0]
    assert exposure.data.shape == shape
    assert exposure.meta["SUBARRAY"] == subarray
    assert exposure.meta["SUBSTRT2"] == start
    assert exposure.meta["EXP_TYPE"] == "NIS_SOSS"
    assert exposure.window == Window(start - 1, 0, *shape[-2:])
    reference = np.isnan(exposure.data) & (exposure.dq & 2**31 > 0)
    frame = np.zeros(shape, dtype=bool)
    frame[..., :4] = frame[..., -4:] = True
    if subarray == "SUBSTRIP256":
        frame[..., -4:, :] = True
    np.testing.assert_array_equal(reference, frame)
