"""``webbkg validate niriss-wfss``, and what it measures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from webbkg.errors import ParameterError
from webbkg.exposure import MemoryHandle
from webbkg.methods.wfss import WfssParams, wfss
from webbkg.sim import niriss_wfss
from webbkg.validate.checks import Options, table_of, validation_of
from webbkg.validate.checks import judge as judge_figures
from webbkg.validate.niriss_wfss import (
    SCENES,
    VALIDATION,
    frame_of,
    measure,
    percent_off,
    structure,
)


@pytest.fixture(scope="module")
def frame():
    return frame_of(niriss_wfss(small=True, n_science=1, n_sources=600, stripe_rms=0.0022))


def test_truth_adds_up(frame):
    good = frame.before.dq == 0
    pulls = ((frame.before.data - frame.model) / frame.before.err)[good]
    assert pulls.mean() == pytest.approx(0.0, abs=0.01)
    assert pulls.std() == pytest.approx(1.0, abs=0.01)
    assert frame.catalog[frame.light > 0.3].mean() > 0.9
    assert 0.02 < frame.catalog.mean() < 0.8


def test_what_is_known_is_measured(frame):
    handle = MemoryHandle.of(frame.before)
    right = wfss(handle, [frame.template], scales=((1.02 * frame.factor,), (0.01 * frame.factor,)))
    assert percent_off(frame, right) == pytest.approx((2.0, 1.0))
    assert structure(frame, right) < 1.5
    tilted = frame.template.image * np.linspace(0.9, 1.1, 512, dtype=np.float32)
    wrong = replace(frame.template, image=tilted)
    bad = wfss(handle, [wrong], scales=((frame.factor,), (0.0,)))
    assert structure(frame, bad) > 10.0


def test_all_figures_are_there(frame):
    figures = {}
    for scene in SCENES:
        figures |= measure(scene, frame, WfssParams())
    named = {check.name for check in VALIDATION.checks}
    assert set(figures) <= named
    missing = named - set(figures)
    assert missing == {"pulls", "alone_pulls"} | {f"worse_{scene}" for scene in SCENES}
    assert abs(figures["bias_600"]) < 5 * figures["err_600"]
    figures |= dict.fromkeys(missing, 0.0)
    assert "bias_600" in table_of(judge_figures(VALIDATION.checks, [figures]))


def test_it_starts_from_rates():
    assert validation_of("niriss-wfss") is VALIDATION
    with pytest.raises(ParameterError, match="starts from rates, got --level uncal"):
        VALIDATION.run(1, Options(level="uncal"))


@pytest.mark.slow
def test_command(command, tmp_path):
    file = tmp_path / "figures.json"
    ran = command("validate", "niriss-wfss", "--small", "--json", file)
    assert "bias_2500" in ran.out
    (found,) = json.loads(file.read_text())["validations"]
    values = {figure["name"]: figure["values"][0] for figure in found["figures"]}
    assert abs(values["bias_60"]) < 0.2
    assert abs(values["bias_extended"]) < 1.0
