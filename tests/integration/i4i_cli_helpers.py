"""Small dithered observations for tests of ``webbkg i4i``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from astropy.io import fits

from webbkg.sim import ObservationFiles, write_observation
from webbkg.sim.presets.i4i import miri_i4i

SHAPE = (224, 226)
#: Dithers of a small detector shrink with it.
WIDE = 240.0


def observe(
    folder: Path, *, n_science: int = 4, dither_size: float = WIDE, seed: int = 3, **keywords: Any
) -> ObservationFiles:
    """Write a small observation."""
    observation = miri_i4i(
        shape=SHAPE, n_science=n_science, dither_size=dither_size, seed=seed, **keywords
    )
    return write_observation(observation, folder)


def copied(paths: tuple[Path, ...], folder: Path) -> list[Path]:
    """Copy exposures into a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(path, folder / path.name)) for path in paths]


def edit(path: Path, *drop: str, **keywords: Any) -> Path:
    """Change or remove keywords wherever they are."""
    with fits.open(path, mode="update") as hdus:
        for hdu in hdus:
            for key in drop:
                hdu.header.remove(key, ignore_missing=True)
            for key, value in keywords.items():
                if key in hdu.header:
                    hdu.header[key] = value
    return path
