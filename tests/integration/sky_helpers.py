"""Grism and SOSS exposures for tests of the commands that subtract sky templates."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from webbkg.exposure import Window
from webbkg.sim import ObservationFiles, local_crds, niriss_wfss, simulate, write_observation

#: Presets and what they are simulated with.
KINDS = {
    "niriss": ("niriss-wfss", {"n_sources": 300, "n_science": 2, "sky_scatter": 0.0}),
    "nircam": ("nircam-wfss", {"n_sources": 120, "n_science": 1, "sky": 0.25}),
    "sub-array": ("niriss-wfss", {"n_sources": 300, "n_science": 1}),
    "soss": ("niriss-soss", {}),
    "soss-2d": ("niriss-soss", {"n_integrations": 0}),
}


@cache
def observed(kind: str, folder: Path) -> ObservationFiles:
    """Simulate a kind of exposures once a session."""
    preset, options = KINDS[kind]
    if kind == "sub-array":
        observation = niriss_wfss(small=True, seed=5, window=Window(64, 128, 320, 256), **options)
    else:
        observation = simulate(preset, small=True, seed=5, **options)
    return write_observation(observation, folder / kind)


class Skies:
    """Copies of simulated exposures, which a test may change, and their reference files."""

    def __init__(self, originals: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._originals, self.folder, self._patch = originals, folder, monkeypatch
        self._used = contextlib.ExitStack()
        folder.mkdir()

    def close(self) -> None:
        """Let CRDS be as it was."""
        self._used.close()

    def original(self, kind: str = "niriss") -> ObservationFiles:
        """Give files that a test may not change."""
        return observed(kind, self._originals)

    def __call__(
        self,
        kind: str = "niriss",
        index: int = 0,
        name: str | None = None,
        change: Callable[[fits.HDUList], object] | None = None,
    ) -> Path:
        """Give an exposure, and let CRDS know its reference files."""
        files = self.original(kind)
        path = self.folder / (name or files.science[index].name)
        shutil.copy(files.science[index], path)
        if change is not None:
            with fits.open(path) as hdus:
                change(hdus)
                hdus.writeto(path, overwrite=True)
        self._used.close()
        self._used.enter_context(local_crds(files.cache))
        return path

    def without_crds(self) -> None:
        """Let nothing tell where reference files are."""
        self._used.close()
        self._patch.delenv("CRDS_PATH", raising=False)
        self._patch.delenv("CRDS_SERVER_URL", raising=False)

    def catalog(self, kind: str = "niriss") -> Path:
        """Give a copy of the source catalogue."""
        return Path(shutil.copy(self.original(kind).catalog, self.folder))

    def template(self, kind: str = "niriss", **keywords: object) -> Path:
        """Give a copy of the reference file, with some keywords changed."""
        [original] = self.original(kind).cache.glob("references/jwst/*/*_bkg_*.fits")
        path = self.folder / "template.fits"
        with fits.open(original) as hdus:
            hdus[0].header.update(keywords)
            hdus.writeto(path, overwrite=True)
        return path

    def association(self, *exposures: Path, kind: str = "niriss", **members: str) -> Path:
        """Write an association of exposures with a catalogue, or other members by their type."""
        catalog = self.catalog(kind).name
        others = members or {"sourcecat": catalog, "segmap": "s.fits", "direct_image": "d.fits"}
        products = [
            {
                "name": path.name.rpartition("_")[0],
                "members": [
                    {"expname": path.name, "exptype": "science"},
                    *({"expname": file, "exptype": kind} for kind, file in others.items()),
                ],
            }
            for path in exposures
        ]
        path = self.folder / "x_asn.json"
        path.write_text(json.dumps({"asn_type": "spec2", "products": products}))
        return path

    def mask(self, background: np.ndarray, name: str = "MASK") -> Path:
        """Write a mask."""
        path = self.folder / "mask.fits"
        hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(background, name=name)])
        hdus.writeto(path, overwrite=True)
        return path


@pytest.fixture(scope="session")
def sky_originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what is simulated once."""
    return tmp_path_factory.mktemp("skies")


@pytest.fixture
def skies(sky_originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Skies]:
    """Make exposures in ``tmp_path/in``."""
    made = Skies(sky_originals, tmp_path / "in", monkeypatch)
    yield made
    made.close()


def truth_of(files: ObservationFiles, layer: str, index: int = 0) -> dict[str, object]:
    """What a layer of an exposure is made of."""
    table = json.loads(files.truth_tables[index].read_text())
    return table["layers"][layer]
