"""
MIRI images with dedicated backgrounds, from ramps to the corrected image, against their truth.

A field of stars with a spiral galaxy and a field with few faint stars are simulated at four dithers
each. The pipeline makes rates of the ramps, the clipped mean of the second field is subtracted from
each exposure of the first, and six figures are compared with what they must be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.io.associations import read_association
from webbkg.io.files import FileHandle
from webbkg.methods.average import AverageParams, combine_backgrounds, subtract
from webbkg.sim import Observation, ObservationFiles, miri_imaging
from webbkg.sim.presets.miri import MiriImagingParams
from webbkg.sim.write import LEVELS, write_observation
from webbkg.validate.checks import Check, Options, Validation
from webbkg.validate.imaging import CHECKS, FIGURES, Outcome, Truth, measure

__all__ = ["PIPELINE_SIGMA", "VALIDATION", "calibrate", "run_pipeline", "run_webbkg", "simulate"]

#: Setting of the pipeline's step at which it is run for comparison.
PIPELINE_SIGMA = 2.0
#: The small variant has shorter ramps, and stars enough for their fluxes to tell something.
SMALL = MiriImagingParams(small=True, n_groups=25, n_stars=500)


def simulate(seed: int, *, small: bool = False) -> Observation:
    """
    Simulate the observation.

    Parameters
    ----------
    seed : int
        Seed.
    small : bool, optional
        Whether to simulate a small detector with shorter ramps.

    Returns
    -------
    Observation
        4 science and 4 background exposures.
    """
    return miri_imaging(SMALL if small else MiriImagingParams(), seed=seed)


def calibrate(
    observation: Observation, folder: Path, *, from_ramps: bool = True
) -> ObservationFiles:
    """
    Write an observation, and make rates of it with the pipeline if it is one of ramps.

    Parameters
    ----------
    observation : Observation
        The observation.
    folder : pathlib.Path
        Directory.
    from_ramps : bool, optional
        Whether to write ramps and run ``calwebb_detector1``, and not rates.

    Returns
    -------
    ObservationFiles
        Files, whose exposures are rates.
    """
    if not from_ramps:
        return write_observation(observation, folder)
    from webbkg.pipeline import detector1

    files = write_observation(observation, folder, level="uncal")
    ramps = files.science + files.backgrounds
    rates = detector1(ramps, folder, cache=files.cache)
    n_science = len(files.science)
    return replace(files, science=tuple(rates[:n_science]), backgrounds=tuple(rates[n_science:]))


def run_webbkg(association: Path, params: AverageParams) -> Outcome:
    """
    Subtract the backgrounds that an association names, with `webbkg.methods.average`.

    Parameters
    ----------
    association : pathlib.Path
        Level-2 association whose products share their backgrounds.
    params : AverageParams
        Parameters.

    Returns
    -------
    Outcome
        Corrected exposures and background.
    """
    products = read_association(association)
    science = [FileHandle(product.science) for product in products]
    backgrounds = [FileHandle(path) for path in products[0].backgrounds]
    combined = combine_backgrounds(science[0].window, backgrounds, params, name=science[0].name)
    return Outcome(
        corrected=tuple(subtract(item, combined, params).exposure for item in science),
        background=combined.template.image,
        background_err=combined.template.err,
    )


def run_pipeline(association: Path, folder: Path, *, cache: Path, sigma: float) -> Outcome:
    """
    Subtract the backgrounds that an association names, with ``calwebb_image2`` of jwst.

    Parameters
    ----------
    association : pathlib.Path
        Level-2 association whose products share their backgrounds.
    folder : pathlib.Path
        Directory for the products.
    cache : pathlib.Path
        Directory of the reference files.
    sigma : float
        Clipping limit of its background step, the only step that is run.

    Returns
    -------
    Outcome
        Corrected exposures and background.
    """
    from webbkg.pipeline import image2

    steps: dict[str, dict[str, Any]] = {
        name: {"skip": True} for name in ("assign_wcs", "flat_field", "photom", "resample")
    }
    steps["bkg_subtract"] = {"sigma": sigma, "save_results": True}
    image2(association, folder, cache, steps=steps)
    products = read_association(association)
    corrected = [FileHandle(folder / f"{item.name}_bsub.fits").load() for item in products]
    backgrounds = [FileHandle(path).load() for path in products[0].backgrounds]
    # The step's file of the background lacks the keywords that tell its place on the detector.
    variance = np.sum([np.square(item.err, dtype=np.float64) for item in backgrounds], axis=0)
    return Outcome(
        corrected=tuple(corrected),
        background=FileHandle(products[0].science).load().data - corrected[0].data,
        background_err=np.sqrt(variance, dtype=np.float32) / len(backgrounds),
    )


def _run(seed: int, options: Options) -> Mapping[str, float]:
    """Simulate, calibrate, subtract and measure once."""
    level = options.level or "uncal"
    if level not in LEVELS:
        raise ParameterError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    params = AverageParams.build(config=options.config)
    observation = simulate(seed, small=options.small)
    with tempfile.TemporaryDirectory(prefix="webbkg-") as name:
        folder = Path(name)
        files = calibrate(observation, folder, from_ramps=level == "uncal")
        truth = Truth.of(observation, files.science, files.backgrounds, from_ramps=level == "uncal")
        figures = measure(truth, run_webbkg(files.association, params))
        theirs = run_pipeline(
            files.association, folder / "jwst", cache=files.cache, sigma=PIPELINE_SIGMA
        )
        ours = AverageParams.build(preset="pipeline", overrides={"sigma": PIPELINE_SIGMA})
        same = run_webbkg(files.association, ours)
    figures |= {f"jwst_{key}": value for key, value in measure(truth, theirs).items()}
    figures["preset_difference"] = max(
        float(np.nanmax(np.abs(a.data - b.data)))
        for a, b in zip(same.corrected, theirs.corrected, strict=True)
    )
    return figures


#: What ``webbkg validate miri-imaging`` runs.
VALIDATION = Validation(
    name="miri-imaging",
    doc="Dedicated backgrounds of MIRI images, from ramps, against a known truth.",
    run=_run,
    checks=(
        *CHECKS,
        *FIGURES,
        *(
            Check(f"jwst_{item.name}", f"{item.doc}, jwst at sigma 2", unit=item.unit)
            for item in CHECKS
        ),
        Check(
            "preset_difference",
            "Largest difference between jwst at sigma 2 and --preset pipeline",
            unit="DN/s",
        ),
    ),
)
