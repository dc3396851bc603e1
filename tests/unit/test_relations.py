import math

import pytest

from webbkg.methods.relations import mid_time


@pytest.mark.parametrize(
    ("meta", "time"),
    [
        ({"EXPMID": 60001.5, "MJD-AVG": 1.0, "EXPSTART": 2.0}, 60001.5),
        ({"MJD-AVG": 60001.25, "EXPSTART": 2.0}, 60001.25),
        ({"EXPMID": 0.0, "MJD-AVG": "none", "EXPSTART": 60001.0}, 60001.0),
        ({"EXPSTART": 60001, "EFFEXPTM": 17280.0}, 60001.1),
        ({"EXPSTART": 60001, "EFFEXPTM": -17280.0}, 60001.0),
        ({"DATE-OBS": "2023-02-25", "TIME-OBS": "06:00:00.000"}, 60000.25),
        ({"DATE-OBS": "2023-02-25", "EFFEXPTM": 8640.0}, 60000.05),
        ({"DATE-OBS": "2023-02-25T12:00:00.0", "TIME-OBS": "06:00:00.000"}, 60000.5),
    ],
    ids=str,
)
def test_middle_of_an_exposure(meta, time):
    assert mid_time(meta) == pytest.approx(time, abs=1e-9)


@pytest.mark.parametrize(
    "meta", [{}, {"DATE-OBS": "yesterday"}, {"EXPSTART": "60001"}, {"EXPSTART": 0.0}], ids=str
)
def test_middle_unknown(meta):
    assert math.isnan(mid_time(meta))
