"""The real second and third stage of the pipeline on a distant field without background."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jwst.pipeline import Image2Pipeline, Image3Pipeline
from photutils.centroids import centroid_2dg
from scipy.spatial import cKDTree
from stdatamodels.jwst import datamodels

from webbkg.exposure import Window
from webbkg.sim import FocalPlane, ObservationFiles, local_crds, simulate, write_observation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # Members of level-2 associations have their full path, so that any directory will do.
    pytest.mark.filterwarnings("ignore:Input association file contains path information"),
    # Of gwcs: a SIP polynomial for the header is not as good as the WCS.
    pytest.mark.filterwarnings("ignore:Failed to achieve requested SIP"),
    # Of photutils: a bright source that is deblended in another way.
    pytest.mark.filterwarnings("ignore:The deblending mode of one or more source labels"),
]


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[ObservationFiles, Path]:
    """Three dithers of the small variant through both stages, tweakreg on."""
    folder = tmp_path_factory.mktemp("i4i")
    files = write_observation(simulate("miri-i4i", small=True, n_science=3), folder)
    with local_crds(files.cache):
        Image2Pipeline.call(str(files.association), output_dir=str(folder), save_results=True)
        Image3Pipeline.call(str(files.associations[1]), output_dir=str(folder), save_results=True)
    return files, folder


@pytest.fixture(scope="module")
def mosaic(reduced: tuple[ObservationFiles, Path]) -> Iterator[Any]:
    (path,) = reduced[1].glob("*_t001_miri_f770w_i2d.fits")
    with datamodels.open(path) as model:
        yield model


def test_the_flat_field_makes_the_regions_even(reduced: tuple[ObservationFiles, Path]) -> None:
    files, folder = reduced
    plane = FocalPlane(detector_shape=(512, 520))
    labels = plane.labels(Window(0, 0, 512, 520))
    for rate in files.science:
        with datamodels.open(folder / rate.name.replace("_rate.", "_cal.")) as model:
            assert model.meta.cal_step.flat_field == "COMPLETE"
            assert model.meta.cal_step.bkg_subtract is None
            assert model.meta.cal_step.photom == "COMPLETE"
            assert np.isnan(model.data[np.isin(labels, (0, 3, 4, 5))]).all()
            imager, lyot = (model.data[labels == label] for label in (1, 2))
            assert np.isfinite(imager).mean() > 0.98
            # The instrument's own 1.5 DN/s and the pattern are left, the 8 % are not.
            ratio = np.nanmedian(lyot) / np.nanmedian(imager)
            assert ratio == pytest.approx(1 + 1.5 / 0.92 / 60, abs=0.02)


def test_tweakreg_aligned_all_exposures(
    reduced: tuple[ObservationFiles, Path], mosaic: Any
) -> None:
    assert mosaic.meta.cal_step.tweakreg == "COMPLETE"
    crf = sorted(reduced[1].glob("*_crf.fits"))
    assert len(crf) == 3
    for path in crf:
        with datamodels.open(path) as model:
            assert model.meta.cal_step.tweakreg == "COMPLETE"
            # Aligned exposures have a frame of their own in the WCS, all but the first, which the
            # others follow.
            frames = model.meta.wcs.available_frames
            assert ("v2v3corr" in frames) == (path != crf[0])


def test_stars_are_where_the_catalogue_has_them(
    reduced: tuple[ObservationFiles, Path], mosaic: Any
) -> None:
    offsets = star_offsets(reduced[0], mosaic)
    assert len(offsets) >= 15
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.05
    assert np.hypot(*np.transpose(offsets)).max() < 0.1


def star_offsets(
    files: ObservationFiles, mosaic: Any, signal_to_noise: float = 30.0
) -> list[tuple[float, float]]:
    """Measure unblended stars in the mosaic against the truth tables [px]."""
    sources = {
        (source["ra"], source["dec"]): source
        for table in files.truth_tables
        for source in json.loads(table.read_text())["sources"]
    }.values()
    wcs = mosaic.meta.wcs
    wcs.bounding_box = None
    x, y = wcs.invert(*np.transpose([(s["ra"], s["dec"]) for s in sources]))
    flux = np.array([s["flux"] for s in sources])
    tree = cKDTree(np.c_[x, y])
    offsets = []
    for i, source in enumerate(sources):
        near = [j for j in tree.query_ball_point((x[i], y[i]), 8.0) if j != i]
        # 25 pixels of noise in a PSF of this width, in a single exposure.
        if source["kind"] != "stars" or flux[i] < signal_to_noise * 0.35 * 5.0:
            continue
        box = Window(round(y[i]) - 5, round(x[i]) - 5, 11, 11)
        whole = Window(0, 0, *mosaic.data.shape)
        if any(flux[j] > 0.01 * flux[i] for j in near) or not whole.overlaps(box):
            continue
        if whole.intersection(box) != box:
            continue
        cut = np.asarray(mosaic.data[whole.slices(box)], dtype=float)
        if not np.isfinite(cut).all():
            continue
        rim = np.concatenate([cut[0], cut[-1], cut[1:-1, 0], cut[1:-1, -1]])
        at_x, at_y = centroid_2dg(cut - np.median(rim))
        offsets.append((at_x + box.x0 - x[i], at_y + box.y0 - y[i]))
    return offsets
