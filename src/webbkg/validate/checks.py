"""Validations: a method run on simulated observations, and limits on the figures it must reach."""

from __future__ import annotations

import importlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import webbkg
from webbkg.errors import ParameterError
from webbkg.params import unknown_name

__all__ = [
    "VALIDATIONS",
    "Check",
    "Options",
    "Summary",
    "Validation",
    "Verdict",
    "json_of",
    "judge",
    "table_of",
    "validate",
    "validation_of",
]

#: Module and one line of description of each validation; the module's ``VALIDATION`` is imported
#: when it is run.
VALIDATIONS = {
    "miri-imaging": (
        "webbkg.validate.miri_imaging",
        "Dedicated backgrounds of MIRI images, from ramps, against a known truth.",
    ),
    "miri-i4i": (
        "webbkg.validate.miri_i4i",
        "Backgrounds of MIRI images from their own dithers, against a known truth.",
    ),
    "nircam-destripe": (
        "webbkg.validate.nircam_destripe",
        "Stripes of NIRCam images, against a known truth.",
    ),
    "niriss-wfss": (
        "webbkg.validate.niriss_wfss",
        "Sky of NIRISS grism exposures, against a known truth.",
    ),
    "niriss-soss": (
        "webbkg.validate.niriss_soss",
        "Sky of NIRISS SOSS time series, against a known truth.",
    ),
}


@dataclass(frozen=True)
class Check:
    """
    A figure with its limits; without any it is information and cannot fail.

    Parameters
    ----------
    name : str
        Name of the figure.
    doc : str
        What it is, in one line.
    unit : str, optional
        Unit, empty if it has none.
    low, high : float or None, optional
        Smallest and largest value allowed, both included.
    over : str, optional
        What must keep to the limits: ``each`` seed's value, or the ``mean`` or ``rms`` over seeds,
        for figures whose scatter from seed to seed is no fault.
    """

    name: str
    doc: str
    _: KW_ONLY
    unit: str = ""
    low: float | None = None
    high: float | None = None
    over: str = "each"

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.low is not None or self.high is not None

    @property
    def limit(self) -> str:
        """The limits in words."""
        which = "" if self.over == "each" else f" ({self.over})"
        if self.low is None or self.high is None:
            bounds = {"at least": self.low, "at most": self.high}
            return "".join(f"{word} {v:g}{which}" for word, v in bounds.items() if v is not None)
        if self.low == -self.high:
            return f"within {self.high:g} of 0{which}"
        return f"{self.low:g} to {self.high:g}{which}"

    def allows(self, value: float) -> bool:
        """
        Tell whether a value is inside the limits.

        Parameters
        ----------
        value : float
            Value; what is not finite is outside, unless there is no limit.

        Returns
        -------
        bool
            Whether it is.
        """
        return not self.is_limited or (math.isfinite(value) and self.excess(value) <= 0.0)

    def excess(self, value: float) -> float:
        """
        Tell how far a value is beyond the limits.

        Parameters
        ----------
        value : float
            Finite value.

        Returns
        -------
        float
            Distance to the nearer limit, negative inside; minus the absolute value if there is
            no limit.
        """
        above = value - self.high if self.high is not None else -math.inf
        below = self.low - value if self.low is not None else -math.inf
        return max(above, below)


@dataclass(frozen=True, kw_only=True)
class Options:
    """
    How a validation is run.

    Parameters
    ----------
    small : bool, optional
        Use small detectors.
    level : str or None, optional
        Level at which the simulation is written; what the validation thinks best if not given.
    config : pathlib.Path or None, optional
        TOML file with parameters of the method, in place of its defaults.
    """

    small: bool = False
    level: str | None = None
    config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Validation:
    """
    A method, simulated observations to run it on, and what it must reach.

    Parameters
    ----------
    name : str
        Name.
    doc : str
        One line of description.
    run : callable
        Takes a seed and `Options`, simulates and measures once, and returns figures by name.
    checks : tuple of Check
        The figures with their limits, in the order in which they are shown.
    """

    name: str
    doc: str
    run: Callable[[int, Options], Mapping[str, float]]
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Verdict:
    """
    A check and the values that several seeds gave.

    Parameters
    ----------
    check : Check
        The check.
    values : tuple of float
        One value per seed.
    """

    check: Check
    values: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether the value of every seed is allowed, or what they are together."""
        if self.check.over == "each":
            return all(self.check.allows(value) for value in self.values)
        return self.check.allows(self.together)

    @property
    def together(self) -> float:
        """Mean or rms over the seeds, as the check asks for; NaN if a value is not finite."""
        if len(self.finite) < len(self.values):
            return math.nan
        if self.check.over == "rms":
            return math.sqrt(statistics.fmean(value**2 for value in self.values))
        return self.mean

    @property
    def finite(self) -> tuple[float, ...]:
        """Values that are finite."""
        return tuple(value for value in self.values if math.isfinite(value))

    @property
    def mean(self) -> float:
        """Mean over the seeds whose value is finite; NaN for none."""
        return statistics.fmean(self.finite) if self.finite else math.nan

    @property
    def scatter(self) -> float:
        """Sample standard deviation over the seeds; NaN for fewer than two."""
        return statistics.stdev(self.finite) if len(self.finite) > 1 else math.nan

    @property
    def worst(self) -> float:
        """Value that is furthest beyond the limits, or nearest to them; NaN if one is NaN."""
        if len(self.finite) < len(self.values) or not self.check.is_limited:
            return math.nan
        return max(self.finite, key=self.check.excess)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """
    What a validation found.

    Parameters
    ----------
    validation : Validation
        The validation.
    options : Options
        How it was run.
    seeds : tuple of int
        Seeds.
    verdicts : tuple of Verdict
        One for each check.
    """

    validation: Validation
    options: Options = field(default_factory=Options)
    seeds: tuple[int, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def title(self) -> str:
        """Name, size and seeds in words."""
        seeds = self.seeds
        size = "small" if self.options.small else "full size"
        span = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
        return f"{self.validation.name}, {size}, {span}"


def validation_of(name: str) -> Validation:
    """
    Look up a validation.

    Parameters
    ----------
    name : str
        Name.

    Returns
    -------
    Validation
        The validation.

    Raises
    ------
    ParameterError
        If there is no such validation; the message suggests the nearest name.
    """
    if name not in VALIDATIONS:
        raise unknown_name("there is no validation", name, VALIDATIONS)
    found: Validation = importlib.import_module(VALIDATIONS[name][0]).VALIDATION
    return found


def validate(
    validation: Validation,
    seeds: Iterable[int],
    options: Options | None = None,
    *,
    progress: Callable[[int], object] = abs,
) -> Summary:
    """
    Run a validation over seeds and judge its figures.

    Parameters
    ----------
    validation : Validation
        The validation.
    seeds : iterable of int
        Seeds of the simulations.
    options : Options, optional
        How it is run.
    progress : callable, optional
        Called with each seed when it is done.

    Returns
    -------
    Summary
        Values and verdicts.

    Raises
    ------
    ParameterError
        If there is no seed.

    Examples
    --------
    >>> tossing = Validation(
    ...     name="coin",
    ...     doc="A coin.",
    ...     run=lambda seed, options: {"heads": seed % 2},
    ...     checks=(Check("heads", "Heads.", high=1),),
    ... )
    >>> summary = validate(tossing, range(1, 5))
    >>> summary.passed, summary.verdicts[0].mean
    (True, 0.5)
    """
    options = options or Options()
    done: list[Mapping[str, float]] = []
    used: list[int] = []
    for seed in seeds:
        done.append(validation.run(seed, options))
        used.append(seed)
        progress(seed)
    if not used:
        raise ParameterError(f"{validation.name}: at least one seed is needed, got none")
    verdicts = judge(validation.checks, done)
    return Summary(validation=validation, options=options, seeds=tuple(used), verdicts=verdicts)


def judge(checks: Iterable[Check], figures: Sequence[Mapping[str, float]]) -> tuple[Verdict, ...]:
    """
    Compare figures with limits.

    Parameters
    ----------
    checks : iterable of Check
        Checks.
    figures : sequence of mapping
        Figures by name, one mapping per seed.

    Returns
    -------
    tuple of Verdict
        One for each check.

    Examples
    --------
    >>> verdict, = judge([Check("level", "Level.", low=-3, high=3)], [{"level": 2.0}])
    >>> verdict.passed
    True
    """
    return tuple(
        Verdict(check, tuple(float(found[check.name]) for found in figures)) for check in checks
    )


def table_of(verdicts: Iterable[Verdict]) -> str:
    """
    Write verdicts as text.

    Parameters
    ----------
    verdicts : iterable of Verdict
        Verdicts.

    Returns
    -------
    str
        A line for each, those with limits first: mean and scatter over the seeds, the value
        furthest beyond the limits, limit, unit and verdict.
    """
    verdicts = list(verdicts)
    limited = [verdict for verdict in verdicts if verdict.check.is_limited]
    others = [verdict for verdict in verdicts if not verdict.check.is_limited]
    rows: list[tuple[str, ...]] = [("check", "mean", "scatter", "worst", "limit", "unit", "")]
    rows += [_row(verdict, "pass" if verdict.passed else "FAIL") for verdict in limited]
    if others:
        rows.append(("for information",) + 6 * ("",))
        rows += [_row(verdict, "") for verdict in others]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < k < 4 else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    n_passed = sum(verdict.passed for verdict in limited)
    lines.append(f"{n_passed} of {len(limited)} checks passed")
    return "\n".join(lines)


def json_of(summaries: Sequence[Summary]) -> str:
    """
    Write all figures of all seeds as JSON.

    Parameters
    ----------
    summaries : sequence of Summary
        What validations found.

    Returns
    -------
    str
        JSON text, in which numbers that are not finite are null.
    """
    content = {
        "webbkg": webbkg.__version__,
        "passed": all(summary.passed for summary in summaries),
        "validations": [_as_dict(summary) for summary in summaries],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _row(verdict: Verdict, word: str) -> tuple[str, ...]:
    check = verdict.check
    numbers = (verdict.mean, verdict.scatter, verdict.worst)
    cells = ["" if math.isnan(number) else f"{number:.4g}" for number in numbers]
    cells[0] = cells[0] or "nan"
    return (check.name, *cells, check.limit, check.unit, word)


def _as_dict(summary: Summary) -> dict[str, Any]:
    return {
        "name": summary.validation.name,
        "doc": summary.validation.doc,
        "small": summary.options.small,
        "seeds": list(summary.seeds),
        "passed": summary.passed,
        "figures": [
            {
                "name": verdict.check.name,
                "doc": verdict.check.doc,
                "unit": verdict.check.unit,
                "low": verdict.check.low,
                "high": verdict.check.high,
                "over": verdict.check.over,
                "values": [_number(value) for value in verdict.values],
                "mean": _number(verdict.mean),
                "scatter": _number(verdict.scatter),
                "worst": _number(verdict.worst),
                "passed": verdict.passed if verdict.check.is_limited else None,
            }
            for verdict in summary.verdicts
        ],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
