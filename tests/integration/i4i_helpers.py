"""Backgrounds of simulated exposures as if they were made of the others, with known errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from webbkg.exposure import Exposure
from webbkg.io.files import FileHandle
from webbkg.io.i4i_files import Layout, write_background, write_masked_rate
from webbkg.io.provenance import Provenance
from webbkg.masks.flags import DO_NOT_USE, FLAG_BITS
from webbkg.methods.average import AverageParams
from webbkg.results import AverageDiagnostics, Subtraction
from webbkg.sim import Observation, ObservationFiles
from webbkg.template import Template

#: Error of each pixel of a background [DN/s].
SIGMA = 0.2
#: Pixels without a background, and pixels whose background is filled and flagged.
HOLE = (slice(20, 24), slice(40, 46))
FILLED = (slice(30, 33), slice(40, 46))
FILLED_FLAG = FLAG_BITS["OTHER_BAD_PIXEL"]


@dataclass(frozen=True)
class Run:
    """Exposures, their backgrounds and where all files are."""

    observation: Observation
    files: ObservationFiles
    layout: Layout
    subtractions: dict[Path, Subtraction] = field(default_factory=dict)
    provenances: dict[Path, Provenance] = field(default_factory=dict)

    @property
    def science(self) -> tuple[Path, ...]:
        return self.files.science

    def sources(self, path: Path) -> Any:
        """True light of sources [DN/s]."""
        return self.observation.science[self.science.index(path)].sources()


def background_of(path: Path, truth: Any, partners: list[Path], seed: int) -> Subtraction:
    """True background with noise of its own, a hole and filled pixels."""
    science = FileHandle(path)
    noise = np.random.default_rng(seed).normal(0.0, SIGMA, truth.shape)
    image = (truth + noise).astype(np.float32)
    err = np.full(truth.shape, SIGMA, np.float32)
    n_used = np.full(truth.shape, len(partners), np.uint16)
    dq = np.zeros(truth.shape, np.uint32)
    image[HOLE], err[HOLE], n_used[HOLE], dq[HOLE] = np.nan, np.nan, 0, DO_NOT_USE
    n_used[FILLED], dq[FILLED] = 1, FILLED_FLAG
    template = Template(image, err, n_used, dq, science.window)
    found = AverageDiagnostics(
        clip_rule="noise",
        n_backgrounds=len(partners),
        n_used_mean=3.0,
        clipped_fraction=0.0,
        coverage=template.coverage,
        level=float(np.nanmedian(image)),
    )
    return Subtraction(
        science=science,
        template=template,
        used=tuple(partner.name for partner in partners),
        diagnostics=found,
        scales=(1.0,),
        propagate_errors=True,
        flag_bits=dq,
    )


def prepare(observation: Observation, files: ObservationFiles, output: Path) -> Run:
    """Write masked rates, backgrounds, lists and associations of all exposures."""
    run = Run(observation, files, Layout(output))
    for index, (exposure, path) in enumerate(zip(observation.science, files.science, strict=True)):
        sources = exposure.sources()
        truth = exposure.model() - sources
        partners = [other for other in files.science if other != path]
        run.subtractions[path] = background_of(path, truth, partners, seed=100 + index)
        run.provenances[path] = Provenance(
            method="i4i",
            params=AverageParams(),
            checksums=[(p.name, FileHandle(p).checksum) for p in (path, *partners)],
            noise_before=0.35,
        )
        run.layout.make_directories(path)
        handle = FileHandle(path)
        write_masked_rate(handle, sources > 0.3, run.layout.masked_rate(path), seed="a_seed.fits")
        write_background(run.layout, run.subtractions[path], run.provenances[path], partners)
    return run


def load(path: Path) -> Exposure:
    """Pixels of a file."""
    return FileHandle(path).load()
