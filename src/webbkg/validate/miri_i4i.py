"""
MIRI images of a distant field whose background is made of the science dithers themselves.

Fields of stars and galaxies, one with a spiral galaxy, are simulated at 4, 8 and 16 dithers. Each
exposure's background is made of the others, and the results are compared with the truth; sources
put into the exposures tell what becomes of their flux.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.masks.regions import region_map
from webbkg.methods.average import average
from webbkg.methods.i4i import I4iParams
from webbkg.methods.image_for_image import ImageForImage
from webbkg.sim import Observation, miri_i4i
from webbkg.sim.presets.i4i import MiriI4iParams
from webbkg.validate.checks import Check, Options, Validation
from webbkg.validate.fields import (
    FIELDS,
    Field,
    Outcome,
    filled_error,
    galaxy_bias,
    noise_ratios,
    pull_widths,
    region_levels,
    unsubtracted,
)
from webbkg.validate.injection import measure_injected
from webbkg.validate.robust import usable_pixels

__all__ = ["FULL", "SMALL", "VALIDATION", "Size", "measure"]

#: Dithers that are too small [px].
SMALL_DITHER = 8.0
#: Cosmic rays are left out of the noise from so many sigma on.
_STRUCK = 6.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """
    How large a simulation is.

    Parameters
    ----------
    shape : tuple of int or None
        Rows and columns of the detector; None for the real one.
    n_stars : int
        Parameter of the preset that gives as many stars to the area as a full frame has.
    n_injected : int
        Sources that are injected.
    on_disk : bool
        Whether exposures are written and read back, and the pipeline's assign_wcs tells where
        they look.
    """

    shape: tuple[int, int] | None
    n_stars: int
    n_injected: int
    on_disk: bool

    def simulate(self, n: int, seed: int, *, dither: float = 60.0, **scene: Any) -> Observation:
        """
        Simulate a field.

        Parameters
        ----------
        n : int
            Number of exposures.
        seed : int
            Seed.
        dither : float, optional
            Distance of the farthest dither [px].
        **scene
            Parameters of the preset.

        Returns
        -------
        Observation
            The exposures.
        """
        # The preset makes dithers smaller on small detectors; here they are what they are.
        shrunk = 1.0 if self.shape is None else min(self.shape) / 1024.0
        return miri_i4i(
            MiriI4iParams(n_stars=self.n_stars),
            seed=seed,
            shape=self.shape,
            n_science=n,
            dither_size=dither / shrunk,
            **scene,
        )


FULL = Size(shape=None, n_stars=80, n_injected=160, on_disk=True)
SMALL = Size(shape=(384, 388), n_stars=30, n_injected=24, on_disk=False)


def _fluxes(
    field: Field, work: ImageForImage, params: I4iParams, *, n: int, seed: int, suffix: str
) -> dict[str, float]:
    """Inject sources, run again, and measure them."""
    injection = field.inject(work, n=n, seed=seed)
    with_sources = field.run(params, injection.handles(field.handles))
    paired = measure_injected(with_sources, injection, without=work)
    alone = measure_injected(with_sources, injection)
    figures = {}
    for kind in ("bright", "faint"):
        bias = paired.bias(bright=kind == "bright")
        figures[f"{kind}_{suffix}"] = bias.percent
        figures[f"{kind}_error_{suffix}"] = bias.error
        bias = alone.bias(bright=kind == "bright")
        figures[f"{kind}_alone_{suffix}"] = bias.percent
        figures[f"{kind}_alone_error_{suffix}"] = bias.error
    return figures


def _dithers(n: int, seed: int, size: Size, params: I4iParams) -> dict[str, float]:
    """Measure a field with a number of dithers."""
    observation = size.simulate(n, seed, spiral=n < 16)
    with Field.of(observation, params, on_disk=size.on_disk) as field:
        work = field.run(params)
        outcome, other = Outcome(work), Outcome(field.run_raw(params, work))
        shrunk, raw = noise_ratios(field, outcome, other)
        filled = [work.subtraction(k).diagnostics for k in range(n)]
        figures = {
            f"rms_{n}": max(shrunk),
            f"rms_raw_{n}": max(raw),
            f"over_raw_{n}": max(a / b for a, b in zip(shrunk, raw, strict=True)),
            f"filled_{n}": 100.0 * max(getattr(one, "filled_fraction", 0.0) for one in filled),
            f"filled_error_{n}": filled_error(field, outcome),
            f"holes_{n}": float(unsubtracted(field, outcome)),
            f"pulls_{n}": _furthest(pull_widths(field, outcome), 1.0),
        }
        for name, labels in FIELDS.items():
            figures[f"{name}_{n}"] = _furthest(region_levels(field, outcome, labels), 0.0)
        if n < 16:
            bias = galaxy_bias(field, outcome)
            figures[f"galaxy_{n}"], figures[f"galaxy_error_{n}"] = bias
            figures |= _fluxes(field, work, params, n=size.n_injected, seed=seed, suffix=str(n))
    return figures


def _white(seed: int, size: Size, params: I4iParams) -> dict[str, float]:
    """Measure a field whose pattern is white: there is nothing to be shrunk."""
    observation = size.simulate(4, seed, pixel_share=1.0, white_share=1.0)
    with Field.of(observation, params, on_disk=size.on_disk) as field:
        work = field.run(params)
        other = field.run_raw(params, work)
        shrunk, raw = noise_ratios(field, Outcome(work), Outcome(other))
    return {
        "rms_white": max(shrunk),
        "over_raw_white": max(a / b for a, b in zip(shrunk, raw, strict=True)),
    }


def _small_dithers(seed: int, size: Size, params: I4iParams) -> dict[str, float]:
    """Measure a field with dithers of a few pixels."""
    observation = size.simulate(4, seed, dither=SMALL_DITHER)
    with Field.of(observation, params, on_disk=size.on_disk) as field:
        work = field.run(params)
        warned = field.plan.small_dithers and any(
            "cannot separate sky from source" in text for text in field.plan.warnings
        )
        figures = _fluxes(field, work, params, n=size.n_injected, seed=seed, suffix="small")
    return figures | {"warned": float(warned)}


def _dedicated(seed: int, size: Size) -> dict[str, float]:
    """Measure what 4 dedicated backgrounds of the same detector add to the noise."""
    empty = size.simulate(5, seed, n_stars=0, n_galaxies=0, sky_drift=0.0)
    science, *backgrounds = empty.science
    exposure = science.exposure()
    result = average(science.handle(), [other.handle() for other in backgrounds]).exposure
    noise = exposure.data - science.model()
    use = usable_pixels(result) & (region_map(exposure.meta, exposure.window) == 1)
    use &= np.abs(noise) < _STRUCK * exposure.err
    return {"dedicated": float(result.data[use].std() / noise[use].std())}


def _furthest(values: Sequence[float], aim: float) -> float:
    """Value furthest from what it should be, NaN if any is NaN."""
    return max(values, key=lambda v: math.inf if math.isnan(v) else abs(v - aim))


def measure(seed: int, size: Size, params: I4iParams) -> dict[str, float]:
    """
    Simulate fields and measure what the method makes of them.

    Parameters
    ----------
    seed : int
        Seed.
    size : Size
        How large the simulations are.
    params : I4iParams
        Parameters of the method.

    Returns
    -------
    dict of float
        Figures by name.
    """
    figures: dict[str, float] = {}
    for n in (4, 8, 16):
        figures |= _dithers(n, seed, size, params)
    figures |= _white(seed, size, params) | _small_dithers(seed, size, params)
    return figures | _dedicated(seed, size)


def _run(seed: int, options: Options) -> Mapping[str, float]:
    """Simulate and measure once."""
    if options.level not in (None, "rate"):
        raise ParameterError(
            f"miri-i4i starts from rates, got --level {options.level}; leave it out"
        )
    params = I4iParams.build(config=options.config)
    return measure(seed, SMALL if options.small else FULL, params)


def _checks() -> Iterator[Check]:
    limits = {4: 1.06, 8: 1.03, 16: 1.015}
    for n, high in limits.items():
        yield Check(f"rms_{n}", f"Noise of the result over the exposure's, N={n}", high=high)
    for name in ("4", "8", "16", "white"):
        yield Check(f"over_raw_{name}", f"Noise over that with a raw template, {name}", high=1.0)
    for n in (4, 8):
        yield Check(f"bright_{n}", f"Bright sources, N={n}", unit="%", low=-0.3, high=0.3)
        yield Check(f"faint_{n}", f"Faint sources, N={n}", unit="%", low=-1.0, high=1.0)
        yield Check(f"galaxy_{n}", f"Spiral galaxy, N={n}", unit="%", low=-1.0, high=1.0)
    for n in limits:
        yield Check(f"holes_{n}", f"Pixels with their background left, N={n}", high=0.0)
        for name, what in (("lyot", "the Lyot field"), ("4qpm", "the phase masks")):
            yield Check(
                f"{name}_{n}",
                f"Level in {what}; exposure furthest off, N={n}",
                unit="std. errors",
                low=-3.0,
                high=3.0,
            )
        yield Check(f"pulls_{n}", f"Width of (result - truth) / ERR, N={n}", low=0.95, high=1.05)
    yield Check("dedicated", "Noise over the exposure's, 4 dedicated backgrounds", high=1.05)
    yield Check("warned", "Whether small dithers are warned of", low=1.0)
    for kind in ("bright", "faint"):
        yield Check(
            f"{kind}_small", f"{kind} sources, dithers of 8 px", unit="%", low=-3.0, high=3.0
        )


def _figures() -> Iterator[Check]:
    for n in (4, 8, 16):
        yield Check(f"rms_raw_{n}", f"Noise with a raw template over the exposure's, N={n}")
        yield Check(f"filled_{n}", f"Pixels whose background is filled in, N={n}", unit="%")
        yield Check(f"filled_error_{n}", f"Error of such backgrounds over the noise, N={n}")
    yield Check("rms_white", "Noise over the exposure's where the pattern is white, N=4")
    for n in (4, 8):
        yield Check(f"galaxy_error_{n}", f"Standard error of galaxy_{n}", unit="%")
    for name in ("4", "8", "small"):
        for kind in ("bright", "faint"):
            yield Check(f"{kind}_error_{name}", f"Standard error of {kind}_{name}", unit="%")
            yield Check(f"{kind}_alone_{name}", "The same as a user measures it", unit="%")
            yield Check(f"{kind}_alone_error_{name}", "Standard error of that", unit="%")


#: What ``webbkg validate miri-i4i`` runs.
VALIDATION = Validation(
    name="miri-i4i",
    doc="Backgrounds of MIRI images from their own dithers, against a known truth.",
    run=_run,
    checks=(*_checks(), *_figures()),
)
