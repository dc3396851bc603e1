"""Ramps, and the reference files with which the pipeline makes rates of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from webbkg.sim.crds import Reference
from webbkg.sim.layers import Image
from webbkg.sim.scene import SimulatedExposure

__all__ = ["ramp_references", "write_ramp"]


def write_ramp(path: Path, exposure: SimulatedExposure, layers: Mapping[str, Image]) -> None:
    """Write the ramp of an exposure."""
    raise NotImplementedError


def ramp_references(exposure: SimulatedExposure) -> tuple[Reference, ...]:
    """Describe the reference files of the first stage."""
    raise NotImplementedError
