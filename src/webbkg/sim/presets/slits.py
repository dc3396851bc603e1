"""Nodded spectra: NIRSpec fixed slits and MIRI LRS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from webbkg.params import Params, param
from webbkg.sim.cameras import CAMERAS, Detector, Setup
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import DetectorPattern, Layer
from webbkg.sim.presets.common import CADENCE, Field
from webbkg.sim.scene import Label, Observation, Scene, SimulatedExposure
from webbkg.sim.slits import PrismSky, Slit, SlitSky, SlitSource, Spectrum, lrs_references

__all__ = ["MiriLrsParams", "NirspecNodsParams", "miri_lrs", "nirspec_nods"]

_NIRSPEC_TARGET = Field(1, "FAINT-GALAXY", 53.16, -27.79, 110.0)
_MIRI_TARGET = Field(1, "WARM-DISC", 83.82, -5.39, 75.0)

#: By grating: filter, polynomial of the wavelength [micron] and throughput.
_GRATINGS: dict[str, tuple[str, tuple[float, ...], tuple[tuple[float, float], ...]]] = {
    "PRISM": (
        "CLEAR",
        (3.45, 2.33, -0.48),
        ((0.55, 0.0), (0.7, 0.35), (1.2, 0.65), (2.2, 0.9), (3.5, 1.0), (5.0, 0.85), (5.32, 0.0)),
    ),
    "G140M": ("F100LP", (1.43, 0.48), ((0.95, 0.0), (1.02, 0.6), (1.4, 1.0), (1.92, 0.8))),
    "G235M": ("F170LP", (2.41, 0.76), ((1.64, 0.0), (1.70, 0.7), (2.3, 1.0), (3.2, 0.8))),
    "G395M": ("F290LP", (4.06, 1.26), ((2.77, 0.0), (2.90, 0.7), (3.9, 1.0), (5.4, 0.7))),
}
#: Fixed slits on NRS1: name, row of the middle at the middle column, length [px], width relative
#: to S200A1.
_FIXED_SLITS = (
    ("S200A1", 1089.0, 32.0, 1.0),
    ("S200A2", 1046.0, 32.0, 1.0),
    ("S400A1", 1003.0, 36.0, 2.0),
    ("S1600A1", 958.0, 16.0, 8.0),
)
#: Distance of the nods from the middle of the slit, in units of its length, by their number.
_NODS = {2: (-0.25, 0.25), 3: (0.0, 0.3, -0.3), 5: (0.0, 0.18, -0.18, 0.34, -0.34)}

#: MIRI LRS: wavelength and throughput.
_LRS_THROUGHPUT = (
    (4.6, 0.0),
    (5.2, 0.55),
    (6.5, 0.9),
    (8.0, 1.0),
    (10.0, 0.85),
    (12.0, 0.45),
    (14.0, 0.12),
    (14.2, 0.0),
)
_LRS_WAVELENGTH = (10.6, -4.8, -1.2)
_LRS_SLIT = Slit(
    name="LRS",
    is_vertical=True,
    along=(8.0, 396.0),
    centre=(325.0, 1.2, -0.4),
    height=43.0,
    wavelength=_LRS_WAVELENGTH,
    tilt=0.02,
)
_LRS_SLITLESS = replace(
    _LRS_SLIT, name="LRS-SLITLESS", along=(537.0, 925.0), centre=(37.5, 1.2, -0.4), height=68.0
)
#: Rows and columns of the small MIRI detector, which holds the slit's spectrum.
_SMALL_MIRI = (416, 400)


@dataclass(frozen=True, kw_only=True)
class NirspecNodsParams(Params):
    """Parameters of the preset ``nirspec-nods``."""

    table = "nirspec-nods"

    n_nods: int = param(3, "Nods along the slit.", ge=2, le=5)
    grating: str = param("G235M", "Grating or prism.", choices=_GRATINGS)
    subarray: str = param("FULL", "Sub-array.", choices=("FULL", "ALLSLITS", "SUBS200A1"))
    n_groups: int = param(20, "Groups of an integration, NRSRAPID.", ge=2, le=1000)
    n_integrations: int = param(
        0, "Integrations of a 3-D product; a 2-D product if 0.", ge=0, le=1000
    )
    sky: float = param(0.4, "Level of the sky in slit S200A1.", unit="DN/s", ge=0, le=1e5)
    brightness: float = param(
        8.0, "Continuum of the target, summed across the trace.", unit="DN/s", gt=0, le=1e5
    )
    bad_fraction: float = param(0.004, "Fraction of permanently bad pixels.", ge=0, le=0.5)
    jump_fraction: float = param(
        0.002, "Fraction of pixels with a trace of a cosmic ray.", ge=0, le=0.5
    )
    small: bool = param(False, "Simulate the sub-array SUBS200A1, for tests.")


@dataclass(frozen=True, kw_only=True)
class MiriLrsParams(Params):
    """Parameters of the preset ``miri-lrs``."""

    table = "miri-lrs"

    subarray: str = param(
        "FULL",
        "Sub-array: through the slit on the whole detector, or without slit.",
        choices=("FULL", "SLITLESSPRISM"),
    )
    n_nods: int = param(2, "Nods along the slit.", ge=2, le=5)
    n_groups: int = param(60, "Groups of an integration, FASTR1.", ge=5, le=1000)
    n_integrations: int = param(
        0, "Integrations of a 3-D product; a 2-D product if 0.", ge=0, le=1000
    )
    sky: float = param(
        70.0, "Highest level of the sky without slit, seven times that in it.", unit="DN/s", ge=0
    )
    brightness: float = param(
        300.0, "Continuum of the target, summed across the trace.", unit="DN/s", gt=0, le=1e5
    )
    pattern_rms: float = param(
        0.4, "Scatter of the detector's pattern from pixel to pixel.", unit="DN/s", ge=0, le=1e5
    )
    bad_fraction: float = param(0.004, "Fraction of permanently bad pixels.", ge=0, le=0.5)
    jump_fraction: float = param(
        0.002, "Fraction of pixels with a trace of a cosmic ray.", ge=0, le=0.5
    )
    small: bool = param(
        False, "Simulate a detector of 416x400 pixels if the slit is used, for tests."
    )


def nirspec_nods(
    params: NirspecNodsParams | None = None, *, seed: int = 1, **overrides: Any
) -> Observation:
    """
    Simulate nodded spectra with NIRSpec's slit S200A1, on detector NRS1.

    Parameters
    ----------
    params : NirspecNodsParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    **overrides
        Parameters by name.

    Returns
    -------
    Observation
        One exposure for each nod, whose backgrounds are the other nods.

    Raises
    ------
    ParameterError
        If a value is not allowed.

    Examples
    --------
    >>> observation = nirspec_nods(small=True)
    >>> [nod.name for nod in observation.backgrounds_of(observation.science[0])]
    ['jw09999001001_02101_00002_nrs1_rate.fits', 'jw09999001001_02101_00003_nrs1_rate.fits']
    """
    params = (params or NirspecNodsParams()).changed(**overrides)
    camera = CAMERAS["NRS1"]
    filter_name, wavelength, throughput = _GRATINGS[params.grating]
    setup = Setup(
        camera=camera,
        exp_type="NRS_FIXEDSLIT",
        filter_name=filter_name,
        readout="NRSRAPID",
        n_groups=params.n_groups,
        n_integrations=params.n_integrations or None,
        window=camera.subarrays["SUBS200A1" if params.small else params.subarray][0],
        keywords={
            "instrument.grating": params.grating,
            "instrument.fixed_slit": "S200A1",
            "instrument.gwa_xtilt": 0.35896,
            "instrument.gwa_ytilt": 0.13438,
            "instrument.gwa_tilt": 37.05,
            "instrument.focus_position": -0.28,
        },
    )
    slits = tuple(_fixed_slit(name, params.grating, wavelength) for name, *_ in _FIXED_SLITS)
    middle = wavelength[0]
    # Zodiacal light falls towards long wavelengths, where the telescope's own light takes over.
    sky = SlitSky(
        slits=slits,
        widths=tuple(width for *_, width in _FIXED_SLITS),
        spectrum=Spectrum(
            level=params.sky,
            pivot=middle,
            slope=-0.8,
            warm=0.6 if params.grating in ("PRISM", "G395M") else 0.0,
            lines=tuple((middle * at, middle * 0.02, h) for at, h in ((0.82, 0.1), (1.13, -0.12))),
            throughput=throughput,
        ),
    )
    target = Spectrum(
        level=params.brightness,
        pivot=middle,
        slope=-1.2,
        lines=tuple((middle * at, middle * 0.001, h) for at, h in ((0.9, 6.0), (0.88, 2.0))),
        throughput=throughput,
    )

    def layers(nod: float) -> tuple[Layer, ...]:
        source = SlitSource(
            slit=slits[0], position=nod, spectrum=target, fwhm=(1.6, 0.55), name="target"
        )
        return sky, source

    nods = _nods(params.n_nods, slits[0], _NIRSPEC_TARGET, setup)
    return Observation(
        preset="nirspec-nods",
        science=tuple(_expose(nods, setup, layers, params, seed)),
        is_nodded=True,
    )


def miri_lrs(
    params: MiriLrsParams | None = None, *, seed: int = 1, **overrides: Any
) -> Observation:
    """
    Simulate nodded spectra with MIRI LRS, through the slit or without it.

    Parameters
    ----------
    params : MiriLrsParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    **overrides
        Parameters by name.

    Returns
    -------
    Observation
        One exposure for each nod, whose backgrounds are the other nods.

    Raises
    ------
    ParameterError
        If a value is not allowed.

    Examples
    --------
    >>> observation = miri_lrs(subarray="SLITLESSPRISM")
    >>> observation.science[1].name, observation.science[1].window.shape
    ('jw09999001001_02101_00002_mirimage_rate.fits', (416, 72))
    """
    params = (params or MiriLrsParams()).changed(**overrides)
    camera = CAMERAS["MIRIMAGE"]
    is_slitless = params.subarray == "SLITLESSPRISM"
    window = camera.subarrays["SLITLESSPRISM"][0] if is_slitless else None
    if params.small and not is_slitless:
        camera = camera.resized(_SMALL_MIRI)
    setup = Setup(
        camera=camera,
        exp_type="MIR_LRS-SLITLESS" if is_slitless else "MIR_LRS-FIXEDSLIT",
        filter_name="P750L",
        readout="FASTR1",
        n_groups=params.n_groups,
        n_integrations=params.n_integrations or None,
        window=window,
    )
    slit = _LRS_SLITLESS if is_slitless else _LRS_SLIT
    pattern = DetectorPattern(
        rms=params.pattern_rms,
        smooth_rms=params.pattern_rms,
        column_rms=params.pattern_rms,
        seed=seed,
        detector_shape=camera.shape,
    )
    # The sky's own spectrum: silicates, and the telescope's heat at long wavelengths.
    lines = ((9.7, 1.0, 0.25), (6.3, 0.2, -0.05))
    in_slit = Spectrum(
        level=params.sky / 7, pivot=8.0, slope=0.8, warm=4.0, lines=lines,
        throughput=_LRS_THROUGHPUT,
    )  # fmt: skip
    background: tuple[Layer, ...] = (PrismSky(level=params.sky), pattern)
    if not is_slitless:
        background = (SlitSky(slits=(slit,), spectrum=in_slit), *background)
    emission = ((11.3, 0.06, 0.8), (7.7, 0.12, 0.9), (8.6, 0.06, 0.3), (9.7, 0.9, -0.3))
    target = Spectrum(
        level=params.brightness, pivot=8.0, slope=-1.0, lines=emission, throughput=_LRS_THROUGHPUT
    )

    def layers(nod: float) -> tuple[Layer, ...]:
        source = SlitSource(
            slit=slit, position=nod, spectrum=target, fwhm=(0.8, 0.29), name="target"
        )
        return *background, source

    nods = _nods(params.n_nods, slit, _MIRI_TARGET, setup)
    return Observation(
        preset="miri-lrs",
        science=tuple(_expose(nods, setup, layers, params, seed)),
        references=lrs_references(setup, _LRS_SLIT, _LRS_SLITLESS),
        is_nodded=True,
    )


def _fixed_slit(name: str, grating: str, wavelength: tuple[float, ...]) -> Slit:
    """Lay a slit's spectrum on NRS1; those of gratings fill the detector, prism spectra do not."""
    row, height = next(row[1:3] for row in _FIXED_SLITS if row[0] == name)
    along = (1020.0, 1440.0) if grating == "PRISM" else (40.0, 2030.0)
    bend = 2.0 if grating == "PRISM" else 5.0
    return Slit(
        name=name,
        along=along,
        centre=(row, bend, -0.5 * bend),
        height=height,
        wavelength=wavelength,
        tilt=0.05,
    )


def _nods(
    number: int, slit: Slit, field: Field, setup: Setup
) -> Iterator[tuple[float, Pointing, Label]]:
    """Move a target along a slit: its place in it [px], pointing and label of each exposure."""
    pointing = field.pointing(setup.camera)
    positions = _NODS.get(number, _NODS[5][:number])
    for index, fraction in enumerate(positions):
        place = fraction * min(slit.height, 43.0)
        offset = (place, 0.0) if slit.is_vertical else (0.0, place)
        label = Label(
            observation=field.observation,
            exposure=index + 1,
            target=field.target,
            target_ra=field.ra,
            target_dec=field.dec,
            dither=index + 1,
            n_dithers=number,
            pattern=f"{number}-POINT-NOD",
            start=index * CADENCE,
        )
        yield place, pointing.dithered(*offset), label


def _expose(
    nods: Iterator[tuple[float, Pointing, Label]],
    setup: Setup,
    layers: Callable[[float], tuple[Layer, ...]],
    params: NirspecNodsParams | MiriLrsParams,
    seed: int,
) -> Iterator[SimulatedExposure]:
    detector = Detector(camera=setup.camera, bad_fraction=params.bad_fraction, seed=seed)
    for index, (nod, pointing, label) in enumerate(nods):
        yield SimulatedExposure(
            scene=Scene(layers(nod)),
            pointing=pointing,
            setup=setup,
            detector=detector,
            label=label,
            seed=(seed, 21, index),
            jump_fraction=params.jump_fraction,
        )
