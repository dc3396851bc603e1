"""``webbkg i4i`` on several groups: done apart, one after another or side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import Cli
from i4i_cli_helpers import copied, edit, observe
from numpy.testing import assert_array_equal

from webbkg.exposure import MemoryHandle
from webbkg.io.i4i_files import Layout
from webbkg.jobs import workers
from webbkg.jobs.group import Setting
from webbkg.jobs.options import JobOptions
from webbkg.jobs.pieces import Maps
from webbkg.jobs.state import STATE_NAME, RunState
from webbkg.jobs.talk import Silent
from webbkg.methods.groups import Group
from webbkg.methods.i4i import I4iParams
from webbkg.methods.partners import GroupPlan
from webbkg.sim import local_crds
from webbkg.sim.crds import environment

pytestmark = pytest.mark.usefixtures("quick_steps")

GROUP = "jw09999_obs001_MIRI_F770W"
OTHER = GROUP.replace("F770W", "F1000W")
FLAGS = ("--no-stage2", "--keep-intermediate")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return observe(tmp_path_factory.mktemp("i4i")).cache


@pytest.fixture(scope="module")
def rates(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Four exposures of a filter and three of another."""
    science = sorted(cache.parent.glob("*_rate.fits"))
    others = copied(tuple(science[:3]), tmp_path_factory.mktemp("other"))
    others = [path.rename(path.with_name(path.name.replace("02101", "02103"))) for path in others]
    with local_crds(cache):
        yield [*science, *(edit(path, FILTER="F1000W") for path in others)]


@pytest.fixture(scope="module")
def one_by_one(rates: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of one group after the other."""
    output = tmp_path_factory.mktemp("apart") / "out"
    ran = Cli()("i4i", *rates, "-o", output, *FLAGS)
    assert ran.code == 0, ran.err
    return output


@pytest.fixture
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, however little there is to do."""
    monkeypatch.setattr(workers, "_WORTH", 0.0)
    monkeypatch.setattr(workers, "count_threads", lambda asked: asked or 2)


def assert_same(one: Path, other: Path, rates: list[Path]) -> None:
    """All pixels are the same, to the last bit, and so is what products say of their making."""
    for path in rates:
        for product in ("masked_rate", "merged_rate", "subtracted"):
            with (
                fits.open(getattr(Layout(one), product)(path)) as first,
                fits.open(getattr(Layout(other), product)(path)) as second,
            ):
                assert [hdu.name for hdu in first] == [hdu.name for hdu in second]
                for left, right in zip(first[1:], second[1:], strict=True):
                    assert_array_equal(left.data, right.data)


@pytest.mark.slow
def test_groups_are_done_apart(cli: Cli, rates: list[Path], tmp_path: Path) -> None:
    alone = copied((rates[3],), tmp_path / "alone")[0]
    alone = edit(
        alone.rename(alone.with_name(alone.name.replace("02101", "02105"))), FILTER="F560W"
    )
    out = tmp_path / "out"
    ran = cli("i4i", *rates, alone, "-o", out, "--no-stage2")
    assert ran.code == 1
    groups = json.loads((out / "metrics.json").read_text())["groups"]
    assert [group["name"] for group in groups] == [GROUP, OTHER, GROUP.replace("F770W", "F560W")]
    assert [len(group["exposures"]) for group in groups] == [4, 3, 0]
    assert groups[2]["error"] == (
        "jw09999_obs001_MIRI_F560W: one exposure, needed are 3 or more, as each one's background "
        "is built from at least 2 others; give more and wider dithers, or a dedicated background "
        "to webbkg average"
    )
    assert f"webbkg: {groups[2]['error']}" in ran.err.splitlines()
    assert all(Layout(out).subtracted(path).exists() for path in rates)
    assert not Layout(out).masked_rate(rates[4]).exists()


@pytest.mark.usefixtures("at_any_size")
def test_side_by_side_is_the_same(
    cli: Cli, rates: list[Path], one_by_one: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = cli("i4i", *rates, "-o", out, *FLAGS, "-v")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "2 groups, 2 at the same time"
    for stage in ("seed", "mask", "merge", "subtract"):
        assert {f"{GROUP}: {stage} done", f"{OTHER}: {stage} done"} < set(lines)
    assert_same(one_by_one, out, rates)
    first, second = (json.loads((path / "metrics.json").read_text()) for path in (one_by_one, out))
    assert first["groups"] == second["groups"]
    assert json.loads((out / STATE_NAME).read_text())["done"].keys() == (
        json.loads((one_by_one / STATE_NAME).read_text())["done"].keys()
    )
    assert list(out.rglob(".*")) == []


@pytest.mark.slow
@pytest.mark.usefixtures("at_any_size")
def test_a_killed_worker_is_one_group_less(
    cli: Cli, rates: list[Path], one_by_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other group is done, and the next call does the rest."""
    out = tmp_path / "out"
    part = Layout(out).merged_rate(rates[4]).with_name(".half.fits.0123abcd.part")
    take = workers._Crew._take

    def kill(crew: Any, kind: str, content: list[Any]) -> None:
        take(crew, kind, content)
        if kind == "finish" and content[0] == (OTHER, "mask"):
            [worker] = [worker for worker, index in crew._busy.values() if index == 1]
            os.kill(worker.process.pid, signal.SIGKILL)
            # As if it had been writing this very moment.
            part.write_bytes(b"half")

    monkeypatch.setattr(workers._Crew, "_take", kill)
    ran = cli("i4i", *rates, "-o", out, *FLAGS)
    assert ran.code == 1
    sentence = (
        f"{OTHER}: the process that worked on it was ended by signal 9 (SIGKILL), maybe for lack "
        "of memory; call again to go on, with --threads 1 to do one group after another"
    )
    assert f"webbkg: {sentence}" in ran.err.splitlines()
    groups = json.loads((out / "metrics.json").read_text())["groups"]
    assert [(group["name"], group["error"]) for group in groups] == [(GROUP, ""), (OTHER, sentence)]
    assert list(out.rglob(".*")) == []
    monkeypatch.undo()
    ran = cli("i4i", *rates, "-o", out, *FLAGS)
    assert ran.code == 0, ran.err
    assert f"{out}: going on with the run that was begun in there" in ran.out
    for path in rates:
        assert Layout(out).subtracted(path).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_command(
    rates: list[Path], cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    script = tmp_path / "run.py"
    script.write_text(
        "from webbkg.cli.main import main\nfrom webbkg.jobs import workers\n"
        "workers._WORTH = 0.0\nworkers.count_threads = lambda asked: asked or 2\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), "i4i", *map(str, rates), "-o", str(out), *FLAGS],
        env={**os.environ, **environment(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while not any(path.name.startswith("merged") for path in out.rglob("*.fits")):
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.01)
    members = members_of_session(process.pid)
    assert len(members) >= 3
    # Ctrl-C of a terminal reaches all processes; out of memory one alone is killed.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == "webbkg: interrupted"
        assert "Traceback" not in err
    while members_of_session(process.pid):
        assert time.monotonic() < deadline, "workers go on"
        time.sleep(0.05)
    assert list(out.rglob(".*")) == []
    for path in out.rglob("*.fits"):
        with fits.open(path) as hdus:
            hdus.verify("exception")
    done = json.loads((out / STATE_NAME).read_text())["done"]
    assert not {f"{GROUP}/subtract", f"{OTHER}/subtract"} <= set(done)


def members_of_session(session: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("at_any_size")
def test_an_exposure_goes_away_from_a_worker(
    cli: Cli, cache: Path, rates: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = copied(tuple(rates), tmp_path / "in")
    out = tmp_path / "out"
    take = workers._Crew._take

    def lose(crew: Any, kind: str, content: list[Any]) -> None:
        take(crew, kind, content)
        if kind == "finish" and content[0] == (GROUP, "seed"):
            given[2].unlink(missing_ok=True)

    monkeypatch.setattr(workers._Crew, "_take", lose)
    ran = cli("i4i", *given, "-o", out, *FLAGS)
    assert ran.code == 1
    reason = f"{given[2]}: went away while the job ran, and is left out"
    assert f"webbkg: warning: {reason}" in ran.err.splitlines()
    groups = json.loads((out / "metrics.json").read_text())["groups"]
    assert [entry["status"] for entry in groups[0]["exposures"]] == [
        *("COMPLETE", "COMPLETE", "SKIPPED", "COMPLETE")
    ]
    assert [entry["status"] for entry in groups[1]["exposures"]] == ["COMPLETE"] * 3
    done = json.loads((out / STATE_NAME).read_text())["done"]
    assert {f"{GROUP}/seed", f"{GROUP}/subtract", f"{OTHER}/subtract", "all"} <= set(done)


@pytest.mark.slow
@pytest.mark.usefixtures("at_any_size")
def test_what_cannot_be_written_stops_all(
    cli: Cli, rates: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for one group is full for all."""
    out = tmp_path / "out"
    target = Layout(out).masked_rate(rates[4])
    begin = workers._Crew._begin

    def block(crew: Any, *words: Any) -> None:
        target.mkdir(parents=True, exist_ok=True)
        begin(crew, *words)

    monkeypatch.setattr(workers._Crew, "_begin", block)
    ran = cli("i4i", *rates, "-o", out, *FLAGS)
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == f"webbkg: {target}: cannot be written (Is a directory)"
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize(
    ("threads", "max_memory", "n_exposures", "n_workers"),
    [
        (4, 256, 40, 3),
        (2, 256, 40, 2),
        (1, 256, 40, 1),
        (4, 128, 40, 2),
        (4, 100, 40, 1),
        # Starting processes for so little would take longer than the work.
        (4, 256, 20, 1),
    ],
)
def test_number_of_workers(threads: int, max_memory: int, n_exposures: int, n_workers: int) -> None:
    exposures = (MemoryHandle(np.zeros((512, 512), np.float32)),) * n_exposures
    plans = [GroupPlan(Group((k,), exposures, f"group {k}"), (), 2.0) for k in range(3)]
    params = I4iParams(threads=threads, max_memory=max_memory)
    assert workers.count_workers(plans, params, JobOptions(stage2=False)) == n_workers
    if n_exposures == 20:
        # With the pipeline it is worth it.
        assert workers.count_workers(plans, params, JobOptions()) == 3


def test_a_group_has_its_share(tmp_path: Path) -> None:
    params = I4iParams(threads=4, max_memory=300)
    state = RunState(tmp_path / "s", {}, {}, resumed=False)
    setting = Setting(Layout(tmp_path), params, JobOptions(), state, Silent(), Maps(), share=3)
    shared = setting.own_params
    assert (shared.threads, shared.max_memory) == (1, 100)
    assert replace(setting, share=1).own_params is params
