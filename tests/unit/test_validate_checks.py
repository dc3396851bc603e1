"""Limits, verdicts and what is written about them."""

import json
import math

import pytest

from webbkg.errors import ParameterError
from webbkg.validate.checks import (
    VALIDATIONS,
    Check,
    Options,
    Validation,
    Verdict,
    json_of,
    judge,
    table_of,
    validate,
    validation_of,
)

LEVEL = Check("level", "Level.", unit="DN/s", low=-3.0, high=3.0)
RMS = Check("rms", "Rms.", low=0.95, high=1.05)
STAR = Check("star", "Star.", high=3.0)
FLUX = Check("flux", "Flux.", low=10.0)
COUNT = Check("count", "Number.")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (LEVEL, "within 3 of 0"),
        (RMS, "0.95 to 1.05"),
        (STAR, "at most 3"),
        (FLUX, "at least 10"),
        (COUNT, ""),
    ],
)
def test_limits_in_words(check, words):
    assert check.limit == words
    assert check.is_limited == bool(words)


@pytest.mark.parametrize(
    ("check", "allowed", "refused"),
    [
        (LEVEL, (-3.0, 0.0, 3.0), (-3.01, 3.01, math.nan, math.inf)),
        (RMS, (0.95, 1.05), (0.949, 1.051)),
        (STAR, (-100.0, 3.0), (3.1, math.nan, -math.inf)),
        (FLUX, (10.0, 1e9), (9.9, math.nan)),
        (COUNT, (1.0, math.nan), ()),
    ],
)
def test_what_is_allowed(check, allowed, refused):
    assert all(check.allows(value) for value in allowed)
    assert not any(check.allows(value) for value in refused)


def test_verdict_over_seeds():
    verdict = Verdict(RMS, (1.0, 1.04, 0.94))
    assert not verdict.passed
    assert verdict.mean == pytest.approx(0.99333333)
    assert verdict.scatter == pytest.approx(0.05033223)
    # Nearest to, or furthest beyond, either limit.
    assert verdict.worst == 0.94
    assert Verdict(RMS, (1.0, 1.04, 0.97)).worst == 1.04


def test_one_failing_seed_is_a_failure():
    assert Verdict(STAR, (1.0, 2.0)).passed
    assert not Verdict(STAR, (1.0, 3.5)).passed
    assert not Verdict(STAR, (1.0, math.nan)).passed


def test_seeds_may_be_judged_together():
    mean = Check("bias", "Bias.", low=-0.3, high=0.3, over="mean")
    rms = Check("bias", "Bias.", high=0.3, over="rms")
    assert (mean.limit, rms.limit) == ("within 0.3 of 0 (mean)", "at most 0.3 (rms)")
    assert Verdict(mean, (0.5, -0.5)).passed
    assert not Verdict(mean, (0.5, 0.2)).passed
    assert Verdict(rms, (0.4, 0.0)).passed
    assert not Verdict(rms, (0.5, -0.5)).passed
    assert Verdict(mean, (0.5, -0.4)).worst == 0.5
    for check in (mean, rms):
        assert not Verdict(check, (0.0, math.nan)).passed


def coin(values):
    """Make a validation whose seeds give these levels."""
    return Validation(
        name="coin",
        doc="A coin.",
        run=lambda seed, options: {"level": values[seed - 1], "count": float(options.small)},
        checks=(LEVEL, COUNT),
    )


def test_every_seed_is_run_and_told():
    told = []
    summary = validate(coin([1.0, -2.0, 0.5]), (1, 2, 3), Options(small=True), progress=told.append)
    assert told == [1, 2, 3]
    assert summary.passed
    assert [verdict.values for verdict in summary.verdicts] == [(1.0, -2.0, 0.5), (1.0, 1.0, 1.0)]
    assert summary.title == "coin, small, seeds 1 to 3"
    assert validate(coin([1.0]), [1]).title == "coin, full size, seed 1"


def test_no_seed():
    with pytest.raises(ParameterError, match=r"^coin: at least one seed is needed, got none$"):
        validate(coin([]), [])


def test_table():
    text = table_of(judge((COUNT, LEVEL, STAR), [{"level": 1.5, "count": 7, "star": 4.0}]))
    lines = text.splitlines()
    assert lines[0].split() == ["check", "mean", "scatter", "worst", "limit", "unit"]
    # What has limits comes first.
    assert lines[1].split() == ["level", "1.5", "1.5", "within", "3", "of", "0", "DN/s", "pass"]
    assert lines[2].split() == ["star", "4", "4", "at", "most", "3", "FAIL"]
    assert lines[3] == "for information"
    assert lines[4].split() == ["count", "7"]
    assert lines[5] == "1 of 2 checks passed"
    assert len(lines) == 6


def test_json_has_all_figures_and_no_nan():
    summary = validate(coin([1.0, math.nan]), (1, 2))
    content = json.loads(json_of([summary]), parse_constant=pytest.fail)
    assert content["passed"] is False
    (found,) = content["validations"]
    assert (found["name"], found["seeds"], found["small"]) == ("coin", [1, 2], False)
    level, count = found["figures"]
    assert level["values"] == [1.0, None]
    assert (level["mean"], level["scatter"], level["worst"]) == (1.0, None, None)
    assert (level["low"], level["high"], level["unit"]) == (-3.0, 3.0, "DN/s")
    assert level["passed"] is False
    assert count["passed"] is None


def test_unknown_validation():
    with pytest.raises(ParameterError) as caught:
        validation_of("miri-imagin")
    known = ", ".join(VALIDATIONS)
    assert str(caught.value) == (
        f"there is no validation 'miri-imagin' (did you mean 'miri-imaging'?); known are {known}"
    )


@pytest.mark.parametrize("name", VALIDATIONS)
def test_registered_validations(name):
    found = validation_of(name)
    assert (found.name, found.doc) == (name, VALIDATIONS[name][1])
    names = [check.name for check in found.checks]
    assert len(set(names)) == len(names)
    assert any(check.is_limited for check in found.checks)
