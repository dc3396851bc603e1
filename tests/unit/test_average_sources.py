"""Sources in single backgrounds that clipping cannot know."""

import numpy as np
import pytest
from scipy import ndimage

from webbkg.exposure import MemoryHandle, Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.methods.average import AverageParams, average, combine_backgrounds

SHAPE = (300, 320)
SIGMA, SKY = 0.5, 60.0


def star_field(rng, shape=SHAPE, n_stars=40, peak=(1.0, 3.0)):
    """Stars of 2 to 6 sigma and their places."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image, places = np.zeros(shape), []
    for _ in range(n_stars):
        y, x = rng.uniform(10, shape[0] - 10), rng.uniform(10, shape[1] - 10)
        image += rng.uniform(*peak) * np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / 1.2)
        places.append((round(y), round(x)))
    return image, places


def backgrounds(seed=1, n=4, n_integrations=None, **kwargs):
    rng = np.random.default_rng(seed)
    handles, places = [], []
    for index in range(n):
        image, at = star_field(rng, **kwargs)
        shape = SHAPE if n_integrations is None else (n_integrations, *SHAPE)
        noise = SIGMA * np.sqrt(n_integrations or 1)
        data = SKY + image + noise * rng.standard_normal(shape)
        handles.append(MemoryHandle(data, np.full(shape, noise), name=f"b{index}_rate.fits"))
        places += at
    return handles, places


def combine(handles, window=None, **kwargs):
    return combine_backgrounds(window or Window(0, 0, *SHAPE), handles, AverageParams(**kwargs))


def left_at(template, places):
    """Light in 5x5 boxes over its noise in the mean."""
    sums = [(template.image[y - 2 : y + 3, x - 2 : x + 3] - SKY).sum() for y, x in places]
    return np.array(sums) / (5 * SIGMA / 2)


@pytest.mark.parametrize("n_integrations", [None, 3])
def test_faint_stars_are_left_out(n_integrations):
    handles, places = backgrounds(n_integrations=n_integrations)
    clipped = left_at(combine(handles, mask_sources=False).template, places)
    masked = left_at(combine(handles).template, places)
    assert clipped.mean() > 1.0
    assert abs(masked.mean()) < 4 / np.sqrt(len(places)) + 0.1
    assert masked.max() < clipped.max() - 1


def test_the_rule_says_so():
    handles, _ = backgrounds()
    assert combine(handles).diagnostics.clip_rule == (
        "noise expected from ERR, 4 sigma below and 3 above the median, and sources found by "
        "smoothing"
    )
    assert "smoothing" not in combine(handles, mask_sources=False).diagnostics.clip_rule


def test_masked_pixels_have_the_error_of_what_is_left():
    handles, _ = backgrounds()
    template = combine(handles).template
    assert set(np.unique(template.n_used)) <= {2, 3, 4}
    np.testing.assert_allclose(template.err, SIGMA / np.sqrt(template.n_used), rtol=1e-5)
    pulls = (template.image - SKY) / template.err
    assert pulls.mean() == pytest.approx(0.0, abs=0.03)
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    few = template.n_used < 4
    assert 0.01 < few.mean() < 0.15


def test_noise_alone_loses_little_and_biases_nothing():
    shifts = []
    for seed in range(20):
        handles, _ = backgrounds(seed, n_stars=0)
        template = combine(handles).template
        clipped = combine(handles, mask_sources=False).template
        assert (template.n_used < clipped.n_used).mean() < 0.04
        assert template.err.mean() < 1.005 * clipped.err.mean()
        shifts.append((template.image.astype(float) - clipped.image).mean() / SIGMA)
    error = np.std(shifts) / np.sqrt(len(shifts))
    assert error < 2e-4
    assert abs(np.mean(shifts)) < 4 * error


@pytest.mark.parametrize("settings", [{"max_memory": 18}, {"max_memory": 20}, {"threads": 2}])
def test_memory_and_threads_do_not_matter(settings):
    handles, _ = backgrounds(n=5)
    one = combine(handles, threads=1)
    other = combine(handles, **({"threads": 1} | settings))
    for name in ("image", "err", "n_used", "dq"):
        assert getattr(one.template, name).tobytes() == getattr(other.template, name).tobytes()
    assert one.diagnostics == other.diagnostics


@pytest.mark.parametrize(
    "window", [Window(100, 90, 40, 50), Window(0, 0, 40, 320), Window(260, 270, 40, 50)]
)
def test_a_sub_array_is_a_cut_out_of_the_full_frame(window):
    handles, _ = backgrounds()
    rng = np.random.default_rng(9)
    flags = np.where(rng.random(SHAPE) < 0.01, FLAG_BITS["DO_NOT_USE"], 0)
    handles[0] = MemoryHandle(
        handles[0].load().data, handles[0].load().err, flags, name="b0_rate.fits"
    )
    inside = Window(0, 0, *SHAPE).slices(window)
    whole, part = combine(handles), combine(handles, window)
    for name in ("image", "err", "n_used", "dq"):
        np.testing.assert_array_equal(
            getattr(part.template, name), getattr(whole.template, name)[inside]
        )
    usable = part.diagnostics.n_used_mean / (1 - part.diagnostics.clipped_fraction)
    n_flagged = np.count_nonzero(flags[inside])
    assert usable == pytest.approx(4 - n_flagged / flags[inside].size, rel=1e-9)


def test_it_needs_three_backgrounds_and_is_no_part_of_the_pipeline_preset():
    handles, _ = backgrounds()
    for few in (handles[:1], handles[:2]):
        one, other = combine(few), combine(few, mask_sources=False)
        assert one.template.image.tobytes() == other.template.image.tobytes()
    preset = AverageParams.build(preset="pipeline")
    one = combine_backgrounds(Window(0, 0, *SHAPE), handles, preset)
    other = combine_backgrounds(Window(0, 0, *SHAPE), handles, preset.changed(mask_sources=False))
    assert one.template.image.tobytes() == other.template.image.tobytes()


def test_a_source_in_all_backgrounds_stays():
    rng = np.random.default_rng(3)
    image, places = star_field(rng, peak=(5.0, 20.0))
    handles = [
        MemoryHandle(SKY + image + SIGMA * rng.standard_normal(SHAPE), np.full(SHAPE, SIGMA))
        for _ in range(4)
    ]
    science = MemoryHandle(SKY + image + SIGMA * rng.standard_normal(SHAPE), np.full(SHAPE, SIGMA))
    result = average(science, handles)
    boxes = [result.exposure.data[y - 2 : y + 3, x - 2 : x + 3].sum() for y, x in places]
    # As detector structure would be: it is in the background, and subtracted.
    assert abs(np.mean(boxes)) < 4 * 5 * SIGMA * np.sqrt(1.25) / np.sqrt(len(places))


@pytest.mark.parametrize(("kind", "limit"), [("smooth", 0.004), ("rows", 0.002), ("ipc", 0.002)])
def test_correlated_noise_is_no_source(kind, limit):
    shifts = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        handles = []
        for _ in range(4):
            noise = rng.standard_normal(SHAPE)
            if kind == "smooth":
                noise = ndimage.gaussian_filter(noise, 1.0)
            elif kind == "ipc":
                kernel = [[0, 0.03, 0], [0.03, 0.88, 0.03], [0, 0.03, 0]]
                noise = ndimage.convolve(noise, np.array(kernel))
            else:
                noise += 0.6 * rng.standard_normal((SHAPE[0], 1))
            noise *= SIGMA / noise.std()
            handles.append(MemoryHandle(SKY + noise, np.full(SHAPE, SIGMA)))
        template = combine(handles).template
        clipped = combine(handles, mask_sources=False).template
        assert np.std(template.image) < 1.05 * np.std(clipped.image)
        shifts.append((template.image.astype(float) - clipped.image).mean() / SIGMA)
    assert abs(np.mean(shifts)) < limit


def test_single_hits_of_cosmic_rays_do_not_look_like_sources():
    rng = np.random.default_rng(4)
    handles = []
    for _ in range(3):
        data = SKY + SIGMA * rng.standard_normal(SHAPE)
        hit = rng.random(SHAPE) < 0.01
        data[hit] += rng.exponential(20.0, hit.sum())
        handles.append(MemoryHandle(data, np.full(SHAPE, SIGMA)))
    template = combine(handles).template
    clipped = combine(handles, mask_sources=False).template
    assert np.std(template.image) < 1.1 * np.std(clipped.image)
    assert abs((template.image.astype(float) - clipped.image).mean()) < 0.004 * SIGMA
