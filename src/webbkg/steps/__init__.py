"""
Steps of the JWST pipeline, thin around the methods.

The pipeline takes seconds to import; it is when a step is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webbkg.steps.average_step import AverageStep
    from webbkg.steps.background_step import BackgroundStep
    from webbkg.steps.destripe_step import DestripeStep, destripe_hook
    from webbkg.steps.soss_step import SossStep
    from webbkg.steps.wfss_step import WfssStep

__all__ = [
    "AverageStep",
    "BackgroundStep",
    "DestripeStep",
    "SossStep",
    "WfssStep",
    "destripe_hook",
]

_HOMES = {
    "AverageStep": "webbkg.steps.average_step",
    "BackgroundStep": "webbkg.steps.background_step",
    "DestripeStep": "webbkg.steps.destripe_step",
    "SossStep": "webbkg.steps.soss_step",
    "WfssStep": "webbkg.steps.wfss_step",
    "destripe_hook": "webbkg.steps.destripe_step",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'webbkg.steps' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
