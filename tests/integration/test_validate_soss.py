"""``webbkg validate niriss-soss``, and what it measures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from webbkg.methods.soss import SossParams, soss
from webbkg.validate.niriss_soss import (
    VALIDATION,
    library,
    residual_level,
    scale_errors,
    simulate,
)


@pytest.fixture(scope="module")
def series():
    return simulate(2, n_integrations=1)


@pytest.fixture(scope="module")
def result(series):
    return soss(series.handle, library())


def test_truth_depends_on_the_seed(series):
    other = simulate(3, n_integrations=1)
    assert other.template != series.template
    assert other.scales != series.scales
    assert other.step_shift != series.step_shift
    assert 0.5 < series.contaminated.mean() < 0.85


def test_errors_of_factors(series, result):
    exact = replace(result, scales=series.scales)
    assert scale_errors(series, exact) == ([0.0, 0.0], [0.0, 0.0])
    off = replace(
        result,
        scales=(1.01 * series.scales[0], 0.98 * series.scales[1]),
        scale_errs=(0.01 * series.scales[0], 0.01 * series.scales[1]),
    )
    errors, pulls = scale_errors(series, off)
    assert errors == pytest.approx([1.0, -2.0])
    assert pulls == pytest.approx([1.0, -2.0])


def test_what_is_left(series, result):
    perfect = replace(result, template=replace(result.template, image=series.sky))
    assert residual_level(series, perfect) == 0.0
    brighter = replace(result.template, image=np.float32(1.02) * series.sky)
    assert residual_level(series, replace(result, template=brighter)) == pytest.approx(2.0)
    assert 0.0 < residual_level(series, result) < 0.6


def test_niriss_soss_passes(command, tmp_path):
    target = tmp_path / "figures.json"
    ran = command("validate", "niriss-soss", "--small", "--seeds", "3", "--json", target)
    assert ran.code == 0, ran.out + ran.err
    limited = [check.name for check in VALIDATION.checks if check.is_limited]
    assert f"{len(limited)} of {len(limited)} checks passed" in ran.out
    (found,) = json.loads(target.read_text(), parse_constant=pytest.fail)["validations"]
    figures = {figure["name"]: figure["mean"] for figure in found["figures"]}
    assert figures["contaminated_one"] > 50.0


def test_the_rule_of_the_pipeline_fails(cli, tmp_path):
    config, target = tmp_path / "ranks.toml", tmp_path / "figures.json"
    config.write_text('[soss]\nrule = "pipeline"\n')
    ran = cli("validate", "niriss-soss", "--small", "--config", config, "--json", target)
    assert ran.code == 1
    (found,) = json.loads(target.read_text())["validations"]
    failed = {figure["name"] for figure in found["figures"] if figure["passed"] is False}
    assert {"left_one", "right_one", "residual_one"} <= failed


def test_ramps_are_refused(cli):
    ran = cli("validate", "niriss-soss", "--level", "uncal")
    assert ran.code in (1, 2)
    assert ran.line == "webbkg: niriss-soss starts from rates, got --level uncal; leave it out"


def test_rule_of_the_pipeline_is_worse(series, result):
    ranks = soss(series.handle, library(), SossParams(rule="pipeline"))
    assert residual_level(series, ranks) > 3.0 * residual_level(series, result)
