"""
Leave-one-out backgrounds of many dithers, from files to arrays: speed and memory against jwst.

Question: how much faster are the backgrounds of all exposures, each from all the others, made by
`webbkg.methods.i4i` (combined in one pass, noise taken out by the power of the pattern, brought to
the level of each exposure) than by calling
``jwst.background.background_sub.average_background`` for each, does the cost of an exposure stay
the same when there are more of them, and does memory stay bounded? The passes of
`webbkg.methods.leave_one_out` alone are timed too. Both sides get the same files, with flagged
pixels and outliers; ours masks sources as well, which are known before. Sides take turns: between
the calls of jwst, one for each exposure, all of ours run once, so that other work slows both.
The time of jwst is the sum over its calls, ours the median; compiling is not counted. The time of
the processor is given beside that of the clock, since ours works on two threads.

Usage: ``python benchmarks/bench_i4i.py [--rounds 5] [--only CASE ...] [--scratch DIR]``, rounds
for the cost by number. The files take 1 GB in the scratch directory, and are removed at the end.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPE = (1024, 1032)
#: Least ratio wanted.
WANTED = 25
#: Parts of the pixels that are flagged, outliers, and in a source.
FLAGGED, OUTLIERS, MASKED = 0.003, 0.003, 0.02
COUNTS = (16, 32, 64)


class Rows:
    """A mask in memory."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.mask[start:stop]


def write_exposures(directory: Path, number: int) -> list[Path]:
    from stdatamodels.jwst import datamodels

    rng = np.random.default_rng(1)
    pattern = rng.normal(60.0, 0.5, SHAPE).astype(np.float32)
    paths = []
    for index in range(number):
        path = directory / f"dither{index:03d}_rate.fits"
        data = pattern + np.float32(0.35) * rng.standard_normal(SHAPE, dtype=np.float32)
        hit = rng.random(SHAPE) < OUTLIERS
        data[hit] += rng.exponential(10.0, np.count_nonzero(hit)).astype(np.float32)
        model = datamodels.ImageModel(data=data)
        model.err = np.full(SHAPE, 0.35, np.float32)
        model.dq = (rng.random(SHAPE) < FLAGGED).astype(np.uint32)
        model.meta.instrument.name = "MIRI"
        model.meta.instrument.detector = "MIRIMAGE"
        model.meta.subarray.xstart = model.meta.subarray.ystart = 1
        model.meta.subarray.ysize, model.meta.subarray.xsize = SHAPE
        model.save(path)
        paths.append(path)
    return paths


def source_masks(number: int) -> list[Rows]:
    """Blocks of 8x8 pixels, other ones for each exposure."""
    masks = []
    for index in range(number):
        coarse = np.random.default_rng(index).random((SHAPE[0] // 8, SHAPE[1] // 8)) < MASKED
        masks.append(Rows(np.kron(coarse, np.ones((8, 8), np.bool_)).astype(np.bool_)))
    return masks


def run_webbkg(paths, masks, planes, *, median=False):
    from webbkg.io.files import FileHandle
    from webbkg.methods.leave_one_out import Levels, LooRule, leave_one_out

    leave_one_out(
        [FileHandle(path) for path in paths],
        masks,
        Levels.equal(len(paths)),
        rule=LooRule(median=median),
        bad_bits=1,
        max_bytes=256_000_000,
        n_threads=2,
        out=planes,
    )


def run_i4i(paths, masks, template_noise="shrink"):
    from webbkg.io.files import FileHandle
    from webbkg.methods.i4i import I4iParams, i4i

    handles = [FileHandle(path) for path in paths]
    params = I4iParams(iterations=0, template_noise=template_noise, threads=2)
    return i4i(handles, [], params, masks=[mask.mask for mask in masks])


def run_jwst(path: Path, paths: list[Path]) -> np.ndarray:
    """Background of one exposure."""
    from jwst.background.background_sub import average_background
    from stdatamodels.jwst import datamodels

    others = [str(other) for other in paths if other != path]
    with datamodels.open(path) as science:
        return np.array(average_background(science, others, 3.0, None).data)


def timed(function) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(paths: list[Path]) -> None:
    """Ratio to jwst."""
    from webbkg.methods.leave_one_out import LooPlanes

    n = len(paths)
    masks = source_masks(n)
    sides = {
        "i4i": lambda: run_i4i(paths, masks),
        "i4i, raw": lambda: run_i4i(paths, masks, "raw"),
        "clipped mean alone": lambda: run_webbkg(paths, masks, LooPlanes.empty(n, SHAPE)),
        "median alone": lambda: run_webbkg(paths, masks, LooPlanes.empty(n, SHAPE), median=True),
    }
    for function in sides.values():
        function()
    run_jwst(paths[0], paths[:2])
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    jwst = []
    for path in paths:
        for side, function in sides.items():
            times[side].append(timed(function))
        jwst.append(timed(lambda path=path: run_jwst(path, paths)))
    total = np.sum(jwst, axis=0)
    print(f"  {'jwst':<24} {total[0]:8.3f} s, {total[1]:8.3f} s of a processor")
    for side, seconds in times.items():
        middle = np.median(seconds, axis=0)
        print(
            f"  {side:<24} {middle[0]:8.3f} s, {middle[1]:8.3f} s of a processor; jwst over this "
            f"{total[0] / middle[0]:6.1f} and {total[1] / middle[1]:6.1f} (wanted: {WANTED})"
        )
    planes = LooPlanes.empty(n, SHAPE)
    run_webbkg(paths, masks, planes)
    difference = np.abs(planes.image[0] - run_jwst(paths[0], paths))
    print(
        f"  difference of the clipped mean from jwst, first exposure: median "
        f"{np.nanmedian(difference):.4f} DN/s (0.35 / sqrt({n - 1}) = {0.35 / (n - 1) ** 0.5:.3f})"
    )


def cost_per_exposure(paths: list[Path], rounds: int) -> None:
    """Processor time of one exposure by their number; other work disturbs it less than a clock."""
    costs: dict[int, list[float]] = {number: [] for number in COUNTS}
    for round_number in range(rounds + 1):
        for number in COUNTS:
            masks = source_masks(number)
            start = time.process_time()
            run_i4i(paths[:number], masks)
            if round_number:
                costs[number].append((time.process_time() - start) / number)
    middle = {number: 1000 * statistics.median(cost) for number, cost in costs.items()}
    for number, cost in middle.items():
        print(f"  {number:3d} exposures: {cost:6.2f} ms of a processor for each")
    print(f"  {COUNTS[-1]} over {COUNTS[0]}: {middle[COUNTS[-1]] / middle[COUNTS[0]]:.2f}")


def peak_memory(paths: list[Path]) -> None:
    """Peak beyond imports and a run of 3 exposures, in a process of its own."""
    call = [sys.executable, __file__, "--peak-of", *map(str, paths)]
    result = subprocess.run(call, check=True, capture_output=True, text=True)
    print(f"  {len(paths)} exposures: {result.stdout.strip()} MB (max_memory is 256 MB)")


def print_peak(paths: list[Path]) -> None:
    from webbkg.io.files import FileHandle
    from webbkg.methods.i4i import I4iParams, i4i

    def peak() -> float:
        # getrusage would inherit the parent's.
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024 * 1.048576

    handles = [FileHandle(path) for path in paths]
    # Compiled code is loaded at its first use.
    i4i(handles[:3], [], I4iParams(iterations=0))
    before = peak()
    i4i(handles, [], I4iParams(iterations=0, threads=2))
    print(f"{peak() - before:.0f}")


def main() -> None:
    cases = ("compare", "cost", "memory")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=cases, default=cases)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--peak-of", nargs="+", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of)
        return
    logging.disable(logging.CRITICAL)
    print(f"{len(os.sched_getaffinity(0))} processors, {options.rounds} rounds")
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        number = COUNTS[0] if set(options.only) == {"compare"} else COUNTS[-1]
        paths = write_exposures(Path(folder), number)
        if "compare" in options.only:
            print(f"compare: {COUNTS[0]} exposures {SHAPE}, each from the others")
            compare(paths[: COUNTS[0]])
        if "cost" in options.only:
            print("cost: by number of exposures")
            cost_per_exposure(paths, options.rounds)
        if "memory" in options.only:
            print("memory: peak beyond that of 3 exposures")
            for count in COUNTS:
                peak_memory(paths[:count])


if __name__ == "__main__":
    main()
