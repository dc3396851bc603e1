"""Layers and presets of nodded spectra."""

import numpy as np
import pytest

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim import (
    CAMERAS,
    Pointing,
    PrismSky,
    Slit,
    SlitSky,
    SlitSource,
    Spectrum,
    miri_lrs,
    nirspec_nods,
)

POINTING = Pointing(aperture=CAMERAS["NRS1"].aperture, ra=10.0, dec=20.0)
FRAME = Window(0, 0, 80, 120)
SLIT = Slit(
    name="A", along=(10.0, 110.0), centre=(40.0, 3.0, -1.0), height=20.0, wavelength=(2.0, 0.5)
)
FLAT = Spectrum(level=1.0, pivot=2.0, throughput=((1.0, 1.0), (3.0, 1.0)))
PRESETS = {
    "nirspec": lambda **more: nirspec_nods(small=True, **more),
    "lrs": lambda **more: miri_lrs(small=True, **more),
    "slitless": lambda **more: miri_lrs(subarray="SLITLESSPRISM", **more),
}


@pytest.mark.parametrize("is_vertical", [False, True])
def test_sky_fills_the_slit_and_nothing_else(is_vertical):
    slit = Slit(
        name="A",
        is_vertical=is_vertical,
        along=(10.0, 70.0),
        centre=(40.0,),
        height=20.0,
        wavelength=(2.0, 0.5),
    )
    image = SlitSky(slits=(slit,), spectrum=FLAT).render(POINTING, Window(0, 0, 80, 80))
    image = image.T if is_vertical else image
    assert image[33:48, 10:71] == pytest.approx(1.0, abs=1e-4)
    assert image[30, 40] == image[50, 40] == pytest.approx(0.5)
    assert not image[:, :10].any()
    assert not image[:, 71:].any()
    assert image[:27].max() < 0.01
    assert image[54:].max() < 0.01
    assert image[:, 40].sum() == pytest.approx(20.0, rel=1e-3)


def test_wavelengths_run_along_the_slit():
    wavelength, distance = SLIT.place(FRAME)
    assert wavelength[40, 60] == pytest.approx(2.0)
    assert wavelength[40, 110] == pytest.approx(2.5)
    assert np.isnan(wavelength[40, [9, 111]]).all()
    # The trace bends: at the ends t is -1 and 1.
    assert distance[36, 10] == distance[40, 60] == distance[42, 110] == 0


def test_source_holds_its_spectrum():
    line = Spectrum(
        level=5.0, pivot=2.0, slope=-1.0, lines=((2.25, 0.02, 3.0),), throughput=FLAT.throughput
    )
    image = SlitSource(slit=SLIT, position=-2.0, spectrum=line).render(POINTING, FRAME)
    wavelength, distance = SLIT.place(FRAME)
    for column in (20, 60, 85, 100):
        total = image[:, column].sum(dtype=np.float64)
        middle = wavelength[40, column]
        expected = 5.0 * 2.0 / middle * (1 + 3 * np.exp(-0.5 * ((middle - 2.25) / 0.02) ** 2))
        assert total == pytest.approx(expected, rel=0.01)
        centre = (image[:, column] * distance[:, column]).sum(dtype=np.float64) / total
        assert centre == pytest.approx(-2.0, abs=0.05)


def test_tilted_lines_shift_across_the_slit():
    slit = Slit(
        name="A", along=(10, 110), centre=(40.0,), height=20.0, wavelength=(2.0, 0.5), tilt=0.5
    )
    wavelength, _ = slit.place(FRAME)
    assert wavelength[44, 58] == pytest.approx(wavelength[40, 60])


def test_throughput_ends_and_heat():
    band = Spectrum(level=2.0, pivot=10.0, throughput=((5.0, 0.0), (10.0, 1.0), (12.0, 0.5)))
    assert band(np.array([4.0, 5.0, 7.5, 10.0, 12.0, 12.1])) == pytest.approx([0, 0, 1, 2, 1, 0])
    warm = Spectrum(level=2.0, pivot=10.0, warm=3.0, throughput=((5.0, 1.0), (12.0, 1.0)))
    values = warm(np.array([5.0, 12.0]))
    assert values[1] == pytest.approx(2.0 * 4.0)
    assert values[0] < 2.0 * 1.01


@pytest.mark.parametrize("preset", PRESETS)
def test_sub_array_is_a_cut_out(preset):
    exposure = PRESETS[preset]().science[0]
    window = exposure.window
    inner = Window(window.y0 + 20, window.x0 + 7, 40, 50)
    for layer in exposure.scene.layers:
        whole = layer.render(exposure.pointing, window)
        part = layer.render(exposure.pointing, inner)
        np.testing.assert_allclose(part, whole[window.slices(inner)], rtol=1e-6, err_msg=layer.name)
        assert whole.dtype == np.float32
        assert np.isfinite(whole).all()


def test_prism_sky_has_levels_by_column():
    image = PrismSky(level=100.0).render(POINTING, Window(0, 0, 1024, 1032))
    assert image[830, 100] == pytest.approx(100.0, rel=1e-3)
    assert image[100, 100] == pytest.approx(45.0, rel=1e-3)
    assert image[100, 300] == pytest.approx(0.35 * 45.0, rel=1e-3)
    assert image[100, 600] == pytest.approx(1.3 * 45.0, rel=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_sum_to_the_exposure(preset):
    observation = PRESETS[preset]()
    for exposure in observation.science[:2]:
        total = sum(image.astype(np.float64) for image in exposure.layers().values())
        np.testing.assert_allclose(exposure.model(), total, rtol=1e-6, atol=1e-6)
        good = exposure.dq == 0
        pulls = ((exposure.data - total) / exposure.err)[good]
        assert abs(pulls.mean()) < 5 / np.sqrt(pulls.size)
        assert 0.98 < pulls.std() < 1.02
    first, second = (exposure.sources() for exposure in observation.science[:2])
    brightest = np.argmax(first.max(axis=0 if preset == "nirspec" else 1))
    cut = (slice(None), brightest) if preset == "nirspec" else (brightest, slice(None))
    assert abs(int(first[cut].argmax()) - int(second[cut].argmax())) > 5


@pytest.mark.parametrize("preset", PRESETS)
def test_same_seed_same_bits(preset):
    first, again, other = (PRESETS[preset](seed=seed).science[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.data, again.data)
    good = (first.dq | other.dq) == 0
    noise, others = ((e.data - e.model())[good] for e in (first, other))
    assert abs(np.corrcoef(noise, others)[0, 1]) < 0.03


def test_nods_are_each_others_background():
    observation = nirspec_nods(small=True)
    first, second, third = observation.science
    assert observation.backgrounds == ()
    assert observation.backgrounds_of(first) == (second, third)
    assert observation.backgrounds_of(second) == (first, third)
    assert len(nirspec_nods(small=True, n_nods=5).science) == 5
    assert len(miri_lrs(n_nods=4).science) == 4
    assert {e.meta["GWA_XTIL"] for e in observation.science} == {0.35896}
    assert first.meta["GRATING"] == "G235M"


def test_slits_of_all_gratings_lie_on_the_detector():
    for grating in ("PRISM", "G140M", "G235M", "G395M"):
        exposure = nirspec_nods(grating=grating).science[0]
        image = exposure.layers()["sky"]
        lit = np.flatnonzero(image[:, 1200] > 0.05)
        # Four slits with gaps between them.
        assert np.count_nonzero(np.diff(lit) > 1) == 3
        assert (image >= 0).all()
        assert exposure.sources().max() > image[1060:1120].max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Slit(name="A", along=(9, 9), centre=(4.0,), height=2, wavelength=(1.0,)),
            "slit A: needs a last pixel after the first",
        ),
        (
            lambda: SlitSource(slit=SLIT, position=11.0, spectrum=FLAT),
            "source: position must be within 10 px of the middle of slit A",
        ),
        (
            lambda: SlitSky(slits=(SLIT,), widths=(1.0, 2.0), spectrum=FLAT),
            "sky: needs a width for each of the 1 slits, got 2",
        ),
        (lambda: nirspec_nods(n_nods=6), "n_nods must be at least 2 and at most 5, got 6"),
        (lambda: miri_lrs(subarray="SUB64"), "subarray must be one of FULL, SLITLESSPRISM"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ParameterError, match=message):
        make()
