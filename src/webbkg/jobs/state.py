"""What a run has done, kept beside its products, so that it goes on after an interruption."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from webbkg._version import __version__
from webbkg.errors import InputError, OutputError
from webbkg.io.atomic import replacing

__all__ = ["STATE_NAME", "RunState", "fingerprints", "locked", "remove_parts"]

STATE_NAME = "webbkg-i4i.json"


class RunState:
    """
    Which steps of a run are done.

    Make one by `open`. A step is recorded after its files have their names, so that what is
    recorded is whole; nothing else is taken for done.

    Parameters
    ----------
    path : pathlib.Path
        File of the state.
    job : mapping
        What the run is: parameters, options and inputs, as plain values.
    done : mapping
        Facts about each step that is done, by its name.
    resumed : bool
        Whether the run was begun before.
    """

    def __init__(
        self, path: Path, job: Mapping[str, Any], done: Mapping[str, Any], *, resumed: bool
    ) -> None:
        self.path = path
        self.resumed = resumed
        self._job = dict(job)
        self._done = dict(done)

    @classmethod
    def open(cls, output: Path, job: Mapping[str, Any], *, overwrite: bool) -> RunState:
        """
        Find out whether a run was begun before; nothing is written.

        Parameters
        ----------
        output : pathlib.Path
            Output directory; it need not be there.
        job : mapping
            What the run is, in mappings of names; values as JSON has them.
        overwrite : bool
            Begin anew, whatever was done before.

        Returns
        -------
        RunState
            The state.

        Raises
        ------
        OutputError
            If the directory holds another run, or one that cannot be read.
        """
        path = output / STATE_NAME
        plain = json.loads(json.dumps({"webbkg": __version__, **job}))
        if overwrite:
            return cls(path, plain, {}, resumed=False)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            before, done = dict(content["job"]), dict(content["done"])
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, plain, {}, resumed=False)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise OutputError(
                f"{path}: the state of the run in there cannot be read ({error}); use --overwrite "
                "to begin anew, or another directory with -o"
            ) from error
        if before != plain:
            raise OutputError(
                f"{output}: holds a run with other {_difference(before, plain)}; use --overwrite "
                "to begin anew, or another directory with -o"
            )
        return cls(path, plain, done, resumed=True)

    def done(self, *step: str) -> bool:
        """
        Whether a step is done.

        Parameters
        ----------
        *step : str
            Its name, in parts.

        Returns
        -------
        bool
            Whether it is.
        """
        return "/".join(step) in self._done

    def facts(self, *step: str) -> Any:
        """
        What was recorded with a step.

        Parameters
        ----------
        *step : str
            Its name, in parts.

        Returns
        -------
        object
            The facts; None if there are none, or the step is not done.
        """
        return self._done.get("/".join(step))

    def finish(self, *step: str, facts: Any = None) -> None:
        """
        Record that a step is done.

        Parameters
        ----------
        *step : str
            Its name, in parts.
        facts : object, optional
            What is to be known about it later, as JSON has it.

        Raises
        ------
        OutputError
            If the state cannot be written.
        """
        self._done["/".join(step)] = facts
        self.write()

    def forget(self, group: str) -> None:
        """
        Take all steps of a group for undone.

        Parameters
        ----------
        group : str
            The first part of their names.

        Raises
        ------
        OutputError
            If the state cannot be written.
        """
        self._done = {
            name: facts for name, facts in self._done.items() if name.split("/")[0] != group
        }
        self.write()

    def steps(self) -> dict[str, Any]:
        """
        Copy what is done, for another process.

        Returns
        -------
        dict
            Facts by the name of the step.
        """
        return dict(self._done)

    def write(self) -> None:
        """
        Write the state as it is.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        content = {"job": self._job, "done": self._done}
        with replacing(self.path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def fingerprints(paths: Iterable[Path]) -> dict[str, list[int]]:
    """
    Tell files from changed ones without reading them.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        Files.

    Returns
    -------
    dict
        Size [bytes] and time of the last change [ns] by full path.

    Raises
    ------
    InputError
        If a file is not there.
    """
    found = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        found[str(path.resolve())] = [status.st_size, status.st_mtime_ns]
    return found


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """
    Keep other runs out of a directory; the system lets go of it when the process ends.

    Processes that are given the descriptor keep the lock too.

    Parameters
    ----------
    folder : pathlib.Path
        Existing directory.

    Yields
    ------
    int
        Descriptor that holds the lock.

    Raises
    ------
    OutputError
        If another run works in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems know no locks: there the user must take care.
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise OutputError(
                    f"{folder}: another run is working in it; wait for its end, or choose another "
                    "directory with -o"
                ) from error
        yield descriptor
    finally:
        os.close(descriptor)


def remove_parts(output: Path) -> None:
    """
    Remove what an interrupted run left half-written.

    Parameters
    ----------
    output : pathlib.Path
        Output directory, locked, so that nobody writes in it.
    """
    for path in [*output.glob(".*.part"), *output.glob("*/.*.part"), *output.glob("*/*/.*.part")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in a few words what is other than before."""
    parts = []
    for name in now:
        one, other = before.get(name), now[name]
        if one == other:
            continue
        if not (isinstance(one, dict) and isinstance(other, dict)):
            parts.append(f"{name} ({one}, now {other})")
        elif name == "inputs":
            changed = sorted(
                Path(key).name for key in {*one, *other} if one.get(key) != other.get(key)
            )
            more = ", ..." if len(changed) > 3 else ""
            parts.append(f"inputs ({', '.join(changed[:3])}{more})")
        else:
            changed = [
                f"{key} {one.get(key)}, now {other.get(key)}"
                for key in sorted({*one, *other})
                if one.get(key) != other.get(key)
            ]
            parts.append(f"{name} ({'; '.join(changed)})")
    return " and ".join(parts) or "content"
