"""Exposures with stripes, and what tests ask of files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from webbkg.sim import nircam_imaging, simulate, write_observation

SHAPE = (64, 64)


@cache
def simulated(kind: str, folder: Path) -> Path:
    """Write a kind of exposure once a session, and return its file."""
    if kind.startswith("nircam"):
        observation = nircam_imaging(shape=SHAPE, n_science=1, channel=kind.split("-")[1])
    elif kind == "integrations":
        observation = nircam_imaging(shape=SHAPE, n_science=1, channel="short", n_integrations=3)
    elif kind == "wide":
        observation = nircam_imaging(shape=(160, 160), n_science=1, channel="short")
    elif kind == "sub-array":
        observation = nircam_imaging(n_science=1, channel="short", subarray="SUB64P")
    elif kind == "miri":
        observation = simulate("miri-imaging", small=True, n_science=1, n_background=2)
    elif kind == "niriss-wfss":
        observation = simulate(kind, small=True, n_science=1)
    else:
        observation = simulate(kind, small=True)
    return write_observation(observation, folder / kind).science[0]


class Exposures:
    """Copies of simulated exposures, which a test may change."""

    def __init__(self, originals: Path, folder: Path) -> None:
        self.originals, self.folder = originals, folder
        folder.mkdir()

    def __call__(
        self,
        kind: str = "nircam-short",
        name: str | None = None,
        change: Callable[[fits.HDUList], object] | None = None,
    ) -> Path:
        """Give a file of that kind, changed by a function of its HDUs."""
        original = simulated(kind, self.originals)
        path = self.folder / (name or original.name)
        shutil.copy(original, path)
        if change is not None:
            with fits.open(path) as hdus:
                change(hdus)
                hdus.writeto(path, overwrite=True)
        return path

    def image(self, name: str, pixels: np.ndarray, **keywords: object) -> Path:
        """Write an image of its own."""
        path = self.folder / name
        hdu = fits.PrimaryHDU(pixels)
        hdu.header.update(keywords)
        hdu.writeto(path)
        return path


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what is simulated once."""
    return tmp_path_factory.mktemp("stripes")


@pytest.fixture
def exposures(originals: Path, tmp_path: Path) -> Exposures:
    """Make exposures in ``tmp_path/in``."""
    return Exposures(originals, tmp_path / "in")


def cut(path: Path, name: str) -> bytes:
    """Header and data of one extension, as the bytes they are."""
    with fits.open(path) as hdus:
        info = hdus[name].fileinfo()
    return path.read_bytes()[info["hdrLoc"] : info["datLoc"] + info["datSpan"]]


def names_of(path: Path) -> list[str]:
    """Names of the extensions."""
    with fits.open(path) as hdus:
        return [hdu.name for hdu in hdus]


def set_keywords(**keywords: object) -> Callable[[fits.HDUList], object]:
    """Change keywords of the primary header; None removes one."""

    def change(hdus: fits.HDUList) -> None:
        for key, value in keywords.items():
            if value is None:
                del hdus[0].header[key]
            else:
                hdus[0].header[key] = value

    return change
