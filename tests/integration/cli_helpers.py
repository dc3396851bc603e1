"""Files for tests of the command, and the command itself in this process and out of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from webbkg.cli.main import main

SHAPE = (32, 40)
KEYWORDS = {
    "TELESCOP": "JWST",
    "DATAMODL": "ImageModel",
    "INSTRUME": "MIRI",
    "DETECTOR": "MIRIMAGE",
    "FILTER": "F770W",
    "EXP_TYPE": "MIR_IMAGE",
    "READPATT": "FASTR1",
    "SUBSTRT1": 1,
    "SUBSTRT2": 1,
    "SUBSIZE1": SHAPE[1],
    "SUBSIZE2": SHAPE[0],
}


@dataclass(frozen=True)
class Ran:
    """How a call of the command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"one line wanted, got:\n{self.err}"
        return lines[0]


class Cli:
    """The command, called in this process through the function of its entry point."""

    def __call__(self, *words: object, cwd: Path | None = None) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["webbkg", *map(str, words)])
            if cwd is not None:
                patch.chdir(cwd)
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as stop,
            ):
                # As the script that pip installs does it.
                sys.exit(main())
        return Ran(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def command_path() -> str:
    """Return the installed command."""
    return str(Path(sys.executable).with_name("webbkg"))


def environment() -> dict[str, str]:
    """Return an environment in which a terminal is nothing special."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTHONWARN"))}
    return kept | {"TERM": "xterm", "COLUMNS": "80"}


class Command:
    """The installed command, run as a process of its own."""

    def __call__(self, *words: object, cwd: Path | None = None, **options: object) -> Ran:
        done = subprocess.run(
            [command_path(), *map(str, words)],
            cwd=cwd,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


class Files:
    """Small plain exposures in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seed = 0

    def make(
        self,
        name: str,
        *,
        level: float = 10.0,
        shape: tuple[int, ...] = SHAPE,
        extensions: dict[str, np.ndarray] | None = None,
        drop: tuple[str, ...] = (),
        **keywords: object,
    ) -> Path:
        """Write an exposure of white noise with sigma 1 on a level."""
        self._seed += 1
        rng = np.random.default_rng(self._seed)
        images = {
            "SCI": (level + rng.standard_normal(shape)).astype(np.float32),
            "ERR": np.ones(shape, np.float32),
            "DQ": np.zeros(shape, np.uint32),
        }
        images |= extensions or {}
        primary = fits.PrimaryHDU()
        if len(shape) == 3:
            keywords.setdefault("DATAMODL", "CubeModel")
        primary.header.update({k: v for k, v in (KEYWORDS | keywords).items() if k not in drop})
        hdus = [fits.ImageHDU(v, name=k) for k, v in images.items() if k not in drop]
        if "SCI" not in drop:
            hdus[0].header["BUNIT"] = "DN/s"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)
        return path

    def association(self, name: str, *products: tuple[str, list[tuple[str, str]]]) -> Path:
        """Write an association of products, each a name and (file, exptype) members."""
        content = {
            "asn_type": "image2",
            "asn_id": "a3001",
            "products": [
                {
                    "name": product,
                    "members": [{"expname": e, "exptype": t} for e, t in members],
                }
                for product, members in products
            ],
        }
        path = self.folder / name
        path.write_text(json.dumps(content), encoding="utf-8")
        return path


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with its checksum."""
    return {
        str(path.relative_to(folder)): f"link to {path.readlink()}"
        if path.is_symlink()
        else "folder"
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }
