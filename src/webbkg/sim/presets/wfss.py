"""Wide-field slitless spectroscopy with NIRISS and NIRCam."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.params import param
from webbkg.sim.cameras import CAMERAS, Detector, Setup
from webbkg.sim.direct_image import DirectImage, undistorted
from webbkg.sim.dispersed import DispersedSources
from webbkg.sim.grism_references import (
    BANDS,
    background_reference,
    blocking_filter,
    grism_of,
    grism_references,
)
from webbkg.sim.grism_sky import ScatteredLight, SkyTemplate, StarGlow, grism_template
from webbkg.sim.layers import Grid, Layer
from webbkg.sim.presets.common import Field, shrink, take
from webbkg.sim.presets.nircam_channels import subarray_of
from webbkg.sim.presets.wfss_fields import (
    WfssParams,
    draw_sources,
    ecliptic_latitude,
    margin_of,
    sky_level,
    wfss_field,
)
from webbkg.sim.readout import Stripes
from webbkg.sim.scene import Attachment, Observation, Scene, SimulatedExposure

__all__ = ["NircamWfssParams", "NirissWfssParams", "nircam_wfss", "niriss_wfss"]

#: Detectors for tests.
SMALL = {"NIRISS": (512, 512), "NIRCAM": (1024, 1024)}
#: Turn of the NIRISS filter wheel from where it should be [deg].
_WHEEL_ERROR = 0.12
#: Orders that the pipeline extracts and masks: all with more than a hundredth of the light.
_BRIGHT_ORDERS = 0.01
#: Surface brightness at which segments end, in units of the noise of one exposure.
_ISOPHOTE = 1.0
_REASONS = ("saturated star", "scattered light", "wrong level")


@dataclass(frozen=True, kw_only=True)
class NirissWfssParams(WfssParams):
    """Parameters of the preset ``niriss-wfss``."""

    table = "niriss-wfss"

    grism: str = param("GR150R", "Grism.", choices=("GR150R", "GR150C"))
    filter: str = param(
        "F150W",
        "Filter in the pupil wheel.",
        choices=("F090W", "F115W", "F140M", "F150W", "F158M", "F200W"),
    )
    small: bool = param(False, "Simulate a detector of 512x512 pixels, for tests.")


@dataclass(frozen=True, kw_only=True)
class NircamWfssParams(WfssParams):
    """Parameters of the preset ``nircam-wfss``."""

    table = "nircam-wfss"

    module: str = param("A", "Module.", choices=("A", "B"))
    grism: str = param("GRISMR", "Grism in the pupil wheel.", choices=("GRISMR", "GRISMC"))
    filter: str = param("F356W", "Filter.", choices=("F277W", "F322W2", "F356W", "F410M", "F444W"))
    subarray: str = param(
        "FULL",
        "Sub-array.",
        choices=("FULL", "SUB640", "SUBGRISM256", "SUBGRISM128", "SUBGRISM64"),
    )
    small: bool = param(False, "Simulate a detector of 1024x1024 pixels, for tests.")


def niriss_wfss(
    params: NirissWfssParams | None = None,
    *,
    seed: int = 1,
    window: Window | None = None,
    **overrides: Any,
) -> Observation:
    """
    Simulate NIRISS wide-field slitless spectroscopy.

    Parameters
    ----------
    params : NirissWfssParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    window : Window, optional
        Sub-array; the whole detector if not given.
    **overrides
        Parameters by name.

    Returns
    -------
    Observation
        The exposures, which know their truth, with direct image, segmentation map and catalogue,
        a table of the traces of each exposure and one of the exposures, and reference files.

    Raises
    ------
    ParameterError
        If a value is not allowed.

    Examples
    --------
    >>> observation = niriss_wfss(small=True, n_science=2)
    >>> observation.science[1].name, observation.science[1].setup.pupil
    ('jw09999001001_02101_00002_nis_rate.fits', 'F150W')
    """
    params = (params or NirissWfssParams()).changed(**overrides)
    camera = CAMERAS["NIS"]
    setup = Setup(
        camera=camera,
        exp_type="NIS_WFSS",
        filter_name=params.grism,
        pupil=params.filter,
        readout="NIS",
        n_groups=params.n_groups,
        fwhm=1.1,
    )
    wheel = (grism_of(setup).turned or 0.0) + _WHEEL_ERROR
    setup = replace(setup, keywords={"instrument.filter_position": wheel})
    return _observe(params, setup, seed, window, small=params.small)


def nircam_wfss(
    params: NircamWfssParams | None = None,
    *,
    seed: int = 1,
    window: Window | None = None,
    **overrides: Any,
) -> Observation:
    """
    Simulate NIRCam wide-field slitless spectroscopy.

    Parameters
    ----------
    params : NircamWfssParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    window : Window, optional
        Sub-array; the whole detector if not given.
    **overrides
        Parameters by name.

    Returns
    -------
    Observation
        As of `niriss_wfss`.

    Raises
    ------
    ParameterError
        If a value is not allowed.

    Examples
    --------
    >>> observation = nircam_wfss(small=True, n_science=1)
    >>> observation.science[0].name
    'jw09999001001_02101_00001_nrcalong_rate.fits'
    """
    params = (params or NircamWfssParams()).changed(**overrides)
    setup = Setup(
        camera=CAMERAS[f"NRC{params.module}LONG"],
        exp_type="NRC_WFSS",
        filter_name=params.filter,
        pupil=params.grism,
        readout="SHALLOW4",
        n_groups=params.n_groups,
        fwhm=1.9,
    )
    return _observe(params, setup, seed, window, small=params.small, subarray=params.subarray)


def _check(params: WfssParams) -> None:
    """Refuse values that do not go together."""
    if params.n_pointings > params.n_science or params.n_bad > params.n_science:
        raise ParameterError(
            f"n_pointings and n_bad must be at most n_science, {params.n_science}, got "
            f"{params.n_pointings} and {params.n_bad}"
        )
    if params.faintest >= params.brightest:
        raise ParameterError(
            f"faintest must be below brightest, got {params.faintest} and {params.brightest}"
        )


def _observe(
    params: WfssParams,
    setup: Setup,
    seed: int,
    window: Window | None,
    *,
    small: bool,
    subarray: str = "FULL",
) -> Observation:
    """Simulate the exposures of all fields."""
    _check(params)
    camera, shrunk = shrink(setup.camera, SMALL[setup.camera.instrument] if small else None)
    if window is None and subarray != "FULL":
        window = subarray_of(camera, subarray)
    setup = replace(setup, camera=camera, window=window)
    template = grism_template(setup, strength=params.template_strength, seed=seed)
    spoiled = _spoiled(params, seed)
    exposures: list[SimulatedExposure] = []
    attachments: list[Attachment] = []
    for number, share in enumerate(np.array_split(np.arange(params.n_science), params.n_pointings)):
        field = wfss_field(number)
        layers = draw_sources(params, setup, field, shrunk, [seed, 1, number])
        taken: list[SimulatedExposure] = []
        plan = take(field, camera, len(share), params, shrunk=shrunk, window=window)
        for index, (pointing, label) in zip(share.tolist(), plan, strict=True):
            rng = np.random.default_rng([seed, 3, index])
            level = sky_level(params, setup, field) * (1.0 + params.sky_scatter * rng.normal())
            sky = SkyTemplate(level=max(level, 0.0), template=template)
            extra = _extra(params, setup, spoiled.get(index), sky.level, rng, (seed, 5, index))
            taken.append(
                SimulatedExposure(
                    scene=Scene((sky, *extra, *layers)),
                    pointing=pointing,
                    setup=setup,
                    detector=Detector(camera=camera, bad_fraction=params.bad_fraction, seed=seed),
                    label=label,
                    seed=(seed, 4, index),
                    jump_fraction=params.jump_fraction,
                )
            )
        direct = _direct(params, setup, field, layers, shrunk, (seed, 2, number))
        attachments += direct.attachments(tuple(e.stem for e in taken))
        exposures += taken
    attachments += [
        Attachment(f"{e.stem}_traces.ecsv", None, partial(_write_traces, e)) for e in exposures
    ]
    attachments.append(
        Attachment("jw09999-o001_exposures.json", None, partial(_write_exposures, exposures))
    )
    grism = grism_of(setup)
    orders = tuple(o for o in grism.orders if grism.throughput[o] > _BRIGHT_ORDERS)
    reference = (template * _mistake(params, template.shape, seed)).astype(np.float32)
    return Observation(
        preset=str(params.table),
        science=tuple(exposures),
        attachments=tuple(attachments),
        references=(
            *grism_references(setup, orders),
            background_reference(setup, reference, max(params.reference_error, 1e-4)),
        ),
    )


def _spoiled(params: WfssParams, seed: int) -> dict[int, str]:
    """Choose exposures to spoil, and how."""
    rng = np.random.default_rng([seed, 6])
    chosen = rng.permutation(params.n_science)[: params.n_bad]
    return {int(index): _REASONS[k % len(_REASONS)] for k, index in enumerate(chosen)}


def _extra(
    params: WfssParams,
    setup: Setup,
    reason: str | None,
    sky: float,
    rng: np.random.Generator,
    seed: tuple[int, ...],
) -> Iterator[Layer]:
    """Make stripes, and what spoils an exposure."""
    camera, grism = setup.camera, grism_of(setup)
    ny, nx = camera.shape
    if params.stripe_rms > 0:
        yield Stripes(
            rms=params.stripe_rms,
            seed=seed,
            read_window=setup.detector_window,
            axes=camera.axes,
            n_outputs=setup.n_outputs,
        )
    at_y, at_x = rng.uniform(0.25, 0.75, 2) * (ny, nx)
    strength = rng.uniform(0.5, 1.0)
    if reason == "saturated star":
        low, high = BANDS[blocking_filter(setup)]
        yield StarGlow(
            x=float(at_x),
            y=float(at_y),
            level=8.0 * strength * sky,
            radius=0.06 * nx,
            axis=grism.axis,
            length=0.5 * (high - low) / grism.dispersion(1),
        )
    elif reason == "scattered light":
        yield ScatteredLight(
            level=strength * sky,
            centre=(float(at_y), float(at_x)),
            angle=float(rng.uniform(0.0, 180.0)),
            width=0.12 * ny,
        )
    elif reason is not None:
        yield ScatteredLight(level=2.0 * strength * sky, reason=reason)


def _direct(
    params: WfssParams,
    setup: Setup,
    field: Field,
    layers: tuple[DispersedSources, ...],
    shrunk: float,
    seed: tuple[int, ...],
) -> DirectImage:
    camera = setup.camera
    # Room for the roll of later visits, too.
    margin = 1.05 * margin_of(params, camera, shrunk) + 4.0
    return DirectImage(
        setup=setup,
        layers=layers,
        frame=undistorted(field.pointing(camera), camera.shape, margin),
        noise=setup.noise.sigma(sky_level(params, setup, field)),
        threshold=_ISOPHOTE,
        seed=seed,
        stem=f"jw09999-o{field.observation:03d}",
    )


def _write_traces(exposure: SimulatedExposure, path: Path) -> None:
    """Write where each order of each source falls in an exposure, and its flux."""
    from astropy.table import Table, vstack

    tables = []
    for layer in exposure.scene.layers:
        if isinstance(layer, DispersedSources):
            table = Table(layer.traces(exposure.pointing, exposure.window))
            table.add_column(layer.name, index=0, name="layer")
            tables.append(table)
    table = vstack(tables) if tables else Table()
    table.write(path, format="ascii.ecsv", overwrite=True)


def _write_exposures(exposures: list[SimulatedExposure], path: Path) -> None:
    """Write levels, and which exposures are bad and why."""
    rows = []
    for exposure in exposures:
        layers, label = exposure.scene.layers, exposure.label
        reasons = [str(vars(layer)["reason"]) for layer in layers if "reason" in vars(layer)]
        rows.append(
            {
                "exposure": exposure.name,
                "target": label.target,
                "ecliptic_latitude": ecliptic_latitude(label.target_ra, label.target_dec),
                "sky": next(layer.level for layer in layers if isinstance(layer, SkyTemplate)),
                "is_bad": bool(reasons),
                "reasons": reasons,
            }
        )
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _mistake(params: WfssParams, shape: tuple[int, int], seed: int) -> Grid:
    """Draw the factor by which the reference is wrong: waves along both axes."""
    if params.reference_error == 0:
        return np.ones(shape)
    rng = np.random.default_rng([seed, 7])
    phase = rng.uniform(0.0, 2.0 * math.pi, 2)
    y, x = (np.linspace(0.0, 2.0 * math.pi, n) for n in shape)
    waves = np.sin(2.0 * y[:, np.newaxis] + phase[0]) + np.sin(3.0 * x + phase[1])
    return np.asarray(1.0 + params.reference_error * waves)
