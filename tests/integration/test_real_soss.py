"""
A real SOSS frame of WASP-39 and a template of the sky made of flight data.

The template covers SUBSTRIP96, which starts 10 rows higher than the frame, of SUBSTRIP256; the
frame is cut to the rows of both. Pixels were chosen by eye in the ratio of both, where it is
lowest: below the traces, next to the left edge and to the step. Even there traces have wings.
"""

import numpy as np
import pytest

from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.soss import SossParams, soss
from webbkg.sky_reference import SkyReference

pytestmark = pytest.mark.real

WINDOW = Window(1802, 0, 96, 2048)
#: Rows and columns without a trace, left and right of the step.
FREE = (np.s_[0:16, 10:360], np.s_[0:8, 728:800])


@pytest.fixture(scope="module")
def frame(shared_data):
    data = np.load(shared_data / "soss" / "wasp39b_substrip256_medframe.npy")[10:106]
    dq = np.zeros(data.shape, np.uint32)
    dq[:, :4] = dq[:, -4:] = 1 | 1 << 31
    return MemoryHandle(data, dq=dq, window=WINDOW, name="wasp39b")


@pytest.fixture(scope="module")
def reference(shared_data):
    image = np.load(shared_data / "soss" / "model_background96.npy").astype(np.float32)
    flags = np.zeros(image.shape, np.uint32)
    return SkyReference("model_background96", image, np.zeros_like(image), flags, WINDOW, {})


@pytest.fixture(scope="module")
def result(frame, reference):
    return soss(frame, [reference])


def test_factors(result):
    left, right = result.scales
    assert 0.86 < left < 0.93
    assert 0.92 < right < 0.98
    # Wings of the traces are everywhere in this strip, so that the errors are not small.
    assert 0.003 < result.scale_errs[0] < 0.03
    assert 0.01 < result.scale_errs[1] < 0.08


def test_step(result):
    assert result.diagnostics.step_column == pytest.approx(698, abs=4)
    assert abs(result.diagnostics.step_shift) < 3.0


@pytest.mark.parametrize("place", FREE, ids=["left", "right"])
def test_pixels_without_a_trace_have_no_sky(result, frame, place):
    sky = np.median(result.background[place])
    left = np.median(result.exposure.data[place])
    before = np.median(frame.load().data[place])
    assert abs(before / sky - 1.0) < 0.05
    assert abs(left / sky) < 0.01


def test_the_step_is_gone(result):
    """The mean of the lowest rows on both sides of the step, next to it."""
    rows = slice(0, 8)
    after = result.exposure.data[rows]
    jump = np.median(after[:, 730:760]) - np.median(after[:, 640:670])
    sky = result.background[rows]
    assert abs(jump) < 0.15 * abs(np.median(sky[:, 730:760]) - np.median(sky[:, 640:670]))


def test_rule_of_the_pipeline(frame, reference):
    result = soss(frame, [reference], SossParams(rule="pipeline"))
    # Most pixels of this strip are traces: without a fainter limit, what it takes for sky is not.
    assert 0.8 < result.scales[0] < 1.2
