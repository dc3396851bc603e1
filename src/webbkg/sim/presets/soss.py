"""Time series with NIRISS SOSS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.params import Params, param
from webbkg.sim.cameras import CAMERAS, Detector, Setup
from webbkg.sim.layers import Layer
from webbkg.sim.presets.common import CADENCE, Field
from webbkg.sim.readout import Stripes
from webbkg.sim.scene import Label, Observation, Scene, SimulatedExposure
from webbkg.sim.soss import (
    N_TEMPLATES,
    STEP_SHIFT,
    SossSky,
    SossSpots,
    SossTraces,
    soss_references,
)

__all__ = ["NirissSossParams", "niriss_soss"]

_TARGET = Field(1, "WASP-LIKE", 217.33, -3.44, 40.0)


@dataclass(frozen=True, kw_only=True)
class NirissSossParams(Params):
    """Parameters of the preset ``niriss-soss``."""

    table = "niriss-soss"

    n_exposures: int = param(1, "Number of exposures.", ge=1, le=1000)
    subarray: str = param("SUBSTRIP256", "Sub-array.", choices=("SUBSTRIP256", "SUBSTRIP96"))
    n_integrations: int = param(
        10, "Integrations of a 3-D product; a 2-D product if 0.", ge=0, le=1000
    )
    n_groups: int = param(9, "Groups of an integration, NISRAPID.", ge=2, le=1000)
    template: int = param(0, "Template that the sky is made of, from 0.", ge=0, le=N_TEMPLATES - 1)
    n_templates: int = param(4, "Templates in the reference file.", ge=1, le=N_TEMPLATES)
    scale_left: float = param(
        0.90, "Level of the sky left of the step, in units of the template.", ge=0, le=100
    )
    scale_right: float = param(
        0.95, "Level of the sky right of the step, in units of the template.", ge=0, le=100
    )
    step_shift: float = param(
        0.0, "Shift of the step against the template.", unit="px", ge=-STEP_SHIFT, le=STEP_SHIFT
    )
    brightness: float = param(1.0, "Flux of the target in units of WASP-39.", gt=0, le=100)
    temperature: float = param(5400.0, "Temperature of the target.", unit="K", ge=2000, le=20000)
    n_spots: int = param(
        14, "Undispersed images of other stars on SUBSTRIP256, on average.", ge=0, le=1000
    )
    n_traces: int = param(2, "Other stars whose traces cross the sub-array.", ge=0, le=50)
    contaminant: float = param(
        0.004, "Typical flux of other traces in units of WASP-39.", gt=0, le=1
    )
    stripe_rms: float = param(
        0.0, "Scatter of the 1/f stripes along columns.", unit="DN/s", ge=0, le=1e3
    )
    bad_fraction: float = param(0.004, "Fraction of permanently bad pixels.", ge=0, le=0.5)
    jump_fraction: float = param(
        0.002, "Fraction of pixels with a trace of a cosmic ray.", ge=0, le=0.5
    )
    small: bool = param(False, "Simulate SUBSTRIP96 and at most 3 integrations, for tests.")


def niriss_soss(
    params: NirissSossParams | None = None, *, seed: int = 1, **overrides: Any
) -> Observation:
    """
    Simulate time series of a star with NIRISS SOSS.

    Parameters
    ----------
    params : NirissSossParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    **overrides
        Parameters by name.

    Returns
    -------
    Observation
        The exposures, which know their truth, and a library of sky templates as reference file.

    Raises
    ------
    ParameterError
        If a value is not allowed, or the sky has a template that is not in the library.

    Notes
    -----
    An exposure is written at once, with about 27 bytes of memory per pixel and integration: 14 MB
    for each integration of SUBSTRIP256.

    Examples
    --------
    >>> observation = niriss_soss(small=True, n_integrations=2)
    >>> observation.science[0].name, observation.science[0].window.shape
    ('jw09999001001_02101_00001_nis_rateints.fits', (96, 2048))
    """
    params = (params or NirissSossParams()).changed(**overrides)
    if params.template >= params.n_templates:
        raise ParameterError(
            f"template must be below n_templates, {params.n_templates}, got {params.template}; "
            "templates are counted from 0"
        )
    camera = CAMERAS["NIS"]
    n_integrations = min(params.n_integrations, 3) if params.small else params.n_integrations
    setup = Setup(
        camera=camera,
        exp_type="NIS_SOSS",
        filter_name="CLEAR",
        pupil="GR700XD",
        readout="NISRAPID",
        n_groups=params.n_groups,
        n_integrations=n_integrations or None,
        window=camera.subarrays["SUBSTRIP96" if params.small else params.subarray][0],
    )
    detector = Detector(camera=camera, bad_fraction=params.bad_fraction, seed=seed)
    layers = (
        SossSky(
            template=params.template,
            scales=(params.scale_left, params.scale_right),
            step_shift=params.step_shift,
        ),
        SossTraces(flux=params.brightness, temperature=params.temperature),
        *_contaminants(params, seed),
    )
    pointing = _TARGET.pointing(camera)

    def expose() -> Iterator[SimulatedExposure]:
        for index in range(params.n_exposures):
            yield SimulatedExposure(
                scene=Scene((*layers, *_stripes(params, setup, (seed, 13, index)))),
                pointing=pointing,
                setup=setup,
                detector=detector,
                label=Label(
                    observation=_TARGET.observation,
                    exposure=index + 1,
                    target=_TARGET.target,
                    target_ra=_TARGET.ra,
                    target_dec=_TARGET.dec,
                    pattern="NONE",
                    start=index * CADENCE,
                ),
                seed=(seed, 12, index),
                jump_fraction=params.jump_fraction,
            )

    return Observation(
        preset="niriss-soss",
        science=tuple(expose()),
        references=soss_references(setup, params.n_templates),
    )


def _contaminants(params: NirissSossParams, seed: int) -> Iterator[Layer]:
    """Draw other stars: images of those that the dispersion leaves alone, traces of others."""
    rng = np.random.default_rng([seed, 11])
    strip: Window = CAMERAS["NIS"].subarrays["SUBSTRIP256"][0]
    n = rng.poisson(params.n_spots)
    # Images of order 0 lie right of the step: the beam is shifted by the grism.
    x, y = rng.uniform(750.0, strip.x1, n), rng.uniform(strip.y0, strip.y1, n)
    flux = 120.0 * (1.0 + rng.pareto(1.2, n).clip(max=20.0))
    if n:
        spots = zip(x.tolist(), y.tolist(), flux.tolist(), strict=True)
        yield SossSpots(spots=tuple(spots))
    for index in range(params.n_traces):
        # Rows well away from the target's own traces: the whole strip is shifted past its edges.
        side = 1.0 if index % 2 else -1.0
        shift = side * float(rng.uniform(60.0, 190.0)), float(rng.uniform(-90.0, 250.0))
        yield SossTraces(
            name=f"trace-{index + 1}",
            flux=params.contaminant * float(rng.uniform(0.4, 2.5)),
            shift=shift,
            temperature=float(rng.uniform(3300.0, 6000.0)),
        )


def _stripes(params: NirissSossParams, setup: Setup, seed: tuple[int, ...]) -> Iterator[Layer]:
    """Make the stripes of an exposure."""
    if params.stripe_rms > 0:
        yield Stripes(
            rms=params.stripe_rms,
            seed=seed,
            read_window=setup.detector_window,
            axes=setup.camera.axes,
            n_outputs=setup.n_outputs,
            n_integrations=setup.n_integrations,
        )
