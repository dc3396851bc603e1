"""Lines and amplifiers of a window."""

import numpy as np
import pytest

from webbkg.errors import InputError
from webbkg.exposure import Window
from webbkg.methods.readout import Readout


def test_four_outputs_share_a_row():
    readout = Readout.of(
        {"FASTAXIS": -1, "NOUTPUTS": 4, "INSTRUME": "NIRCAM"}, Window(0, 0, 3, 8), "a.fits"
    )
    assert readout.bounds == (0, 2, 4, 6, 8)
    levels = np.arange(12, dtype=np.float32).reshape(3, 4)
    image = readout.spread(levels)
    assert image.shape == (3, 8)
    assert image[1].tolist() == [4, 4, 5, 5, 6, 6, 7, 7]


def test_lines_are_columns_where_the_fast_axis_is_vertical():
    readout = Readout.of(
        {"FASTAXIS": 2, "NOUTPUTS": 4, "INSTRUME": "NIRISS"}, Window(0, 0, 8, 3), "a.fits"
    )
    assert not readout.horizontal
    image = np.arange(24, dtype=np.float32).reshape(8, 3)
    lines = readout.lines(image)
    assert lines.shape == (3, 8)
    np.testing.assert_array_equal(readout.lines(lines), image)
    assert readout.spread(np.zeros((3, 4), np.float32)).shape == (8, 3)


def test_outputs_of_miri_take_turns():
    meta = {"FASTAXIS": 1, "NOUTPUTS": 4, "INSTRUME": "MIRI"}
    assert Readout.of(meta, Window(0, 0, 4, 10), "a.fits").n_amplifiers == 1


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "a.fits: needs FASTAXIS of 1, 2, -1 or -2 .* got None"),
        ({"FASTAXIS": 3}, "got 3"),
        ({"FASTAXIS": 1, "NOUTPUTS": 3}, "3 outputs .* cannot share 8 pixels"),
    ],
)
def test_headers_that_tell_nothing(meta, message):
    with pytest.raises(InputError, match=message):
        Readout.of(meta, Window(0, 0, 4, 8), "a.fits")
