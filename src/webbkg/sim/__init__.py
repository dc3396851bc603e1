"""
A simulator whose exposures know their truth.

Scenes are made of layers; a `SimulatedExposure` gives them noise and defects; presets make whole
observations, and `write_observation` puts them on disk as JWST products, with the reference files
that the real pipeline needs to process them without a network.
"""

from webbkg.sim.cameras import CAMERAS, Camera, Detector, NoiseModel, Setup
from webbkg.sim.crds import local_crds
from webbkg.sim.flat import flat_exposures
from webbkg.sim.geometry import Aperture, Pointing, tangent_plane
from webbkg.sim.layers import DetectorPattern, Galaxy, Layer, Sky, Source, Stars
from webbkg.sim.presets import PRESETS, simulate
from webbkg.sim.presets.miri import miri_imaging
from webbkg.sim.scene import Label, Observation, Scene, SimulatedExposure
from webbkg.sim.write import ObservationFiles, write_observation

__all__ = [
    "CAMERAS",
    "PRESETS",
    "Aperture",
    "Camera",
    "Detector",
    "DetectorPattern",
    "Galaxy",
    "Label",
    "Layer",
    "NoiseModel",
    "Observation",
    "ObservationFiles",
    "Pointing",
    "Scene",
    "Setup",
    "SimulatedExposure",
    "Sky",
    "Source",
    "Stars",
    "flat_exposures",
    "local_crds",
    "miri_imaging",
    "simulate",
    "tangent_plane",
    "write_observation",
]
