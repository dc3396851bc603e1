"""
NIRISS grism exposures whose sky is known.

Fields of few, many and very many sources, one with 1/f lines and one with a nebula are simulated.
The template of the sky is scaled to each, with the spectra of the catalogue masked and without any
catalogue, and the factor is compared with the truth.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import Exposure, FloatArray, MaskArray, MemoryHandle
from webbkg.io.grism_boxes import read_corners, spectra_mask_of_wcs
from webbkg.methods.wfss import WfssParams, WfssSubtraction, wfss
from webbkg.sim import Observation, SimulatedExposure, SkyTemplate, niriss_wfss
from webbkg.sim.grism_references import (
    blocking_filter,
    grism_of,
    grism_wcs,
    wavelength_range,
)
from webbkg.sky_reference import SkyReference
from webbkg.validate.checks import Check, Options, Validation
from webbkg.validate.robust import usable_pixels
from webbkg.validate.sky_profiles import sky_profile
from webbkg.validate.truth import measure_against_truth

__all__ = ["SCENES", "VALIDATION", "Frame", "frame_of", "measure", "percent_off", "structure"]

#: Parameters of the preset by scene.
SCENES: Mapping[str, Mapping[str, Any]] = {
    "60": {"n_sources": 60},
    "600": {"n_sources": 600},
    "2500": {"n_sources": 2500},
    # 1 % of the sky of the default filter.
    "lines": {"n_sources": 600, "stripe_rms": 0.0022},
    "extended": {"n_sources": 600, "extended": True},
}
#: Scenes whose factor is to be as good as its error says.
_POINTS = ("60", "600", "2500", "lines")
#: Largest error of the factor with the catalogue [%].
_LIMITS = {"60": 0.03, "600": 0.06, "2500": 0.15, "lines": 0.1}
#: A pixel with less light of spectra than this, relative to the sky, is blank.
_BLANK = 1e-3
#: Orders with less of the light are in no catalogue mask of the pipeline.
_BRIGHT_ORDERS = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """
    A grism exposure and its truth.

    Parameters
    ----------
    before : Exposure
        The exposure as a user has it, 2-D.
    template : SkyReference
        Its sky for a factor of 1, known exactly.
    factor : float
        True factor.
    light : numpy.ndarray
        Light of spectra [DN/s], float32, shape ``(ny, nx)``.
    lines : numpy.ndarray
        What the readout adds to lines [DN/s], same shape.
    catalog : numpy.ndarray
        True for the spectra of the sources of the catalogue, bool, same shape.
    """

    before: Exposure
    template: SkyReference
    factor: float
    light: FloatArray
    lines: FloatArray
    catalog: MaskArray

    @property
    def model(self) -> FloatArray:
        """The exposure without noise [DN/s], float32, shape ``(ny, nx)``."""
        sky = np.float32(self.factor) * self.template.image
        return np.asarray(sky + self.light + self.lines, np.float32)


def frame_of(observation: Observation, index: int = 0) -> Frame:
    """
    Make the pixels of a simulated exposure, and collect their truth.

    Parameters
    ----------
    observation : Observation
        Of the preset ``niriss-wfss``.
    index : int, optional
        Which science exposure.

    Returns
    -------
    Frame
        The exposure.
    """
    exposure = observation.science[index]
    layers = exposure.layers()
    frames = exposure.observe(layers)
    (sky,) = (layer for layer in exposure.scene.layers if isinstance(layer, SkyTemplate))
    window = exposure.window
    light = np.zeros(window.shape, np.float32)
    for name in set(layers) - {sky.name, "stripes"}:
        light += layers[name]
    image = (layers[sky.name] / np.float32(sky.level)).astype(np.float32)
    template = SkyReference(
        name="true sky",
        image=image,
        err=np.zeros_like(image),
        dq=np.zeros(window.shape, np.uint32),
        window=window,
        meta={},
    )
    return Frame(
        before=Exposure(
            frames.data, frames.err, frames.dq, window, exposure.name, dict(exposure.meta)
        ),
        template=template,
        factor=sky.level,
        light=light,
        lines=layers.get("stripes", np.zeros(window.shape, np.float32)),
        catalog=_catalog_mask(observation, exposure),
    )


def _catalog_mask(observation: Observation, exposure: SimulatedExposure) -> MaskArray:
    """Mask what the catalogue lists, as the pipeline does."""
    (catalog,) = (item for item in observation.attachments if item.kind == "sourcecat")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / catalog.name
        catalog.write(path)
        corners = read_corners(path)
    setup = exposure.setup
    grism, limits = grism_of(setup), wavelength_range(blocking_filter(setup))
    bright = [order for order in grism.orders if grism.throughput[order] > _BRIGHT_ORDERS]
    return spectra_mask_of_wcs(
        grism_wcs(setup, exposure.pointing),
        corners,
        dict.fromkeys(bright, limits),
        exposure.window.shape,
        dispersion_axis=2 if grism.axis else 1,
    ).mask


def percent_off(frame: Frame, found: WfssSubtraction) -> tuple[float, float]:
    """
    Compare a factor with the truth.

    Parameters
    ----------
    frame : Frame
        The exposure.
    found : WfssSubtraction
        What the method made of it.

    Returns
    -------
    tuple of float
        How far off the factor is, and its quoted error [%].
    """
    true = frame.factor
    return 100.0 * (found.scales[0] / true - 1.0), 100.0 * found.scale_errs[0] / true


def structure(frame: Frame, found: WfssSubtraction) -> float:
    """
    Measure what is left of the sky.

    Parameters
    ----------
    frame : Frame
        The exposure.
    found : WfssSubtraction
        What the method made of it.

    Returns
    -------
    float
        From the 2nd to the 98th percentile of the medians of 32 columns over blank pixels, without
        what the readout adds [% of the sky].
    """
    blank = usable_pixels(frame.before) & (frame.light < _BLANK * frame.factor)
    noise = float(np.median(frame.before.err[blank]))
    return sky_profile(
        found.exposure.data - frame.lines, blank, 1, sky=frame.factor, noise=noise
    ).structure


def measure(scene: str, frame: Frame, params: WfssParams) -> dict[str, float]:
    """
    Scale the template to an exposure, and measure what comes of it.

    Parameters
    ----------
    scene : str
        One of `SCENES`.
    frame : Frame
        The exposure.
    params : WfssParams
        Parameters of the method.

    Returns
    -------
    dict of float
        Figures by name.
    """
    handle, templates = MemoryHandle.of(frame.before), [frame.template]
    found = wfss(handle, templates, params, mask=frame.catalog)
    alone = wfss(handle, templates, params)
    figures = {
        f"structure_{scene}": structure(frame, found),
        f"used_{scene}": 100.0 * found.diagnostics.used_fraction,
        f"catalog_{scene}": 100.0 * float(frame.catalog.mean()),
        f"noise_{scene}": measure_against_truth(
            found.exposure, frame.light + frame.lines
        ).pull_width,
    }
    pipeline = replace(params, rule="pipeline")
    ruled = wfss(handle, templates, pipeline, mask=frame.catalog, least_fraction=0.0)
    figures[f"pipeline_{scene}"] = percent_off(frame, ruled)[0]
    for prefix, one in (("", found), ("alone_", alone)):
        off, err = percent_off(frame, one)
        figures |= {
            f"{prefix}bias_{scene}": off,
            f"{prefix}err_{scene}": err,
            f"{prefix}pull_{scene}": off / err,
        }
    return figures


def _run(seed: int, options: Options) -> Mapping[str, float]:
    """Simulate and measure once."""
    if options.level not in (None, "rate"):
        raise ParameterError(
            f"niriss-wfss starts from rates, got --level {options.level}; leave it out"
        )
    params = WfssParams.build(config=options.config)
    figures: dict[str, float] = {}
    for scene, overrides in SCENES.items():
        observation = niriss_wfss(seed=seed, n_science=1, small=options.small, **overrides)
        figures |= measure(scene, frame_of(observation), params)
    for prefix in ("", "alone_"):
        pulls = [figures[f"{prefix}pull_{scene}"] for scene in _POINTS]
        figures[f"{prefix}pulls"] = math.sqrt(sum(pull**2 for pull in pulls) / len(pulls))
    # Scatter of the truth's own noise aside, the pipeline's rule is not to be nearer to it.
    for scene in SCENES:
        squares = [figures[f"{kind}_{scene}"] ** 2 for kind in ("bias", "pipeline", "err")]
        figures[f"worse_{scene}"] = squares[0] - squares[1] - squares[2]
    return figures


def _checks() -> Iterator[Check]:
    for prefix, words, times in (("", "", 1), ("alone_", ", no catalogue", 2)):
        for scene, limit in _LIMITS.items():
            high = times * limit
            yield Check(
                f"{prefix}bias_{scene}",
                f"Error of the factor, {scene}{words}",
                unit="%",
                low=-high,
                high=high,
                over="mean",
            )
        yield Check(
            f"{prefix}bias_extended",
            f"Error of the factor, extended{words}",
            unit="%",
            low=-1.0,
            high=1.0,
        )
    yield Check(
        "pulls", "Rms of (factor - truth) / error over scenes", low=0.9, high=1.1, over="rms"
    )
    for scene in _POINTS:
        yield Check(
            f"structure_{scene}", f"Structure left in blank sky, {scene}", unit="%", high=0.3
        )
    for scene in SCENES:
        yield Check(
            f"worse_{scene}",
            f"Squared error minus that by the rule pipeline, {scene}",
            unit="%^2",
            high=0.0,
            over="mean",
        )
        yield Check(
            f"noise_{scene}", f"Width of (result - truth) / ERR, {scene}", low=0.97, high=1.03
        )


def _figures() -> Iterator[Check]:
    # Its strips have few blank pixels, whose noise this is.
    yield Check("structure_extended", "Structure left in blank sky, extended", unit="%")
    yield Check("alone_pulls", "Rms of (factor - truth) / error over scenes, no catalogue")
    for scene in SCENES:
        yield Check(f"pipeline_{scene}", f"Error of the factor by the rule pipeline, {scene}",
                    unit="%")  # fmt: skip
        for prefix, words in (("", ""), ("alone_", ", no catalogue")):
            yield Check(f"{prefix}err_{scene}", f"Quoted error, {scene}{words}", unit="%")
            yield Check(f"{prefix}pull_{scene}", f"(factor - truth) / error, {scene}{words}")
        yield Check(f"used_{scene}", f"Usable pixels that tell the factor, {scene}", unit="%")
        yield Check(f"catalog_{scene}", f"Pixels masked by the catalogue, {scene}", unit="%")


#: What ``webbkg validate niriss-wfss`` runs.
VALIDATION = Validation(
    name="niriss-wfss",
    doc="Sky of NIRISS grism exposures, against a known truth.",
    run=_run,
    checks=(*_checks(), *_figures()),
)
