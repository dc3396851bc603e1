"""
Background subtraction for JWST images and spectra.

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from webbkg._version import __version__

if TYPE_CHECKING:
    from webbkg.api import average, destripe, i4i
    from webbkg.api_sky import soss, wfss
    from webbkg.errors import WebbkgError, WebbkgWarning
    from webbkg.exposure import Exposure, ExposureHandle, MemoryHandle, Window
    from webbkg.methods.average import AverageParams
    from webbkg.methods.destripe import Destriped, DestripeParams
    from webbkg.methods.i4i import I4iParams
    from webbkg.methods.soss import SossParams, SossSubtraction
    from webbkg.methods.wfss import WfssParams, WfssSubtraction
    from webbkg.results import Subtraction
    from webbkg.sky_reference import SkyReference
    from webbkg.template import Template

__all__ = [
    "AverageParams",
    "DestripeParams",
    "Destriped",
    "Exposure",
    "ExposureHandle",
    "I4iParams",
    "MemoryHandle",
    "SkyReference",
    "SossParams",
    "SossSubtraction",
    "Subtraction",
    "Template",
    "WebbkgError",
    "WebbkgWarning",
    "WfssParams",
    "WfssSubtraction",
    "Window",
    "__version__",
    "average",
    "destripe",
    "i4i",
    "soss",
    "wfss",
]

_HOMES = {
    "AverageParams": "webbkg.methods.average",
    "DestripeParams": "webbkg.methods.destripe",
    "Destriped": "webbkg.methods.destripe",
    "Exposure": "webbkg.exposure",
    "ExposureHandle": "webbkg.exposure",
    "I4iParams": "webbkg.methods.i4i",
    "MemoryHandle": "webbkg.exposure",
    "SkyReference": "webbkg.sky_reference",
    "SossParams": "webbkg.methods.soss",
    "SossSubtraction": "webbkg.methods.soss",
    "Subtraction": "webbkg.results",
    "Template": "webbkg.template",
    "WebbkgError": "webbkg.errors",
    "WebbkgWarning": "webbkg.errors",
    "WfssParams": "webbkg.methods.wfss",
    "WfssSubtraction": "webbkg.methods.wfss",
    "Window": "webbkg.exposure",
    "average": "webbkg.api",
    "destripe": "webbkg.api",
    "i4i": "webbkg.api",
    "soss": "webbkg.api_sky",
    "wfss": "webbkg.api_sky",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'webbkg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
