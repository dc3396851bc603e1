"""
Sky of NIRISS SOSS exposures: time and memory beside the JWST pipeline's function.

Integrations of 256x2048 pixels are made of one simulated one and noise of their own. Both sides get
them in memory, as a step does, and templates as a library. The pipeline opens its reference file
from disk; reading it is a small part of its time. Memory is what a process of its own needs at its
peak beyond the input and all imports, that of the result included.

    python benchmarks/bench_soss.py [--only speed memory files] [--rounds 3]
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np

#: Integrations, and what is wanted: time of the pipeline over ours, and memory over the input.
COUNTS, RATIO, MEMORY = (50, 200), 10.0, 0.5
SHAPE = (256, 2048)
SIDES = ("webbkg pipeline", "webbkg mode", "jwst")


@cache
def simulated():
    from webbkg.sim import niriss_soss

    exposure = niriss_soss(seed=1, n_integrations=0).science[0]
    return exposure.data, exposure.err, exposure.dq


def model_of(number: int):
    """Make a data model with every array that rateints have."""
    from stdatamodels.jwst import datamodels

    data, err, dq = simulated()
    rng = np.random.default_rng(1)
    model = datamodels.CubeModel((number, *SHAPE))
    for index in range(number):
        model.data[index] = data + err * rng.standard_normal(SHAPE, dtype=np.float32)
    for name, plane in (("err", err), ("dq", dq), ("var_poisson", err), ("var_rnoise", err)):
        array = np.empty((number, *SHAPE), plane.dtype)
        array[:] = plane
        setattr(model, name, array)
    return model


def write_library(path: Path, number: int) -> Path:
    from stdatamodels.jwst import datamodels

    from webbkg.sim import sky_template

    model = datamodels.SossBkgModel(data=np.stack([sky_template(k) for k in range(number)]))
    for name in ("err", "dq"):
        model[name] = model.get_default(name)
    model.meta.exposure.type = "NIS_SOSS"
    model.save(path)
    return path


def input_bytes(model) -> int:
    names = ("data", "err", "dq", "var_poisson", "var_rnoise")
    return sum(getattr(model, name).nbytes for name in names)


def run(side: str, model, library: Path) -> None:
    """Correct a data model."""
    if side == "jwst":
        from jwst.background.background_sub_soss import subtract_soss_bkg

        if subtract_soss_bkg(model, str(library), 35.0, [25.0, 50.0]) is None:
            raise RuntimeError("jwst did not correct the exposure")
        return
    from webbkg.exposure import MemoryHandle
    from webbkg.io.sky_references import read_sky_references
    from webbkg.methods.soss import SossParams, soss

    rule = side.removeprefix("webbkg ")
    errors = "keep" if rule == "pipeline" else "propagate"
    handle = MemoryHandle(model.data, model.err, model.dq)
    result = soss(handle, read_sky_references(library), SossParams(rule=rule, errors=errors))
    result.correct_into(model.data, model.err)


def compare_speed(folder: Path, rounds: int) -> None:
    """Time all sides in turn."""
    for n_templates in (1, 8):
        library = write_library(folder / f"library{n_templates}.fits", n_templates)
        for number in COUNTS if n_templates == 1 else COUNTS[:1]:
            model = model_of(number)
            before = model.data.copy(), model.err.copy()
            times: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(rounds + 1):
                for side in SIDES:
                    model.data[:], model.err[:] = before
                    start = time.perf_counter()
                    run(side, model, library)
                    times[side].append(time.perf_counter() - start)
            # The first round imports and compiles.
            middle = {side: float(np.median(values[1:])) for side, values in times.items()}
            print(f"{number} integrations, {n_templates} templates, {rounds} rounds")
            for side, seconds in middle.items():
                print(f"  {side:<18}{seconds:8.3f} s, {1e3 * seconds / number:7.2f} ms each")
            for side in SIDES[:2]:
                print(f"  jwst / {side}: {middle['jwst'] / middle[side]:.1f} (wanted: {RATIO:g})")


def compare_memory(folder: Path) -> None:
    """Peak beyond imports and input, each in a process of its own."""
    for n_templates in (1, 8):
        library = write_library(folder / f"library{n_templates}.fits", n_templates)
        for number in COUNTS:
            for side in SIDES:
                # The pipeline repeats its template: memory for the largest is not to be had.
                if side == "jwst" and number > COUNTS[0]:
                    continue
                words = peak_in_process("--peak-of", side, str(library), str(number))
                extra, size = map(float, words.split())
                print(
                    f"{number} integrations, {n_templates} templates, {side}: {extra:.0f} MB "
                    f"beyond {size:.0f} MB, {extra / size:.2f} (wanted: {MEMORY:g})"
                )


def compare_files(folder: Path) -> None:
    """Peak for files, beyond that of a small one, with the default of max_memory."""
    library = write_library(folder / "library1.fits", 1)
    for number in (2, *COUNTS):
        path = folder / f"ints{number}_rateints.fits"
        model = model_of(number)
        model.meta.instrument.name, model.meta.exposure.type = "NIRISS", "NIS_SOSS"
        model.meta.subarray.xstart, model.meta.subarray.ystart = 1, 1793
        model.meta.subarray.ysize, model.meta.subarray.xsize = SHAPE
        model.save(path)
        del model
        for rule in ("pipeline", "mode"):
            start = time.perf_counter()
            words = peak_in_process("--peak-of-file", rule, str(library), str(path))
            print(
                f"file of {number} integrations, {path.stat().st_size / 1e6:.0f} MB, rule {rule}: "
                f"{words} MB beyond imports, {time.perf_counter() - start:.1f} s with them"
            )


def peak_in_process(*arguments: str) -> str:
    call = [sys.executable, __file__, *arguments]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def memory(name: str) -> float:
    """Resident memory [MB]: VmHWM at the most, VmRSS now. getrusage would inherit the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 * 1.048576


def print_peak(side: str, library: Path, number: int) -> None:
    run(side, model_of(2), library)
    model = model_of(number)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    run(side, model, library)
    print(memory("VmHWM") - before, input_bytes(model) / 1e6)


def print_peak_of_file(rule: str, library: Path, path: Path) -> None:
    from webbkg.io.files import FileHandle
    from webbkg.io.sky_references import read_sky_references
    from webbkg.methods.soss import SossParams, soss

    run("webbkg " + rule, model_of(2), library)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = soss(FileHandle(path), read_sky_references(library), SossParams(rule=rule))
    for _ in result.planes():
        pass
    print(f"{memory('VmHWM') - before:.0f}")


def main() -> None:
    kinds = ("speed", "memory", "files")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--peak-of-file", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if options.peak_of:
        side, library, number = options.peak_of
        print_peak(side, Path(library), int(number))
        return
    if options.peak_of_file:
        rule, library, path = options.peak_of_file
        print_peak_of_file(rule, Path(library), Path(path))
        return
    print(f"{len(os.sched_getaffinity(0))} processors")
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        if "speed" in options.only:
            compare_speed(Path(folder), options.rounds)
        if "memory" in options.only:
            compare_memory(Path(folder))
        if "files" in options.only:
            compare_files(Path(folder))


if __name__ == "__main__":
    main()
