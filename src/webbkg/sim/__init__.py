"""
A simulator whose exposures know their truth.

Scenes are made of layers; a `SimulatedExposure` gives them noise and defects; presets make whole
observations, and `write_observation` puts them on disk as JWST products, with the reference files
that the real pipeline needs to process them without a network.
"""

from webbkg.sim.cameras import CAMERAS, Camera, Detector, NoiseModel, Setup
from webbkg.sim.crds import local_crds
from webbkg.sim.direct_image import DirectImage
from webbkg.sim.dispersed import DispersedSources
from webbkg.sim.flat import flat_exposures
from webbkg.sim.galaxies import Galaxies, draw_galaxies
from webbkg.sim.geometry import Aperture, Pointing, tangent_plane
from webbkg.sim.grism_sky import ScatteredLight, SkyTemplate, StarGlow, grism_template
from webbkg.sim.layers import DetectorPattern, Galaxy, Layer, Sky, Source, Stars
from webbkg.sim.miri_detector import (
    EdgeGlow,
    FixedPattern,
    Gradients,
    HotPixels,
    LinePattern,
    OddEven,
    PixelPattern,
    ShortedColumns,
    TreeRings,
)
from webbkg.sim.miri_fields import FieldOffsets, FieldRegion, FocalPlane, Vignetted, through
from webbkg.sim.nebula import Nebula
from webbkg.sim.presets import PRESETS, simulate
from webbkg.sim.presets.i4i import miri_i4i
from webbkg.sim.presets.miri import miri_imaging
from webbkg.sim.presets.nircam import nircam_imaging
from webbkg.sim.presets.slits import miri_lrs, nirspec_nods
from webbkg.sim.presets.soss import niriss_soss
from webbkg.sim.presets.wfss import nircam_wfss, niriss_wfss
from webbkg.sim.readout import AlternatingColumns, Snowballs, Stripes
from webbkg.sim.scene import Label, Observation, Scene, SimulatedExposure
from webbkg.sim.slits import PrismSky, Slit, SlitSky, SlitSource, Spectrum
from webbkg.sim.soss import SossSky, SossSpots, SossTraces, sky_template
from webbkg.sim.write import ObservationFiles, write_observation

__all__ = [
    "CAMERAS",
    "PRESETS",
    "AlternatingColumns",
    "Aperture",
    "Camera",
    "Detector",
    "DetectorPattern",
    "DirectImage",
    "DispersedSources",
    "EdgeGlow",
    "FieldOffsets",
    "FieldRegion",
    "FixedPattern",
    "FocalPlane",
    "Galaxies",
    "Galaxy",
    "Gradients",
    "HotPixels",
    "Label",
    "Layer",
    "LinePattern",
    "Nebula",
    "NoiseModel",
    "Observation",
    "ObservationFiles",
    "OddEven",
    "PixelPattern",
    "Pointing",
    "PrismSky",
    "Scene",
    "ScatteredLight",
    "Setup",
    "ShortedColumns",
    "SimulatedExposure",
    "Sky",
    "SkyTemplate",
    "Slit",
    "SlitSky",
    "SlitSource",
    "SossSky",
    "SossSpots",
    "SossTraces",
    "Snowballs",
    "Source",
    "Spectrum",
    "StarGlow",
    "Stars",
    "Stripes",
    "TreeRings",
    "Vignetted",
    "draw_galaxies",
    "flat_exposures",
    "grism_template",
    "local_crds",
    "miri_i4i",
    "miri_imaging",
    "miri_lrs",
    "nircam_imaging",
    "nircam_wfss",
    "niriss_wfss",
    "nirspec_nods",
    "niriss_soss",
    "simulate",
    "sky_template",
    "tangent_plane",
    "through",
    "write_observation",
]
