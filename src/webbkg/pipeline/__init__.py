"""The real JWST pipeline as the engine of calibration, with any set of reference files."""

from webbkg.pipeline.assign import assigned_map, sky_maps
from webbkg.pipeline.calwebb import detector1, image2, image3
from webbkg.pipeline.i4i_stages import calibrate, mosaic

__all__ = ["assigned_map", "calibrate", "detector1", "image2", "image3", "mosaic", "sky_maps"]
