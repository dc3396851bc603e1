"""The real JWST pipeline as the engine of calibration, with any set of reference files."""

from webbkg.pipeline.calwebb import detector1, image2, image3

__all__ = ["detector1", "image2", "image3"]
