"""What the tests of the command share."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import Cli, Command, Files

from webbkg.sim import ObservationFiles, miri_imaging, write_observation


@pytest.fixture
def cli() -> Cli:
    """Call the command in this process."""
    return Cli()


@pytest.fixture
def command() -> Command:
    """Run the installed command."""
    return Command()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Make small exposures in ``tmp_path/in``."""
    return Files(tmp_path / "in")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """Valid products of a small observation: 3 science and 4 background exposures."""
    folder = tmp_path_factory.mktemp("simulated")
    return write_observation(miri_imaging(shape=(64, 72), n_science=3), folder)


@pytest.fixture(scope="session")
def simulated_ints(tmp_path_factory: pytest.TempPathFactory) -> ObservationFiles:
    """Valid rateints products: 1 science and 3 background exposures of 4 integrations."""
    folder = tmp_path_factory.mktemp("simulated_ints")
    observation = miri_imaging(shape=(64, 72), n_science=1, n_background=3, n_integrations=4)
    return write_observation(observation, folder)
