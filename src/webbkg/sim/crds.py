"""A local CRDS cache that the real CRDS client takes without a network."""

from __future__ import annotations

import hashlib
import os
import pprint
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from webbkg.io.atomic import replacing

__all__ = ["ENVIRONMENT_FILE", "Reference", "local_crds", "write_cache"]

SERVER = "https://crds-serverless-mode.stsci.edu"
ENVIRONMENT_FILE = "crds.env"
_USE_AFTER = "2015-01-01 00:00:00"
#: Kinds of reference files that the steps of jwst 3.0 ask for, ``pars-<step>`` for parameters. A
#: kind that a mapping does not list is an error for the client; one listed as N/A skips its step.
_KINDS = Path(__file__).with_name("crds_kinds.txt")


@dataclass(frozen=True)
class Reference:
    """
    One reference file of a cache.

    Parameters
    ----------
    instrument, kind : str
        Instrument, in upper case, and kind as the pipeline calls it.
    match : mapping
        Header values that select the file, by name below ``META``, such as
        ``{"INSTRUMENT.DETECTOR": "NRCA1"}``; the same names for all files of a kind.
    extension : str
        Ending of the file name, ``fits`` or ``asdf``.
    write : callable
        Writes the file to the path it is given, whose folder is there.
    """

    instrument: str
    kind: str
    match: Mapping[str, str]
    extension: str
    write: Callable[[Path], None]


def write_cache(
    folder: Path, references: Iterable[Reference], instruments: Iterable[str] = ()
) -> None:
    """
    Write reference files and the mappings by which the CRDS client finds them.

    Parameters
    ----------
    folder : pathlib.Path
        Directory of the cache.
    references : iterable of Reference
        Reference files; all other kinds are marked as not applicable.
    instruments : iterable of str, optional
        Instruments, in upper case, that must be known even if they have no reference file.

    Notes
    -----
    Mappings are texts that hold the SHA-1 of themselves without that line. Their names hold a
    number made of their content: the client remembers mappings by name, so that two caches used
    in one process must not share names.
    """
    by_kind: dict[tuple[str, str], list[tuple[Reference, str]]] = defaultdict(list)
    for reference in references:
        entries = by_kind[reference.instrument, reference.kind]
        instrument = reference.instrument.lower()
        name = f"jwst_{instrument}_{reference.kind}_{len(entries) + 1:04d}.{reference.extension}"
        path = folder / "references" / "jwst" / instrument / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, reference.write)
        entries.append((reference, name))
    serial = _serial(folder, by_kind)
    mappings: dict[str, str] = {}
    context = f"jwst_{serial}.pmap"
    entries_of = {}
    for instrument in sorted({*instruments, *(instrument for instrument, _ in by_kind)}):
        kinds = dict.fromkeys(_KINDS.read_text(encoding="utf-8").split(), "N/A")
        for (owner, kind), entries in by_kind.items():
            if owner == instrument:
                name = f"jwst_{instrument.lower()}_{kind}_{serial}.rmap"
                mappings[name] = _rmap(name, entries)
                kinds[kind] = name
        name = f"jwst_{instrument.lower()}_{serial}.imap"
        header = {"mapping": "INSTRUMENT", "instrument": instrument, "parkey": ("REFTYPE",)}
        mappings[name] = _mapping(name, header, _dictionary(kinds))
        entries_of[instrument] = name
    header = {"mapping": "PIPELINE", "parkey": ("META.INSTRUMENT.NAME",)}
    mappings[context] = _mapping(context, header, _dictionary(entries_of))
    place = folder / "mappings" / "jwst"
    place.mkdir(parents=True, exist_ok=True)
    for name, text in mappings.items():
        with replacing(place / name, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    config = folder / "config" / "jwst"
    config.mkdir(parents=True, exist_ok=True)
    with replacing(config / "server_config", overwrite=True) as temporary:
        text = pprint.pformat(_server_config(context, sorted(mappings)))
        temporary.write_text(f"{text}\n", encoding="utf-8")


def environment(cache: Path) -> dict[str, str]:
    """
    Name the variables that make the CRDS client use a cache.

    Parameters
    ----------
    cache : pathlib.Path
        Directory of the cache.

    Returns
    -------
    dict of str
        Values by name.
    """
    return {"CRDS_PATH": str(cache.resolve()), "CRDS_SERVER_URL": SERVER}


def environment_text(cache: Path) -> str:
    """
    Write the text that a shell sources to use a cache.

    Parameters
    ----------
    cache : pathlib.Path
        Directory of the cache.

    Returns
    -------
    str
        Lines of ``export``.
    """
    lines = [f"export {name}={shlex.quote(v)}" for name, v in environment(cache).items()]
    return "\n".join(["unset CRDS_CONTEXT", *lines]) + "\n"


@contextmanager
def local_crds(cache: Path) -> Iterator[None]:
    """
    Use a cache in this process for a while.

    Parameters
    ----------
    cache : pathlib.Path
        Directory of the cache.

    Yields
    ------
    None
        Nothing; the variables are as before at the end.
    """
    from crds.core import utils

    wanted: dict[str, str | None] = {**environment(cache), "CRDS_CONTEXT": None}
    before = {name: os.environ.get(name) for name in wanted}
    try:
        _set_environment(wanted)
        # The client remembers what it read of a cache, the server's configuration too.
        utils.clear_function_caches()
        yield
    finally:
        _set_environment(before)
        utils.clear_function_caches()


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under its own name, which tells its format, in a folder of its own; move it."""
    with TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
        write(Path(folder) / path.name)
        (Path(folder) / path.name).replace(path)


def _serial(folder: Path, by_kind: Mapping[tuple[str, str], list[tuple[Reference, str]]]) -> str:
    """Make a number of the place and the content of a cache."""
    content = [str(folder.resolve())]
    for (instrument, kind), entries in sorted(by_kind.items()):
        content += [instrument, kind, *(repr(sorted(ref.match.items())) for ref, _ in entries)]
    digest = hashlib.sha256("\n".join(content).encode()).digest()
    return f"{int.from_bytes(digest[:4], 'big') % 10**9:09d}"


def _rmap(name: str, entries: list[tuple[Reference, str]]) -> str:
    first = entries[0][0]
    keys = tuple(f"META.{key}" for key in first.match)
    header = {
        "mapping": "REFERENCE",
        "instrument": first.instrument,
        "filekind": first.kind.upper(),
        "parkey": (keys, ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")),
        "classes": ("Match", "UseAfter"),
        "reffile_switch": "none",
        "reffile_format": "ANY",
        "reffile_required": "none",
        "suffix": first.kind,
        "text_descr": first.kind,
    }
    lines = ["Match({"]
    for reference, file in entries:
        values = tuple(reference.match[key] for key in first.match)
        lines += [f"    {values!r} : UseAfter({{", f"        {_USE_AFTER!r} : {file!r},", "    }),"]
    return _mapping(name, header, "\n".join([*lines, "})"]))


def _mapping(name: str, header: Mapping[str, object], selector: str) -> str:
    """Write a mapping, with the sum of its text without the line of the sum."""
    fixed = {"derived_from": "scratch", "name": name, "observatory": "JWST"}
    lines = [f"    {key!r} : {value!r}," for key, value in {**fixed, **header}.items()]
    before = "header = {\n" + "\n".join(lines) + "\n"
    after = "}\n\nselector = " + selector + "\n"
    digest = hashlib.sha1((before + after).encode(), usedforsecurity=False).hexdigest()
    return f"{before}    'sha1sum' : '{digest}',\n{after}"


def _dictionary(values: Mapping[str, str]) -> str:
    lines = [f"    {key!r} : {value!r}," for key, value in sorted(values.items())]
    return "{\n" + "\n".join(lines) + "\n}"


def _server_config(context: str, mappings: list[str]) -> dict[str, object]:
    """Describe a server as the client stores it."""
    return {
        "alternate_pipelines": {},
        "bad_files": "",
        "bad_files_list": [],
        "connected": False,
        "context_names": {},
        "crds_version": {"str": "14.0.3"},
        "default_context": context,
        "edit_context": context,
        "effective_context": context,
        "effective_mode": "local",
        "force_remote_mode": False,
        "last_synced": "2025-01-01",
        "mapping_url": "",
        "mappings": mappings,
        "monitoring": {},
        "observatory": "jwst",
        "operational_context": context,
        "pickle_url": {},
        "reference_url": "",
        "server_compatible": True,
        "status": "cache",
    }
