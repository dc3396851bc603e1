"""
NIRISS SOSS exposures whose sky is known.

A star and its neighbours cover two thirds of the sub-array. The factors left and right of the step
of the sky are compared with those it was made with, the place of the step with where it was put,
and the template chosen from a library with the one the sky was made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import Exposure, FloatArray, MaskArray, MemoryHandle
from webbkg.methods.soss import SossDiagnostics, SossParams, SossSubtraction, soss
from webbkg.sim import CAMERAS, niriss_soss, sky_template
from webbkg.sim.soss import N_TEMPLATES, STEP_SHIFT
from webbkg.sky_reference import SkyReference
from webbkg.validate.checks import Check, Options, Validation

__all__ = [
    "CONTAMINATED",
    "VALIDATION",
    "Series",
    "library",
    "measure",
    "residual_level",
    "scale_errors",
    "simulate",
]

#: Pixels are contaminated if light of sources is more than this part of the sky.
CONTAMINATED = 0.02
#: Columns on the left and on the right, away from the step, in which pixels are looked at.
_COLUMNS = (slice(4, 660), slice(740, 951))
_SIDES = ("left", "right")


@dataclass(frozen=True, eq=False, kw_only=True)
class Series:
    """
    An exposure and its truth.

    Parameters
    ----------
    before : Exposure
        The exposure as a user has it.
    sky : numpy.ndarray
        Its sky [DN/s], float32, shape ``(ny, nx)``.
    light : numpy.ndarray
        Its sources [DN/s], same shape.
    scales : tuple of float
        Level of the sky left and right of the step, in units of its template.
    template : int
        The template, from 0.
    step_shift : float
        Columns by which the step lies right of the template's.
    """

    before: Exposure
    sky: FloatArray
    light: FloatArray
    scales: tuple[float, float]
    template: int
    step_shift: float

    @property
    def handle(self) -> MemoryHandle:
        """Handle on the exposure, as the method takes it."""
        return MemoryHandle.of(self.before)

    @property
    def contaminated(self) -> MaskArray:
        """True where sources have more than 2 % of the light of the sky."""
        return self.light > CONTAMINATED * self.sky


def simulate(seed: int, **overrides: Any) -> Series:
    """
    Simulate an exposure.

    Parameters
    ----------
    seed : int
        Seed; factors, template and shift of the step depend on it too.
    **overrides
        Parameters of the preset ``niriss-soss``.

    Returns
    -------
    Series
        The exposure.
    """
    rng = np.random.default_rng([seed, 77])
    left = float(rng.uniform(0.7, 1.3))
    drawn: dict[str, Any] = {
        "template": seed % N_TEMPLATES,
        "n_templates": N_TEMPLATES,
        "scale_left": left,
        "scale_right": left * float(rng.uniform(0.95, 1.1)),
        "step_shift": float(rng.uniform(-STEP_SHIFT, STEP_SHIFT)),
    }
    chosen = drawn | overrides
    exposure = niriss_soss(seed=seed, **chosen).science[0]
    layers = exposure.layers()
    frames = exposure.observe(layers)
    light = np.sum(
        [image for name, image in layers.items() if name not in ("sky", "stripes")], axis=0
    )
    return Series(
        before=Exposure(
            frames.data, frames.err, frames.dq, exposure.window, exposure.name, exposure.meta
        ),
        sky=layers["sky"],
        light=light.astype(np.float32),
        scales=(chosen["scale_left"], chosen["scale_right"]),
        template=chosen["template"],
        step_shift=chosen["step_shift"],
    )


def library(n: int = N_TEMPLATES) -> list[SkyReference]:
    """
    Make the templates of the simulator.

    Parameters
    ----------
    n : int, optional
        How many.

    Returns
    -------
    list of SkyReference
        Templates of SUBSTRIP256.
    """
    window = CAMERAS["NIS"].subarrays["SUBSTRIP256"][0]
    zero = np.zeros(window.shape, np.float32)
    flags = np.zeros(window.shape, np.uint32)
    return [
        SkyReference(f"template {k}", sky_template(k, window), zero, flags, window, {})
        for k in range(n)
    ]


def scale_errors(series: Series, result: SossSubtraction) -> tuple[list[float], list[float]]:
    """
    Compare factors with the truth.

    Parameters
    ----------
    series : Series
        The exposure.
    result : SossSubtraction
        What was made of it.

    Returns
    -------
    errors : list of float
        Factor over the true one, minus one, left and right [%].
    pulls : list of float
        Factor minus the true one, over the error it is given.
    """
    pairs = list(zip(result.scales, series.scales, strict=True))
    errors = [100.0 * (found / true - 1.0) for found, true in pairs]
    pulls = [
        (found - true) / err for (found, true), err in zip(pairs, result.scale_errs, strict=True)
    ]
    return errors, pulls


def residual_level(series: Series, result: SossSubtraction) -> float:
    """
    Measure what is left of the sky.

    Parameters
    ----------
    series : Series
        The exposure.
    result : SossSubtraction
        What was made of it.

    Returns
    -------
    float
        Rms over pixels of true minus subtracted sky, in columns 4 to 2043 [% of the sky].
    """
    columns = slice(4, 2044)
    sky = series.sky[:, columns].astype(np.float64)
    off = (sky - result.background[:, columns]) / sky
    # The last rows of SUBSTRIP256 are reference pixels.
    return 100.0 * float(np.sqrt(np.mean(np.square(off[:-4]))))


def measure(seed: int, params: SossParams, **overrides: Any) -> dict[str, float]:
    """
    Simulate exposures and measure what the method makes of them.

    Parameters
    ----------
    seed : int
        Seed.
    params : SossParams
        Parameters of the method.
    **overrides
        Parameters of the preset ``niriss-soss``.

    Returns
    -------
    dict of float
        Figures by name.
    """
    figures: dict[str, float] = {}
    for name, n_integrations in (("one", 1), ("ten", 10)):
        series = simulate(seed, **({"n_integrations": n_integrations} | overrides))
        result = soss(series.handle, library(), params)
        errors, pulls = scale_errors(series, result)
        for side, error, pull in zip(_SIDES, errors, pulls, strict=True):
            figures[f"{side}_{name}"] = error
            figures[f"pull_{side}_{name}"] = pull
        chosen = result.used == (f"template {series.template}",)
        figures[f"chosen_{name}"] = float(chosen)
        figures[f"step_{name}"] = _shift_of(result) - series.step_shift
        figures[f"residual_{name}"] = residual_level(series, result)
        contaminated = [series.contaminated[:, columns].mean() for columns in _COLUMNS]
        figures[f"contaminated_{name}"] = 100.0 * float(np.mean(contaminated))
    return figures


def _shift_of(result: SossSubtraction) -> float:
    found = result.diagnostics
    return found.step_shift if isinstance(found, SossDiagnostics) else math.nan


def _run(seed: int, options: Options) -> Mapping[str, float]:
    """Simulate and measure once."""
    if options.level not in (None, "rate"):
        raise ParameterError(
            f"niriss-soss starts from rates, got --level {options.level}; leave it out"
        )
    # Smaller than SUBSTRIP256 there is no sky without wings of the traces.
    overrides = {"n_integrations": 1} if options.small else {}
    return measure(seed, SossParams.build(config=options.config), **overrides)


def _checks() -> Iterator[Check]:
    for name in ("one", "ten"):
        words = "one integration" if name == "one" else "ten integrations"
        for side in _SIDES:
            yield Check(
                f"{side}_{name}",
                f"Factor {side} of the step, {words}",
                unit="%",
                low=-0.5,
                high=0.5,
            )
        for side in _SIDES:
            yield Check(
                f"pull_{side}_{name}",
                f"(factor - truth) / error {side} of the step, {words}",
                high=2.0,
                over="rms",
            )
        yield Check(f"chosen_{name}", f"Template chosen rightly, {words}", low=1.0)
        yield Check(f"step_{name}", f"Place of the step, {words}", unit="px", low=-1.0, high=1.0)
        yield Check(
            f"residual_{name}", f"Rms of what is left of the sky, {words}", unit="%", high=0.6
        )


def _figures() -> Iterator[Check]:
    for name in ("one", "ten"):
        yield Check(f"contaminated_{name}", "Pixels with more than 2 % light of sources", unit="%")


#: What ``webbkg validate niriss-soss`` runs.
VALIDATION = Validation(
    name="niriss-soss",
    doc="Sky of NIRISS SOSS time series, against a known truth.",
    run=_run,
    checks=(*_checks(), *_figures()),
)
