"""
A simulator whose exposures know their truth.

Scenes are made of layers; `observe` gives them noise and defects; `miri_imaging` makes a whole
observation, and `write_observation` puts it on disk as JWST products.
"""

from webbkg.sim.layers import DetectorPattern, Galaxy, Layer, Pointing, Sky, Source, Stars
from webbkg.sim.presets import flat_exposures, miri_imaging
from webbkg.sim.scene import (
    Detector,
    NoiseModel,
    Observation,
    Scene,
    SimulatedExposure,
    observe,
)
from webbkg.sim.write import ObservationFiles, write_observation

__all__ = [
    "Detector",
    "DetectorPattern",
    "Galaxy",
    "Layer",
    "NoiseModel",
    "Observation",
    "ObservationFiles",
    "Pointing",
    "Scene",
    "SimulatedExposure",
    "Sky",
    "Source",
    "Stars",
    "flat_exposures",
    "miri_imaging",
    "observe",
    "write_observation",
]
