"""The real second and third stage of the pipeline on a simulated MIRI observation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import QTable
from jwst.pipeline import Image3Pipeline
from stdatamodels.jwst import datamodels

from webbkg.sim import ObservationFiles, local_crds, simulate, write_observation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
]


@dataclass(frozen=True)
class Reduced:
    """An observation and what the pipeline made of it."""

    files: ObservationFiles
    folder: Path
    log: str

    @property
    def calibrated(self) -> list[Path]:
        """Products of the second stage."""
        return [self.folder / path.name.replace("_rate.", "_cal.") for path in self.files.science]


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    """Three dithers of a crowded field through calwebb_image2, typed in a directory elsewhere."""
    folder = tmp_path_factory.mktemp("a simulated") / "observation"
    observation = simulate(
        "miri-imaging", small=True, n_science=3, n_background=2, n_stars=1600, dither_size=80.0
    )
    files = write_observation(observation, folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        ["sh", "-c", '. "$1"; strun calwebb_image2 "$2"', "sh"]
        + [str(path) for path in (files.environment, files.association)],
        cwd=elsewhere,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(elsewhere),
            # Of another cache: the file that is sourced must undo it.
            "CRDS_CONTEXT": "jwst_0001.pmap",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Reduced(files, elsewhere, done.stderr)


@pytest.fixture(scope="module")
def mosaic(reduced: Reduced) -> Any:
    """The mosaic that calwebb_image3 makes, and the catalogue of its sources."""
    folder = reduced.files.association.parent
    for path in reduced.calibrated:
        # Associations of the third stage name files that lie beside them.
        shutil.copy(path, folder)
    with local_crds(reduced.files.cache):
        Image3Pipeline.call(
            str(reduced.files.associations[1]), output_dir=str(folder), save_results=True
        )
    (path,) = folder.glob("*_t001_miri_f770w_i2d.fits")
    with datamodels.open(path) as model:
        yield model


def test_the_background_was_subtracted(reduced: Reduced) -> None:
    for path in reduced.calibrated:
        with datamodels.open(path) as model:
            assert model.meta.cal_step.bkg_subtract == "COMPLETE"
            assert model.meta.cal_step.assign_wcs == "COMPLETE"
            assert model.meta.cal_step.photom == "COMPLETE"
            # No reference file was asked of a server.
            assert model.meta.ref_file.distortion.name.startswith("crds://jwst_miri_distortion")
            assert abs(np.nanmedian(model.data)) < 0.1
    assert "ERROR" not in reduced.log


def test_tweakreg_aligned_all_exposures(reduced: Reduced, mosaic: Any) -> None:
    assert mosaic.meta.cal_step.tweakreg == "COMPLETE"
    crf = sorted(reduced.files.association.parent.glob("*_crf.fits"))
    assert len(crf) == 3
    for path in crf:
        with datamodels.open(path) as model:
            assert model.meta.cal_step.tweakreg == "COMPLETE"
            assert model.meta.cal_step.outlier_detection == "COMPLETE"


def isolated(mosaic: Any, catalog: QTable, reach: float = 12.0) -> list[tuple[float, float, Any]]:
    """List the brightest tenth of the stars, without those that have a neighbour of 2 %."""
    places = catalog["sky_centroid"]
    wcs = mosaic.meta.wcs
    wcs.bounding_box = None
    x, y = wcs.invert(places.ra.deg, places.dec.deg)
    flux = catalog["isophotal_flux"].value
    galaxy = np.flatnonzero(catalog["is_extended"])[0]
    found = []
    for i in np.flatnonzero(~catalog["is_extended"] & (flux > np.quantile(flux, 0.9))):
        near = np.hypot(x - x[i], y - y[i]) < reach
        near[i] = False
        box = mosaic.data[int(y[i]) - 8 : int(y[i]) + 9, int(x[i]) - 8 : int(x[i]) + 9]
        if (
            min(x[i], y[i]) > 8
            and box.shape == (17, 17)
            and np.isfinite(box).all()
            and flux[near].sum() < 0.02 * flux[i]
            and np.hypot(x[i] - x[galaxy], y[i] - y[galaxy]) > 100
        ):
            found.append((float(x[i]), float(y[i]), flux[i]))
    return found


def centroid(image: Any, x: float, y: float, sigma: float = 1.2) -> tuple[float, float]:
    """Measure a centroid with a Gaussian weight that follows it."""
    level = np.median(image[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9])
    for _ in range(20):
        rows, columns = np.mgrid[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5]
        weight = np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / sigma**2)
        weight *= image[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5] - level
        x += 2 * (weight * (columns - x)).sum() / weight.sum()
        y += 2 * (weight * (rows - y)).sum() / weight.sum()
    return x, y


def test_stars_are_where_the_catalogue_has_them(reduced: Reduced, mosaic: Any) -> None:
    stars = isolated(mosaic, QTable.read(reduced.files.catalog))
    offsets = [np.subtract(centroid(mosaic.data, x, y), (x, y)) for x, y, _ in stars]
    distance = np.hypot(*np.transpose(offsets))
    print(  # noqa: T201
        f"{len(stars)} stars: mean offset {np.mean(offsets, axis=0).round(4)} px, median distance "
        f"{np.median(distance):.4f}, largest {distance.max():.4f}"
    )
    assert len(stars) >= 15
    assert distance.max() < 0.1


def test_the_step_writes_the_same_columns_and_fluxes(reduced: Reduced, mosaic: Any) -> None:
    (path,) = reduced.files.association.parent.glob("*_t001_miri_f770w_cat.ecsv")
    measured, own = QTable.read(path), QTable.read(reduced.files.catalog)
    assert set(own.colnames) <= set(measured.colnames)
    for name in own.colnames:
        assert own[name].__class__ is measured[name].__class__, name
        assert getattr(own[name], "unit", None) == getattr(measured[name], "unit", None), name
    ratios = []
    for x, y, flux in isolated(mosaic, own):
        distance = np.hypot(measured["xcentroid"] - x, measured["ycentroid"] - y)
        if distance.min() < 0.5:
            ratios.append(measured["aper_total_flux"][np.argmin(distance)].value / flux)
    print(f"{len(ratios)} stars: flux measured / true {np.median(ratios):.4f}")  # noqa: T201
    assert len(ratios) > 5
    # Drizzling blurs a little: an aperture for 70 % of the light holds less of it.
    assert np.median(ratios) == pytest.approx(0.97, abs=0.04)
