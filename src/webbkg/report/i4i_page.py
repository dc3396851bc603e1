"""The report on image-for-image backgrounds: a page for people, ``metrics.json`` for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from webbkg.report.entry import ReportEntry
from webbkg.report.figures import FIGURE_NOTES
from webbkg.report.i4i_figures import GROUP_NOTES
from webbkg.report.i4i_group import MAX_MATRIX, GroupReport, PartnerNote
from webbkg.report.page import count_verdicts, record, write_page

__all__ = ["write_i4i_report"]


def write_i4i_report(
    directory: Path,
    groups: Sequence[GroupReport],
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
    groups : sequence of GroupReport
        Groups, excluded ones too.
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
    - ``groups``, a list with ``name``, ``error`` (empty unless excluded or failed), ``warnings``
      (sentences), ``products`` (file by label), ``metrics`` and ``exposures``. The metrics of a
      group are empty if it was excluded, else

      - ``n_exposures``, ``n_done`` (with a background), ``clean`` (verdicts), ``unit``;
      - ``fwhm_px``, ``closest_px`` (median distance of an exposure's partners where it is
        smallest), ``small_dithers`` (the exposures cannot separate sky from source);
      - ``noise_over_own`` and ``noise_over_own_worst`` (median and largest of the exposures),
        ``noise_floor`` (the least without smoothing), ``masked_fractions`` by iteration;
      - ``mosaics`` with ``unit``, ``same_grid``, ``before`` and ``after`` (``file``, ``level``,
        ``level_error``, ``rms``, ``n_pixels`` of blank sky) and ``objects`` (``ra``, ``dec``,
        ``n_pixels``, ``flux_before``, ``flux_after``, ``ratio``); ``before``, ``after`` and
        ``objects`` are left out if there is nothing to measure;
      - ``injected`` and ``injected_paired`` (less a run without them), empty unless sources were
        injected: ``faint`` and ``bright`` with ``percent`` (mean of measured minus true over true
        flux), ``error`` and ``n``, and columns ``source``, ``exposure`` (from 0), ``is_bright``,
        ``true``, ``measured``, ``err``;

    - exposures have ``name``, ``status``, ``products``, ``warnings``, ``error`` and ``metrics`` as
      `write_report` lists them (without ``disputed_fraction``, ``noise_factors`` and
      ``level_offsets``), with these besides: ``masked_fraction``, ``filled_fraction``,
      ``scaling``, ``levels``, ``level_errs`` and ``pattern_rms`` by region, ``n_iterations``,
      ``masked_fractions``; ``noise_own`` (of ERR before), ``noise_over_own``, ``noise_promised``
      (by ERR of the result, over the same), ``noise_floor``; ``blocks_left`` (scatter of means of
      blocks of 16x16 pixels over that of the noise of the exposure and of those used);
      ``regions`` with ``level_after``, ``level_after_error``, ``noise_after`` and ``n_pixels`` by
      name; the blank sky of all but these is that of the largest region;
    - and ``partners``, a list with ``index`` (place in the group, from 0), ``name``, ``used``,
      ``reason`` (why not), ``days`` and ``separation_px``.
    """
    entries = [entry for group in groups for entry in group.exposures]
    return write_page(
        directory,
        "i4i.html",
        {"groups": [_record(group) for group in groups]},
        {
            "groups": groups,
            "excluded": sum(bool(group.error) for group in groups),
            "n_exposures": len(entries),
            "counts": count_verdicts(entries),
            "notes": FIGURE_NOTES,
            "group_notes": GROUP_NOTES,
            "rows_of": _rows,
        },
        title=title,
        parameters=parameters,
        command=command,
        overwrite=overwrite,
    )


def _record(group: GroupReport) -> dict[str, Any]:
    return {
        "name": group.name,
        "error": group.error,
        "warnings": group.warnings,
        "products": group.products,
        "metrics": group.metrics,
        "exposures": [
            {**record(entry), "partners": [asdict(note) for note in notes]}
            for entry, notes in zip_longest(group.exposures, group.partners, fillvalue=())
            if isinstance(entry, ReportEntry)
        ],
    }


def _rows(group: GroupReport) -> list[list[PartnerNote | None]]:
    """Rows of the table of partners; none if the group is too large or was excluded."""
    n = len(group.partners)
    if n > MAX_MATRIX or n != len(group.exposures):
        return []
    rows: list[list[PartnerNote | None]] = []
    for notes in group.partners:
        row: list[PartnerNote | None] = [None] * n
        for note in notes:
            row[note.index] = note
        rows.append(row)
    return rows
