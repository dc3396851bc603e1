import math
from pathlib import Path

import numpy as np
import pytest

from webbkg.report.entry import unit_of
from webbkg.report.page import _number, _percent, _plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
        (0.0, "0.000"),
        (60.0, "60.00"),
        (-0.00123, "\N{MINUS SIGN}0.001230"),
        (1234.0, "1234"),
    ],
)
def test_numbers_in_tables(value, text):
    assert _number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100.0 %"), (0.99999, "> 99.9 %"), (1e-5, "< 0.1 %"), (0.0, "0.0 %"), (0.123, "12.3 %")],
)
def test_percentages_in_tables(value, text):
    assert _percent(value) == text


def test_plain_values():
    assert _plain({1: (np.int64(2), np.bool_(True), np.float32("nan"), Path("p"))}) == {
        "1": [2, True, None, "p"]
    }


@pytest.mark.parametrize(
    ("meta", "unit"),
    [({}, "DN/s"), ({"BUNIT": None}, "DN/s"), ({"BUNIT": " MJy/sr "}, "MJy/sr"),
     ({"BUNIT": "$x_1\\é"}, "x1")],
)  # fmt: skip
def test_unit_is_safe_to_draw(meta, unit):
    assert unit_of(meta) == unit
