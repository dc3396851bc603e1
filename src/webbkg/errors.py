"""
Every exception and warning of the package, and when each is raised.

A message names who (the file or exposure), what was needed, what was got, and the remedy, in
one sentence. All exceptions carry only that message, so they survive pickling.
"""

from __future__ import annotations

__all__ = [
    "FitError",
    "InputError",
    "MissingExtraError",
    "NoBackgroundPixelsError",
    "NoOverlapError",
    "NotApplicableError",
    "OutputError",
    "ParameterError",
    "ShapeError",
    "WebbkgError",
    "WebbkgWarning",
]


class WebbkgError(Exception):
    """Base of all errors this package raises on purpose."""


class ParameterError(WebbkgError, ValueError):
    """A parameter has a value that no data could make right."""


class ShapeError(WebbkgError, ValueError):
    """Arrays that belong together have shapes that do not fit."""


class InputError(WebbkgError, ValueError):
    """A file, header, association or list of inputs is not what the method needs."""


class OutputError(WebbkgError):
    """A product cannot be written where it was asked for."""


class NoBackgroundPixelsError(WebbkgError):
    """No usable background pixel is left: all flagged, masked or not finite."""


class NoOverlapError(WebbkgError):
    """Two sub-arrays share no pixel of the detector."""


class NotApplicableError(WebbkgError):
    """The method does not apply to this exposure, which is left as it is (status SKIPPED)."""


class FitError(WebbkgError):
    """The data do not determine a level, scale or template."""


class MissingExtraError(WebbkgError, ImportError):
    """An optional dependency is needed for what was asked and is not installed."""


class WebbkgWarning(UserWarning):
    """The work was done, but the user should know something about the result."""
