"""Ramps give the rates of the truth after the real ``calwebb_detector1``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from stdatamodels.jwst import datamodels

from webbkg.exposure import Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.pipeline import detector1
from webbkg.sim import (
    CAMERAS,
    Detector,
    Label,
    Observation,
    Pointing,
    Scene,
    Setup,
    SimulatedExposure,
    Sky,
    Stars,
    miri_imaging,
    write_observation,
)
from webbkg.sim.ramp_references import Calibration
from webbkg.sim.ramps import make_ramp

pytestmark = pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning")

SATURATED, JUMP = np.uint32(FLAG_BITS["SATURATED"]), np.uint32(FLAG_BITS["JUMP_DET"])
REFERENCE, DO_NOT_USE = (np.uint32(FLAG_BITS[n]) for n in ("REFERENCE_PIXEL", "DO_NOT_USE"))

WITHOUT_REFERENCE = Window(64, 64, 160, 160)


def nircam(readout="BRIGHT1", *, sky=6.0, flux=(300.0, 1000.0), jumps=0.002, n_groups=10, **setup):
    """Sixteen stars on an even sky, seen by the corner of a long-wavelength detector."""
    camera = CAMERAS["NRCALONG"].resized((256, 256))
    pointing = Pointing(aperture=camera.aperture, ra=150.1, dec=2.2, roll=30.0)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(40, 240, 60), np.arange(40, 240, 60)))
    ra, dec = pointing.to_sky(x + 0.3, y - 0.2)
    stars = Stars(name="stars", ra=ra, dec=dec, flux=np.linspace(*flux, x.size))
    return SimulatedExposure(
        scene=Scene((Sky(level=sky), stars)),
        pointing=pointing,
        setup=Setup(
            camera=camera,
            exp_type="NRC_IMAGE",
            filter_name="F444W",
            pupil="CLEAR",
            readout=readout,
            n_groups=n_groups,
            **setup,
        ),
        detector=Detector(camera=camera, bad_fraction=0.002, seed=3),
        label=Label(observation=1, exposure=1, target="T", target_ra=150.1, target_dec=2.2),
        seed=(3,),
        jump_fraction=jumps,
    )


@dataclasses.dataclass
class Result:
    """What the pipeline made of an exposure."""

    exposure: SimulatedExposure
    rate: Any
    rateints: Any = None

    def pulls(self, model):
        truth = self.exposure.model().astype(float)
        return np.where(model.dq == 0, (model.data - truth) / model.err, np.nan)


def processed(exposure, folder):
    observation = Observation(preset="by hand", science=(exposure,))
    files = write_observation(observation, folder, level="uncal")
    [path] = detector1(files.science, folder, files.cache)
    result = Result(exposure, datamodels.open(path))
    if exposure.setup.n_integrations is not None:
        result.rateints = datamodels.open(path.with_name(path.name.replace("_rate", "_rateints")))
    return result


@pytest.fixture(scope="module")
def miri(tmp_path_factory):
    observation = miri_imaging(
        shape=(256, 264),
        n_science=1,
        n_background=0,
        n_groups=12,
        n_integrations=2,
        n_stars=3000,
        jump_fraction=0.01,
        seed=4,
    )
    return processed(observation.science[0], tmp_path_factory.mktemp("miri"))


@pytest.fixture(scope="module")
def single_frames(tmp_path_factory):
    return processed(nircam("BRIGHT1"), tmp_path_factory.mktemp("bright1"))


@pytest.fixture(scope="module")
def averaged_frames(tmp_path_factory):
    exposure = nircam("MEDIUM8", sky=1.2, flux=(100.0, 300.0), n_groups=8)
    return processed(exposure, tmp_path_factory.mktemp("medium8"))


def fitted_pulls(setup, rate, n_pixels=20000, seed=1):
    """Pulls of plain ramps, frame by frame, fitted with the pipeline's weights and variances."""
    rng = np.random.default_rng(seed)
    n_frames, gap = setup.frames
    n, noise, gain = setup.n_fitted_groups, setup.camera.read_noise, setup.camera.gain
    frames = np.cumsum(
        rng.poisson(rate * gain * setup.frame_time, (n * (n_frames + gap), n_pixels)), axis=0
    )
    frames = frames + noise * rng.standard_normal(frames.shape)
    ramp = frames.reshape(n, n_frames + gap, n_pixels)[:, :n_frames].mean(axis=1)
    noise /= np.sqrt(n_frames)
    signal = np.maximum(ramp[-1] - ramp[0], 0.0)
    snr = signal / np.sqrt(noise**2 + signal)
    power = np.select([snr < limit for limit in (5, 10, 20, 50, 100)], (0, 0.4, 1, 3, 6), 10.0)
    x = np.arange(n)[:, np.newaxis]
    weights = np.abs(2 * x / (n - 1) - 1) ** power
    x = x - (weights * x).sum(axis=0) / weights.sum(axis=0)
    slope = (weights * x * ramp).sum(axis=0) / (weights * x**2).sum(axis=0)
    median = np.maximum(np.median(np.diff(ramp, axis=0), axis=0), 0.0)
    variance = median / (n - 1) + 12 * noise**2 / (n**3 - n)
    return (slope - rate * gain * setup.group_time) / np.sqrt(variance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["miri", "single_frames", "averaged_frames"])
def test_rates_are_the_truth_within_their_noise(name, request):
    result = request.getfixturevalue(name)
    models = [m for m in (result.rate, result.rateints) if m is not None]
    for model in models:
        pulls = result.pulls(model)
        used = np.isfinite(pulls)
        assert used.mean() > 0.85
        n = used.sum()
        assert abs(np.nanmean(pulls)) < 3 / np.sqrt(n) + 0.02
        assert 0.95 < np.nanstd(pulls) < 1.05
        assert np.nanmax(np.abs(pulls)) < 6.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["miri", "single_frames", "averaged_frames"])
def test_width_of_the_pulls_is_that_of_the_pipelines_own_formula(name, request):
    # The pipeline's variance is the least that any weights could give, not that of its weights.
    result = request.getfixturevalue(name)
    model = result.rate if result.rateints is None else result.rateints
    sky = float(np.median(result.exposure.model()))
    expected = fitted_pulls(result.exposure.setup, sky)
    pulls = result.pulls(model)
    assert np.nanstd(pulls) == pytest.approx(expected.std(), abs=0.015)
    assert np.nanmean(pulls) == pytest.approx(expected.mean(), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["miri", "single_frames", "averaged_frames"])
def test_errors_are_those_predicted(name, request):
    result = request.getfixturevalue(name)
    exposure = result.exposure
    model = result.rate if result.rateints is None else result.rateints
    truth = exposure.model()
    sky = np.broadcast_to(np.abs(truth / np.median(truth) - 1) < 0.02, model.dq.shape)
    predicted = exposure.setup.noise.sigma(float(np.median(truth)))
    assert np.median(model.err[sky & (model.dq == 0)]) == pytest.approx(predicted, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["miri", "single_frames", "averaged_frames"])
def test_bright_stars_keep_their_flux(name, request):
    result = request.getfixturevalue(name)
    exposure, model = result.exposure, result.rate
    stars = [s for s in exposure.scene.sources() if not s.is_extended and s.flux > 100]
    x, y = exposure.pointing.to_pixels(
        np.array([s.ra for s in stars]), np.array([s.dec for s in stars])
    )
    yy, xx = np.mgrid[: exposure.window.ny, : exposure.window.nx]
    inside = np.zeros(exposure.window.shape, dtype=bool)
    for at_x, at_y in zip(x, y, strict=True):
        aperture = np.hypot(xx - at_x, yy - at_y) < 3
        if aperture.any() and not (model.dq[aperture] & (SATURATED | REFERENCE)).any():
            inside |= aperture
    inside &= np.isfinite(model.data)
    layers = exposure.layers()
    sky = sum(image for key, image in layers.items() if key in ("sky", "pattern"))
    flux = (exposure.model() - sky)[inside].sum(dtype=float)
    measured = (model.data - sky)[inside].sum(dtype=float)
    noise = np.sqrt((model.err[inside] ** 2).sum(dtype=float))
    assert inside.sum() > 200
    assert noise < 0.002 * flux
    assert measured / flux == pytest.approx(1.0, abs=0.005)
    assert abs(measured - flux) < 4 * noise


@pytest.mark.slow
def test_cosmic_rays_are_found_and_fitted_around(miri):
    dq, lit = miri.rateints.dq, (miri.rateints.dq & REFERENCE) == 0
    # Each of the rays flags its pixel and often the four beside it.
    assert 0.008 < ((dq & JUMP) > 0)[lit].mean() < 0.08
    truth = miri.exposure.model().astype(float)
    pulls = ((miri.rateints.data - truth) / miri.rateints.err)[dq == JUMP]
    assert np.isfinite(pulls).all()
    assert abs(np.median(pulls)) < 0.1
    assert 1.4826 * np.median(np.abs(pulls - np.median(pulls))) < 1.2
    # Some are so large that nothing after them is left.
    assert ((dq & SATURATED) > 0).any()


@pytest.mark.slow
def test_flags_are_those_of_the_detector(single_frames):
    exposure, dq = single_frames.exposure, single_frames.rate.dq
    at_work = (dq & DO_NOT_USE) == 0
    dead = (exposure.detector.flags(exposure.window) & FLAG_BITS["DO_NOT_USE"]) > 0
    is_reference = exposure.detector.reference_pixels()
    assert np.array_equal((dq & REFERENCE) > 0, is_reference)
    assert not at_work[dead & ~is_reference].any()
    assert np.isnan(single_frames.rate.data[dead & ~is_reference]).all()
    flags = Calibration.of(exposure.detector).flags
    for name in ("HOT", "WARM"):
        here = (flags & np.uint32(FLAG_BITS[name])) > 0
        assert here.any()
        assert np.array_equal((dq & np.uint32(FLAG_BITS[name])) > 0, here)
    # Reference pixels see no light.
    assert np.abs(np.nanmedian(single_frames.rate.data[is_reference])) < 0.01


@pytest.mark.slow
def test_pipeline_cuts_sub_arrays_out_of_the_reference_files(tmp_path):
    observation = miri_imaging(subarray="SUB64", n_science=1, n_background=0, n_groups=8, seed=2)
    result = processed(observation.science[0], tmp_path)
    pulls = result.pulls(result.rate)
    assert result.rate.data.shape == (64, 72)
    assert abs(np.nanmean(pulls)) < 3 / np.sqrt(pulls.size) + 0.02
    assert 0.95 < np.nanstd(pulls) < 1.06
    exposure = result.exposure
    flags = Calibration.of(exposure.detector).cut(exposure.window).flags
    assert ((flags & DO_NOT_USE) > 0).any()
    for bit in (REFERENCE, DO_NOT_USE):
        assert np.array_equal((result.rate.dq & bit) > 0, (flags & bit) > 0)


def plain(mean, **changes):
    """An even exposure of `mean` electrons a frame, without cosmic rays."""
    exposure = nircam(**{"n_groups": 6, "jumps": 0.0, "readout": "RAPID", **changes})
    setup = exposure.setup
    level = mean / setup.camera.gain / setup.frame_time
    return dataclasses.replace(exposure, scene=Scene((Sky(level=level),)))


def linear(exposure, ramp):
    """Electrons of a ramp, of pixels that work."""
    pixels = Calibration.of(exposure.detector).cut(exposure.window)
    measured = ramp - (pixels.bias if pixels.has_superbias else 0.0)
    signal = (measured + pixels.curvature * measured**2) * exposure.setup.camera.gain
    usual = pixels.is_lit & (pixels.dark < 2 * pixels.typical_dark)
    return signal[..., usual]


@pytest.mark.parametrize("mean", [5.0, 18.0, 25.0, 400.0])
def test_photon_noise_is_that_of_poisson(mean):
    exposure = plain(mean, window=WITHOUT_REFERENCE)
    still = dataclasses.replace(exposure.setup.camera, read_noise=0.0)
    exposure = dataclasses.replace(
        exposure, setup=dataclasses.replace(exposure.setup, camera=still)
    )
    steps = np.diff(linear(exposure, make_ramp(exposure)), axis=1)
    n, mean = steps.size, mean + 0.03 * exposure.setup.frame_time
    variance = mean + 2 * exposure.setup.camera.gain**2 / 12
    assert steps.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / n) + 0.001 * mean)
    assert steps.var() == pytest.approx(variance, rel=0.01 + 4 * np.sqrt(2 / n))
    skewness = ((steps - steps.mean()) ** 3).mean()
    assert skewness == pytest.approx(mean, abs=4 * np.sqrt(15 / n) * variance**1.5)


@pytest.mark.parametrize("readout", ["SHALLOW4", "MEDIUM8"])
def test_averaged_frames_have_the_covariance_of_real_ones(readout):
    exposure = plain(12.0, readout=readout, n_groups=4, window=WITHOUT_REFERENCE)
    n_frames, gap = exposure.setup.frames
    groups = linear(exposure, make_ramp(exposure))[0]
    steps = np.diff(groups, axis=0)
    steps = steps - steps.mean(axis=-1, keepdims=True)
    electrons = 12.0 + 0.03 * exposure.setup.frame_time
    reads = exposure.setup.camera.read_noise**2 / n_frames
    lost = (n_frames**2 - 1) / (6 * n_frames)
    assert np.var(steps, axis=-1) == pytest.approx(
        electrons * (n_frames + gap - 2 * lost) + 2 * reads, rel=0.03
    )
    covariance = (steps[1:] * steps[:-1]).mean(axis=-1)
    assert covariance == pytest.approx(electrons * lost - reads, abs=0.03 * float(np.var(steps)))
    times = [index * (n_frames + gap) + (n_frames + 1) / 2 for index in range(4)]
    assert groups.mean(axis=-1) == pytest.approx(electrons * np.array(times), rel=0.02)


def dark_current(exposure):
    """Level [DN] that the dark current of a usual pixel reaches in each group of one frame."""
    setup = exposure.setup
    return 0.03 * setup.frame_time / setup.camera.gain * np.arange(1, setup.n_groups + 1)


def test_same_seed_same_bits():
    exposure = nircam(n_groups=3, n_integrations=2)
    ramp = make_ramp(exposure)
    assert ramp.dtype == np.uint16
    assert ramp.shape == (2, 3, 256, 256)
    assert np.array_equal(ramp, make_ramp(exposure, exposure.layers()))
    other = make_ramp(dataclasses.replace(exposure, seed=(4,)))
    assert (ramp != other).mean() > 0.9
    assert (ramp[0] != ramp[1]).mean() > 0.9


@pytest.mark.parametrize("readout", ["RAPID", "SHALLOW4"])
def test_bright_pixels_saturate_and_stay_so(readout):
    exposure = nircam(readout, flux=(2e4, 2e5), n_groups=5, jumps=0.0)
    ramp = make_ramp(exposure)[0]
    highest = Calibration.of(exposure.detector).highest
    full = ramp >= highest
    assert (ramp <= highest).all()
    assert full[-1].any()
    assert (full[1:] | ~full[:-1]).all()
    # Where a frame of a group saturates, the group does: the last frame of others is below.
    n_frames, gap = exposure.setup.frames
    reached = np.argmax(full, axis=0)
    pixels = np.argwhere((full.any(axis=0)) & (reached >= 2))
    assert len(pixels) > 50
    for y, x in pixels:
        *_, before, last = ramp[: reached[y, x], y, x].astype(float)
        rise = (last - before) / (n_frames + gap)
        assert last + rise * (n_frames - 1) / 2 < highest[y, x] + 0.02 * (last - before)


def test_rates_below_zero_fall():
    exposure = plain(-20.0)
    signal = linear(exposure, make_ramp(exposure))[0].mean(axis=-1)
    n_frames, gap = exposure.setup.frames
    expected = (-20.0 + 0.03 * exposure.setup.frame_time) * (n_frames + gap)
    assert np.diff(signal) == pytest.approx(expected, abs=2.5 * exposure.setup.camera.gain)


def test_reference_pixels_drift_with_the_pixels_of_their_amplifier():
    exposure = plain(0.0, n_groups=20)
    ramp = make_ramp(exposure)[0] - Calibration.of(exposure.detector).bias
    dark = dark_current(exposure)
    rows = slice(4, 252)
    for parity in (0, 1):
        columns = slice(4 + parity, 252, 2)
        reference = ramp[:, :4, columns].mean(axis=(1, 2))
        light = np.median(ramp[:, rows, columns], axis=(1, 2))
        assert np.ptp(reference) > 2
        assert light - dark - reference == pytest.approx(0.0, abs=1.0)


def test_sub_arrays_without_reference_pixels_do_not_drift():
    exposure = plain(0.0, n_groups=20, window=WITHOUT_REFERENCE)
    pixels = Calibration.of(exposure.detector).cut(exposure.window)
    ramp = make_ramp(exposure)[0] - pixels.bias
    assert np.ptp(np.median(ramp, axis=(1, 2)) - dark_current(exposure)) < 0.5
