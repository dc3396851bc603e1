"""Observations ready for use, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webbkg.errors import ParameterError
from webbkg.params import Params, unknown_name
from webbkg.sim.presets.i4i import MiriI4iParams, miri_i4i
from webbkg.sim.presets.miri import MiriImagingParams, miri_imaging
from webbkg.sim.presets.nircam import NircamImagingParams, nircam_imaging
from webbkg.sim.presets.slits import MiriLrsParams, NirspecNodsParams, miri_lrs, nirspec_nods
from webbkg.sim.presets.soss import NirissSossParams, niriss_soss
from webbkg.sim.presets.wfss import NircamWfssParams, NirissWfssParams, nircam_wfss, niriss_wfss
from webbkg.sim.scene import Observation

__all__ = ["PRESETS", "Preset", "preset_of", "simulate"]


@dataclass(frozen=True)
class Preset:
    """
    A kind of observation that can be simulated.

    Parameters
    ----------
    name : str
        Name.
    doc : str
        One line of description.
    params : type
        Class of its parameters, which has ``small`` for a variant for tests.
    make : callable
        Makes the observation from parameters and the keyword ``seed``.
    """

    name: str
    doc: str
    params: type[Params]
    make: Callable[..., Observation]


#: Presets by name.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "miri-imaging",
            "MIRI images of stars and a spiral galaxy, with dedicated background exposures.",
            MiriImagingParams,
            miri_imaging,
        ),
        Preset(
            "miri-i4i",
            "MIRI images of a distant field, whose background is in the science dithers alone.",
            MiriI4iParams,
            miri_i4i,
        ),
        Preset(
            "nircam-imaging",
            "NIRCam images of stars, galaxies or a nebula in both channels, with 1/f noise.",
            NircamImagingParams,
            nircam_imaging,
        ),
        Preset(
            "niriss-soss",
            "NIRISS SOSS time series: three orders, other stars, sky with its step.",
            NirissSossParams,
            niriss_soss,
        ),
        Preset(
            "niriss-wfss",
            "NIRISS grism exposures with direct image and catalogue, sky with all its structure.",
            NirissWfssParams,
            niriss_wfss,
        ),
        Preset(
            "nircam-wfss",
            "NIRCam grism exposures with direct image and catalogue, sky with all its structure.",
            NircamWfssParams,
            nircam_wfss,
        ),
        Preset(
            "nirspec-nods",
            "NIRSpec fixed-slit spectra, nodded along the slit.",
            NirspecNodsParams,
            nirspec_nods,
        ),
        Preset(
            "miri-lrs",
            "MIRI LRS spectra, nodded along the slit, or without slit.",
            MiriLrsParams,
            miri_lrs,
        ),
    )
}


def preset_of(name: str) -> Preset:
    """
    Look up a preset.

    Parameters
    ----------
    name : str
        Name.

    Returns
    -------
    Preset
        The preset.

    Raises
    ------
    ParameterError
        If there is no such preset; the message suggests the nearest name.
    """
    if name not in PRESETS:
        raise unknown_name("there is no preset", name, PRESETS)
    return PRESETS[name]


def simulate(
    name: str, *, seed: int = 1, config: Path | None = None, **overrides: Any
) -> Observation:
    """
    Simulate an observation.

    Parameters
    ----------
    name : str
        Name of the preset.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    config : pathlib.Path, optional
        TOML file with a table of the preset's name.
    **overrides
        Parameters of the preset by name.

    Returns
    -------
    Observation
        Exposures that know their truth.

    Raises
    ------
    ParameterError
        If a name or value is not allowed.
    """
    preset = preset_of(name)
    if type(seed) is not int or seed < 0:
        raise ParameterError(f"seed must be a whole number, at least 0, got {seed!r}")
    return preset.make(preset.params.build(config=config, overrides=overrides), seed=seed)
