"""Scenes, noise, defects and presets."""

import subprocess
import sys

import numpy as np
import pytest

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim import (
    Detector,
    NoiseModel,
    Pointing,
    Scene,
    Sky,
    flat_exposures,
    miri_imaging,
    observe,
)

SHAPE = (64, 80)
DO_NOT_USE = FLAG_BITS["DO_NOT_USE"]
ARRAYS = ("data", "err", "dq", "var_poisson", "var_rnoise")


@pytest.fixture(scope="module")
def observation():
    return miri_imaging(shape=SHAPE, seed=5)


def simulate(seed=1, level=60.0, noise=None, detector=None, **kwargs):
    return observe(
        Scene((Sky(level=level),)),
        Pointing(),
        noise=noise or NoiseModel(),
        detector=detector or Detector(shape=SHAPE),
        seed=seed,
        **kwargs,
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
        miri_imaging(shape=SHAPE, seed=seed, n_integrations=n_integrations) for seed in (1, 1, 2)
    )
    for one, two, three in zip(
        first.science + first.backgrounds,
        again.science + again.backgrounds,
        other.science + other.backgrounds,
        strict=True,
    ):
        for name in ARRAYS:
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
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
    noise = NoiseModel(gain=2.0, integration_time=10.0, read_noise=0.3)
    exposure = simulate(level=level, noise=noise, detector=Detector(shape=(200, 200)))
    pulls = (exposure.data.astype(float) - level) / exposure.err
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    assert exposure.err[0, 0] == pytest.approx(np.sqrt(max(level, 0) / 20 + 0.09), rel=1e-6)


def test_variances_add_up_to_err(observation):
    exposure = observation.science[0]
    np.testing.assert_allclose(
        exposure.var_poisson + exposure.var_rnoise, exposure.err**2, rtol=1e-5
    )
    np.testing.assert_allclose(
        exposure.var_poisson, np.where(exposure.dq & 1, np.nan, exposure.model()) / 499.5072, 1e-5
    )


def test_default_noise_is_typical():
    assert NoiseModel().sigma(60.0) == pytest.approx(0.349, abs=0.001)
    assert NoiseModel().sigma(-5.0) == pytest.approx(0.04)


def test_flags_and_nan_go_together(observation):
    for exposure in observation.science:
        unusable = (exposure.dq & DO_NOT_USE) > 0
        for name in ("data", "err", "var_poisson", "var_rnoise"):
            array = getattr(exposure, name)
            assert array.dtype == np.float32
            np.testing.assert_array_equal(np.isnan(array), unusable)
        reference = exposure.dq == DO_NOT_USE | FLAG_BITS["REFERENCE_PIXEL"]
        assert reference[:, :4].all()
        assert reference[:, -4:].all()
        assert not reference[:, 4:-4].any()


def test_bad_pixels_stay_jumps_move():
    detector = Detector(shape=SHAPE, bad_fraction=0.05, seed=2)
    one, two = (simulate(seed, detector=detector, jump_fraction=0.1) for seed in (1, 2))
    bad = (one.dq & DO_NOT_USE) > 0
    np.testing.assert_array_equal(bad, (two.dq & DO_NOT_USE) > 0)
    assert bad.mean() == pytest.approx(0.05, abs=0.015)
    jumps = [(exposure.dq & FLAG_BITS["JUMP_DET"]) > 0 for exposure in (one, two)]
    assert jumps[0].mean() == pytest.approx(0.1, abs=0.02)
    assert (jumps[0] & jumps[1]).mean() < 0.03
    assert np.nanmean(one.data[jumps[0]]) == pytest.approx(61.0, abs=0.3)
    assert set(np.unique(one.dq)) == {0, 1, 4, 5}


def test_jumps_leave_other_pixels_alone():
    plain, hit = simulate(), simulate(jump_fraction=0.1)
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
    places = np.array([(e.pointing.dx, e.pointing.dy) for e in observation.science])
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
    on_detector = [s for s in full if 0 <= s.x < 1032 and 0 <= s.y < 1024 and s.kind == "stars"]
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
    with pytest.raises(ParameterError, match=r"^gain and integration_time must be positive and"):
        NoiseModel(gain=0)
    with pytest.raises(ParameterError, match=r"^bad_fraction must be in \[0, 1\), got 1.0$"):
        Detector(bad_fraction=1.0)
    with pytest.raises(ParameterError) as error:
        miri_imaging(n_science=0)
    assert str(error.value) == (
        "n_science must be at least 1 and n_background at least 0, got 0 and 4"
    )
