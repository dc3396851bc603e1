"""The real pipeline makes mosaics of simulated NIRCam images of both channels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.table import QTable
from jwst.pipeline import Image2Pipeline, Image3Pipeline
from photutils.centroids import centroid_2dg
from scipy.spatial import cKDTree
from stdatamodels.jwst import datamodels

from webbkg.sim import local_crds, nircam_imaging, write_observation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # The simulator's associations work from any directory.
    pytest.mark.filterwarnings("ignore:Input association file contains path info:UserWarning"),
]

HALF = 12


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory) -> tuple[list[Path], Path]:
    """Level-3 products of the short- and the long-wave channel, and the catalogue."""
    folder, out = tmp_path_factory.mktemp("nircam"), tmp_path_factory.mktemp("out")
    observation = nircam_imaging(small=True, n_science=3, n_stars=250, seed=2)
    files = write_observation(observation, folder)
    with local_crds(files.cache), pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        Image2Pipeline.call(
            str(files.association), save_results=True, steps={"resample": {"skip": True}}
        )
        for association in files.associations[1:]:
            shutil.copy(association, out)
            Image3Pipeline.call(association.name, save_results=True)
    return sorted(out.glob("*nircam*_i2d.fits")), files.catalog


def place(image: np.ndarray, x: float, y: float) -> tuple[float, float] | None:
    """Measure the distance of a star from where it should be [px], if it can be seen whole."""
    a, b = round(float(x)), round(float(y))
    stamp = image[max(b - HALF, 0) : b + HALF + 1, max(a - HALF, 0) : a + HALF + 1]
    if stamp.shape != (2 * HALF + 1,) * 2 or not np.isfinite(stamp).all():
        return None
    core = stamp[HALF - 4 : HALF + 5, HALF - 4 : HALF + 5] - np.median(stamp)
    centre = centroid_2dg(core)
    return float(centre[0] - 4 + a - x), float(centre[1] - 4 + b - y)


@pytest.mark.parametrize(
    ("channel", "name", "n_least"), [(0, "clear-f200w", 15), (1, "clear-f356w", 40)]
)
def test_stars_are_where_the_catalogue_has_them(mosaics, channel, name, n_least):
    products, catalog = mosaics
    assert [name in path.name for path in products] == [channel == 0, channel == 1]
    table = QTable.read(catalog)
    found = products[channel].with_name(products[channel].name.replace("_i2d.fits", "_cat.ecsv"))
    assert len(QTable.read(found)) >= n_least
    with datamodels.open(products[channel]) as model:
        assert model.meta.cal_step.tweakreg == "COMPLETE"
        image, err = np.asarray(model.data), np.asarray(model.err)
        model.meta.wcs.bounding_box = None
        sky = table["sky_centroid"]
        x, y = model.meta.wcs.invert(sky.ra.deg, sky.dec.deg)
        # Surface brightness summed over pixels [MJy/sr].
        area = model.meta.photometry.pixelarea_steradians
        flux = table["isophotal_flux"].to_value("MJy") / area
    tree = cKDTree(np.column_stack([x, y]))
    noise = np.nanmedian(err) * 7.0
    offsets = []
    for index in np.flatnonzero(~np.asarray(table["is_extended"]) & (flux > 30.0 * noise)):
        near = tree.query_ball_point((x[index], y[index]), 1.2 * HALF)
        is_alone = all(other == index or flux[other] < 0.02 * flux[index] for other in near)
        offset = place(image, x[index], y[index]) if is_alone else None
        if offset is not None:
            offsets.append(offset)
    distances = np.hypot(*np.transpose(offsets))
    assert len(distances) >= n_least
    assert distances.max() < 0.1
    assert np.median(distances) < 0.05
