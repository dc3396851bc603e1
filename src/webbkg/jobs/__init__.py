"""Whole jobs on files: from what a user gives to products and their report."""

from __future__ import annotations

__all__: list[str] = []
