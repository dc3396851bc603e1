"""All stages of an image-for-image job for one group of exposures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from webbkg.errors import InputError
from webbkg.exposure import MaskArray
from webbkg.io.files import FileHandle
from webbkg.io.i4i_files import Layout, write_background, write_masked_rate
from webbkg.io.products import write_product
from webbkg.io.provenance import Provenance
from webbkg.io.seed import read_seed
from webbkg.jobs.inject import measure_injection
from webbkg.jobs.options import STAGES, JobOptions
from webbkg.jobs.pieces import (
    Maps,
    check_masks,
    masked_pixels,
    project_seed,
    seed_of_mosaic,
    seed_of_run,
)
from webbkg.jobs.state import RunState
from webbkg.jobs.talk import Talk
from webbkg.methods.i4i import I4iParams
from webbkg.methods.image_for_image import ImageForImage
from webbkg.methods.partners import ExposurePlan, GroupPlan
from webbkg.parallel import count_threads
from webbkg.report import ReportEntry, skipped_entry
from webbkg.report.i4i_group import GroupReport, group_report, i4i_entry
from webbkg.validate.injection import InjectedFluxes

__all__ = ["GroupJob", "Setting", "members_of"]

#: Share of the work of each stage, for the progress bar.
_SHARES = {"seed": 0.3, "mask": 0.05, "merge": 0.15, "subtract": 0.2, "mosaic": 0.3}


@dataclass(frozen=True)
class Setting:
    """
    What the groups of a job share.

    Parameters
    ----------
    layout : Layout
        Where the files are.
    params : I4iParams
        Parameters.
    options : JobOptions
        What is asked for.
    state : RunState
        What is done.
    talk : Talk
        Who is told.
    maps : Maps
        Where exposures look.
    share : int, optional
        Number of groups done at the same time, which share threads and memory.
    """

    layout: Layout
    params: I4iParams
    options: JobOptions
    state: RunState
    talk: Talk
    maps: Maps
    share: int = 1

    @property
    def own_params(self) -> I4iParams:
        """Parameters with this group's share of threads and memory; products are the same."""
        if self.share == 1:
            return self.params
        return self.params.changed(
            threads=max(1, count_threads(self.params.threads) // self.share),
            max_memory=max(1, self.params.max_memory // self.share),
        )


def members_of(plan: GroupPlan) -> tuple[list[FileHandle], list[list[int]], list[int]]:
    """
    Choose the exposures that a group's backgrounds need.

    Parameters
    ----------
    plan : GroupPlan
        Plan of the group.

    Returns
    -------
    handles : list of FileHandle
        Exposures that have a background or serve as one.
    partners : list of list of int
        Which of them serve each one. Those without a background of their own have all others: it
        is needed to look for sources, and not written.
    wanted : list of int
        Those that have a background.
    """
    usable = {id(item.exposure) for item in plan.usable}
    needed = usable | {id(handle) for item in plan.usable for handle in item.used}
    chosen = [item for item in plan.exposures if id(item.exposure) in needed]
    place = {id(item.exposure): index for index, item in enumerate(chosen)}
    partners = [
        [place[id(handle)] for handle in item.used]
        if not item.error
        else [index for index in range(len(chosen)) if index != place[id(item.exposure)]]
        for item in chosen
    ]
    handles = [item.exposure for item in chosen if isinstance(item.exposure, FileHandle)]
    wanted = [index for index, item in enumerate(chosen) if not item.error]
    return handles, partners, wanted


class GroupJob:
    """
    The stages of a job for one group; those that are done are passed over.

    Parameters
    ----------
    plan : GroupPlan
        Plan of the group, which is not excluded.
    setting : Setting
        What the groups share.
    """

    def __init__(self, plan: GroupPlan, setting: Setting) -> None:
        self.plan = plan
        self.name = plan.group.name
        self._set = setting
        self._layout, self._state, self._talk = setting.layout, setting.state, setting.talk
        self.handles, self._partners, self._wanted = members_of(plan)
        self._entries: dict[int, ReportEntry] = {}
        self._moved = 0.0
        self._is_told = False

    @property
    def science(self) -> list[Path]:
        """Exposures that have a background."""
        return [self.handles[index].path for index in self._wanted]

    def targets(self) -> list[Path]:
        """
        List the products.

        Returns
        -------
        list of pathlib.Path
            Files that all stages would write, those after the last one asked for too.
        """
        plain = [self._layout.plain_calibrated(path) for path in self.science]
        made = [path for stage in STAGES for path in self._made_by(stage)]
        return made + plain if self._set.options.stage2 else made

    def _made_by(self, stage: str) -> list[Path]:
        """Products of a stage."""
        layout, is_calibrated = self._layout, self._set.options.stage2
        if stage == "seed":
            has_seed = self._set.options.mosaic or self._set.params.iterations
            return [layout.seed(self.name)] if has_seed else []
        if stage == "mask":
            return [layout.masked_rate(handle.path) for handle in self.handles]
        if stage == "merge":
            kinds = (layout.merged_rate, layout.merged_list, layout.association)
            return [kind(path) for path in self.science for kind in kinds]
        if stage == "subtract":
            result = layout.calibrated if is_calibrated else layout.subtracted
            return [result(path) for path in self.science]
        both = layout.mosaic_before(self.name), layout.mosaic_after(self.name)
        return [*both] if is_calibrated else []

    def _is_done(self, stage: str) -> bool:
        """Whether a stage is done and nobody has removed its products since."""
        return self._state.done(self.name, stage) and all(
            path.exists() for path in self._made_by(stage)
        )

    def run(self) -> GroupReport | None:
        """
        Do all stages.

        Returns
        -------
        GroupReport or None
            For the report; none if the job ends before there is anything to report.

        Raises
        ------
        WebbkgError
            If a stage fails.
        """
        stages: dict[str, Callable[[], None]] = {
            "seed": self._seed,
            "mask": self._mask,
            "merge": self._merge,
            "subtract": self._subtract,
            "mosaic": self._mosaic,
        }
        for stage in STAGES:
            if not self._set.options.reaches(stage):
                break
            if self._is_done(stage):
                self._talk.say(f"{self.name}: {stage} was done before", 1)
            else:
                stages[stage]()
                self._talk.say(f"{self.name}: {stage} done", 1)
            self._move_to(sum(_SHARES[name] for name in STAGES[: STAGES.index(stage) + 1]))
        return self._report() if self._set.options.reaches("merge") else None

    def forget(self) -> None:
        """Begin anew: nothing is done any more."""
        self._state.forget(self.name)
        self._move_to(0.0)

    def remove_intermediate(self) -> None:
        """Remove what only the stages needed."""
        files = [self._layout.masked_rate(handle.path) for handle in self.handles]
        if self._set.options.stage2:
            files += [self._layout.plain_calibrated(path) for path in self.science]
        for path in files:
            path.unlink(missing_ok=True)

    # Stages

    def _seed(self) -> None:
        target = self._layout.seed(self.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        mosaic = self._set.options.mosaic
        if mosaic is not None:
            seed_of_mosaic(mosaic, target, self._set.params, overwrite=True)
        elif self._set.params.iterations:
            seed_of_run(self.work, target, overwrite=True)
        self._finish("seed")

    def _mask(self) -> None:
        found = f"{self._layout.seed(self.name).name}"
        for index, handle in enumerate(self.handles):
            self._layout.make_directories(handle.path)
            target = self._layout.masked_rate(handle.path)
            write_masked_rate(
                handle, self.work.source_mask(index), target, seed=found, overwrite=True
            )
        facts = [float(fraction) for fraction in self.work.masked_fractions]
        self._finish("mask", facts=facts)

    def _merge(self) -> None:
        for index in self._wanted:
            partners = [self.handles[k].path for k in self._partners[index]]
            write_background(
                self._layout,
                self.work.subtraction(index),
                self._provenance(index),
                partners,
                overwrite=True,
            )
            self._move(_SHARES["merge"] / len(self._wanted))
        self._finish("merge")

    def _subtract(self) -> None:
        for index in self._wanted:
            path = self.handles[index].path
            if self._set.options.stage2:
                self._calibrate(self._layout.association(path), self._layout.calibrated(path))
            else:
                write_product(
                    self.work.subtraction(index),
                    self._provenance(index),
                    self._layout.subtracted(path),
                    overwrite=True,
                )
            self._move(_SHARES["subtract"] / len(self._wanted))
        self._finish("subtract")

    def _mosaic(self) -> None:
        from webbkg.pipeline import mosaic

        layout, name = self._layout, self.name
        for path in self.science:
            self._calibrate(path, layout.plain_calibrated(path))
            self._move(0.3 * _SHARES["mosaic"] / len(self._wanted))
        # With the sky left in, exposures of different levels would reject each other.
        runs = (
            (layout.plain_calibrated, layout.mosaics_before, None, True),
            (
                layout.calibrated,
                layout.mosaics_after,
                layout.mosaic_before(name),
                self._set.options.skymatch,
            ),
        )
        for calibrated, folder, like, match_sky in runs:
            step = "mosaic", folder.name
            if not (self._state.done(name, *step) and (folder / f"{name}_i2d.fits").exists()):
                mosaic(
                    [calibrated(path) for path in self.science],
                    name,
                    folder,
                    like=like,
                    match_sky=match_sky,
                    overwrite=True,
                )
                self._finish(*step)
        self._finish("mosaic")

    def _calibrate(self, source: Path, target: Path) -> None:
        """Calibrate an exposure unless that is done."""
        from webbkg.pipeline import calibrate

        if self._state.done(self.name, "calibrate", target.name) and target.exists():
            return
        made = calibrate(
            source,
            target.parent,
            propagate_errors=self._set.params.errors == "propagate",
            overwrite=True,
        )
        self._finish("calibrate", made.name)

    def _finish(self, *step: str, facts: Any = None) -> None:
        self._state.finish(self.name, *step, facts=facts)

    # Backgrounds

    @cached_property
    def work(self) -> ImageForImage:
        """Backgrounds of all exposures, made when they are asked for."""
        state, params = self._state, self._set.own_params
        masks: Sequence[MaskArray] | None = None
        is_known = self._is_done("mask")
        if is_known:
            masks = [masked_pixels(self._layout.masked_rate(h.path)) for h in self.handles]
        elif self._made_by("seed") and self._is_done("seed"):
            masks, is_known = self._projected(), self._set.options.mosaic is None
        elif self._set.options.mosaic is not None:
            masks = self._projected()
        if masks is not None:
            check_masks(masks, self.handles)
        if is_known:
            params = params.changed(iterations=0)
        work = ImageForImage(
            self.handles,
            self._set.maps(self.handles),
            params,
            partners=self._partners,
            masks=masks,
            progress=lambda fraction: self._move(_SHARES["seed"] * fraction),
        )
        work.run()
        found = (work.source_mask(index) for index in range(len(self.handles)))
        for text in check_masks(found, self.handles, work.regions != 0):
            self._talk.warn(text)
        if is_known:
            work.masked_fractions = list(state.facts(self.name, "mask") or ())
        return work

    def _projected(self) -> list[MaskArray]:
        """Sources of the seed image in each exposure."""
        path = self._layout.seed(self.name)
        masks, remarks = project_seed(
            read_seed(path),
            self.handles,
            self._set.maps(self.handles),
            grow=self._set.params.grow,
            name=self._set.options.mosaic.name if self._set.options.mosaic else path.name,
        )
        for text in () if self._is_told else remarks:
            self._talk.warn(text)
        self._is_told = True
        check_masks(masks, self.handles)
        return masks

    def _provenance(self, index: int) -> Provenance:
        entry = self._entry(index)
        inputs = [self.handles[k] for k in (index, *self._partners[index])]
        return Provenance(
            method="i4i",
            params=self._set.params,
            checksums=[(handle.name, handle.checksum) for handle in inputs],
            noise_before=entry.metrics["noise_before"],
            noise_after=entry.metrics["noise_after"],
            noise_expected=entry.metrics["noise_expected"],
            masked_fraction=1.0 - entry.metrics["blank_fraction"],
        )

    # Report

    def _entry(self, index: int) -> ReportEntry:
        if index not in self._entries:
            products = self._products(self.handles[index].path)
            self._entries[index] = i4i_entry(self.work, index, products=products)
        return self._entries[index]

    def _products(self, path: Path) -> dict[str, str]:
        layout, options = self._layout, self._set.options
        files = {"background": layout.merged_rate(path), "list": layout.merged_list(path)}
        if options.reaches("subtract"):
            result = layout.calibrated(path) if options.stage2 else layout.subtracted(path)
            files = {"result": result, **files}
        return {label: self._relative(file) for label, file in files.items()}

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._layout.output).as_posix()

    def _report(self) -> GroupReport:
        places = {handle.path: index for index, handle in enumerate(self.handles)}
        entries = [self._entry_of(item, places) for item in self.plan.exposures]
        layout, name = self._layout, self.name
        before = after = None
        products = {"seed image": self._relative(layout.seed(name))}
        if self._set.options.reaches("mosaic"):
            before, after = layout.mosaic_before(name), layout.mosaic_after(name)
            products |= {
                "mosaic": self._relative(after),
                "mosaic without subtraction": self._relative(before),
            }
        if not layout.seed(name).exists():
            del products["seed image"]
        injected, paired = self._injected()
        return group_report(
            self.plan,
            entries,
            work=self.work,
            mosaic_before=before,
            mosaic_after=after,
            injected=injected,
            paired=paired,
            products=products,
        )

    def _entry_of(self, item: ExposurePlan, places: dict[Path, int]) -> ReportEntry:
        if item.error:
            return skipped_entry(item.exposure.name, item.error)
        handle = item.exposure
        if not isinstance(handle, FileHandle):
            raise InputError(f"{handle.name}: is no file, so there is no product to write of it")
        index = places[handle.path]
        entry = self._entry(index)
        entry = replace(entry, products=self._products(handle.path))
        for text in entry.warnings:
            self._talk.warn(f"{entry.name}: {text}")
        self._talk.say(_summary(entry))
        return entry

    def _injected(self) -> tuple[InjectedFluxes, InjectedFluxes] | tuple[None, None]:
        """Measure what becomes of sources that are put into the exposures."""
        n = self._set.options.inject
        if not n:
            return None, None
        return measure_injection(
            self.work,
            self._set.maps(self.handles),
            n,
            self._set.own_params,
            noise=[self._entry(index).metrics["noise_expected"] for index in self._wanted],
            fwhm_px=self.plan.fwhm_px,
        )

    # Progress

    def _move(self, fraction: float) -> None:
        self._moved += fraction
        self._talk.advance(fraction)

    def _move_to(self, place: float) -> None:
        self._move(place - self._moved)


def _summary(entry: ReportEntry) -> str:
    numbers = entry.metrics
    n_used = numbers["n_backgrounds"]
    return (
        f"{entry.products.get('result', entry.products['background'])}: background of {n_used} "
        f"other exposures, level {numbers['level']:.4g} {numbers['unit']}, noise "
        f"{numbers['noise_before']:.3g} before, {numbers['noise_after']:.3g} after, "
        f"{numbers['noise_expected']:.3g} expected"
    )
