"""
Average of dedicated backgrounds, from files to array: speed and memory against jwst.

Question: how much faster than ``jwst.background.background_sub.background_sub`` is
`webbkg.average`, and does its memory stay bounded? Both sides get the same files and do the same
job in turn, in one run: open the backgrounds, average them with clipping, subtract the result from
the science exposure. Medians of several rounds are printed, and the time just to read the bytes.

Usage: ``python benchmarks/bench_average.py [--rounds 5] [--only CASE ...] [--scratch DIR]``.
The files take up to 10 GB in the scratch directory, and are removed at the end.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MIRI, NIRCAM = (1024, 1032), (2048, 2048)

#: Name: number of backgrounds, integrations (None: rate), frame, least ratio wanted.
CASES = {
    "miri16": (16, None, MIRI, 15),
    "miri48": (48, None, MIRI, 10),
    "nircam24": (24, None, NIRCAM, 10),
    "rateints": (8, 40, MIRI, 10),
}
#: Name: number of backgrounds, integrations, frame; peak memory only.
MEMORY_CASES = {
    "nircam100": (100, None, NIRCAM),
    "nircam200": (200, None, NIRCAM),
    "rateints": (8, 40, MIRI),
}


def write_exposures(directory: Path, number: int, n_integrations: int | None, shape) -> list[Path]:
    """Backgrounds, and one science exposure that comes first."""
    from stdatamodels.jwst import datamodels

    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    full = shape if n_integrations is None else (n_integrations, *shape)
    pattern = rng.normal(60.0, 0.5, shape).astype(np.float32)
    model_class = datamodels.ImageModel if n_integrations is None else datamodels.CubeModel
    paths = []
    for index in range(number + 1):
        path = directory / f"exposure{index:03d}_rate.fits"
        if not path.exists():
            noise = rng.standard_normal(full, dtype=np.float32)
            model = model_class(data=pattern + np.float32(0.35) * noise)
            model.err = np.full(full, 0.35, np.float32)
            model.dq = np.zeros(full, np.uint32)
            model.dq[..., rng.random(shape) < 0.003] = 1
            is_miri = shape == MIRI
            model.meta.instrument.name = "MIRI" if is_miri else "NIRCAM"
            model.meta.instrument.detector = "MIRIMAGE" if is_miri else "NRCA1"
            model.meta.subarray.xstart = model.meta.subarray.ystart = 1
            model.meta.subarray.ysize, model.meta.subarray.xsize = shape
            model.save(path)
        paths.append(path)
    return paths


def run_webbkg(paths: list[Path], **parameters) -> np.ndarray:
    import webbkg

    params = webbkg.AverageParams.build(overrides=parameters)
    return webbkg.average(paths[0], paths[1:], params).exposure.data


def run_pipeline_preset(paths: list[Path]) -> np.ndarray:
    import webbkg

    params = webbkg.AverageParams.build(preset="pipeline")
    return webbkg.average(paths[0], paths[1:], params).exposure.data


def run_jwst(paths: list[Path]) -> np.ndarray:
    from jwst.background.background_sub import background_sub
    from stdatamodels.jwst import datamodels

    with datamodels.open(paths[0]) as science:
        _, result = background_sub(science, [str(path) for path in paths[1:]], 3.0, None)
        return np.array(result.data)


def run_read(paths: list[Path]) -> int:
    buffer = bytearray(1 << 22)
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                total += count
    return total


def time_case(name: str, paths: list[Path], rounds: int) -> None:
    sides = {
        "webbkg": run_webbkg,
        "webbkg, preset pipeline": run_pipeline_preset,
        "jwst": run_jwst,
        "reading the bytes": run_read,
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    results = {}
    for _ in range(rounds + 1):
        for side, function in sides.items():
            start = time.perf_counter()
            results[side] = function(paths)
            times[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(values[1:]) for side, values in times.items()}
    for side, value in medians.items():
        spread = f"{min(times[side][1:]):.3f} to {max(times[side][1:]):.3f}"
        print(f"  {side:<24} {value:8.3f} s  ({spread})")
    wanted = CASES[name][3]
    for side in ("webbkg", "webbkg, preset pipeline"):
        ratio = medians["jwst"] / medians[side]
        print(f"  jwst / {side:<24} {ratio:6.1f}  (wanted: {wanted})")
    difference = np.nanmax(np.abs(results["webbkg, preset pipeline"] - results["jwst"]))
    print(f"  largest difference of preset pipeline from jwst: {difference:.3g} DN/s")


#: Runs in a process of its own. The peak is read from /proc: getrusage inherits the parent's.
_MEMORY_CODE = """
import re, sys
from pathlib import Path
import webbkg.methods.stack
from webbkg.io.files import FileHandle
from webbkg.methods.average import average

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before = peak()
handles = [FileHandle(path) for path in sys.argv[1:]]
result = average(handles[0], handles[1:])
if handles[0].n_integrations:
    for plane in result.planes():
        pass
else:
    result.exposure
print(f"{(peak() - before) * 1.048576:.0f}")
"""


def peak_memory(paths: list[Path]) -> str:
    """Peak beyond the imports, in MB; integrations are corrected one by one."""
    call = [sys.executable, "-c", _MEMORY_CODE, *map(str, paths)]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*CASES, *MEMORY_CASES], default=None)
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    chosen = options.only or [*CASES, *MEMORY_CASES]
    print(f"{len(os.sched_getaffinity(0))} processors, {options.rounds} rounds")
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for name, (number, n_integrations, shape, _) in CASES.items():
            if name in chosen:
                print(f"{name}: {number} backgrounds {shape}, integrations {n_integrations}")
                paths = write_exposures(Path(folder) / name, number, n_integrations, shape)
                time_case(name, paths, options.rounds)
        for name, (number, n_integrations, shape) in MEMORY_CASES.items():
            if name in chosen:
                # Hard links are files of their own to a reader, and take no space.
                paths = write_exposures(
                    Path(folder) / f"m{name}", min(number, 8), n_integrations, shape
                )
                linked = [paths[0]]
                for index in range(number):
                    link = paths[0].with_name(f"link{index:03d}_rate.fits")
                    os.link(paths[1 + index % (len(paths) - 1)], link)
                    linked.append(link)
                print(
                    f"{name}: peak memory beyond imports {peak_memory(linked)} MB "
                    f"(max_memory is 256 MB), {number} backgrounds"
                )


if __name__ == "__main__":
    main()
