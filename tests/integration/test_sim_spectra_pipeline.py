"""The real pipeline, and this project's command, on simulated SOSS and nodded spectra."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import Cli
from jwst.background import BackgroundStep
from jwst.pipeline import Spec2Pipeline
from stdatamodels.jwst import datamodels

from webbkg.sim import (
    Observation,
    ObservationFiles,
    local_crds,
    miri_lrs,
    niriss_soss,
    nirspec_nods,
    sky_template,
    write_observation,
)

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # The simulator's associations work from any directory.
    pytest.mark.filterwarnings("ignore:Input association file contains path info:UserWarning"),
]

#: As deep as a stack of integrations: the step's rule takes pixels below a percentile of all,
#: which the noise of a single integration biases low.
DEEP = {"n_groups": 200}


def soss(folder: Path, **params) -> tuple[Observation, ObservationFiles]:
    observation = niriss_soss(**params)
    return observation, write_observation(observation, folder)


def strictly_valid(paths) -> None:
    for path in paths:
        with datamodels.open(path, strict_validation=True) as model:
            model.validate()


def scales(data, subtracted, window, template=0):
    """What was subtracted left and right of the step, in units of the template."""
    ratio = (data - subtracted)[..., 4:-4] / sky_template(template, window)[..., 4:-4]
    return np.nanmedian(ratio[..., 50:650]), np.nanmedian(ratio[..., 760:1500])


@pytest.mark.parametrize(
    ("subarray", "n_integrations", "percentile"),
    [
        ("SUBSTRIP256", 0, 50.0),
        ("SUBSTRIP256", 2, 50.0),
        ("SUBSTRIP96", 0, 35.0),
        ("SUBSTRIP96", 3, 35.0),
    ],
)
def test_soss_background_step(tmp_path, subarray, n_integrations, percentile):
    params = {"scale_left": 0.85, "scale_right": 0.95, "n_templates": 2, "n_traces": 1}
    observation, files = soss(
        tmp_path, subarray=subarray, n_integrations=n_integrations, **params, **DEEP
    )
    strictly_valid(files.science)
    with local_crds(files.cache):
        result = BackgroundStep.call(str(files.science[0]), soss_source_percentile=percentile)
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    with datamodels.open(files.science[0]) as raw:
        assert raw.data.ndim == (3 if n_integrations else 2)
        left, right = scales(raw.data, result.data, observation.science[0].window)
    # Wings of the traces lift the left side, more so on the smaller strip.
    assert left == pytest.approx(0.85, rel=0.03 if subarray == "SUBSTRIP256" else 0.06)
    assert right == pytest.approx(0.95, rel=0.04)


def test_soss_through_spec2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, files = soss(tmp_path, small=True, **DEEP)
    with local_crds(files.cache):
        (result,) = Spec2Pipeline.call(files.association.name)
    assert result.meta.cal_step.assign_wcs == result.meta.cal_step.bkg_subtract == "COMPLETE"
    assert result.data.shape == (3, 96, 2048)
    # Without a model of the traces nothing can be extracted.
    assert result.meta.cal_step.extract_1d is None
    _, _, wavelength = result.meta.wcs.forward_transform(100.0, 50.0, 1)
    assert wavelength == pytest.approx(2.833 - 0.0968)


@pytest.fixture(scope="module")
def nods(tmp_path_factory):
    """Small observations of each kind of nodded spectra, by name."""
    made = {
        "nirspec": nirspec_nods(small=True),
        "lrs": miri_lrs(small=True),
        "lrs-cube": miri_lrs(small=True, n_integrations=2),
        "slitless": miri_lrs(subarray="SLITLESSPRISM"),
    }
    return {
        name: (observation, write_observation(observation, tmp_path_factory.mktemp(name)))
        for name, observation in made.items()
    }


KINDS = ["nirspec", "lrs", "lrs-cube", "slitless"]


@pytest.mark.parametrize("kind", KINDS)
def test_nods_background_step(nods, kind, tmp_path):
    observation, files = nods[kind]
    strictly_valid(files.science)
    association = json.loads(files.association.read_text())
    n_nods = len(observation.science)
    assert len(association["products"]) == n_nods
    # The step takes the first product of an association.
    association["products"] = association["products"][1:2]
    single = tmp_path / "second_asn.json"
    single.write_text(json.dumps(association))
    with local_crds(files.cache):
        result = BackgroundStep.call(str(single))
    assert result.meta.cal_step.bkg_subtract == "COMPLETE"
    others = [
        np.asarray(nod.data, np.float64)
        for nod in observation.backgrounds_of(observation.science[1])
    ]
    assert len(others) == n_nods - 1
    if others[0].ndim == 2:
        # Too few to clip anything.
        expected = observation.science[1].data - np.mean(others, axis=0)
        known = np.isfinite(expected)
        np.testing.assert_allclose(result.data[known], expected[known], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["nirspec", "lrs-cube", "slitless"])
def test_nods_average_leaves_the_source(nods, kind, tmp_path):
    observation, files = nods[kind]
    ran = Cli()("average", files.association, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    pulls = []
    for exposure in observation.science:
        (path,) = (tmp_path / "out").glob(f"{exposure.stem}*bsub*.fits")
        with fits.open(path) as hdus:
            data, err = hdus["SCI"].data, hdus["ERR"].data
            clean = (hdus["DQ"].data == 0) & np.isfinite(data)
        for other in observation.backgrounds_of(exposure):
            clean = clean & (other.sources() < 0.02 * np.sqrt(exposure.setup.noise.var_rnoise))
            clean = clean & (other.dq == 0)
        pulls.append(((data - exposure.sources()) / err)[clean])
    pulls = np.concatenate([part.ravel() for part in pulls])
    assert pulls.size > 10_000
    assert abs(pulls.mean()) < 5 * pulls.std() / np.sqrt(pulls.size)
    assert 0.95 < pulls.std() < 1.05


def test_lrs_wavelengths(nods):
    from jwst.assign_wcs import AssignWcsStep

    _, files = nods["lrs"]
    with local_crds(files.cache):
        result = AssignWcsStep.call(str(files.science[0]))
    ra, dec, wavelength = result.meta.wcs(325.0, 202.0)
    assert wavelength == pytest.approx(10.6, abs=0.01)
    assert np.isfinite([ra, dec]).all()
