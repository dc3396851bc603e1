"""A small field seen by the MIRI imager, in memory, for tests of the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.exposure import MemoryHandle, Window
from webbkg.masks.regions import region_map
from webbkg.methods.i4i import i4i
from webbkg.methods.image_for_image import ImageForImage
from webbkg.methods.partners import GroupPlan, plan_groups
from webbkg.report import ReportEntry, i4i_entry, skipped_entry
from webbkg.sky import TangentMap

SHAPE = (160, 168)
NOISE = 0.35
#: Three apart from each other, one close to the third, one far away in time.
DITHERS = ((0.0, 0.0), (25.0, 8.0), (-6.0, 27.0), (-8.0, 28.0), (20.0, -24.0), (-24.0, -10.0))
DAYS = (0.0, 0.1, 0.2, 0.3, 0.4, 40.0)


@dataclass(frozen=True)
class Scene:
    """A run, its plan and the entries of its report."""

    work: ImageForImage
    plan: GroupPlan
    entries: tuple[ReportEntry, ...]
    truth: NDArray[np.float64]


def pattern(rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth waves and grains of a detector."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = 0.8 * np.sin(np.hypot(x - 30.0, y + 40.0) / 9.0)
    return waves + ndimage.gaussian_filter(rng.normal(0.0, 1.0, SHAPE), 1.5)


def exposures(seed: int = 3) -> tuple[list[MemoryHandle], list[TangentMap], NDArray[np.float64]]:
    """Exposures, where they look, and the background of a level of 1."""
    rng = np.random.default_rng(seed)
    meta = {"INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE", "FILTER": "F770W", "SUBARRAY": "FULL",
            "BUNIT": "DN/s", "PROGRAM": "01234", "OBSERVTN": "001"}  # fmt: skip
    regions = region_map(meta, Window(0, 0, *SHAPE))
    lit = np.select([regions == 0, regions == 1], [0.0, 1.0], 0.9)
    background = lit * (60.0 + pattern(rng))
    stars = rng.uniform((-20.0, -20.0, 1.0), (190.0, 180.0, 2.7), (14, 3))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    handles, maps = [], []
    for index, ((dx, dy), days) in enumerate(zip(DITHERS, DAYS, strict=True)):
        light = sum(
            10.0**flux * np.exp(-((x - sx - dx) ** 2 + (y - sy - dy) ** 2) / 2.2)
            for sx, sy, flux in stars
        )
        data = (
            background * (1.0 + 0.005 * (index - 2)) + lit * light + rng.normal(0.0, NOISE, SHAPE)
        )
        own = {**meta, "EXPSTART": 60000.0 + days, "EXPMID": 60000.0 + days}
        err = np.full(SHAPE, NOISE)
        handles.append(MemoryHandle(data, err, name=f"e{index}_rate.fits", meta=own))
        place = 84.0 + dx, 80.0 + dy
        maps.append(TangentMap(SHAPE, 150.0, 2.0, reference=place, scale=0.11))
    return handles, maps, background


def scene() -> Scene:
    """Run i4i on all of them and measure what the report needs."""
    handles, maps, background = exposures()
    place = {id(handle): index for index, handle in enumerate(handles)}
    [plan] = plan_groups(
        handles,
        lambda some: [maps[place[id(one)]] for one in some],
        max_days=7.0,
        min_separation=None,
    )
    chosen = [place[id(item.exposure)] for item in plan.usable]
    index_of = {k: index for index, k in enumerate(chosen)}
    partners = [[index_of[place[id(one)]] for one in item.used] for item in plan.usable]
    work = i4i([handles[k] for k in chosen], [maps[k] for k in chosen], partners=partners)
    entries = tuple(
        skipped_entry(item.exposure.name, item.error)
        if item.error
        else i4i_entry(
            work,
            index_of[place[id(item.exposure)]],
            products={"result": f"{place[id(item.exposure)]}/bsub.fits"},
        )
        for item in plan.exposures
    )
    return Scene(work, plan, entries, background)
