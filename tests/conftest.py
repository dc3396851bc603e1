"""Fixtures for all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real exposures and reference files, which are no part of a user's checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder}")
    return folder


@pytest.fixture
def offline_crds(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reference files of a local cache that the CRDS client accepts without a network."""
    cache = shared_data / "crds"
    monkeypatch.setenv("CRDS_PATH", str(cache))
    monkeypatch.setenv("CRDS_SERVER_URL", "https://crds-serverless-mode.stsci.edu")
    return cache


@pytest.fixture(scope="module")
def quick_steps() -> Iterator[None]:
    """Make runs of many steps quick: each collects garbage among all that is imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
