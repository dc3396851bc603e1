"""Numbers that say how good a subtraction is: from the blank sky, or from a known truth."""

from webbkg.validate.blank_sky import BlankSkyMetrics, blank_sky, measure_blank_sky
from webbkg.validate.structure import StructureMetrics, measure_structure
from webbkg.validate.truth import TruthMetrics, measure_against_truth

__all__ = [
    "BlankSkyMetrics",
    "StructureMetrics",
    "TruthMetrics",
    "blank_sky",
    "measure_against_truth",
    "measure_blank_sky",
    "measure_structure",
]
