"""
The report on a run, for people and for programs.

Importing it loads matplotlib and jinja2: import it where the report is made, not at start-up.
"""

from webbkg.report.entry import ReportEntry, entry_of, failed_entry, skipped_entry
from webbkg.report.i4i_group import GroupReport, PartnerNote, group_report, i4i_entry
from webbkg.report.i4i_page import write_i4i_report
from webbkg.report.page import METRICS_NAME, REPORT_NAME, write_report

__all__ = [
    "METRICS_NAME",
    "REPORT_NAME",
    "GroupReport",
    "PartnerNote",
    "ReportEntry",
    "entry_of",
    "failed_entry",
    "group_report",
    "i4i_entry",
    "skipped_entry",
    "write_i4i_report",
    "write_report",
]
