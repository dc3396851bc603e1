"""The backgrounds of dithered exposures, each made of the others, and how they are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError, NoBackgroundPixelsError, ShapeError
from webbkg.exposure import Exposure, ExposureHandle, FloatArray, MaskArray
from webbkg.kernels.blocks import sparse
from webbkg.kernels.level import rescale
from webbkg.kernels.pattern import Pattern, Sample, find_hot
from webbkg.kernels.shrink import ROUNDS, shrink
from webbkg.masks.flags import DO_NOT_USE, flag_bits
from webbkg.masks.regions import region_map, region_names
from webbkg.masks.tiers import TierParams, find_sources
from webbkg.masks.wings import grow_wings
from webbkg.methods.bands import OVERHEAD_BYTES
from webbkg.methods.below_sources import BelowSources, Sky
from webbkg.methods.clipping import LOW_OVER_HIGH
from webbkg.methods.coadd import CoAdd, Grid, PackedMask
from webbkg.methods.i4i import FILLED, I4iParams
from webbkg.methods.leave_one_out import Levels, LooPlanes, LooRule
from webbkg.methods.levels import LevelFit, fit_level
from webbkg.methods.passes import combine_others
from webbkg.methods.shrinking import MIN_REGION, measure_patterns, region_boxes
from webbkg.parallel import count_threads, run_tasks
from webbkg.results import I4iDiagnostics, Subtraction
from webbkg.sky import SkyMap
from webbkg.template import Template

__all__ = ["ImageForImage"]

#: More holes than this fraction of a region are worth another round of filling.
_MANY_HOLES = 2e-3
#: So are more pixels known by fewer than this part of the exposures.
_POOR = 0.75
_MANY_POOR = 0.05
#: Masked fractions that change by less are the same.
_CONVERGED = 1e-3
#: Part of the memory that backgrounds may take before they go to files.
_PART_OF_PLANES = 2 / 3
#: Pixels that are enough to begin with.
_SAMPLE = 100_000
#: Builds after the last look for sources; one is enough unless levels still change by a part of the
#: noise.
_MOST_BUILDS = 4
_SETTLED = 0.1
#: Backgrounds are shifted instead of scaled if that leaves less noise by more than this factor.
_CLEARLY_LESS = 0.999
#: Blank sky that scatters by so much more than its noise is none.
_NOT_BLANK = 1.5
#: A background below this part of the noise cannot be scaled, only shifted.
_SCALABLE = 3.0


class ImageForImage:
    """
    Backgrounds of exposures, each made of the others.

    Parameters
    ----------
    handles : sequence of ExposureHandle
        Exposures of one detector, filter and window, 2-D, at least 3.
    maps : sequence of SkyMap
        Where their pixels are on the sky; not needed if no sources are looked for.
    params : I4iParams, optional
        Parameters.
    partners : sequence of sequence of int, optional
        Which of the others serve each exposure; all of them if not given.
    masks : sequence of numpy.ndarray, optional
        Sources known before, bool, shape ``(ny, nx)`` each.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Raises
    ------
    InputError
        If there are fewer than 3 exposures, or they do not share a window.
    """

    def __init__(
        self,
        handles: Sequence[ExposureHandle],
        maps: Sequence[SkyMap],
        params: I4iParams | None = None,
        *,
        partners: Sequence[Sequence[int]] | None = None,
        masks: Sequence[MaskArray] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.handles = tuple(handles)
        self.params = params or I4iParams()
        _check(self.handles, maps, self.params, partners, masks)
        n = len(self.handles)
        self.partners = tuple(
            tuple(sorted(chosen))
            for chosen in (partners or [[k for k in range(n) if k != i] for i in range(n)])
        )
        self.window = self.handles[0].window
        self.regions = region_map(self.handles[0].meta, self.window)
        self.names = region_names(self.regions)
        self.masked_fractions: list[float] = []
        self.coadd: CoAdd | None = None
        self.grid: Grid | None = None
        self.sources: MaskArray | None = None
        self.tiers: NDArray[np.uint8] | None = None
        self.patterns: dict[int, Pattern] = {}
        self._maps = tuple(maps)
        self._bad_bits = flag_bits(self.params.bad_flags)
        self._threads = count_threads(self.params.threads)
        self._max_bytes = self.params.max_memory * 1_000_000
        self._boxes = dict(region_boxes(self.regions))
        self._largest = max(
            [label for label in self._boxes if label] or list(self._boxes),
            key=lambda label: int(self._boxes[label][1].sum()),
        )
        self._progress = progress or (lambda _fraction: None)
        nothing = PackedMask.nothing(self.window.shape)
        self.masks = [PackedMask(mask) for mask in masks] if masks else [nothing] * n
        self.planes = self._empty_planes(n)
        self._fits: list[dict[int, LevelFit]] = [{} for _ in range(n)]
        self._multiplicative = self.params.scaling in ("auto", "multiplicative")
        self._noise: list[float] = []
        self._rms_shifted = np.zeros(n)
        self._unknown: list[PackedMask] = []
        self._sky: Sky | None = None
        self._errors_known = True
        n_regions = int(self.regions.max()) + 1
        self.levels = Levels(np.ones((n, n_regions)), np.zeros((n, n_regions)), self.regions)
        self._hot: list[dict[tuple[int, int], float]] = []
        self._start_levels(scaled=self.params.scaling in ("auto", "multiplicative"))

    def run(self) -> None:
        """
        Build the backgrounds, looking for sources in between.

        Raises
        ------
        NoBackgroundPixelsError
            If no pixel is left without a source.
        """
        n_rounds = self.params.iterations
        if self._masked_fraction() > 0.0 and self._maps:
            self._begin_with_masks(to_see_sky=n_rounds == 0)
        for index in range(n_rounds):
            self._build(1.0 / (n_rounds + 1))
            before = self._masked_fraction()
            self._detect()
            self.masked_fractions.append(self._masked_fraction())
            if abs(self.masked_fractions[-1] - before) < _CONVERGED:
                self._progress((n_rounds - index - 1) / (n_rounds + 1))
                break
        for _ in range(_MOST_BUILDS):
            if self._build(1.0 / (n_rounds + 1)) < _SETTLED * min(self._noise):
                break

    def _begin_with_masks(self, *, to_see_sky: bool) -> None:
        """Learn what a run that found its masks itself has learnt on the way to them."""
        nothing = PackedMask.nothing(self.window.shape)
        self._combine_into(self.planes, self.handles, [nothing] * len(self.handles))
        self._hot = [self._find_hot(index) for index in range(len(self.handles))]
        if to_see_sky:
            self._build(0.0)
            self._look()

    def _masked_fraction(self) -> float:
        return float(np.mean([mask.fraction for mask in self.masks]))

    def subtraction(self, index: int) -> Subtraction:
        """
        Give the result for one exposure, after `run`.

        Parameters
        ----------
        index : int
            Exposure.

        Returns
        -------
        Subtraction
            Corrected exposure, background at its level, and diagnostics.

        Raises
        ------
        NoBackgroundPixelsError
            If no pixel of it has a background.
        """
        handle = self.handles[index]
        image = np.array(self.planes.image[index])
        n_used = np.array(self.planes.n_used[index]).astype(np.uint16)
        undefined = np.isnan(image)
        if undefined.all():
            raise NoBackgroundPixelsError(
                f"{handle.name}: no pixel has {self.params.min_coverage} values of other exposures "
                "without a source; give more or wider dithers, or raise --detect-sigma"
            )
        dq = np.zeros(image.shape, np.uint32)
        dq[n_used < self.params.min_coverage] = FILLED
        dq[undefined] = DO_NOT_USE
        used = tuple(self.handles[k].name for k in self.partners[index])
        fits = self._fits[index]
        main = fits.get(self._largest, LevelFit(1.0, 0.0, math.nan))
        is_scaled = self._scaled[self._largest]
        return Subtraction(
            science=handle,
            template=Template(
                image=image,
                err=np.sqrt(self.planes.var[index]),
                n_used=n_used,
                dq=dq,
                window=self.window,
                recipe={"method": "i4i", "parameters": self.params.as_dict(), "inputs": used},
            ),
            used=used,
            diagnostics=self._diagnose(index, image, dq),
            scales=(main.value if is_scaled else 1.0,),
            scale_errs=(main.err if is_scaled else 0.0,),
            propagate_errors=self.params.errors == "propagate",
            flag_bits=np.zeros_like(dq) if self.params.dq == "keep" else dq,
        )

    def source_mask(self, index: int) -> MaskArray:
        """Sources in one exposure as last masked, True = a source, shape ``(ny, nx)``."""
        return self.masks[index].whole()

    def _diagnose(self, index: int, image: FloatArray, dq: NDArray[np.uint32]) -> I4iDiagnostics:
        usable = np.isfinite(self._load(index).data)
        n_used = self.planes.n_used[index]
        covered = n_used >= self.params.min_coverage
        fits = self._fits[index]
        kinds = {bool(self._scaled[label]) for label in fits}
        scaling = "multiplicative" if self._scaled[self._largest] else "additive"
        return I4iDiagnostics(
            clip_rule=self._rule_in_words(),
            n_backgrounds=len(self.partners[index]),
            n_used_mean=float(n_used[covered].mean()) if covered.any() else 0.0,
            clipped_fraction=math.nan,
            coverage=1.0 - float(np.isnan(image).mean()),
            level=float(np.nanmedian(image[self.regions == self._largest])),
            masked_fraction=self.masks[index].fraction,
            filled_fraction=float(((dq == FILLED) & usable).sum() / max(1, usable.sum())),
            scaling="none" if self.params.scaling == "none" or not kinds else scaling,
            levels={self.names[label]: fit.value for label, fit in fits.items()},
            level_errs={self.names[label]: fit.err for label, fit in fits.items()},
            pattern_rms={
                self.names[label]: pattern.rms for label, pattern in self.patterns.items()
            },
            n_iterations=len(self.masked_fractions),
            masked_fractions=tuple(self.masked_fractions),
            warnings=self._doubts(index),
        )

    def _doubts(self, index: int) -> tuple[str, ...]:
        """Say if exposures are empty, or what is taken for blank sky is not."""
        if math.isinf(self._noise[index]):
            return ("every pixel is flagged or not finite; check its DQ and SCI",)
        empty = [self.handles[k].name for k in self.partners[index] if math.isinf(self._noise[k])]
        if empty:
            return (f"{', '.join(empty)}: no usable pixel, so it adds nothing to the background",)
        fit = self._fits[index].get(self._largest)
        expected = math.hypot(
            self._noise[index], math.sqrt(float(np.nanmedian(self.planes.var[index])))
        )
        if not self._errors_known or fit is None or not fit.rms > _NOT_BLANK * expected:
            return ()
        ratio = fit.rms / expected
        doubt = (
            f"what is left of the blank sky scatters by {fit.rms:.3g}, {ratio:.1f} times its "
            "noise: a source may fill the frame, or the background is another one in each "
            "exposure; look at the result before you use it"
        )
        return (doubt,)

    def _rule_in_words(self) -> str:
        if self.params.combine == "median":
            return "median of the others"
        return (
            f"noise expected from ERR, {LOW_OVER_HIGH * self.params.sigma:g} sigma below and "
            f"{self.params.sigma:g} above the median of the others"
        )

    # Levels

    def _start_levels(self, *, scaled: bool) -> None:
        """Begin with the medians of the regions."""
        n = len(self.handles)
        medians = np.full((n, int(self.regions.max()) + 1), np.nan)
        known = np.ones(n, np.bool_)
        self._noise = [math.inf] * n
        some = sparse(self.regions.size, _SAMPLE)
        regions = self.regions[some]

        def start(index: int) -> None:
            exposure = self._load(index)
            data = exposure.data[some].copy()
            data[self.masks[index].whole()[some]] = np.nan
            for label in self.names:
                values = data[regions == label]
                values = values[np.isfinite(values)]
                if values.size:
                    medians[index, label] = np.median(values)
            self._noise[index], known[index] = _typical_noise(
                exposure, self.regions == self._largest
            )

        run_tasks(start, range(n), self._threads)
        self._errors_known = bool(known.all())
        # What is hardly brighter than its noise cannot be scaled.
        bright = np.nan_to_num(np.fmin.reduce(medians, axis=0)) > _SCALABLE * np.median(self._noise)
        self._scaled = bright & scaled
        self._brightness = np.nan_to_num(np.abs(np.fmin.reduce(medians, axis=0)))
        self._set_levels(medians)

    def _set_levels(self, levels: NDArray[np.float64]) -> float:
        """
        Normalise levels by region to a mean factor of 1 or a mean offset of 0.

        Return by how much that of a large region has changed at most, unit of the data.
        """
        n, n_regions = levels.shape
        factors, offsets = np.ones((n, n_regions)), np.zeros((n, n_regions))
        for label in self.names if self.params.scaling != "none" else ():
            known = np.isfinite(levels[:, label])
            if self._scaled[label]:
                known &= levels[:, label] > 0
            mean = levels[known, label].mean() if known.any() else math.nan
            if self._scaled[label]:
                factors[known, label] = levels[known, label] / mean
            else:
                offsets[known, label] = levels[known, label] - mean
        before, self.levels = self.levels, Levels(factors, offsets, self.regions)
        changes = np.abs(factors - before.factors) * self._brightness
        changes += np.abs(offsets - before.offsets)
        large = [
            label
            for label, (_, inside) in self._boxes.items()
            if label and np.count_nonzero(inside) >= MIN_REGION
        ]
        return float(changes[:, large].max(initial=0.0))

    def _fit_levels(self, index: int, data: FloatArray, template: FloatArray) -> None:
        """Fit a background to an exposure, region by region."""
        use = ~self.masks[index].whole()
        fits = {}
        for label in self.names:
            rows, columns = self._boxes[label][0]
            inside = use[rows, columns] & self._boxes[label][1]
            fits[label] = fit_level(
                data[rows, columns],
                template[rows, columns],
                inside,
                multiplicative=bool(self._scaled[label]),
            )
        self._fits[index] = fits
        if self.params.scaling == "auto":
            rows, columns = self._boxes[self._largest][0]
            self._rms_shifted[index] = fit_level(
                data[rows, columns],
                template[rows, columns],
                use[rows, columns] & self._boxes[self._largest][1],
                multiplicative=False,
            ).rms

    # Building

    def _build(self, share: float) -> float:
        """
        Make the background of every exposure with the masks and levels there are.

        Return by how much a level has changed at most, unit of the data.
        """
        self._combine()
        if self._masked_fraction() == 0.0:
            # Sources will hide some of them.
            self._hot = [self._find_hot(index) for index in range(len(self.handles))]
        self._progress(share / 2)
        self.patterns = measure_patterns(
            self._sample, len(self.handles), self._boxes, n_threads=self._threads
        )
        run_tasks(self._finish, range(len(self.handles)), self._threads)
        self._progress(share / 2)
        if self.params.scaling == "auto" and self._shift_is_better():
            self._start_levels(scaled=False)
            return math.inf
        n_regions = int(self.regions.max()) + 1
        return self._set_levels(
            np.array(
                [
                    [fits[k].value if k in fits else math.nan for k in range(n_regions)]
                    for fits in self._fits
                ]
            )
        )

    def _shift_is_better(self) -> bool:
        """Whether shifting backgrounds leaves less than scaling them, in the largest region."""
        if not self._scaled[self._largest]:
            return False
        scaled = [fits[self._largest].rms for fits in self._fits]
        return float(np.sum(self._rms_shifted)) < _CLEARLY_LESS * float(np.sum(scaled))

    def _find_hot(self, index: int) -> dict[tuple[int, int], float]:
        hot = find_hot(self.planes.image[index], self.planes.var[index])
        self.planes.release()
        return hot

    def _combine(self) -> None:
        """Combine the others of each exposure; below sources, without their light."""
        self._combine_into(self.planes, self.handles, self.masks)
        hidden = [n < self.params.min_coverage for n in self.planes.n_used]
        self._unknown = [PackedMask(n == 0) for n in self.planes.n_used]
        if self._sky is not None and self.grid is not None and np.any(hidden):
            free = [
                BelowSources(handle, mask, self._sky, positions, noise=noise)
                for handle, mask, positions, noise in zip(
                    self.handles, self.masks, self.grid.from_exposures, self._noise, strict=True
                )
            ]
            nothing = PackedMask.nothing(self.window.shape)
            below = self._empty_planes(len(free), taken=self.planes.in_memory)
            self._combine_into(below, free, [nothing] * len(free), taken=self.planes.in_memory)
            for index, few in enumerate(hidden):
                use = few & (below.n_used[index] > self.planes.n_used[index])
                np.copyto(self.planes.image[index], below.image[index], where=use)
                np.copyto(self.planes.var[index], below.var[index], where=use)
                self._unknown[index] = PackedMask((self.planes.n_used[index] == 0) & ~use)
                self.planes.release()
                below.release()
        if not self._errors_known:
            # The scatter of a few values is too poor a weight.
            for k, chosen in enumerate(self.partners):
                typical = np.mean([self._noise[other] ** 2 for other in chosen])
                self.planes.var[k] = typical / np.maximum(self.planes.n_used[k], 1)

    def _combine_into(
        self,
        planes: LooPlanes,
        handles: Sequence[ExposureHandle],
        masks: Sequence[PackedMask],
        *,
        taken: int = 0,
    ) -> None:
        combine_others(
            handles,
            masks,
            self.partners,
            self.levels,
            rule=LooRule(
                k_low=LOW_OVER_HIGH * self.params.sigma,
                k_high=self.params.sigma,
                median=self.params.combine == "median",
            ),
            bad_bits=self._bad_bits,
            max_bytes=self._max_bytes - taken,
            n_threads=self._threads,
            out=planes,
        )

    def _empty_planes(self, n: int, taken: int = 0) -> LooPlanes:
        """Make planes in memory if all fit into their part of what is allowed, else on disk."""
        allowed = min(_PART_OF_PLANES * self._max_bytes, self._max_bytes - 2 * OVERHEAD_BYTES)
        return LooPlanes.empty(n, self.window.shape, int(allowed) - taken)

    def _sample(self, index: int) -> Sample:
        exposure = self._load(index)
        factor, offset = (
            part[index].astype(np.float32)[self.regions]
            for part in (self.levels.factors, self.levels.offsets)
        )
        image = (exposure.data - offset) / factor
        image[self.masks[index].whole()] = np.nan
        var = np.square(exposure.err / factor)
        if not self._errors_known:
            var[:] = self._noise[index] ** 2
        return Sample(image, var, self.planes.image[index], self.planes.var[index])

    def _finish(self, index: int) -> None:
        """Take noise out of a background, fill its holes, and bring it to its exposure's level."""
        exposure = self._load(index)
        image, var, n_used = (plane[index] for plane in self.planes)
        hot = self._hot[index] if self._hot else {}
        before = {place: float(image[place]) for place in hot}
        enough = n_used >= self.params.min_coverage
        holes = ~enough & np.isfinite(exposure.data)
        uneven = np.mean(n_used < _POOR * n_used.max()) > _MANY_POOR
        for label, ((rows, columns), inside) in self._boxes.items():
            cut, cut_var = image[rows, columns], var[rows, columns]
            pattern = self.patterns.get(label)
            keeps = pattern is None or self.params.template_noise == "raw"
            n_holes = np.count_nonzero(holes[rows, columns] & inside)
            if keeps and not n_holes:
                continue
            better = shrink(
                np.where(inside, cut, np.float32(np.nan)),
                np.where(inside, cut_var, np.float32(np.nan)),
                pattern or Pattern.nothing(inside.shape),
                keep=enough[rows, columns] if keeps else None,
                thin=~enough[rows, columns],
                rounds=ROUNDS if n_holes > _MANY_HOLES * inside.size or uneven else 1,
            )
            np.copyto(cut, better.image, where=inside)
            np.copyto(cut_var, better.var, where=inside)
        for place, height in hot.items():
            # Unknown, or taken for a cosmic ray.
            if not enough[place] and not before[place] - image[place] < height / 2:
                image[place] += height
        if self.params.scaling != "none":
            self._fit_levels(index, exposure.data, image)
            self._bring_to_level(index, image, var)
        self.planes.release()

    def _bring_to_level(self, index: int, image: FloatArray, var: FloatArray) -> None:
        """Scale or shift a background, in place; a region without its own level takes another's."""
        fits = self._fits[index]
        for label, fit in fits.items():
            (rows, columns), inside = self._boxes[label]
            if not math.isfinite(fit.err) and self._scaled[label] == self._scaled[self._largest]:
                fit = fits[label] = fits[self._largest]
            err = fit.err if math.isfinite(fit.err) else 0.0
            scaled = bool(self._scaled[label])
            rescale(
                image[rows, columns],
                var[rows, columns],
                inside,
                factor=fit.value if scaled else 1.0,
                offset=0.0 if scaled else fit.value,
                factor_err=err if scaled else 0.0,
                offset_err=0.0 if scaled else err,
            )

    # Sources

    def _look(self) -> tuple[Grid, CoAdd]:
        """Add up all exposures without their backgrounds."""
        if self.grid is None:
            self.grid = Grid.over(self._maps)
        self.coadd = self.grid.add_up(self._residual, self._noise)
        if self._masked_fraction() > 0.0:
            # Backgrounds made without masks hold light of sources, so that the sky lacks it.
            self._sky = Sky.of(self.coadd)
        return self.grid, self.coadd

    def _detect(self) -> None:
        """Look for sources in the sum of all exposures, and mask them in each."""
        grid, coadd = self._look()
        found = find_sources(
            coadd.image,
            noise=coadd.noise,
            params=TierParams.for_mosaic(
                n_sigma=self.params.detect_sigma, smooth=self.params.detect_smooth
            ),
        )
        wings = grow_wings(coadd.image, coadd.noise, found.mask) & ~found.mask
        planes = found.planes | wings.astype(np.uint8)
        if self.tiers is not None:
            # A source whose background no exposure knows is still one.
            planes = np.where(np.isfinite(coadd.image), planes, planes | self.tiers)
        self.tiers, self.sources = planes, planes > 0
        self.masks = [
            PackedMask(mask) for mask in grid.project(self.sources, grow=self.params.grow)
        ]
        if all(mask.fraction == 1.0 for mask in self.masks):
            names = ", ".join(handle.name for handle in self.handles)
            raise NoBackgroundPixelsError(
                f"{names}: sources cover every pixel, so that no background is left; raise "
                "--detect-sigma, or give a dedicated background to webbkg average"
            )

    def _residual(self, index: int) -> FloatArray:
        """Exposure minus its background; NaN where that is filled in, and where there is no sky."""
        residual: FloatArray = self._load(index).data - self.planes.image[index]
        residual[(self.regions == 0) | self._unknown[index].whole()] = np.nan
        self.planes.release()
        return residual

    def _load(self, index: int) -> Exposure:
        """Load an exposure, NaN where it must not be used."""
        exposure = self.handles[index].load()
        bad = (exposure.dq & np.uint32(self._bad_bits)) > 0
        if exposure.mask is not None:
            bad |= exposure.mask
        bad |= ~np.isfinite(exposure.data)
        return replace(exposure, data=np.where(bad, np.float32(np.nan), exposure.data))


def _check(
    handles: Sequence[ExposureHandle],
    maps: Sequence[SkyMap],
    params: I4iParams,
    partners: Sequence[Sequence[int]] | None,
    masks: Sequence[MaskArray] | None,
) -> None:
    if len(handles) < 3:
        names = ", ".join(handle.name for handle in handles) or "no exposure"
        raise InputError(
            f"{names}: image-for-image needs 3 exposures or more, got {len(handles)}; give more "
            "dithers, or a dedicated background to webbkg average"
        )
    for handle in handles:
        if handle.window != handles[0].window or handle.n_integrations is not None:
            raise InputError(
                f"{handle.name}: has the window {handle.window} and "
                f"{handle.n_integrations or 'no'} integrations, but {handles[0].name} has "
                f"{handles[0].window}; give rate files of one sub-array"
            )
    if params.iterations and len(maps) != len(handles):
        raise InputError(
            f"{len(handles)} exposures need as many sky maps to look for sources, got {len(maps)}"
        )
    _check_partners(len(handles), partners)
    if masks is not None:
        shapes = [np.shape(mask) for mask in masks]
        if shapes != [handles[0].window.shape] * len(handles):
            raise ShapeError(
                f"masks: {len(handles)} exposures of {handles[0].window.shape} pixels need as many "
                f"masks of that shape, got {shapes}"
            )


def _check_partners(n: int, partners: Sequence[Sequence[int]] | None) -> None:
    for index, chosen in enumerate(partners or ()):
        others = set(range(n)) - {index}
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= others:
            raise InputError(
                f"partners of exposure {index} must be some of the other {n - 1} exposures, each "
                f"once, got {list(chosen)}"
            )
    if partners is not None and len(partners) != n:
        raise InputError(f"{n} exposures need partners for each, got them for {len(partners)}")


def _typical_noise(exposure: Exposure, lit: MaskArray) -> tuple[float, bool]:
    """Typical noise of a pixel, and whether ERR told it."""
    some = sparse(lit.size, _SAMPLE)
    err = exposure.err[some][lit[some] & np.isfinite(exposure.data[some])]
    err = err[np.isfinite(err) & (err > 0)]
    if err.size:
        return float(np.median(err)), True
    if not np.isfinite(exposure.data[lit]).any():
        # No pixel, no weight.
        return math.inf, True
    # Without ERR: the scatter of neighbours, which a smooth background does not enter.
    steps = np.diff(np.where(lit, exposure.data, np.float32(np.nan)), axis=1)
    steps = steps[np.isfinite(steps)]
    width = 1.4826 / math.sqrt(2.0) * float(np.median(np.abs(steps))) if steps.size else 0.0
    return width or 1.0, False
