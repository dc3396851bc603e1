"""The background of each exposure is made of the others."""

import re
from functools import lru_cache

import numpy as np
import pytest

from webbkg.errors import InputError, NoBackgroundPixelsError, ParameterError, ShapeError
from webbkg.exposure import MemoryHandle, Window
from webbkg.masks.flags import DO_NOT_USE
from webbkg.masks.regions import region_map
from webbkg.methods.i4i import FILLED, I4iParams, i4i
from webbkg.sky import TangentMap

SIGMA = 0.35
SHAPE = (128, 129)
FLUX = 150.0
FRAME = {"DETECTOR": "NRCALONG", "SUBARRAY": "FULL"}
MIRI = {"DETECTOR": "MIRIMAGE", "SUBARRAY": "FULL"}
NAMES = ("e0", "e1", "e2", "e3", "e4")


class Toy:
    """Exposures of stars on a sky that drifts, with a pattern of the detector."""

    def __init__(self, n=5, *, seed=0, sky=60.0, drift=0.004, meta=FRAME, shape=SHAPE, step=9.0):
        rng = np.random.default_rng([seed, n])
        y, x = np.mgrid[: shape[0], : shape[1]]
        self.pattern = sky + 0.5 * np.cos(x / 30.0) + 0.2 * rng.normal(size=shape)
        self.levels = 1.0 + drift * (np.arange(n) - (n - 1) / 2)
        angle = 2 * np.pi * np.arange(n) / n
        self.shifts = step * np.column_stack((np.cos(angle), np.sin(angle)))
        spread = 1.0 if step else 0.0
        self.stars = np.stack(np.meshgrid([20.0, 60.0, 100.0], [18.0, 48.0, 78.0]), -1)
        self.stars = self.stars.reshape(-1, 2) + spread * rng.uniform(-5, 5, (9, 2))
        self.sources, self.data, self.maps = [], [], []
        for level, (dx, dy) in zip(self.levels, self.shifts, strict=True):
            light = np.zeros(shape)
            for star_x, star_y in self.stars:
                square = (x - star_x - dx) ** 2 + (y - star_y - dy) ** 2
                light += FLUX / (2 * np.pi * 1.44) * np.exp(-square / (2 * 1.44))
            noise = rng.normal(0.0, SIGMA, shape)
            background = self.pattern * level if sky else self.pattern + level
            self.sources.append(light)
            self.data.append((background + light + noise).astype(np.float32))
            middle = (64.0 + dx, 63.5 + dy)
            self.maps.append(TangentMap(shape, 10.0, 2.0, reference=middle, scale=0.11))
        self.err = np.full(shape, SIGMA, np.float32)
        self.dq = np.zeros((n, *shape), np.uint32)
        self.meta = meta

    def handles(self):
        made = []
        for i, data in enumerate(self.data):
            planes = [data, self.err, self.dq[i]]
            for plane in planes:
                if plane is not None:
                    plane.setflags(write=False)
            made.append(MemoryHandle(*planes, name=f"e{i}", meta=self.meta))
            for plane in planes:
                if plane is not None:
                    plane.setflags(write=True)
        return made

    def masks(self):
        return [light > 0.02 for light in self.sources]

    def run(self, **kwargs):
        names = ("partners", "masks", "progress")
        own = {name: kwargs.pop(name) for name in names if name in kwargs}
        params = I4iParams(threads=1, **kwargs)
        return i4i(self.handles(), self.maps, params, **own)

    def errors(self, work, blank=True):
        """Result less truth of each exposure; NaN at sources if those are not asked for."""
        off = []
        for i, light in enumerate(self.sources):
            left = work.subtraction(i).exposure.data - light
            off.append(np.where(light < 0.02, left, np.nan) if blank else left)
        return np.array(off)

    def star_errors(self, work):
        """Relative errors of the fluxes of all stars in all exposures."""
        off = self.errors(work, blank=False)
        y, x = np.mgrid[: off.shape[1], : off.shape[2]]
        found = []
        for i, (dx, dy) in enumerate(self.shifts):
            for star_x, star_y in self.stars:
                near = np.hypot(x - star_x - dx, y - star_y - dy) < 4.0
                found.append(float(np.nansum(off[i][near])) / FLUX)
        return np.array(found)


@lru_cache(maxsize=1)
def toy():
    return Toy()


@lru_cache(maxsize=4)
def result(**kwargs):
    return toy().run(**kwargs)


def backgrounds(work):
    return np.array([work.subtraction(i).background for i in range(len(work.handles))])


# Results


def test_background_is_gone_and_sources_are_not():
    work = result()
    off = toy().errors(work)
    assert abs(np.nanmean(off)) < 0.01 * SIGMA
    # Of a pattern that is partly white; a raw mean of four has 1.118.
    assert np.nanstd(off) < 1.09 * SIGMA
    pulls = np.array(
        [o / work.subtraction(i).exposure.err for i, o in enumerate(toy().errors(work))]
    )
    assert 0.95 < np.nanstd(pulls) < 1.05
    flux = toy().star_errors(work)
    assert abs(flux.mean()) < 3 * flux.std() / np.sqrt(flux.size)
    assert flux.std() < 0.03


def test_masks_are_on_the_sources():
    work = result()
    for i, light in enumerate(toy().sources):
        mask = work.source_mask(i)
        assert mask.shape == SHAPE
        # All but 2 % of the light.
        assert light[~mask].sum() < 0.02 * light.sum()
        assert mask[light < 1e-4].mean() < 0.2
    assert work.sources.shape == work.grid.sky.shape == work.coadd.image.shape
    assert len(work.masked_fractions) >= 2
    assert work.masked_fractions[-1] == pytest.approx(
        np.mean([work.source_mask(i).mean() for i in range(5)])
    )


def test_masks_make_the_difference():
    """What is not masked is taken from the others' sources, and what is is not."""
    plain, masked = toy().run(iterations=0), toy().run(iterations=0, masks=toy().masks())
    assert np.nanmean(toy().errors(plain)) < 4 * np.nanmean(toy().errors(masked)) < 0.01
    assert np.nanstd(toy().errors(masked)) < 1.09 * SIGMA
    assert plain.masked_fractions == masked.masked_fractions == []
    assert plain.coadd is None
    for i, mask in enumerate(toy().masks()):
        np.testing.assert_array_equal(masked.source_mask(i), mask)
        assert not plain.source_mask(i).any()


def test_maps_are_not_needed_without_detection():
    work = i4i(toy().handles(), [], I4iParams(iterations=0, threads=1))
    np.testing.assert_array_equal(backgrounds(work), backgrounds(toy().run(iterations=0)))


def test_iterations_end_when_masks_do_not_change():
    work = toy().run(iterations=30)
    fractions = [0.0, *work.masked_fractions]
    steps = np.abs(np.diff(fractions))
    assert len(steps) < 30 or steps[-1] >= 1e-3
    assert (steps[:-1] >= 1e-3).all()
    assert toy().run(iterations=1).masked_fractions == work.masked_fractions[:1]


@pytest.mark.parametrize("scaling", ["auto", "multiplicative", "additive"])
def test_levels_are_found(scaling):
    work = result(scaling=scaling)
    for i, level in enumerate(toy().levels):
        subtraction = work.subtraction(i)
        diagnostics = subtraction.diagnostics
        value, err = diagnostics.levels["frame"], diagnostics.level_errs["frame"]
        others = np.delete(toy().levels, i).mean()
        assert diagnostics.scaling == ("additive" if scaling == "additive" else "multiplicative")
        # Templates are at the mean level of all; the error is that of the fit alone.
        expected = level if scaling != "additive" else 60.0 * (level - 1.0)
        assert value == pytest.approx(expected, abs=12 * err)
        assert 0.0 < err < 1e-3 * (60.0 if scaling == "additive" else 1.0)
        assert abs(others - 1.0) < 0.01
        if scaling == "additive":
            assert (subtraction.scales, subtraction.scale_errs) == ((1.0,), (0.0,))
        else:
            assert (subtraction.scales, subtraction.scale_errs) == ((value,), (err,))
        assert diagnostics.level == pytest.approx(60.0 * level, abs=0.5)


def test_without_scaling_levels_stay_in():
    still = Toy(drift=0.0)
    work = still.run(scaling="none")
    assert np.abs(np.nanmean(still.errors(work), axis=(1, 2))).max() < 0.05 * SIGMA
    subtraction = work.subtraction(0)
    assert subtraction.diagnostics.scaling == "none"
    assert (subtraction.scales, subtraction.scale_errs) == ((1.0,), (0.0,))
    # Levels of a sky that drifts are left in.
    found = np.nanmean(toy().errors(toy().run(scaling="none", iterations=0)), axis=(1, 2))
    expected = [60.0 * (level - np.delete(toy().levels, i).mean())
                for i, level in enumerate(toy().levels)]  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("sky", [0.0, 0.3, -20.0])
def test_a_background_near_zero_is_shifted(sky):
    dark = Toy(sky=sky)
    for scaling in ("auto", "multiplicative"):
        work = dark.run(scaling=scaling)
        assert work.subtraction(0).diagnostics.scaling == "additive"
        assert abs(np.nanmean(dark.errors(work))) < 0.02 * SIGMA
        assert np.nanstd(dark.errors(work)) < 1.09 * SIGMA


def test_shrunk_backgrounds_have_less_noise():
    shrunk, raw = result(), toy().run(template_noise="raw")
    assert np.nanstd(toy().errors(shrunk)) < 0.98 * np.nanstd(toy().errors(raw))
    assert np.nanstd(toy().errors(raw)) == pytest.approx(np.sqrt(1.3) * SIGMA, rel=0.03)
    assert raw.subtraction(0).diagnostics.pattern_rms["frame"] == pytest.approx(0.2, rel=0.1)
    added, added_raw = (np.median(w.subtraction(1).background_var) for w in (shrunk, raw))
    assert added < 0.8 * added_raw
    assert added_raw == pytest.approx(SIGMA**2 / 4, rel=0.05)


def test_mean_and_median():
    masks = toy().masks()
    works = [
        toy().run(combine=combine, iterations=0, masks=masks, template_noise="raw")
        for combine in ("mean", "median")
    ]
    noise = [np.nanstd(toy().errors(work)) for work in works]
    # The median of four is 0.84 as efficient.
    assert noise[0] < noise[1] < 1.04 * noise[0]
    rules = [work.subtraction(0).diagnostics.clip_rule for work in works]
    assert rules == [
        "noise expected from ERR, 4 sigma below and 3 above the median of the others",
        "median of the others",
    ]


def test_clipping_takes_cosmic_rays_out():
    struck = Toy()
    hit = np.random.default_rng(4).random((5, *SHAPE)) < 0.003
    struck.data = [d + np.float32(40.0) * h for d, h in zip(struck.data, hit, strict=True)]
    for combine in ("mean", "median"):
        work = struck.run(combine=combine, iterations=0, masks=struck.masks())
        off = struck.errors(work)
        # Two values do not tell which one is wrong.
        off[hit | (hit.sum(axis=0) > 1) | (work.planes.n_used + hit.sum(axis=0) < 3)] = np.nan
        elsewhere = hit.any(axis=0) & np.isfinite(off)
        assert abs(np.nanmean(off[elsewhere])) < 0.4 * SIGMA
        assert np.nanstd(off) < 1.13 * SIGMA


def test_a_cosmic_ray_is_no_source_and_hides_none():
    struck = Toy()
    struck.data[1][40:42, 60] += np.float32(500.0)
    ra, dec = struck.maps[1].to_sky(60.0, 40.5)
    work = struck.run()
    x, y = (round(float(value)) for value in work.grid.sky.to_pixels(ra, dec))
    near = work.coadd.image[y - 3 : y + 4, x - 3 : x + 4]
    assert np.isfinite(near).all()
    assert np.abs(near).max() < 5 * SIGMA
    assert not work.sources[y - 1 : y + 2, x - 1 : x + 2].any()


# Laws


def test_results_do_not_depend_on_the_order():
    four = Toy(4)
    order = [2, 0, 3, 1]
    other = Toy(4)
    for name in ("data", "sources", "maps"):
        setattr(other, name, [getattr(four, name)[k] for k in order])
    given, permuted = (
        backgrounds(one.run(iterations=0, masks=one.masks())) for one in (four, other)
    )
    np.testing.assert_allclose(permuted, given[order], atol=2e-3 * SIGMA)
    # With sources looked for, the grid of another first exposure sees another noise.
    given, permuted = (backgrounds(one.run()) for one in (four, other))
    assert np.std(permuted - given[order]) < 0.15 * SIGMA


def test_only_partners_serve():
    six = Toy(6)
    groups = ((0, 2, 4), (1, 3, 5))
    partners = [[k for k in groups[i % 2] if k != i] for i in range(6)]
    kwargs = {"iterations": 0, "template_noise": "raw"}
    work = six.run(partners=partners, masks=six.masks(), **kwargs)
    found = backgrounds(work)
    for group in groups:
        alone = Toy(6)
        alone.data = [six.data[k] for k in group]
        alone.maps = [six.maps[k] for k in group]
        expected = backgrounds(alone.run(masks=[six.masks()[k] for k in group], **kwargs))
        # Holes are filled by the power of the pattern, which all have in common.
        whole = np.array([work.planes.n_used[k] >= 2 for k in group])
        off = np.abs(found[list(group)] - expected)
        assert off[whole].max() < 1e-3
        assert off.max() < 0.5
    assert work.subtraction(3).used == ("e1", "e5")
    assert work.subtraction(3).diagnostics.n_backgrounds == 2


def test_partners_of_several_sizes():
    partners = [[1, 2, 3, 4], [0, 2], [0, 1, 3], [2, 4, 0, 1], [3, 0, 1, 2]]
    work = toy().run(partners=partners)
    assert abs(np.nanmean(toy().errors(work))) < 0.02 * SIGMA
    assert [work.subtraction(i).used for i in (1, 2)] == [("e0", "e2"), ("e0", "e1", "e3")]
    assert work.planes.n_used.max(axis=(1, 2)).tolist() == [4, 2, 3, 4, 4]


def test_a_background_holds_nothing_of_its_own_exposure():
    changed = Toy()
    changed.data[2][:] = np.random.default_rng(3).normal(1e4, 1e3, SHAPE)
    masks = toy().masks()
    other_masks = [*masks[:2], np.zeros(SHAPE, dtype=bool), *masks[3:]]
    kwargs = {"iterations": 0, "template_noise": "raw", "scaling": "none"}
    given = toy().run(masks=masks, **kwargs).planes
    for one, own_masks in ((changed, masks), (toy(), other_masks)):
        found = one.run(masks=own_masks, **kwargs).planes
        seen = given.n_used[2] >= 2
        np.testing.assert_array_equal(found.image[2][seen], given.image[2][seen])
        np.testing.assert_array_equal(found.var[2][seen], given.var[2][seen])
        np.testing.assert_array_equal(found.n_used[2], given.n_used[2])
        assert (found.image[0] != given.image[0]).any()


def test_a_constant_is_part_of_the_background():
    raised = Toy()
    raised.data = [data + np.float32(64.0) for data in toy().data]
    given, found = (one.run(scaling="additive") for one in (toy(), raised))
    for i in range(5):
        np.testing.assert_array_equal(found.source_mask(i), given.source_mask(i))
        one, other = given.subtraction(i), found.subtraction(i)
        np.testing.assert_allclose(other.exposure.data, one.exposure.data, atol=5e-4)
        np.testing.assert_allclose(other.background, one.background + 64.0, atol=5e-4)


def test_results_scale():
    double = Toy()
    double.data = [2.0 * data for data in toy().data]
    double.err = 2.0 * toy().err
    given, found = result(), double.run()
    for i in range(5):
        np.testing.assert_array_equal(found.source_mask(i), given.source_mask(i))
        one, other = given.subtraction(i), found.subtraction(i)
        np.testing.assert_allclose(other.exposure.data, 2 * one.exposure.data, atol=1e-4)
        np.testing.assert_allclose(other.exposure.err, 2 * one.exposure.err, rtol=1e-4)
        assert other.scales == pytest.approx(one.scales, rel=1e-6)


def test_threads_change_no_bit():
    runs = [i4i(toy().handles(), toy().maps, I4iParams(threads=n)) for n in (1, 3)]
    assert_same_bits(*runs)


def test_little_memory_changes_no_bit():
    # 8 frames of 10 bytes a pixel do not fit into 18 MB with what else is needed.
    large = Toy(8, shape=(340, 345))
    kwargs = {"iterations": 1, "min_coverage": 3}
    runs = [large.run(**kwargs, max_memory=memory) for memory in (1024, 18)]
    assert [isinstance(work.planes.image, np.memmap) or bool(work.planes.maps)
            for work in runs] == [False, True]  # fmt: skip
    assert_same_bits(*runs)


def assert_same_bits(first, second):
    assert first.masked_fractions == second.masked_fractions
    for i in range(len(first.handles)):
        one, two = first.subtraction(i), second.subtraction(i)
        np.testing.assert_array_equal(two.exposure.data, one.exposure.data)
        np.testing.assert_array_equal(two.exposure.err, one.exposure.err)
        np.testing.assert_array_equal(two.exposure.dq, one.exposure.dq)


def test_progress_ends_at_one():
    for iterations in (0, 1, 30):
        fractions = []
        toy().run(iterations=iterations, progress=fractions.append)
        assert min(fractions) >= 0.0
        assert sum(fractions) == pytest.approx(1.0)


# Flags and errors


def hole_masks():
    """Masks that leave one exposure in some rows, and none in others."""
    masks = [mask.copy() for mask in toy().masks()]
    for i in range(4):
        masks[i][106:109, 20:40] = True
        masks[i][118:120, 20:40] = True
    masks[4][118:120, 20:40] = True
    return masks


def test_holes_are_filled_and_flagged():
    work = toy().run(iterations=0, masks=hole_masks())
    for i in range(5):
        subtraction = work.subtraction(i)
        flags = subtraction.exposure.dq
        few = subtraction.template.n_used < 2
        np.testing.assert_array_equal((flags & FILLED) > 0, few)
        assert few[118:120, 20:40].all()
        assert few[106:109, 20:40].all()
        assert not (flags & DO_NOT_USE).any()
        assert subtraction.diagnostics.filled_fraction == pytest.approx(few.mean())
        assert subtraction.diagnostics.coverage == 1.0
        left = (subtraction.exposure.data - toy().sources[i])[few]
        assert np.abs(left).max() < 6 * SIGMA
        # A hole is known less well.
        added = subtraction.background_var
        assert added[118:120, 20:40].mean() > 1.15 * np.median(added)
    # The median of what is left of four.
    np.testing.assert_array_equal(work.planes.n_used[4][106:109, 20:40], 0)
    np.testing.assert_array_equal(work.planes.n_used[0][106:109, 20:40], 1)


def test_coverage_that_is_asked_for():
    work = toy().run(iterations=0, masks=hole_masks(), min_coverage=1)
    flags = [work.subtraction(i).exposure.dq for i in range(5)]
    assert not (flags[0][106:109, 20:40] & FILLED).any()
    assert (flags[4][106:109, 20:40] & FILLED).all()


def test_dq_is_kept_if_asked_for():
    flagged = Toy()
    flagged.dq[0, 5, 7] = 4
    flagged.dq[0, 30:33, 50:53] = DO_NOT_USE
    for dq in ("quorum", "keep"):
        work = flagged.run(iterations=0, masks=hole_masks(), dq=dq)
        found = work.subtraction(0).exposure.dq
        np.testing.assert_array_equal(found & ~np.uint32(FILLED), flagged.dq[0])
        assert (found & FILLED).any() == (dq == "quorum")
        # Flags of others are not inherited.
        assert not (work.subtraction(1).exposure.dq & ~np.uint32(FILLED)).any()


def test_errors():
    for i in range(3):
        kept = result(errors="keep").subtraction(i)
        added = result().subtraction(i)
        np.testing.assert_array_equal(kept.exposure.err, toy().err)
        np.testing.assert_allclose(
            added.exposure.err, np.sqrt(SIGMA**2 + added.background_var), rtol=1e-5
        )
        np.testing.assert_array_equal(kept.exposure.data, added.exposure.data)


def test_bad_pixels_are_not_used():
    bad = Toy()
    bad.dq[1, 110:114, 30:34] = DO_NOT_USE
    bad.data[1][110:114, 30:34] = 1e6
    bad.data[3][70, :] = np.nan
    bad.data[2][50, 50] = np.inf
    work = bad.run()
    off = bad.errors(work)
    off[1, 110:114, 30:34] = off[3, 70] = off[2, 50, 50] = np.nan
    assert np.nanmax(np.abs(off)) < 6.5 * SIGMA
    assert np.isnan(work.subtraction(3).exposure.data[70]).all()
    assert (work.subtraction(0).template.n_used[110:114, 30:34] <= 3).all()
    # Without the flags they are.
    wild = bad.run(bad_flags="NONE", iterations=0, sigma=1e9)
    assert np.abs(bad.errors(wild)[0, 110:114, 30:34]).min() > 1e4


def test_an_exposure_without_a_usable_pixel():
    for lost in (0, 2):
        bad = Toy()
        bad.dq[lost] = DO_NOT_USE
        work = bad.run()
        off = np.delete(bad.errors(work), lost, axis=0)
        assert np.abs(np.nanmean(off, axis=(1, 2))).max() < 0.03 * SIGMA
        assert np.nanstd(off) < 1.15 * SIGMA
        assert work.planes.n_used.max(axis=(1, 2)).tolist() == [
            4 if i == lost else 3 for i in range(5)
        ]
        found = work.subtraction(lost)
        assert np.isnan(found.diagnostics.level_errs["frame"])
        assert found.diagnostics.filled_fraction == 0.0


def test_exposures_without_errors():
    unknown = Toy()
    unknown.err = None
    work = unknown.run()
    off = unknown.errors(work)
    assert abs(np.nanmean(off)) < 0.02 * SIGMA
    assert np.nanstd(off) < 1.13 * SIGMA
    assert np.isfinite(backgrounds(work)).all()
    assert np.isnan(work.subtraction(0).exposure.err).all()


def test_errors_of_zero():
    unknown = Toy()
    unknown.err = np.zeros(SHAPE, np.float32)
    work = unknown.run()
    assert np.nanstd(unknown.errors(work)) < 1.13 * SIGMA


def test_three_exposures():
    three = Toy(3)
    work = three.run()
    assert abs(np.nanmean(three.errors(work))) < 0.03 * SIGMA
    assert np.nanstd(three.errors(work)) < 1.2 * SIGMA
    assert work.planes.n_used.max() == 2


def test_constants_are_subtracted():
    for err in (toy().err, None):
        handles = [MemoryHandle(np.full(SHAPE, 60.0), err, name=f"c{i}") for i in range(4)]
        work = i4i(handles, toy().maps[:4], I4iParams(threads=1))
        for i in range(4):
            np.testing.assert_allclose(work.subtraction(i).exposure.data, 0.0, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8), (1, 200), (5, 300)])
def test_tiny_sub_arrays(shape):
    tiny = Toy(shape=shape, step=1.0)
    tiny.data = [d - s for d, s in zip(tiny.data, tiny.sources, strict=True)]
    work = tiny.run(iterations=0)
    for i in range(5):
        found = work.subtraction(i).exposure
        assert found.data.shape == shape
        assert np.abs(found.data).max() < 6 * SIGMA


# Regions of the detector


def test_regions_have_levels_of_their_own():
    miri = Toy(meta=MIRI)
    regions = region_map(MIRI, Window(0, 0, *SHAPE))
    offsets = np.random.default_rng(3).uniform(0.8, 1.2, (5, 7))
    offsets[:, 0] = 0.0
    # The Lyot field is dark.
    offsets[:, 2] = np.linspace(-0.2, 0.2, 5)
    miri.data = []
    rng = np.random.default_rng(5)
    for i in range(5):
        factor = offsets[i][regions]
        sky = np.where(regions == 2, 0.0, miri.pattern * miri.levels[i]) * factor
        sky += np.where(regions == 2, factor, 0.0)
        light = np.where(regions == 1, miri.sources[i], 0.0)
        miri.sources[i] = light
        miri.data.append((sky + light + rng.normal(0, SIGMA, sky.shape)).astype(np.float32))
    work = miri.run()
    np.testing.assert_array_equal(work.regions, regions)
    off = miri.errors(work)
    for label, name in ((1, "imager"), (2, "Lyot")):
        inside = regions == label
        for i in range(5):
            values = off[i][inside & np.isfinite(off[i])]
            assert abs(values.mean()) < 5 * SIGMA / np.sqrt(values.size)
            level = work.subtraction(i).diagnostics.levels[name]
            if label == 2:
                assert level == pytest.approx(offsets[i, 2], abs=0.15)
    diagnostics = work.subtraction(0).diagnostics
    assert {"not lit", "imager", "Lyot", "4QPM 1065", "4QPM 1550"} <= set(diagnostics.levels)
    assert diagnostics.scaling == "multiplicative"
    assert "imager" in diagnostics.pattern_rms


def test_a_sub_array_of_one_field():
    """What is not lit is a part of it, the imager is not."""
    lyot = Toy(meta=MIRI | {"SUBARRAY": "SUB64"}, shape=(64, 72), step=4.0)
    for i, data in enumerate(lyot.data):
        data[:, :4] = np.nan
        lyot.sources[i][:, :4] = np.nan
    handles = [
        MemoryHandle(
            d, lyot.err[:64, :72], name=f"e{i}", meta=lyot.meta, window=Window(778, 0, 64, 72)
        )
        for i, d in enumerate(lyot.data)
    ]
    work = i4i(handles, lyot.maps, I4iParams(threads=1))
    assert work.names == {0: "not lit", 2: "Lyot"}
    assert abs(np.nanmean(lyot.errors(work))) < 0.05 * SIGMA


# What cannot be done


def message_of(error, call):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_too_few_exposures():
    handles, maps = toy().handles(), toy().maps
    assert message_of(InputError, lambda: i4i(handles[:2], maps[:2])) == (
        "e0, e1: image-for-image needs 3 exposures or more, got 2; give more dithers, or a "
        "dedicated background to webbkg average"
    )
    assert message_of(InputError, lambda: i4i([], [])).startswith(
        "no exposure: image-for-image needs 3 exposures or more, got 0;"
    )


def test_exposures_that_do_not_fit():
    handles, maps = toy().handles(), toy().maps
    small = MemoryHandle(np.ones((90, 129)), name="small")
    assert message_of(InputError, lambda: i4i([*handles[:4], small], maps)) == (
        "small: has the window Window(y0=0, x0=0, ny=90, nx=129) and no integrations, but e0 has "
        "Window(y0=0, x0=0, ny=128, nx=129); give rate files of one sub-array"
    )
    cube = MemoryHandle(np.ones((3, *SHAPE)), name="cube")
    assert message_of(InputError, lambda: i4i([*handles[:4], cube], maps)) == (
        "cube: has the window Window(y0=0, x0=0, ny=128, nx=129) and 3 integrations, but e0 has "
        "Window(y0=0, x0=0, ny=128, nx=129); give rate files of one sub-array"
    )
    assert message_of(InputError, lambda: i4i(handles, maps[:4])) == (
        "5 exposures need as many sky maps to look for sources, got 4"
    )


def test_masks_that_do_not_fit():
    wrong = ([np.ones(SHAPE, dtype=bool)] * 4, [np.ones((90, 129), dtype=bool)] * 5)
    for masks in wrong:
        with pytest.raises((InputError, ShapeError), match="mask"):
            toy().run(masks=masks)


@pytest.mark.parametrize(
    "partners",
    [
        [[1, 2], [0, 2]],
        [[7, 1], [0, 2], [0, 1], [0, 1], [0, 1]],
        [[-1, 1], [0, 2], [0, 1], [0, 1], [0, 1]],
        [[0, 1, 2], [0, 2], [0, 1], [0, 1], [0, 1]],
        [[1, 1], [0, 2], [0, 1], [0, 1], [0, 1]],
        [[], [0, 2], [0, 1], [0, 1], [0, 1]],
    ],
)
def test_partners_that_do_not_fit(partners):
    with pytest.raises(InputError, match="partner"):
        toy().run(partners=partners)


def test_everything_is_masked():
    masked = [np.ones(SHAPE, dtype=bool)] * 5
    work = toy().run(iterations=0, masks=masked)
    assert message_of(NoBackgroundPixelsError, lambda: work.subtraction(3)) == (
        "e3: no pixel has 2 values of other exposures without a source; give more or wider "
        "dithers, or raise --detect-sigma"
    )


def test_no_pixel_is_usable():
    handles = [MemoryHandle(np.full(SHAPE, np.nan), name=name) for name in NAMES]
    with pytest.raises(NoBackgroundPixelsError, match=re.escape("e0")):
        i4i(handles, toy().maps, I4iParams(threads=1)).subtraction(0)


def test_sources_everywhere(monkeypatch):
    import webbkg.methods.image_for_image as module

    real = module.find_sources

    def everything(image, **kwargs):
        found = real(image, **kwargs)
        found.planes[:] = 1
        return found

    monkeypatch.setattr(module, "find_sources", everything)
    assert message_of(NoBackgroundPixelsError, toy().run) == (
        "e0, e1, e2, e3, e4: sources cover every pixel, so that no background is left; raise "
        "--detect-sigma, or give a dedicated background to webbkg average"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scaling", "both"),
        ("template_noise", "none"),
        ("combine", "mode"),
        ("dq", "or"),
        ("errors", "drop"),
        ("sigma", 0.0),
        ("min_coverage", 0),
        ("iterations", -1),
        ("grow", -1.0),
        ("detect_sigma", 0.0),
        ("max_days", 0.0),
        ("bad_flags", "WRONG"),
        ("threads", 0),
        ("max_memory", 0),
    ],
)
def test_parameters_out_of_their_limits(name, value):
    with pytest.raises(ParameterError):
        I4iParams(**{name: value})
