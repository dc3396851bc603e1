"""Why products of images carry neither BKGSUB nor BKGLEVEL: the real SkyMatchStep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jwst.assign_wcs import AssignWcsStep
from jwst.resample import ResampleStep
from jwst.skymatch import SkyMatchStep

from webbkg.sim import local_crds, miri_imaging, write_observation
from webbkg.steps import AverageStep

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
]


@pytest.fixture
def subtracted(tmp_path: Path) -> Iterator[list[Any]]:
    """Two overlapping exposures, background subtracted, written and read again, with a WCS."""
    observation = miri_imaging(
        n_science=2, n_background=4, shape=(64, 72), n_stars=0, n_background_stars=0
    )
    files = write_observation(observation, tmp_path)
    names = [str(path) for path in files.backgrounds]
    models = []
    with local_crds(files.cache):
        for path in files.science:
            product = tmp_path / path.name.replace("_rate", "_bsub")
            result = AverageStep().run(str(path), names)
            assert result.meta.cal_step.bkg_subtract == "COMPLETE"
            result.save(product)
            models.append(AssignWcsStep.call(str(product)))
        yield models


def _levels(models: list[Any], **options: Any) -> list[float]:
    matched = SkyMatchStep(**options).run(models)
    with matched:
        levels = []
        for index, model in enumerate(matched):
            assert model.meta.cal_step.skymatch == "COMPLETE"
            levels.append(model.meta.background.level)
            matched.shelve(model, index, modify=False)
    return levels


@pytest.mark.parametrize("subtract", [False, True])
def test_products_pass_skymatch(subtracted: list[Any], subtract: bool) -> None:
    low, high = _levels(subtracted, subtract=subtract)
    # Sky that is left in one of them is found, whatever the galaxy makes of the rest.
    subtracted[1].data += np.float32(0.5)
    low_again, high_again = _levels(subtracted, subtract=subtract)
    assert (high_again - low_again) - (high - low) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("level", "subtracted_keyword", "message"),
    [
        (60.0, True, "'subtract' step's specification is inconsistent"),
        (60.0, None, "the 'subtracted' property is undefined"),
        (None, True, "the 'level' property is undefined"),
    ],
)
def test_skymatch_would_stop_at_these_keywords(
    subtracted: list[Any], level: float | None, subtracted_keyword: bool | None, message: str
) -> None:
    subtracted[0].meta.background.level = level
    subtracted[0].meta.background.subtracted = subtracted_keyword
    with pytest.raises(ValueError, match=message):
        SkyMatchStep().run(subtracted)


def test_resample_would_subtract_a_level_that_is_not_marked_as_subtracted(
    subtracted: list[Any],
) -> None:
    before = ResampleStep().run(subtracted[0])
    subtracted[0].meta.background.level = 60.0
    subtracted[0].meta.background.subtracted = False
    after = ResampleStep().run(subtracted[0])
    assert np.nanmedian(after.data - before.data) == pytest.approx(-60.0, abs=0.01)
