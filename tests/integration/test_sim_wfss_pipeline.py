"""The real pipeline on simulated grism exposures, with the reference files made for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from jwst.pipeline import Spec2Pipeline
from numpy.testing import assert_allclose
from stdatamodels.jwst import datamodels

from webbkg.sim import ObservationFiles, local_crds, simulate, write_observation

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # Members are named with their folder, so that the association serves from anywhere.
    pytest.mark.filterwarnings("ignore:Input association file contains path info:UserWarning"),
]

#: What comes after the background in calwebb_spec2.
LATER = ("flat_field", "extract_2d", "srctype", "wfss_contam", "photom", "extract_1d")


def _run(files: ObservationFiles, folder: Path) -> datamodels.ImageModel:
    """Run calwebb_spec2 up to the background on the first exposure."""
    steps: dict[str, dict[str, Any]] = {name: {"skip": True} for name in LATER}
    steps["bkg_subtract"] = {"save_results": True, "output_dir": str(folder)}
    with local_crds(files.cache):
        Spec2Pipeline.call(str(files.association), steps=steps, save_results=False)
    name = files.science[0].name.replace("_rate", "_bsub")
    return datamodels.open(folder / name)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("niriss-wfss", {"n_sources": 800, "grism": "GR150C"}),
        ("nircam-wfss", {"n_sources": 250, "sky": 0.25}),
    ],
)
def test_spec2_subtracts_the_sky(
    preset: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = simulate(preset, small=True, n_science=1, **options)
    files = write_observation(observation, tmp_path)
    # The pipeline takes the catalogue by its name alone, from where it is started.
    monkeypatch.chdir(tmp_path)
    members = json.loads(files.association.read_text())["products"][0]["members"]
    assert {member["exptype"] for member in members} == {
        "science",
        "sourcecat",
        "segmap",
        "direct_image",
    }
    truth = json.loads(files.truth_tables[0].read_text())
    level = truth["layers"]["sky"]["level"]
    with _run(files, tmp_path) as result, fits.open(files.truths[0]) as layers:
        assert result.meta.cal_step.bkg_subtract == "COMPLETE"
        assert_allclose(result.meta.background.scaling_factor, level, rtol=0.01)
        light = layers["SPECTRA"].data
        noise = float(np.nanmedian(result.err))
        masked = result.mask == 0
        assert 0.05 < masked.mean() < 0.9
        bright = light > noise
        assert bright.sum() > 100
        assert light[masked & bright].sum() > 0.98 * light[bright].sum()
        assert light[masked].sum() > 0.95 * light.sum()
        # Outside of the mask nothing is left but noise.
        blank = ~masked & (result.dq == 0)
        pull = result.data[blank] / result.err[blank]
        assert abs(pull.mean()) < 0.1
        assert_allclose(pull.std(), 1.0, atol=0.05)
        _check_places(result, tmp_path / f"{observation.science[0].stem}_traces.ecsv")


def _check_places(result: datamodels.ImageModel, path: Path) -> None:
    """Compare the traces with the WCS that the pipeline made, at the ends of the filter."""
    traces = Table.read(path, format="ascii.ecsv")
    cat = QTable.read(next(path.parent.glob("*_cat.ecsv")), format="ascii.ecsv")
    with datamodels.open(path.parent / result.meta.direct_image) as direct:
        # The direct image has a WCS of its own, which the catalogue agrees with.
        ra, dec = direct.meta.wcs(np.array(cat["xcentroid"]), np.array(cat["ycentroid"]))
    assert_allclose(ra, cat["sky_centroid"].ra.deg, atol=1e-8)
    assert_allclose(dec, cat["sky_centroid"].dec.deg, atol=1e-8)
    reference = next(path.parent.glob("crds/references/jwst/*/*wavelengthrange*"))
    with datamodels.WavelengthrangeModel(reference) as ranges:
        row = next(entry for entry in ranges.wavelengthrange if entry[0] == 1)
    for wave, end in ((row[2], "first"), (row[3], "last")):
        x, y, *_ = result.meta.wcs.backward_transform(ra, dec, np.full(len(ra), wave), 1)
        first = traces[traces["order"] == 1]
        # Each detected source is one of those simulated.
        distance = np.hypot(
            x[:, None] - np.array(first[f"x_{end}"]), y[:, None] - np.array(first[f"y_{end}"])
        )
        assert distance.min(axis=1).max() < 0.05
