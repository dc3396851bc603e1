"""NIRCam images: layers of the readout, nebula, channels and their common sky."""

import dataclasses

import numpy as np
import pytest
from astropy.io import fits
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, ParameterError
from webbkg.exposure import Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim import (
    CAMERAS,
    AlternatingColumns,
    Nebula,
    Pointing,
    Snowballs,
    Stars,
    Stripes,
    nircam_imaging,
    write_observation,
)
from webbkg.sim.presets.nircam_channels import seen_through
from webbkg.sim.readout import power_law_series
from webbkg.sim.references import photmjsr

SHAPE = (64, 64)
READ = Window(10, 20, 24, 40)
POINTING = Pointing(aperture=CAMERAS["NRCB1"].aperture, ra=83.83, dec=-5.38, roll=40.0)
LAYERS = (
    Stripes(rms=1.0, offset_rms=1.0, seed=(1,), read_window=READ),
    Stripes(rms=1.0, offset_rms=1.0, seed=(1,), read_window=READ, axes=(-2, -1), n_outputs=3),
    Stripes(rms=1.0, offset_rms=1.0, seed=(1,), read_window=READ, n_integrations=3),
    AlternatingColumns(rms=1.0, seed=(1,), read_window=READ),
    AlternatingColumns(rms=1.0, seed=(1,), read_window=READ, axes=(-2, -1), n_outputs=3),
    Snowballs(density=30.0, peak=1.0, seed=(1,), detector_shape=SHAPE),
    Nebula(ra=83.83, dec=-5.38, mean=2.0, size=100.0, seed=(1,)),
)


def small(**kwargs):
    return nircam_imaging(**{"shape": SHAPE, "n_science": 2, **kwargs})


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("window", [Window(13, 22, 9, 21), Window(33, 59, 1, 1)])
def test_layers_of_a_part_are_cut_out(layer, window):
    whole, part = layer.render(POINTING, READ), layer.render(POINTING, window)
    assert part.dtype == np.float32
    assert part.shape[-2:] == window.shape
    np.testing.assert_array_equal(part, whole[(..., *READ.slices(window))])
    np.testing.assert_array_equal(part, layer.render(POINTING, window))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_only_the_nebula_follows_the_sky(layer):
    moved = layer.render(POINTING.dithered(5, 3), READ)
    assert np.array_equal(moved, layer.render(POINTING, READ)) == (not layer.is_source)


@pytest.mark.parametrize("n_outputs", [1, 3, 4])
@pytest.mark.parametrize("axes", [(1, -2), (-1, 2), (-2, -1)])
def test_stripes_are_constant_along_the_fast_axis_of_an_amplifier(axes, n_outputs):
    layer = Stripes(
        rms=1.0, separate=0.5, seed=(2,), read_window=READ, axes=axes, n_outputs=n_outputs
    )
    image = layer.render(POINTING, READ)
    rows = image if abs(axes[0]) == 1 else image.T
    amplifiers = layer.amplifiers()
    assert sorted(set(amplifiers)) == list(range(n_outputs))
    assert np.ptp(np.bincount(amplifiers)) <= 1
    means = []
    for number in range(n_outputs):
        part = rows[:, amplifiers == number]
        assert np.ptp(part, axis=1).max() == 0.0
        means.append(part[:, 0])
    np.testing.assert_allclose(means, layer.levels().T, rtol=1e-6)
    assert len({tuple(mean) for mean in means}) == n_outputs


def test_stripes_keep_the_level_of_the_sky_and_amplifiers_differ():
    layer = Stripes(rms=0.0, offset_rms=2.0, seed=(5,), read_window=Window(0, 0, 16, 64))
    levels = np.array([dataclasses.replace(layer, seed=(s,)).levels()[0] for s in range(2000)])
    np.testing.assert_allclose(levels.mean(axis=1), 0.0, atol=1e-14)
    assert np.sqrt(levels.var(axis=1).mean()) == pytest.approx(2.0, rel=0.04)
    single = dataclasses.replace(layer, rms=1.0, n_outputs=1).levels()
    assert single.shape == (16, 1)
    assert single.mean() == pytest.approx(0.0, abs=1e-15)


def test_time_runs_along_the_slow_axis():
    forward, backward = (
        Stripes(rms=1.0, seed=(1,), read_window=READ, axes=axes).levels()
        for axes in ((1, 2), (1, -2))
    )
    np.testing.assert_array_equal(forward, backward[::-1])


def test_every_integration_has_its_own_stripes():
    first, second, third = LAYERS[2].levels()
    assert np.abs(np.corrcoef([first[:, 0], second[:, 0], third[:, 0]]) - np.eye(3)).max() < 0.9
    np.testing.assert_array_equal(first, LAYERS[0].levels())


def test_shares_of_the_amplifiers():
    common, apart = (
        Stripes(rms=1.0, separate=share, seed=(1,), read_window=READ).levels() for share in (0, 1)
    )
    assert np.ptp(common, axis=1).max() == 0.0
    assert np.ptp(apart, axis=1).min() > 0.0


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_series_have_their_variance_and_slope(slope):
    series = power_law_series(np.random.default_rng(3), 1500, 256, slope)
    np.testing.assert_allclose(series.mean(axis=1), 0.0, atol=1e-12)
    assert series.var(axis=1).mean() == pytest.approx(1.0, rel=0.06)
    window = np.hanning(256)
    power = (np.abs(np.fft.rfft(series * window, axis=1)) ** 2).mean(axis=0)[3:100]
    fitted = np.polyfit(np.log(np.arange(3, 100)), np.log(power), 1)[0]
    assert -fitted == pytest.approx(slope, abs=0.07)
    assert not power_law_series(np.random.default_rng(3), 2, 1, slope).any()


def test_odd_and_even_columns():
    image = AlternatingColumns(rms=1.0, seed=(1,), read_window=READ).render(POINTING, READ)
    assert np.ptp(image, axis=0).max() == 0.0
    for part in np.split(image[0], 4):
        np.testing.assert_allclose(part, part[0] * np.tile([1, -1], 5))
    assert len(set(np.abs(image[0]))) == 4


def test_snowballs_are_round_faint_and_of_both_signs():
    window = Window(0, 0, 101, 101)
    signs = set()
    for seed in range(60):
        layer = Snowballs(
            density=1.0, peak=0.5, radii=(10.0, 10.0), detector_shape=(101, 101), seed=(seed,)
        )
        image = layer.render(POINTING, window).astype(float)
        if not image.any():
            continue
        assert -0.75 <= image.min() <= image.max() < 4.0
        y, x = np.nonzero(image)
        if np.ptp(y) <= 20 and np.ptp(x) <= 20:
            signs.add(bool(image[round(y.mean()), round(x.mean())] > 0))
            assert len(y) < 1.05 * np.pi * 10**2
    assert signs == {True, False}
    none = Snowballs(density=0.0, peak=1.0, detector_shape=SHAPE, seed=(1,))
    assert not none.render(POINTING, window).any()


def test_nebula_is_positive_smooth_and_has_its_mean():
    layer = Nebula(ra=83.83, dec=-5.38, mean=2.0, size=20.0, seed=(4,), smoothing=0.02)
    # The tile is 648 pixels wide.
    image = layer.render(POINTING, Window(700, 700, 648, 648)).astype(float)
    scale = POINTING.aperture.scale
    assert image.min() > 0.0
    assert image.mean() == pytest.approx(2.0 * scale**2, rel=0.15)
    assert np.log(image).std() == pytest.approx(0.6, rel=0.1)
    steps = np.abs(np.diff(image, axis=0)).max() / image.mean()
    assert 0.001 < steps < 0.05
    assert list(layer.sources()) == []


def test_nebula_is_the_same_in_both_channels():
    layer = LAYERS[-1]
    long = seen_through(POINTING, CAMERAS["NRCBLONG"].aperture)
    x, y = np.array([300, 1000, 1700]), np.array([1500, 1100, 200])
    there = np.rint(long.to_pixels(*POINTING.to_sky(x, y))).astype(int)
    x, y = np.rint(POINTING.to_pixels(*long.to_sky(*there))).astype(int)
    values = [
        layer.render(pointing, Window(int(b), int(a), 1, 1))[0, 0] / pointing.aperture.scale**2
        for pointing, places in ((POINTING, (x, y)), (long, there))
        for a, b in zip(*places, strict=True)
    ]
    np.testing.assert_allclose(values[:3], values[3:], rtol=0.01)


def test_both_apertures_see_through_one_telescope():
    long = seen_through(POINTING, CAMERAS["NRCBLONG"].aperture)
    x, y = np.array([0.0, 1000.0, 2047.0]), np.array([2047.0, 1100.0, 0.0])
    v2, v3 = POINTING.aperture.to_v2_v3(x, y)
    seen = long.aperture.to_v2_v3(*long.to_pixels(*POINTING.to_sky(x, y)))
    np.testing.assert_allclose(seen, (v2, v3), atol=2e-4)
    assert long.roll != POINTING.roll
    assert seen_through(POINTING, POINTING.aperture) is POINTING


@pytest.mark.parametrize("oversample", [1, 5])
def test_flux_of_an_undersampled_star(oversample):
    ra, dec = POINTING.to_sky(np.array([50.0]), np.array([50.0]))
    star = Stars(ra=ra, dec=dec, flux=np.array([1e4]), fwhm=1.2, oversample=oversample)
    image = star.render(POINTING, Window(0, 0, 101, 102)).astype(float)
    area = float(POINTING.aperture.relative_area(50.0, 50.0))
    error = abs(image.sum() * area / 1e4 - 1.0)
    assert (error < 5e-3) == (oversample > 1)
    part = Window(48, 47, 4, 30)
    np.testing.assert_array_equal(
        star.render(POINTING, part), image[part.y0 : part.y1, part.x0 : part.x1]
    )


@pytest.mark.parametrize("scene", ["sparse", "galaxy", "nebula"])
def test_layers_sum_to_the_truth(scene):
    extra = {"sparse": [], "galaxy": ["disc", "bulge"], "nebula": ["nebula"]}[scene]
    for exposure in small(scene=scene, n_stars=400, n_snowballs=1000).science:
        layers = exposure.layers()
        names = ["sky", "stars", "galaxies", *extra, "stripes", "columns", "snowballs"]
        assert list(layers) == names
        assert all(layers[name].any() for name in ["sky", "stars", *extra, "stripes", "columns"])
        total = np.sum([layer.astype(float) for layer in layers.values()], axis=0)
        np.testing.assert_allclose(exposure.model(), total, rtol=1e-6, atol=1e-7)
        sources = np.sum([layers[name].astype(float) for name in names[1:-3]], axis=0)
        np.testing.assert_allclose(exposure.sources(), sources, rtol=1e-6, atol=1e-7)


def test_integrations_differ_in_their_stripes_alone():
    exposure = small(n_integrations=2, channel="short").science[0]
    layers = exposure.layers()
    assert {name: image.ndim for name, image in layers.items() if image.ndim != 2} == {"stripes": 3}
    assert exposure.model().shape == exposure.data.shape == (2, *SHAPE)
    good = exposure.dq == 0
    pulls = (exposure.data - exposure.model())[good] / exposure.err[good]
    assert pulls.std() == pytest.approx(1.0, abs=0.05)


def test_the_same_seed_gives_the_same_bits():
    first, again, other = (small(seed=seed, scene="nebula") for seed in (1, 1, 2))
    for one, two, three in zip(first.science, again.science, other.science, strict=True):
        for name in ("data", "err", "dq"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        assert one.model().tobytes() != three.model().tobytes()
    stripes = [exposure.layers()["stripes"][:, 0] for exposure in first.science]
    assert np.abs(np.corrcoef(stripes) - np.eye(4)).max() < 0.9


def test_exposures_of_both_channels():
    observation = small(filter_short="F162M", filter_long="F405N", module="A")
    assert [exposure.name for exposure in observation.science] == [
        f"jw09999001001_02101_0000{n}_{detector}_rate.fits"
        for detector in ("nrca1", "nrcalong")
        for n in (1, 2)
    ]
    short, long = observation.science[0], observation.science[2]
    assert (short.meta["FILTER"], short.meta["PUPIL"]) == ("F150W2", "F162M")
    assert (long.meta["FILTER"], long.meta["PUPIL"]) == ("F444W", "F405N")
    assert (short.meta["FASTAXIS"], short.meta["SLOWAXIS"]) == (-1, 2)
    for channel in ("short", "long"):
        alone = small(channel=channel).science
        assert len(alone) == 2


def test_channels_see_the_same_sources():
    for shape in (SHAPE, None):
        observation = nircam_imaging(shape=shape, n_science=1)
        short, long = observation.science
        for one, two in zip(short.scene.sources(), long.scene.sources(), strict=True):
            assert (one.kind, one.ra, one.dec) == (two.kind, two.ra, two.dec)
            # The same in Jy; one DN/s is not.
            assert one.flux / two.flux == pytest.approx(0.8153, rel=1e-3)
        ny, nx = short.window.shape
        centre = short.pointing.to_sky((nx - 1) / 2, (ny - 1) / 2)
        x, y = long.pointing.to_pixels(*centre)
        assert 0.1 * nx < x < 0.9 * nx
        assert 0.1 * ny < y < 0.9 * ny
        # Stars fill the frames.
        for exposure in (short, long):
            stars = exposure.scene.layers[1]
            x, y = exposure.pointing.to_pixels(stars.ra, stars.dec)
            inside = (x > 0) & (x < nx) & (y > 0) & (y < ny)
            if shape is None:
                counts = np.histogram2d(x[inside], y[inside], bins=2, range=[[0, nx], [0, ny]])[0]
                expected = 150 if exposure is short else 600
                assert inside.sum() == pytest.approx(expected, rel=0.25)
                assert counts.min() > 0.15 * inside.sum()


def test_sources_keep_their_distance_and_the_faintest_flux():
    observation = nircam_imaging(channel="long", n_science=1, separation=1.2, faintest_star=1000.0)
    stars, galaxies = observation.science[0].scene.layers[1:3]
    ra, dec = (np.concatenate([getattr(stars, k), getattr(galaxies, k)]) for k in ("ra", "dec"))
    x, y = 3600.0 * (ra - ra[0]) * np.cos(np.radians(-5.38)), 3600.0 * (dec - dec[0])
    distances = np.hypot(x - x[:, np.newaxis], y - y[:, np.newaxis])
    np.fill_diagonal(distances, np.inf)
    assert 1.1999 < distances.min() < 1.25
    jansky = 0.40e6 * (0.063001 / 206264.8) ** 2
    assert 1e-6 < (stars.flux * jansky).min() < 1.1e-6
    close = nircam_imaging(channel="long", n_science=1, separation=0.0).science[0].scene.layers[1:3]
    assert [len(layer.ra) for layer in close] == [len(stars.ra), len(galaxies.ra)]


def test_default_noise_is_that_of_the_measurements():
    short, long = nircam_imaging(n_science=1).science
    assert short.setup.noise.sigma(0.1) == pytest.approx(0.0120, abs=1e-4)
    assert long.setup.noise.sigma(0.25) == pytest.approx(0.0187, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "module", "window", "n_outputs", "time"),
    [
        ("FULL", "B", Window(0, 0, 2048, 2048), 4, 10.73677),
        ("SUB640", "B", Window(0, 0, 640, 640), 1, 4.18584),
        ("SUB160", "A", Window(1888, 1888, 160, 160), 1, 0.27864),
        ("SUB400P", "B", Window(1648, 1648, 400, 400), 1, 1.65624),
        ("SUBGRISM64", "A", Window(0, 0, 64, 2048), 4, 0.34060),
    ],
)
def test_sub_arrays(name, module, window, n_outputs, time):
    observation = nircam_imaging(channel="short", subarray=name, module=module, n_science=1)
    exposure = observation.science[0]
    setup = exposure.setup
    assert exposure.window == window
    assert (setup.subarray, setup.n_outputs, setup.frame_time) == (name, n_outputs, time)
    # The target is in its middle.
    ra, dec = exposure.pointing.to_sky(
        window.x0 + (window.nx - 1) / 2, window.y0 + (window.ny - 1) / 2
    )
    assert float(ra) == pytest.approx(exposure.label.target_ra, abs=1e-6)
    assert float(dec) == pytest.approx(exposure.label.target_dec, abs=1e-6)
    if window.ny < 200:
        columns = exposure.layers()["stripes"][:, [0, -1]]
        assert np.any(columns[:, 0] != columns[:, 1]) == (n_outputs == 4)


def test_sub_array_sees_the_sky_of_the_full_frame():
    window = Window(8, 16, 32, 40)
    whole, part = (small(window=at, dither_size=0.0).science[0] for at in (None, window))
    # Each has the target in its middle.
    shift = part.pointing.to_pixels(whole.label.target_ra, whole.label.target_dec)
    assert shift == (pytest.approx(35.5, abs=1e-3), pytest.approx(23.5, abs=1e-3))
    assert part.setup.subarray == "GENERIC"
    for one, two in zip(whole.scene.sources(), part.scene.sources(), strict=True):
        assert one == two


def test_one_amplifier_on_demand():
    four, one = (
        nircam_imaging(
            module="A", channel="short", subarray="SUBGRISM64", n_science=1, n_outputs=n
        ).science[0]
        for n in (None, 1)
    )
    assert (four.setup.n_outputs, one.setup.n_outputs) == (4, 1)
    assert one.setup.subarray == "SUBGRISM64"
    assert one.setup.frame_time == pytest.approx((2048 + 12) * 66e-5)
    assert np.ptp(one.layers()["stripes"], axis=1).max() == 0.0
    strip = small(n_outputs=4, window=Window(8, 0, 16, 64), channel="long").science[0]
    assert (strip.setup.subarray, strip.setup.n_outputs) == ("GENERIC", 4)


def test_bad_pixels_from_a_file(tmp_path):
    wanted = np.random.default_rng(1).random(SHAPE) < 0.1
    fits.PrimaryHDU(wanted.astype(np.int16) * 8).writeto(tmp_path / "first.fits")
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 3))), fits.ImageHDU(wanted * 4, name="DQ")]
    fits.HDUList(hdus).writeto(tmp_path / "second.fits")
    observation = small(
        bad_pixels_short=str(tmp_path / "first.fits"), bad_pixels_long=str(tmp_path / "second.fits")
    )
    for exposure in observation.science:
        bad = (exposure.dq & FLAG_BITS["DO_NOT_USE"]) > 0
        np.testing.assert_array_equal(bad[4:-4, 4:-4], wanted[4:-4, 4:-4])


def test_bad_pixel_files_that_cannot_be_used(tmp_path):
    missing, empty, other = (tmp_path / f"{name}.fits" for name in ("missing", "empty", "other"))
    fits.PrimaryHDU().writeto(empty)
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(other)
    for path in (missing, empty):
        with pytest.raises(InputError) as error:
            small(bad_pixels_short=str(path))
        assert str(error.value) == (
            f"{path}: no map of bad pixels can be read; give a FITS file with an image"
        )
    with pytest.raises(ParameterError, match="has shape \\(3, 3\\), but NRCB1 has \\(64, 64\\)"):
        small(bad_pixels_short=str(other))


def test_flux_conversion_tells_instruments_apart():
    assert photmjsr("F115W", "NIRCAM") == 3.2
    assert photmjsr("F115W", "NIRISS") == photmjsr("F115W") == 0.38
    assert photmjsr("F356W", "NIRCAM") == 0.40


@pytest.mark.parametrize(
    "kwargs",
    [{"scene": "galaxy"}, {"n_integrations": 2, "module": "A", "filter_long": "F405N"}],
    ids=["rate", "rateints"],
)
def test_products_are_valid(tmp_path, kwargs):
    observation = small(n_science=1, **kwargs)
    files = write_observation(observation, tmp_path / "new")
    for path, exposure in zip(files.science, observation.science, strict=True):
        with datamodels.open(path, strict_validation=True) as model:
            model.validate()
            assert model.meta.instrument.module == kwargs.get("module", "B")
            is_long = path.name.split("_")[3].endswith("long")
            assert model.meta.instrument.channel == ("LONG" if is_long else "SHORT")
            assert model.meta.instrument.pupil == exposure.setup.pupil
            assert model.meta.exposure.noutputs == 4
            np.testing.assert_array_equal(model.data, exposure.data)
        with fits.open(files.truths[observation.science.index(exposure)]) as truth:
            np.testing.assert_array_equal(truth["STRIPES"].data, exposure.layers()["stripes"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LAYERS[0].render(POINTING, Window(0, 20, 24, 40)),
            (
                "stripes: Window(y0=0, x0=20, ny=24, nx=40) was asked for, but only "
                "Window(y0=10, x0=20, ny=24, nx=40) is read; make the layer with the window of the "
                "exposure"
            ),
        ),
        (
            lambda: dataclasses.replace(LAYERS[0], axes=(1, -1)),
            (
                "stripes: the fast and slow axis must be 1 or 2 and differ, negative if read "
                "backwards, got (1, -1)"
            ),
        ),
        (
            lambda: dataclasses.replace(LAYERS[0], n_outputs=41),
            "stripes: n_outputs must be from 1 to the 40 pixels of a row, got 41",
        ),
        (
            lambda: dataclasses.replace(LAYERS[0], separate=1.5),
            (
                "stripes: rms and offset_rms must be at least 0 and separate from 0 to 1, got 1.0, "
                "1.0 and 1.5"
            ),
        ),
        (
            lambda: dataclasses.replace(LAYERS[3], rms=-1.0),
            "columns: rms must be at least 0, got -1.0",
        ),
        (
            lambda: dataclasses.replace(LAYERS[5], radii=(3.0, 2.0)),
            (
                "snowballs: density and peak must be at least 0 and radii positive and rising, got "
                "30.0, 1.0 and (3.0, 2.0)"
            ),
        ),
        (
            lambda: dataclasses.replace(LAYERS[6], smoothing=0.001),
            (
                "nebula: a nebula needs mean > 0, size > 0, contrast >= 0 and smoothing >= 0.0029, "
                "got 2.0, 100.0, 0.6 and 0.001"
            ),
        ),
        (
            lambda: nircam_imaging(small=True, subarray="SUB640"),
            "NRCB1 of 512x512 pixels has no sub-array 'SUB640'; it has FULL",
        ),
        (
            lambda: nircam_imaging(subarray="SUB640", n_outputs=4),
            (
                "n_outputs must be 1, or 4 where whole rows are read, got 4 for "
                "Window(y0=0, x0=0, ny=640, nx=640) of NRCB1"
            ),
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ParameterError) as error:
        make()
    assert str(error.value) == message
