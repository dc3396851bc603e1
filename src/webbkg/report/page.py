"""The report: ``webbkg-report.html`` for people, ``metrics.json`` for programs."""

from __future__ import annotations

import base64
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np

from webbkg.io.atomic import replacing
from webbkg.report.entry import ReportEntry
from webbkg.report.figures import FIGURE_NOTES

__all__ = ["METRICS_NAME", "REPORT_NAME", "write_report"]

REPORT_NAME = "webbkg-report.html"
METRICS_NAME = "metrics.json"

_NO_NUMBER = "\N{EN DASH}"


def write_report(
    directory: Path,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    parameters: Mapping[str, Any],
    command: str,
    overwrite: bool,
) -> Path:
    """
    Write ``webbkg-report.html`` and ``metrics.json``.

    Parameters
    ----------
    directory : pathlib.Path
        Existing directory, that of the products, so that links to them work.
    entries : sequence of ReportEntry
        One for each exposure, in the order of the table.
    title : str
        Heading of the page.
    parameters : mapping
        Parameters of the method by name.
    command : str
        What was run.
    overwrite : bool
        Whether files of these names may be replaced.

    Returns
    -------
    pathlib.Path
        The HTML file. It needs no other file and no network.

    Raises
    ------
    OutputError
        If a file exists and may not be replaced, or cannot be written.

    Notes
    -----
    ``metrics.json`` is strict JSON; a number that could not be measured is ``null``. Its keys:

    - ``webbkg`` version, ``created`` (UTC, ISO 8601), ``command``, ``parameters`` (by name);
    - ``exposures``, a list with ``name``, ``status`` (``COMPLETE``, ``SKIPPED``, ``FAILED``),
      ``products`` (file by label), ``warnings`` (sentences), ``error`` (empty if complete) and
      ``metrics``, which is empty unless complete, else has

      - ``unit``, ``window`` (``y0 x0 ny nx``, 0-based), ``n_integrations`` (null for 2-D) and
        ``integration_shown`` (0-based, null for 2-D), the one that was measured;
      - ``backgrounds`` (names) and what the method noticed: ``n_backgrounds``, ``clip_rule``,
        ``n_used_mean``, ``clipped_fraction``, ``disputed_fraction``, ``coverage``, ``level``,
        ``noise_factors``, ``level_offsets``, ``pattern_rms``;
      - the blank sky: ``level_before``, ``level_after``, ``level_after_error``,
        ``noise_before``, ``noise_after``, ``noise_expected``, ``blank_fraction``,
        ``n_pixels``, and ``noise_ratio`` (after over expected);
      - ``structure_left`` and ``structure_left_error``, the part of the structure of the
        background that the result still has (null if it is too even);
      - ``verdict`` (``clean`` or ``look``) and ``verdict_reasons``.
    """
    content = {"exposures": [record(entry) for entry in entries]}
    return write_page(
        directory,
        "report.html",
        content,
        {
            "entries": entries,
            "counts": count_verdicts(entries),
            "notes": FIGURE_NOTES,
        },
        title=title,
        parameters=parameters,
        command=command,
        overwrite=overwrite,
    )


def write_page(
    directory: Path,
    template: str,
    content: Mapping[str, Any],
    shown: Mapping[str, Any],
    *,
    title: str,
    parameters: Mapping[str, Any],
    command: str,
    overwrite: bool,
) -> Path:
    """
    Write a page and its ``metrics.json``.

    Parameters
    ----------
    directory : pathlib.Path
        Existing directory.
    template : str
        Name of the page's template.
    content : mapping
        What ``metrics.json`` holds after version, time, command and parameters.
    shown : mapping
        What the template needs but for these.
    title : str
        Heading of the page.
    parameters : mapping
        Parameters of the method by name.
    command : str
        What was run.
    overwrite : bool
        Whether files of these names may be replaced.

    Returns
    -------
    pathlib.Path
        The HTML file.

    Raises
    ------
    OutputError
        If a file exists and may not be replaced, or cannot be written.
    """
    head = {
        "webbkg": version("webbkg"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "parameters": _plain(parameters),
    }
    page, metrics = directory / REPORT_NAME, directory / METRICS_NAME
    with (
        replacing(metrics, overwrite=overwrite) as metrics_part,
        replacing(page, overwrite=overwrite) as page_part,
    ):
        text = json.dumps(_plain({**head, **content}), indent=1, allow_nan=False)
        metrics_part.write_text(text + "\n", encoding="utf-8")
        # Streamed: the figures of hundreds of exposures are never one string.
        stream = _environment().get_template(template).generate(title=title, **head, **shown)
        with page_part.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(stream)
    return page


def record(entry: ReportEntry) -> dict[str, Any]:
    """Give what ``metrics.json`` holds of an exposure."""
    return {
        "name": entry.name,
        "status": entry.status,
        "products": entry.products,
        "metrics": entry.metrics,
        "warnings": entry.warnings,
        "error": entry.error,
    }


def _plain(value: Any) -> Any:
    """Turn a value into what strict JSON can hold: no NaN, no numpy type, no tuple."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("webbkg.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, percent=_percent, png=_data_uri, link=_link, verdict=verdict
    )
    return environment


def count_verdicts(entries: Iterable[ReportEntry]) -> Counter[str]:
    """Count verdicts, or status where there is none."""
    return Counter(verdict(entry) for entry in entries)


def verdict(entry: ReportEntry) -> str:
    """``clean`` or ``look`` for a complete exposure, else its status in small letters."""
    return str(entry.metrics.get("verdict", entry.status.lower()))


def _number(value: float | None, digits: int = 4) -> str:
    """Write a number for a table; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return _NO_NUMBER
    return f"{value:#.{digits}g}".rstrip(".").replace("-", "\N{MINUS SIGN}")


def _percent(value: float | None) -> str:
    """Write a fraction in percent; rounding never hides the last missing pixel."""
    if value is None or not math.isfinite(value):
        return _NO_NUMBER
    percent = 100.0 * value
    if 99.9 < percent < 100.0:
        return "> 99.9 %"
    if 0.0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _link(file_name: str) -> str:
    """Relative address of a product; quoting leaves no scheme such as ``javascript:``."""
    # As bytes: a name need not be UTF-8.
    return "./" + quote(os.fsencode(file_name))
