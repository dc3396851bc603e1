"""How a job tells what it does, to whoever called it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Silent", "Talk"]


class Talk(Protocol):
    """Who is told what a job does."""

    def say(self, text: str, level: int = 0) -> None:
        """Take a line; those of a higher level are for users who want to know more."""

    def warn(self, text: str) -> None:
        """Take a warning."""

    def fail(self, text: str) -> None:
        """Take an error after which the job goes on with something else."""

    def advance(self, fraction: float) -> None:
        """Take note that this fraction of a group is done."""


class Silent:
    """Nobody."""

    def say(self, text: str, level: int = 0) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def fail(self, text: str) -> None:
        """Say nothing."""

    def advance(self, fraction: float) -> None:
        """Show nothing."""
