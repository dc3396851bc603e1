"""The MIRI imager's detector and focal plane, many galaxies, and the preset made of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim import (
    CAMERAS,
    EdgeGlow,
    FocalPlane,
    Galaxies,
    Galaxy,
    Gradients,
    HotPixels,
    LinePattern,
    OddEven,
    PixelPattern,
    Pointing,
    ShortedColumns,
    Sky,
    Stars,
    TreeRings,
    miri_i4i,
    simulate,
    tangent_plane,
    through,
    write_observation,
)

SHAPE = (128, 144)
BOX = Window(0, 0, *SHAPE)
FLAT = Pointing(aperture=tangent_plane((200, 240), 0.11), ra=150.0, dec=2.0)
FULL = FLAT.aperture.window
MIRI = CAMERAS["MIRIMAGE"].aperture
PATTERNS = (PixelPattern, Gradients, TreeRings, OddEven, LinePattern)
TOTAL = ("pixels", "gradients", "rings", "odd_even", "lines", "glow")


def drawn(kind, rms=0.4, **kwargs):
    return kind(rms=rms, seed=3, detector_shape=SHAPE, **kwargs).render(FLAT, BOX)


@pytest.fixture(scope="module")
def observation():
    return miri_i4i(shape=SHAPE, seed=5, telescope_share=0.3, spiral=True, n_stars=400)


# --- detector ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_pattern_has_its_rms_and_no_mean(kind):
    for rms in (0.4, 2.5):
        image = drawn(kind, rms).astype(float)
        assert image.mean() == pytest.approx(0.0, abs=1e-6)
        assert image.std() == pytest.approx(rms, rel=1e-6)
    assert not drawn(kind, 0.0).any()


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_pattern_is_fixed_to_the_detector(kind):
    layer = kind(rms=1.0, seed=3, detector_shape=SHAPE)
    part = Window(20, 31, 40, 50)
    cut = layer.render(FLAT.dithered(30, 40), part)
    np.testing.assert_array_equal(cut, layer.render(FLAT, BOX)[BOX.slices(part)])
    other = kind(rms=1.0, seed=4, detector_shape=SHAPE).render(FLAT, BOX)
    # What alternates has no chance in it.
    assert (kind is OddEven) == np.array_equal(other, layer.render(FLAT, BOX))


@pytest.mark.parametrize(("share", "correlation"), [(1.0, 2.0), (0.4, 2.0), (0.0, 3.0)])
def test_pixels_are_white_and_correlated_as_declared(share, correlation):
    shape = (512, 520)
    layer = PixelPattern(
        rms=1.0, seed=1, white_share=share, correlation=correlation, detector_shape=shape
    )
    image = layer.render(FLAT, Window(0, 0, *shape)).astype(float)
    for lag in (1, 2, 4):
        for axis in (0, 1):
            found = np.mean(image * np.roll(image, lag, axis))
            expected = (1 - share) * np.exp(-(lag**2) / (4 * correlation**2))
            assert found == pytest.approx(expected, abs=0.02)


def test_gradients_are_smooth():
    assert np.abs(np.diff(drawn(Gradients, 1.0), axis=0)).max() < 0.15


def test_rings_are_arcs_about_their_centre():
    image = drawn(TreeRings, 1.0, centre=(0.0, 1.0), spacing=12.0).astype(float)
    y, x = np.indices(SHAPE)
    radius = np.rint(np.hypot(y, x - SHAPE[1])).astype(int).ravel()
    n = np.maximum(np.bincount(radius), 1)
    mean = np.bincount(radius, image.ravel()) / n
    left = image.ravel() - mean[radius]
    assert left.std() < 0.15
    # About as many rings as the spacing tells: a sign changes twice in each.
    changes = np.count_nonzero(np.diff(np.sign(mean[10:140])))
    assert 130 / 12 < changes < 4 * 130 / 12


def test_odd_and_even_lines_differ_and_nothing_else():
    image = drawn(OddEven, 1.0, row_share=0.8)
    assert len(np.unique(image)) == 4
    assert image[1, 0] - image[0, 0] == pytest.approx(2 * np.sqrt(0.8), rel=1e-6)
    assert image[0, 1] - image[0, 0] == pytest.approx(2 * np.sqrt(0.2), rel=1e-6)


def test_lines_are_sums_of_a_row_and_a_column():
    image = drawn(LinePattern, 1.0, row_share=0.25).astype(float)
    rows, columns = image.mean(axis=1), image.mean(axis=0)
    np.testing.assert_allclose(image, rows[:, np.newaxis] + columns, atol=1e-6)
    assert [rows.std(), columns.std()] == pytest.approx([0.5, np.sqrt(0.75)], rel=1e-5)


def test_glow_falls_off_from_its_place():
    shape = (101, 201)
    glow = EdgeGlow(level=3.0, centre=(0.0, 1.0), reach=(0.5, 0.25), detector_shape=shape)
    image = glow.render(FLAT, Window(0, 0, *shape))
    assert image[0, 200] == image.max() == np.float32(3.0)
    np.testing.assert_allclose(image[[50, 0], [200, 150]], 3.0 / np.e, rtol=1e-6)


def test_shorted_columns_have_their_levels_in_any_window():
    layer = ShortedColumns()
    assert layer.columns == (384, 385)  # 385 and 386 counted from 1
    image = layer.render(FLAT, Window(100, 380, 8, 8))
    np.testing.assert_array_equal(image[:, 4:6], np.tile(layer.levels, (8, 1)))
    assert np.count_nonzero(image) == 16
    assert layer.render(FLAT, Window(0, 384, 1, 1)).any()
    assert not layer.render(FLAT, Window(0, 386, 8, 8)).any()


def test_hot_pixels_have_their_number_and_levels():
    layer = HotPixels(fraction=0.01, levels=(5.0, 50.0), seed=1, detector_shape=SHAPE)
    image = layer.render(FLAT, BOX)
    hot = image[image > 0]
    assert len(hot) == round(0.01 * SHAPE[0] * SHAPE[1])
    assert 5.0 <= hot.min() < 6.0
    assert 40.0 < hot.max() <= 50.0
    # As many from 5 to 15.8 as from there to 50.
    assert np.count_nonzero(hot < np.sqrt(250.0)) == pytest.approx(len(hot) / 2, rel=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelPattern(rms=-1.0), "pixels: rms must be at least 0, got -1.0"),
        (
            lambda: PixelPattern(rms=1.0, white_share=1.5),
            "pixels: white_share must be in [0, 1] and correlation positive, got 1.5 and 2.0",
        ),
        (lambda: TreeRings(rms=1.0, spacing=1.0), "rings: spacing must be at least 4 px, got 1.0"),
        (
            lambda: EdgeGlow(level=1.0, reach=(0.0, 1.0)),
            "glow: reach must be positive, got (0.0, 1.0)",
        ),
        (lambda: ShortedColumns(levels=(1.0,)), "shorted: 2 columns do not fit 1 levels"),
        (
            lambda: HotPixels(fraction=0.1, levels=(2.0, 1.0)),
            (
                "hot: fraction must be in [0, 1] and levels positive and in order, got 0.1 and "
                "(2.0, 1.0)"
            ),
        ),
        (lambda: FocalPlane(edge=0.0), "the edges of a focal plane need a width > 0, got 0.0"),
    ],
)
def test_what_is_impossible_is_refused(make, message):
    with pytest.raises(ParameterError) as caught:
        make()
    assert str(caught.value) == message


# --- focal plane ------------------------------------------------------------------------------


def test_regions_lie_where_the_siaf_has_them():
    plane = FocalPlane()
    labels, passed = plane.labels(MIRI.window), plane.transmission(MIRI.window)
    offsets = plane.offsets(MIRI.window)
    for (y, x), label, transmission, offset in (
        ((700, 700), 1, 1.0, 0.0),
        ((800, 220), 2, 0.92, 1.5),
        ((131, 118), 3, 0.78, 1.0),
        ((354, 118), 4, 0.80, 1.2),
        ((575, 118), 5, 0.84, 0.8),
        ((883, 140), 0, 0.004, 1.5),  # the Lyot spot
        ((720, 140), 0, 0.004, 0.3),  # between Lyot field and phase masks
        ((600, 300), 0, 0.004, 0.3),
        ((350, 380), 0, 0.004, 0.0),  # the knife edge
    ):
        assert labels[y, x] == label
        assert passed[y, x] == pytest.approx(transmission, abs=1e-6)
        assert offsets[y, x] == pytest.approx(offset, abs=1e-6)
    # On an edge, between two pixels, half of the light arrives.
    assert passed[600, 358:360].mean() == pytest.approx(0.5, abs=0.01)
    assert passed.min() >= 0
    assert passed.max() <= 1


def test_a_small_detector_shows_the_same_regions():
    small, full = FocalPlane(detector_shape=(256, 258)), FocalPlane()
    labels = small.labels(Window(0, 0, 256, 258))
    agrees = labels == full.labels(MIRI.window)[2::4, 2::4]
    assert agrees.mean() > 0.999
    part = Window(90, 10, 50, 60)
    cut = small.transmission(Window(0, 0, 256, 258))[90:140, 10:70]
    np.testing.assert_array_equal(small.transmission(part), cut)


def test_light_and_sources_are_seen_through_the_regions():
    plane = FocalPlane()
    pointing = Pointing(aperture=MIRI, ra=10.0, dec=20.0)
    sky = through(plane, Sky(level=60.0))
    assert (sky.name, sky.is_source) == ("sky", False)
    seen = sky.render(pointing, Window(345, 110, 8, 8))
    np.testing.assert_allclose(seen, 48.0, rtol=1e-6)
    ra, dec = pointing.to_sky(np.array([118.0, 700.0, -50.0]), np.array([354.0, 700.0, 300.0]))
    bare = Stars(ra=ra, dec=dec, flux=np.full(3, 1e3))
    stars = through(plane, bare)
    assert stars.is_source
    assert [s.flux for s in stars.sources()] == [1e3] * 3
    for y, x, part in ((354, 118, 0.8), (700, 700, 1.0)):
        box = Window(y - 8, x - 8, 17, 17)
        expected = part * bare.render(pointing, box)
        np.testing.assert_allclose(stars.render(pointing, box), expected, rtol=1e-6)
    places = pointing.to_pixels(ra, dec)
    np.testing.assert_allclose(stars.throughput(*places)[:2], [0.8, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(bare.throughput(*places), np.ones(3))


@pytest.mark.real
def test_regions_agree_with_a_real_map(shared_data):
    """The map has ranges of columns, and zero where pixels are bad or near the edge."""
    path = shared_data / "miri" / "region_mask_P750L.fits"
    real = fits.getdata(path, "REGION")
    # Median over columns of a prism image, smoothed over 11 columns.
    profile = fits.getdata(path, "COL_PROFILE").astype(float)
    labels = FocalPlane().labels(MIRI.window)
    imager, corona, between = real == 1, real == 3, real == 2
    fractions = {
        "imager": (labels[imager] == 1).mean(),
        "coronagraphs": np.isin(labels[corona], (2, 3, 4, 5)).mean(),
        # Its slit region reaches into what the SIAF counts to imager and Lyot field.
        "between": np.isin(labels[between], (0, 6)).mean(),
    }
    assert fractions == pytest.approx(
        {"imager": 0.997, "coronagraphs": 0.898, "between": 0.757}, abs=0.003
    )
    covered = [(labels == 1) & (real > 0), np.isin(labels, (2, 3, 4, 5)) & (real > 0)]
    assert (real[covered[0]] == 1).mean() > 0.95
    assert (real[covered[1]] == 3).mean() > 0.93
    # Edges of the light: half of the level inside.
    plane = FocalPlane().transmission(MIRI.window)
    ours = np.median(plane[500:650], axis=0)
    for low, high, inside in ((0, 30, 60), (210, 250, 200), (335, 375, 372)):
        found = [np.argmin(np.abs(line[low:high] - line[inside] / 2)) for line in (profile, ours)]
        assert abs(found[0] - found[1]) <= 4
    lyot = profile[240:300]
    assert 240 + np.argmin(np.abs(lyot - lyot[:20].mean() / 2)) == pytest.approx(276.5, abs=4)


# --- galaxies ---------------------------------------------------------------------------------


def galaxies(pointing=FLAT, x=(120.0,), y=(100.0,), **values):
    ra, dec = pointing.to_sky(np.array(x), np.array(y))
    defaults = {"flux": 1e3, "r_eff": 0.6, "sersic_index": 1.0, "ellipticity": 0.4, "angle": 30.0}
    fwhm = values.pop("fwhm", 2.4)
    columns = {
        name: np.resize(np.array(values.get(name, value), dtype=float), len(x))
        for name, value in defaults.items()
    }
    return Galaxies(ra=ra, dec=dec, fwhm=fwhm, **columns)


def moments(image):
    y, x = np.indices(image.shape)
    weight = image.astype(float) / image.sum(dtype=float)
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    return np.array([(weight * x * x).sum(), (weight * x * y).sum(), (weight * y * y).sum()])


@pytest.mark.parametrize("index", [0.5, 1.0, 2.5, 4.0])
def test_galaxy_has_its_flux_and_half_light_radius(index):
    layer = galaxies(
        sersic_index=index, ellipticity=0.0, r_eff=1.1, flux=1e5, fwhm=2.0, x=(120.25,)
    )
    image = layer.render(FLAT, FULL).astype(float)
    y, x = np.indices(image.shape)
    inside = np.hypot(y - 100.0, x - 120.25) < 10.0
    assert image[inside].sum() == pytest.approx(5e4, rel=0.06)
    if index < 3:  # the wings of the others leave the image
        assert image.sum() == pytest.approx(1e5, rel=5e-3)


def test_a_tiny_galaxy_is_a_star():
    stars = Stars(ra=np.array([150.0]), dec=np.array([2.0]), flux=np.array([1e4]), fwhm=2.4)
    x, y = FLAT.to_pixels(150.0, 2.0)
    tiny = galaxies(x=(float(x),), y=(float(y),), flux=1e4, r_eff=0.005)
    expected, found = (layer.render(FLAT, FULL) for layer in (stars, tiny))
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.01)
    assert found.sum() == pytest.approx(expected.sum(), rel=2e-3)


@pytest.mark.parametrize("roll", [0.0, 70.0])
def test_galaxies_look_like_the_large_one(roll):
    """Same place, shape and brightness as the galaxy that is drawn pixel by pixel."""
    pointing = Pointing(aperture=MIRI, ra=20.0, dec=50.0, roll=roll)
    ra, dec = pointing.to_sky(700.0, 500.0)
    values = {"flux": 1e5, "r_eff": 2.0, "sersic_index": 1.0, "ellipticity": 0.5, "angle": 25.0}
    large = Galaxy(ra=float(ra), dec=float(dec), **values)
    # The large one is not convolved with a PSF, only softened at its centre.
    many = galaxies(pointing, x=(700.0,), y=(500.0,), fwhm=0.5, **values)
    box = Window(400, 600, 201, 201)
    expected, found = (layer.render(pointing, box) for layer in (large, many))
    outer = (expected > 0.05) & (expected < 0.3 * expected.max())
    assert np.median(np.abs(found[outer] / expected[outer] - 1)) < 0.02
    assert moments(found) == pytest.approx(moments(expected), rel=0.05, abs=1.0)


def test_galaxies_are_cut_out_with_sub_arrays_and_end_unseen():
    rng = np.random.default_rng(1)
    layer = galaxies(
        x=rng.uniform(-20, 260, 40), y=rng.uniform(-20, 220, 40), flux=rng.uniform(5, 500, 40)
    )
    image = layer.render(FLAT, FULL)
    part = Window(37, 51, 60, 70)
    np.testing.assert_allclose(layer.render(FLAT, part), image[FULL.slices(part)], atol=1e-5)
    single = galaxies(flux=20.0).render(FLAT, FULL)
    rows, columns = (np.flatnonzero(single.any(axis=axis)) for axis in (1, 0))
    assert len(rows) < 150
    # Along the major axis the edge of the stamp is as faint as declared.
    edge = [single[rows[[0, -1]]].max(), single[:, columns[[0, -1]]].max()]
    assert 1e-5 < max(edge) < 1.1e-4
    assert not galaxies(x=(-900.0,)).render(FLAT, FULL).any()


def test_galaxies_in_larger_pixels_are_fainter():
    pointing = Pointing(aperture=CAMERAS["NIS"].aperture, ra=10.0, dec=-70.0, roll=200.0)
    layer = galaxies(pointing, x=(60.0,), y=(1990.0,), r_eff=0.15)
    seen = layer.render(pointing, Window(1900, 0, 148, 160)).sum(dtype=float)
    size = float(pointing.aperture.relative_area(60.0, 1990.0))
    assert abs(size - 1) > 0.002
    assert seen * size == pytest.approx(1e3, rel=2e-3)


def test_galaxies_are_listed_and_checked():
    layer = galaxies(x=(10.0, 20.0), y=(5.0, 5.0), flux=(2.0, 3.0))
    assert [(s.kind, s.flux, s.is_extended) for s in layer.sources()] == [
        ("galaxies", 2.0, True),
        ("galaxies", 3.0, True),
    ]
    none = galaxies(x=(), y=())
    assert not none.render(FLAT, FULL).any()
    with pytest.raises(ParameterError, match=r"^galaxies: galaxies need flux > 0, r_eff > 0"):
        galaxies(flux=-1.0)
    with pytest.raises(ShapeError, match=r"^galaxies: all of ra, dec, .* need one number per"):
        replace(layer, angle=np.ones(3))


# --- preset -----------------------------------------------------------------------------------


def test_layers_sum_to_the_image_and_sources_to_the_truth(observation):
    for exposure in observation.science:
        layers = exposure.layers()
        total = np.sum([image.astype(float) for image in layers.values()], axis=0)
        np.testing.assert_allclose(exposure.model(), total, rtol=1e-6)
        sources = sum(layers[n].astype(float) for n in ("stars", "galaxies", "disc", "bulge"))
        np.testing.assert_allclose(exposure.sources(), sources, atol=1e-4)
    assert list(layers) == [
        "sky",
        "telescope",
        "offsets",
        "pixels",
        "gradients",
        "rings",
        "odd_even",
        "lines",
        "glow",
        "shorted",
        "hot",
        "stars",
        "galaxies",
        "disc",
        "bulge",
    ]
    assert observation.backgrounds == ()


def test_what_belongs_to_the_detector_stays(observation):
    first, second = (exposure.layers() for exposure in observation.science[:2])
    fixed = {name for name in first if np.array_equal(first[name], second[name])}
    assert fixed == {*TOTAL, "offsets", "shorted", "hot"}


@pytest.mark.parametrize(
    "options", [{}, {"pixel_share": 1.0, "white_share": 1.0}, {"pattern_rms": 2.0}]
)
def test_the_pattern_has_the_rms_wanted(options):
    layers = miri_i4i(shape=SHAPE, seed=2, **options).science[0].layers()
    total = np.sum([layers[name] for name in TOTAL if name in layers], axis=0, dtype=float)
    assert total.std() == pytest.approx(options.get("pattern_rms", 0.52), rel=1e-5)
    assert ("rings" in layers) == (options.get("pixel_share") != 1.0)


def test_sky_and_telescope_drift_each_by_its_rms():
    simulated = miri_i4i(
        shape=SHAPE, n_science=8, telescope_share=0.25, sky_drift=0.02, telescope_drift=0.05
    )
    levels = {
        name: np.array(
            [
                layer.layer.level
                for exposure in simulated.science
                for layer in exposure.scene.layers
                if layer.name == name
            ]
        )
        for name in ("sky", "telescope")
    }
    for name, level, rms in (("sky", 45.0, 0.02), ("telescope", 15.0, 0.05)):
        assert levels[name].mean() == pytest.approx(level, rel=1e-9)
        assert levels[name].std() / level == pytest.approx(rms, rel=1e-9)
    assert abs(np.corrcoef(levels["sky"], levels["telescope"])[0, 1]) < 0.99
    still = miri_i4i(shape=SHAPE, sky_drift=0.0).science
    assert {e.scene.layers[0].layer.level for e in still} == {60.0}


def test_every_region_drifts_with_the_sky(observation):
    plane = FocalPlane(detector_shape=SHAPE)
    labels = plane.labels(BOX)
    first, second = (exposure.layers()["sky"] for exposure in observation.science[:2])
    ratio = (second / first)[np.isin(labels, (1, 2, 3, 4, 5))]
    assert abs(ratio.mean() - 1) > 1e-3
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-5)
    levels = [np.median(first[labels == label]) for label in (1, 2, 3)]
    assert levels[0] > levels[1] > levels[2] > 0.7 * levels[0]


def test_the_defaults_at_full_size():
    """The setting that methods are compared in: noise 0.35, sky 60, pattern 0.52, drift 1 %."""
    simulated = simulate("miri-i4i", n_galaxies=0)
    exposure = simulated.science[0]
    labels = FocalPlane().labels(MIRI.window)
    assert exposure.data.shape == (1024, 1032)
    assert np.nanmedian(exposure.err[labels == 1]) == pytest.approx(0.35, abs=0.005)
    levels = [e.scene.layers[0].layer.level for e in simulated.science]
    assert np.mean(levels) == pytest.approx(60.0)
    assert np.std(levels) == pytest.approx(0.6)
    layers = exposure.layers()
    assert np.sum([layers[n] for n in TOTAL], axis=0).std() == pytest.approx(0.52, rel=1e-4)
    dithers = [np.hypot(*e.pointing.dither) for e in simulated.science]
    assert max(dithers) == pytest.approx(60.0)
    assert np.isnan(exposure.data[:, 384:386]).all()
    assert (exposure.dq[:, 384:386] & FLAG_BITS["DO_NOT_USE"]).all()
    good = exposure.dq == 0
    pulls = ((exposure.data - exposure.model()) / exposure.err)[good]
    assert pulls.std() == pytest.approx(1.0, abs=0.005)


def test_the_same_seed_gives_the_same_bits():
    first, again, other = (miri_i4i(shape=SHAPE, seed=seed) for seed in (1, 1, 2))
    for one, two, three in zip(first.science, again.science, other.science, strict=True):
        assert one.data.tobytes() == two.data.tobytes()
        assert one.data.tobytes() != three.data.tobytes()
    pulls = [
        ((e.data - e.model()) / e.err)[e.dq == 0][:8000]
        for e in (first.science[0], other.science[0])
    ]
    assert abs(np.corrcoef(*pulls)[0, 1]) < 0.05
    # What is said of the detector is the same however many exposures there are.
    more = miri_i4i(shape=SHAPE, seed=1, n_science=9).science[0].layers()
    np.testing.assert_array_equal(more["pixels"], first.science[0].layers()["pixels"])


def test_parts_can_be_left_out():
    bare = miri_i4i(
        shape=SHAPE,
        pattern_rms=0.0,
        shorted=False,
        hot_fraction=0.0,
        regions=False,
        n_stars=0,
        n_galaxies=0,
        bad_fraction=0.0,
    )
    exposure = bare.science[0]
    assert list(exposure.layers()) == ["sky", "stars", "galaxies"]
    assert not exposure.sources().any()
    assert bare.references == ()
    assert np.isfinite(exposure.data[:, 4:-4]).all()


def test_a_sub_array_is_a_cut_out():
    whole = simulate("miri-i4i", n_science=3, n_galaxies=20).science[1]
    part = simulate("miri-i4i", n_science=3, n_galaxies=20, subarray="SUB256").science[1]
    assert part.meta["SUBARRAY"] == "SUB256"
    at = whole.window.slices(part.window)
    for name, image in part.layers().items():
        np.testing.assert_allclose(image, whole.layers()[name][at], rtol=1e-6, atol=2e-5)


def test_sources_are_listed_as_they_are_seen(tmp_path):
    simulated = miri_i4i(shape=(256, 258), n_science=2, n_stars=200, n_galaxies=0)
    files = write_observation(simulated, tmp_path)
    labels = FocalPlane(detector_shape=(256, 258)).labels(Window(0, 0, 256, 258))
    table = json.loads(files.truth_tables[0].read_text())
    behind = [
        star["flux_in_frame"] / star["flux"]
        for star in table["sources"]
        if labels[round(star["y"]), round(star["x"])] == 2
    ]
    assert behind
    assert np.median(behind) == pytest.approx(0.92, abs=0.02)
    assert table["layers"]["sky"]["layer"]["level"] == pytest.approx(60.0, rel=0.03)
    names = sorted(path.name for path in files.cache.rglob("*flat*"))
    assert any(name.endswith(".fits") for name in names)
