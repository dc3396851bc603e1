"""What a whole image-for-image job is asked to do besides the parameters of the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["STAGES", "STOPS", "JobOptions"]

#: Stages in order.
STAGES = ("seed", "mask", "merge", "subtract", "mosaic")
#: Those after which a run may stop.
STOPS = STAGES[:-1]


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """
    What a job is asked to do.

    Parameters
    ----------
    mosaic : pathlib.Path, optional
        Mosaic on which sources are looked for first.
    stage2 : bool, optional
        Calibrate and make mosaics with the pipeline; if not, corrected rates are written.
    skymatch : bool, optional
        Let the pipeline level the skies of the corrected exposures.
    inject : int, optional
        Number of sources put into a copy of the exposures to measure what becomes of their flux.
    stop_after : str, optional
        Last stage, one of `STOPS`.
    keep_intermediate : bool, optional
        Keep masked rates and the exposures calibrated without subtraction.
    overwrite : bool, optional
        Begin anew and replace products.
    """

    mosaic: Path | None = None
    stage2: bool = True
    skymatch: bool = False
    inject: int = 0
    stop_after: str | None = None
    keep_intermediate: bool = False
    overwrite: bool = False

    def reaches(self, stage: str) -> bool:
        """
        Whether a stage is part of the job.

        Parameters
        ----------
        stage : str
            One of `STAGES`.

        Returns
        -------
        bool
            Whether it is.
        """
        if stage == "mosaic" and not self.stage2:
            return False
        return self.stop_after is None or STAGES.index(stage) <= STAGES.index(self.stop_after)

    def as_dict(self) -> Mapping[str, Any]:
        """What makes products what they are, for the state of a run."""
        return {
            "mosaic": str(self.mosaic.resolve()) if self.mosaic else None,
            "stage2": self.stage2,
            "skymatch": self.skymatch,
            "inject": self.inject,
        }
