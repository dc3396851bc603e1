"""The local cache is what the real CRDS client, the steps and a shell take it for."""

import ast
import os
import subprocess
from pathlib import Path

import crds
import pytest
from crds.core import rmap
from jwst.stpipe import utilities

from webbkg import sim
from webbkg.sim import local_crds
from webbkg.sim.crds import (
    SERVER,
    Reference,
    environment,
    environment_text,
    write_cache,
)

pytestmark = pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning")


#: What the client says of a kind that is not applicable.
NONE = "NOT FOUND n/a"


def reference(kind="distortion", detector="MIRIMAGE", text="here", instrument="MIRI", **match):
    return Reference(
        instrument,
        kind,
        {"INSTRUMENT.DETECTOR": detector, **match},
        "asdf",
        lambda path: path.write_text(text),
    )


def header(instrument="MIRI", detector="MIRIMAGE", **more):
    return {
        "META.INSTRUMENT.NAME": instrument,
        "META.INSTRUMENT.DETECTOR": detector,
        "META.OBSERVATION.DATE": "2025-01-01",
        "META.OBSERVATION.TIME": "00:00:00.000",
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def best(kinds, **options):
    return crds.getreferences(header(**options), reftypes=kinds, observatory="jwst")


def test_the_client_returns_our_files(tmp_path):
    write_cache(
        tmp_path,
        [
            reference(),
            reference("flat", "NRCA1", "one", "NIRCAM", **{"INSTRUMENT.FILTER": "F200W"}),
            reference("flat", "NRCA1", "two", "NIRCAM", **{"INSTRUMENT.FILTER": "F150W"}),
            reference("flat", "NRCB1", "three", "NIRCAM", **{"INSTRUMENT.FILTER": "F200W"}),
        ],
    )
    with local_crds(tmp_path):
        found = best(["distortion", "dark", "pars-jumpstep"])
        assert Path(found["distortion"]).read_text() == "here"
        assert Path(found["distortion"]).is_relative_to(tmp_path)
        # Kinds that are not made skip their step.
        assert found["dark"] == found["pars-jumpstep"] == NONE
        for filter_name, detector, text in (
            ("F200W", "NRCA1", "one"),
            ("F150W", "NRCA1", "two"),
            ("F200W", "NRCB1", "three"),
        ):
            options = {"META__INSTRUMENT__FILTER": filter_name, "detector": detector}
            path = best(["flat"], instrument="NIRCAM", **options)["flat"]
            assert Path(path).read_text() == text
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


def test_two_caches_in_one_process_do_not_mix(tmp_path):
    write_cache(tmp_path / "one", [reference(text="first"), reference("dark", text="dark")])
    write_cache(tmp_path / "two", [reference(text="second")])
    for name, text, dark in (("one", "first", True), ("two", "second", False), ("one", "first", 1)):
        with local_crds(tmp_path / name):
            found = best(["distortion", "dark"])
            assert Path(found["distortion"]).read_text() == text
            assert (found["dark"] != NONE) == bool(dark)


def test_what_the_client_read_before_does_not_count(tmp_path, monkeypatch):
    write_cache(tmp_path / "one", [reference(text="first")])
    write_cache(tmp_path / "two", [reference(text="second")])
    for name, value in environment(tmp_path / "one").items():
        monkeypatch.setenv(name, value)
    assert Path(best(["distortion"])["distortion"]).read_text() == "first"
    with local_crds(tmp_path / "two"):
        assert Path(best(["distortion"])["distortion"]).read_text() == "second"
    assert Path(best(["distortion"])["distortion"]).read_text() == "first"


def test_a_cache_that_was_written_anew_is_used(tmp_path):
    for text, kinds in (("old", ["distortion"]), ("new", ["distortion", "dark"])):
        write_cache(tmp_path, [reference(kind, text=text) for kind in kinds])
        with local_crds(tmp_path):
            found = best(["distortion", "dark"])
            assert Path(found["distortion"]).read_text() == text
            assert (found["dark"] == NONE) == (kinds == ["distortion"])


def test_sums_of_mappings_are_right(tmp_path):
    write_cache(tmp_path, [reference(), reference("flat", "NIS", instrument="NIRISS")])
    mappings = sorted((tmp_path / "mappings/jwst").iterdir())
    assert sorted(path.suffix for path in mappings) == [".imap", ".imap", ".pmap", ".rmap", ".rmap"]
    for path in mappings:
        # The client's own check.
        mapping = rmap.load_mapping(str(path))
        assert mapping.name == path.name
        mapping._check_hash(path.read_text())
        damaged = path.read_text().replace("JWST", "HSTX")
        assert damaged != path.read_text()
        with pytest.raises(Exception, match="sha1sum"):
            mapping._check_hash(damaged)
    config = ast.literal_eval((tmp_path / "config/jwst/server_config").read_text())
    assert sorted(config["mappings"]) == [path.name for path in mappings]
    assert config["operational_context"] in config["mappings"]


def test_every_kind_that_a_step_asks_for_is_listed():
    """A kind that is not listed is an error for the client, where N/A would skip its step."""
    folder = Path(sim.__file__).parent
    listed = set((folder / "crds_kinds.txt").read_text().split())
    asked = set()
    for step in utilities.all_steps().values():
        asked.add(f"pars-{step.__name__.lower()}")
        kinds = step.reference_file_types
        # Those of a pipeline are collected from its steps.
        asked.update(step().reference_file_types if isinstance(kinds, property) else kinds)
    assert len(asked) > 100
    assert asked - listed == set()


def test_variables_are_as_before_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_CONTEXT", "jwst_0001.pmap")
    monkeypatch.delenv("CRDS_PATH", raising=False)
    write_cache(tmp_path, [reference()])

    def use():
        with local_crds(tmp_path):
            assert os.environ["CRDS_PATH"] == str(tmp_path)
            assert os.environ["CRDS_SERVER_URL"] == SERVER
            assert "CRDS_CONTEXT" not in os.environ
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        use()
    assert os.environ["CRDS_CONTEXT"] == "jwst_0001.pmap"
    assert "CRDS_PATH" not in os.environ


@pytest.mark.parametrize("name", ["with space", 'quote\'d $HOME "x"', "ümläut"])
def test_a_shell_can_source_the_environment(tmp_path, name):
    cache = tmp_path / name / "crds"
    cache.mkdir(parents=True)
    script = cache.parent / "crds.env"
    script.write_text(environment_text(cache), encoding="utf-8")
    show = 'printf "%s\\n" "$CRDS_PATH" "$CRDS_SERVER_URL" "${CRDS_CONTEXT-none}"'
    shown = subprocess.run(
        ["sh", "-c", f'. "$1"; {show}', "sh", str(script)],
        capture_output=True,
        check=True,
        text=True,
        env={"PATH": os.environ["PATH"], "CRDS_CONTEXT": "jwst_0001.pmap"},
    )
    assert shown.stdout.splitlines() == [str(cache), SERVER, "none"]
    assert shown.stderr == ""
    assert environment(cache) == {"CRDS_PATH": str(cache), "CRDS_SERVER_URL": SERVER}


def test_a_reference_file_that_fails_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    broken = Reference("MIRI", "flat", {"INSTRUMENT.DETECTOR": "MIRIMAGE"}, "fits", fail)
    with pytest.raises(OSError, match="No space left"):
        write_cache(tmp_path, [reference(), broken])
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert names == ["jwst_miri_distortion_0001.asdf"]
