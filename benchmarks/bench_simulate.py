"""
Simulated observations at full size: time and memory of making and writing them.

Question: are 8 full-size MIRI exposures written in less than 10 s and 1 GB, and what do the other
presets take? Each preset runs in a process of its own, which tells its time, imports left out, and
its largest resident memory. As a peer, the same process then writes as many files of random pixels
with the same data model, which is what the format alone costs.

Usage: ``python benchmarks/bench_simulate.py [PRESET ...] [--small] [--level LEVEL]
[--scratch DIR]``. Exit code 1 where a limit does not hold.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Most seconds and MB.
LIMITS = {"miri-imaging": (10.0, 1000.0)}


def write_plain(exposures, folder: Path) -> float:
    """Write products of the same size and nothing in them but noise."""
    import numpy as np
    from stdatamodels.jwst import datamodels

    started = time.perf_counter()
    rng = np.random.default_rng(1)
    for index, exposure in enumerate(exposures):
        n = exposure.setup.n_integrations
        shape = exposure.window.shape if n is None else (n, *exposure.window.shape)
        with datamodels.ImageModel() if n is None else datamodels.CubeModel() as model:
            for name in ("data", "err", "var_poisson", "var_rnoise"):
                model[name] = rng.standard_normal(shape, dtype=np.float32)
            model.dq = np.zeros(shape, np.uint32)
            model.save(folder / f"plain{index}_rate.fits")
    return time.perf_counter() - started


def measure(name: str, small: bool, level: str, folder: Path) -> None:
    """Simulate and print figures; runs in a process of its own."""
    import stdatamodels.jwst.datamodels  # noqa: F401

    from webbkg.sim import simulate, write_observation

    started = time.perf_counter()
    observation = simulate(name, small=small)
    described = time.perf_counter() - started
    write_observation(observation, folder / "sim", level=level)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    # After the peak was read: it is a figure of the whole process.
    plain = write_plain(observation.exposures, folder)
    first = observation.exposures[0].window
    print(
        json.dumps(
            {
                "exposures": len(observation.exposures),
                "frame": f"{first.ny}x{first.nx}",
                "described": described,
                "seconds": seconds,
                "plain": plain,
                "peak": peak,
                "size": size,
            }
        )
    )


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--level", default="rate", choices=("rate", "uncal"))
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.small, options.level, options.scratch)
        return 0
    from webbkg.sim import PRESETS

    print(
        f"{'preset':<16}{'exposures':>10}{'frame':>11}{'time':>9}{'per exp.':>10}"
        f"{'noise only':>12}{'ratio':>7}{'peak':>9}{'size':>10}"
    )
    failed = []
    for name in options.presets or PRESETS:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            words = ["--measure", name, "--scratch", folder, "--level", options.level]
            done = subprocess.run(
                [sys.executable, __file__, *words, *(["--small"] if options.small else [])],
                stdout=subprocess.PIPE,
                check=True,
            )
        found = json.loads(done.stdout.splitlines()[-1])
        n, seconds, peak = found["exposures"], found["seconds"], found["peak"]
        print(
            f"{name:<16}{n:>10}{found['frame']:>11}{seconds:>7.2f} s{seconds / n:>8.2f} s"
            f"{found['plain']:>10.2f} s{seconds / found['plain']:>7.2f}{peak:>6.0f} MB"
            f"{found['size']:>7.0f} MB"
        )
        most_seconds, most_memory = LIMITS.get(name, (float("inf"), float("inf")))
        if options.level == "rate" and (seconds > most_seconds or peak > most_memory):
            failed.append(f"{name}: wanted at most {most_seconds:g} s and {most_memory:g} MB")
    print("\n".join(failed) or "all limits hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
