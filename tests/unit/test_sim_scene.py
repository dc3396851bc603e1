"""Scenes, noise, defects and presets."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim import (
    CAMERAS,
    PRESETS,
    Detector,
    Label,
    NoiseModel,
    Pointing,
    Scene,
    Setup,
    SimulatedExposure,
    Sky,
    flat_exposures,
    miri_imaging,
)
from webbkg.sim import simulate as simulate_preset

SHAPE = (64, 80)
DO_NOT_USE = FLAG_BITS["DO_NOT_USE"]
ARRAYS = ("data", "err", "dq", "var_poisson", "var_rnoise")


@pytest.fixture(scope="module")
def observation():
    return miri_imaging(shape=SHAPE, seed=5)


def expose(seed=1, level=60.0, *, shape=SHAPE, detector=None, jump_fraction=0.0, **electronics):
    """Expose a flat sky with a MIRI of this shape whose defects and electronics are given."""
    camera = dataclasses.replace(CAMERAS["MIRIMAGE"].resized(shape), border=(0, 0, 0, 0))
    n_groups = electronics.pop("n_groups", 47)
    camera = dataclasses.replace(camera, **electronics)
    return SimulatedExposure(
        scene=Scene((Sky(level=level),)),
        pointing=Pointing(aperture=camera.aperture, ra=10.0, dec=20.0),
        setup=Setup(
            camera=camera,
            exp_type="MIR_IMAGE",
            filter_name="F770W",
            readout="FASTR1",
            n_groups=n_groups,
        ),
        detector=Detector(camera=camera, **(detector or {})),
        label=Label(observation=1, exposure=1, target="FLAT", target_ra=10.0, target_dec=20.0),
        seed=(seed,),
        jump_fraction=jump_fraction,
    )


def test_layers_sum_to_the_truth(observation):
    for exposure in observation.science + observation.backgrounds:
        layers = exposure.layers()
        total = np.sum([layer.astype(float) for layer in layers.values()], axis=0)
        np.testing.assert_allclose(exposure.model(), total, rtol=1e-7)
        rest = layers["sky"].astype(float) + layers["pattern"]
        np.testing.assert_allclose(exposure.sources(), total - rest, atol=1e-5)
    assert list(observation.science[0].layers()) == ["sky", "pattern", "stars", "disc", "bulge"]
    assert list(observation.backgrounds[0].layers()) == ["sky", "pattern", "stars"]


@pytest.mark.parametrize("n_integrations", [None, 2])
def test_the_same_seed_gives_the_same_bits(n_integrations):
    first, again, other = (
        miri_imaging(shape=SHAPE, seed=seed, n_integrations=n_integrations, n_background_stars=2000)
        for seed in (1, 1, 2)
    )
    for one, two, three in zip(
        first.science + first.backgrounds,
        again.science + again.backgrounds,
        other.science + other.backgrounds,
        strict=True,
    ):
        for name in ARRAYS:
            assert getattr(one.frames, name).tobytes() == getattr(two.frames, name).tobytes()
        assert one.data.tobytes() != three.data.tobytes()
        assert one.sources().tobytes() != three.sources().tobytes()


def test_every_exposure_has_its_own_noise(observation):
    good = observation.backgrounds[0].dq == 0
    pulls = [
        ((exposure.data - exposure.model()) / exposure.err)[good & (exposure.dq == 0)][:3000]
        for exposure in observation.science + observation.backgrounds
    ]
    correlation = np.corrcoef(pulls) - np.eye(len(pulls))
    assert np.abs(correlation).max() < 5 / np.sqrt(3000)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_integrations", [None, 3])
def test_pulls_have_mean_zero_and_width_one(seed, n_integrations):
    observation = miri_imaging(
        shape=(160, 160), n_science=2, n_background=1, seed=seed, n_integrations=n_integrations
    )
    pulls = np.concatenate(
        [
            ((exposure.data - exposure.model()) / exposure.err)[exposure.dq == 0]
            for exposure in observation.science + observation.backgrounds
        ]
    ).astype(float)
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    assert pulls.std() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("level", [-1.0, 0.0, 0.01, 500.0])
def test_pulls_hold_at_any_level(level):
    exposure = expose(level=level, shape=(200, 200), gain=2.0, read_noise=30.0, n_groups=12)
    pulls = (exposure.data.astype(float) - level) / exposure.err
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    # 10 groups are fitted; JWST-STScI-004632.
    read = 12 * 30.0**2 / (2.0**2 * 2.77504**2 * 990)
    photon = max(level, 0) / (2.0 * 2.77504 * 9)
    assert exposure.err[0, 0] == pytest.approx(np.sqrt(photon + read), rel=1e-6)


def test_variances_add_up_to_err(observation):
    exposure = observation.science[0]
    frames = exposure.frames
    np.testing.assert_allclose(frames.var_poisson + frames.var_rnoise, exposure.err**2, rtol=1e-5)
    electrons = 4.0 * 2.77504 * 44
    expected = np.where(exposure.dq & 1, np.nan, exposure.model()) / electrons
    np.testing.assert_allclose(frames.var_poisson, expected, 1e-5)


def test_default_noise_is_typical():
    assert NoiseModel().sigma(60.0) == pytest.approx(0.351, abs=0.001)
    assert NoiseModel().sigma(-5.0) == pytest.approx(0.0207, abs=1e-4)
    assert CAMERAS["MIRIMAGE"].gain == NoiseModel().gain
    assert miri_imaging(shape=SHAPE).science[0].setup.noise == NoiseModel()


def test_more_frames_of_a_group_lower_the_read_noise():
    one, eight = NoiseModel(n_frames=1), NoiseModel(n_frames=8)
    assert one.var_rnoise == pytest.approx(8 * eight.var_rnoise)
    assert one.electrons == eight.electrons


def test_flags_and_nan_go_together(observation):
    for exposure in observation.science:
        unusable = (exposure.dq & DO_NOT_USE) > 0
        for name in ("data", "err", "var_poisson", "var_rnoise"):
            array = getattr(exposure.frames, name)
            assert array.dtype == np.float32
            np.testing.assert_array_equal(np.isnan(array), unusable)
        reference = exposure.dq == DO_NOT_USE | FLAG_BITS["REFERENCE_PIXEL"]
        assert reference[:, :4].all()
        assert reference[:, -4:].all()
        assert not reference[:, 4:-4].any()


def test_bad_pixels_stay_jumps_move():
    defects = {"bad_fraction": 0.05, "seed": 2}
    one, two = (expose(seed, detector=defects, jump_fraction=0.1) for seed in (1, 2))
    bad = (one.dq & DO_NOT_USE) > 0
    np.testing.assert_array_equal(bad, (two.dq & DO_NOT_USE) > 0)
    assert bad.mean() == pytest.approx(0.05, abs=0.015)
    jumps = [(exposure.dq & FLAG_BITS["JUMP_DET"]) > 0 for exposure in (one, two)]
    assert jumps[0].mean() == pytest.approx(0.1, abs=0.02)
    assert (jumps[0] & jumps[1]).mean() < 0.03
    # What a cosmic ray leaves is as large as the noise, on average.
    left = np.nanmean(one.data[jumps[0]]) - 60.0
    assert left == pytest.approx(NoiseModel().sigma(60.0), abs=0.1)
    assert set(np.unique(one.dq)) == {0, 1, 4, 5}


def test_jumps_leave_other_pixels_alone():
    plain, hit = expose(), expose(jump_fraction=0.1)
    untouched = hit.dq == 0
    np.testing.assert_array_equal(plain.data[untouched], hit.data[untouched])


def test_sub_array_has_the_truth_and_flags_of_the_full_frame(observation):
    window = Window(10, 0, 32, 40)
    part = miri_imaging(shape=SHAPE, seed=5, window=window)
    whole, cut = observation.science[1], part.science[1]
    inside = whole.window.slices(window)
    np.testing.assert_array_equal(cut.model(), whole.model()[inside])
    np.testing.assert_array_equal(cut.dq & DO_NOT_USE, whole.dq[inside] & DO_NOT_USE)
    assert cut.meta["SUBARRAY"] == "GENERIC"
    assert (cut.meta["SUBSTRT1"], cut.meta["SUBSTRT2"]) == (1, 11)
    assert (cut.meta["SUBSIZE1"], cut.meta["SUBSIZE2"]) == (40, 32)
    assert whole.meta["SUBARRAY"] == "FULL"


def test_dithers_move_the_sources_only():
    observation = miri_imaging(shape=(256, 256), n_science=6, n_background=0)
    places = np.array([e.pointing.dither for e in observation.science])
    gaps = np.hypot(*(places[:, None] - places[None]).T) + 99 * np.eye(6)
    assert places[0].tolist() == [0.0, 0.0]
    assert gaps.min() > 5
    assert np.hypot(*places.T).max() == pytest.approx(60 / 4)
    assert observation.backgrounds == ()


def test_sky_scatter_changes_the_level_of_each_exposure():
    observation = miri_imaging(shape=SHAPE, sky_scatter=0.01)
    levels = [e.layers()["sky"].mean() for e in observation.science + observation.backgrounds]
    assert len(set(levels)) == 8
    assert 0.1 < np.std(levels) < 1.5


def test_star_counts_scale_with_the_area():
    full = miri_imaging(n_science=1, n_background=0).science[0].scene.sources()
    pointing = miri_imaging(n_science=1).science[0].pointing
    on_detector = [
        s
        for s, x, y in zip(
            full, *pointing.to_pixels([s.ra for s in full], [s.dec for s in full]), strict=True
        )
        if 0 <= x < 1032 and 0 <= y < 1024 and s.kind == "stars"
    ]
    assert len(on_detector) == pytest.approx(300, abs=40)
    assert max(s.flux for s in on_detector) > 500
    none = miri_imaging(shape=SHAPE, n_stars=0).science[0].scene.sources()
    assert [s.kind for s in none] == ["disc", "bulge"]


def test_exposure_and_handle_hold_the_pixels_and_not_the_truth(observation):
    simulated = observation.science[2]
    exposure, loaded = simulated.exposure(), simulated.handle().load()
    for array, other in ((exposure.data, loaded.data), (exposure.err, loaded.err)):
        np.testing.assert_array_equal(array, other)
    assert exposure.name == loaded.name == "jw09999001001_02101_00003_mirimage_rate.fits"
    assert exposure.meta["FILTER"] == "F770W"
    assert exposure.window == Window(0, 0, *SHAPE)
    assert miri_imaging(shape=SHAPE, n_integrations=2).science[0].exposure().n_integrations == 2


def test_flat_exposures():
    handles = flat_exposures(3, shape=(2, 100, 100), meta={"GWA_XTIL": 0.1})
    assert [handle.name for handle in handles][1:] == [
        "flat_00002_rate.fits",
        "flat_00003_rate.fits",
    ]
    data = np.array([handle.load().data for handle in handles])
    assert data.mean() == pytest.approx(10.0, abs=0.02)
    assert data.std() == pytest.approx(0.5, rel=0.02)
    assert handles[0].load().err[0, 0, 0] == 0.5
    assert handles[0].meta["GWA_XTIL"] == 0.1


def test_importing_the_simulator_imports_nothing_heavy():
    code = (
        "import sys, webbkg.sim; "
        "print(sorted({'astropy', 'stdatamodels', 'jwst', 'scipy'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert answer.stdout.decode().strip() == "[]"


def test_refusals():
    with pytest.raises(ParameterError) as error:
        Scene((Sky(level=1), Sky(level=2)))
    assert str(error.value) == (
        "a scene needs at least one layer and a different name for each, got ['sky', 'sky']"
    )
    with pytest.raises(ParameterError, match=r"^noise needs gain and group_time above 0, read_no"):
        NoiseModel(gain=0)
    with pytest.raises(ParameterError, match=r"^bad_fraction must be in \[0, 1\), got 1.0$"):
        Detector(camera=CAMERAS["NIS"], bad_fraction=1.0)
    with pytest.raises(ParameterError) as error:
        Detector(camera=CAMERAS["MIRIMAGE"], bad_pixels=np.zeros((3, 4), bool))
    assert str(error.value) == (
        "the map of bad pixels has shape (3, 4), but MIRIMAGE has (1024, 1032)"
    )


@pytest.mark.parametrize("name", PRESETS)
def test_layers_of_every_preset_sum_to_the_image(name):
    for exposure in _some(simulate_preset(name, small=True, seed=3)):
        layers = exposure.layers()
        total = np.sum([image.astype(float) for image in layers.values()], axis=0)
        largest = np.max([np.abs(image).max() for image in layers.values()])
        assert all(image.dtype == np.float32 for image in layers.values())
        assert all(np.isfinite(image).all() for image in layers.values())
        np.testing.assert_allclose(exposure.model(), total, rtol=6e-8, atol=1e-7 * largest)
        kept = np.zeros(total.shape)
        for layer in exposure.scene.layers:
            kept += layers[layer.name] if layer.is_source else 0.0
        np.testing.assert_allclose(exposure.sources(), kept, rtol=1e-6, atol=1e-7 * largest)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_its_seed(name):
    first, again, other = (_some(simulate_preset(name, small=True, seed=s)) for s in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        assert one.name == two.name
        assert one.observe().data.tobytes() == two.observe().data.tobytes()
        assert one.observe().data.tobytes() != three.observe().data.tobytes()


def _some(observation):
    """Take the first exposure of each kind: more tell nothing new."""
    found = {}
    for exposure in observation.exposures:
        kind = (exposure.setup.exp_type, exposure.setup.filter_name, exposure.label.is_background)
        found.setdefault(kind, exposure)
    return list(found.values())


def test_unknown_presets_and_parameters_name_the_nearest():
    with pytest.raises(ParameterError) as error:
        simulate_preset("miri-imagin")
    assert str(error.value).startswith(
        "there is no preset 'miri-imagin' (did you mean 'miri-imaging'?); known are miri-imaging"
    )
    with pytest.raises(ParameterError, match=r"^there is no preset 'x'; known are miri-imaging"):
        simulate_preset("x")
    with pytest.raises(ParameterError, match=r"^seed must be a whole number, at least 0, got -1$"):
        simulate_preset("miri-imaging", seed=-1)
    with pytest.raises(ParameterError) as error:
        simulate_preset("miri-imaging", n_sience=3)
    assert str(error.value).startswith(
        "miri-imaging has no parameter 'n_sience' (did you mean 'n_science'?); known are "
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_science": 2, "n_visits": 3},
            "n_visits must be at most the number of exposures, 2, got 3",
        ),
        (
            {"dither_size": 1500.0},
            (
                "dither_size of 1500 px moves the field off the 1024x1032 pixels of MIRIMAGE that "
                "are read; it must be smaller"
            ),
        ),
        (
            {"dither_pattern": "line", "dither_size": 1400.0},
            (
                "dither_size of 1400 px moves the field off the 1024x1032 pixels of MIRIMAGE that "
                "are read; it must be smaller"
            ),
        ),
        (
            {"subarray": "SUB64", "dither_size": 2000.0},
            (
                "dither_size of 2000 px moves the field off the 64x72 pixels of MIRIMAGE that are "
                "read; it must be smaller"
            ),
        ),
        (
            {"small": True, "subarray": "BRIGHTSKY"},
            (
                "MIRIMAGE: the sub-array Window(y0=50, x0=456, ny=512, nx=512) leaves the detector "
                "of 512x520 pixels"
            ),
        ),
        (
            {"shape": (64, 15)},
            "shape must be between (8, 16) and (1024, 1032) for MIRIMAGE, got (64, 15)",
        ),
        (
            {"shape": (1025, 1032)},
            "shape must be between (8, 16) and (1024, 1032) for MIRIMAGE, got (1025, 1032)",
        ),
        ({"n_science": 0}, "n_science must be at least 1 and at most 1000, got 0"),
        ({"sky": float("nan")}, "sky must be finite, got nan"),
        (
            {"filter": "F200W"},
            (
                "filter must be one of F560W, F770W, F1000W, F1130W, F1280W, F1500W, F1800W, "
                "F2100W, F2550W, got 'F200W'"
            ),
        ),
    ],
)
def test_impossible_observations_are_refused(options, message):
    with pytest.raises(ParameterError) as error:
        miri_imaging(**options)
    assert str(error.value) == message


def test_visits_have_their_own_day_roll_and_numbers():
    observation = miri_imaging(
        shape=SHAPE, n_science=5, n_visits=2, days_between_visits=3.0, roll_between_visits=4.0
    )
    found = [(e.label.visit, e.label.exposure, e.pointing.roll) for e in observation.science]
    assert found == [(1, 1, 30.0), (1, 2, 30.0), (1, 3, 30.0), (2, 1, 34.0), (2, 2, 34.0)]
    assert len({e.name for e in observation.exposures}) == 9
    starts = [e.label.start / 86400 for e in observation.science]
    assert starts[3] - starts[2] == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("pattern", ["cycling", "line", "box"])
@pytest.mark.parametrize("n", [1, 2, 4, 9])
def test_dithers_differ_and_keep_within_their_size(pattern, n):
    observation = miri_imaging(dither_pattern=pattern, n_science=n, dither_size=40.0)
    places = np.array([e.pointing.dither for e in observation.science])
    assert np.hypot(*places.T).max() <= 40.0 + 1e-9
    gaps = np.hypot(*(places[:, None] - places[None]).T) + 99 * np.eye(n)
    assert gaps.min() > 5
