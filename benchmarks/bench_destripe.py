"""
Stripes of NIRCam images: what is left of them, speed and memory, against jwst.

Question: how much less of the stripes does `webbkg.methods.destripe` leave than
``jwst.clean_flicker_noise`` in its best setting for each scene, how much faster is it, masks
included, and does its memory stay bounded when there are more integrations? The scenes and figures
are those of ``webbkg validate nircam-destripe``. The pipeline's code is called on data models in
memory, ours on the same arrays; nothing is read or written. In `speed` the sides take turns in one
run, so that other work slows all; medians over the rounds are printed, by the clock and of the
processor, since ours works on threads. jwst's fit in frequency space ("fft") refuses NIRCam; with
``--search`` it is run all the same, beneath that check.

Usage: ``python benchmarks/bench_destripe.py [--only quality speed memory] [--scenes SCENE ...]
[--seeds 1] [--rounds 5] [--search] [--scratch DIR]``.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

SCENES = ("sparse", "galaxy", "nebula")
#: Least ratio of times wanted, and most seconds for each of our methods.
WANTED = 3.0
SECONDS = {"rows": 0.5, "model": 1.5}
#: Integrations of a file, and rows and columns of one of them.
COUNTS = (8, 16, 32, 64)
SHAPE = (256, 2048)


@dataclass(frozen=True)
class Setting:
    """How the pipeline's code is called."""

    by_channel: bool
    background: str
    box: int | None = None
    n_sigma: float = 2.0
    histogram: bool = False
    masked: bool = False

    def __str__(self) -> str:
        box = "" if self.box is None else f" {self.box}"
        words = ["by channel" if self.by_channel else "rows", f"{self.background}{box}"]
        words += [f"{self.n_sigma:g} sigma"]
        words += ["histogram"] * self.histogram + ["our mask"] * self.masked
        return ", ".join(words)


DEFAULT = Setting(False, "median")
#: The pipeline's default, and those that were best for one scene or another in a search.
SETTINGS = (
    DEFAULT,
    Setting(True, "median", n_sigma=3.0),
    Setting(True, "model", 32, n_sigma=3.0),
    Setting(True, "model", 64, n_sigma=3.0),
    Setting(True, "model", 128, n_sigma=3.0),
)


def all_settings() -> Iterator[Setting]:
    """Many settings, for a search that takes minutes."""
    backgrounds = [("median", None), *(("model", box) for box in (16, 32, 64, 128, 256))]
    for by_channel, (background, box), n_sigma in itertools.product(
        (True, False), backgrounds, (1.5, 2.0, 2.5, 3.0, 4.0)
    ):
        for histogram, masked in ((False, False), (True, False), (False, True)):
            yield Setting(by_channel, background, box, n_sigma, histogram, masked)


def model_of(frame):
    from stdatamodels.jwst import datamodels

    before = frame.before
    model = datamodels.ImageModel(
        data=before.data.copy(), err=before.err.copy(), dq=before.dq.copy()
    )
    model.meta.instrument.name = "NIRCAM"
    model.meta.instrument.detector = before.meta["DETECTOR"]
    model.meta.exposure.type = "NRC_IMAGE"
    model.meta.subarray.name = "FULL"
    model.meta.subarray.fastaxis = before.meta["FASTAXIS"]
    model.meta.subarray.slowaxis = before.meta["SLOWAXIS"]
    return model


def run_jwst(model, setting: Setting, mask: Path | None = None) -> np.ndarray:
    """Correct a data model in place."""
    from jwst.clean_flicker_noise.clean_flicker_noise import do_correction

    result, *_, status = do_correction(
        model,
        fit_by_channel=setting.by_channel,
        background_method=setting.background,
        background_box_size=None if setting.box is None else [setting.box] * 2,
        n_sigma=setting.n_sigma,
        fit_histogram=setting.histogram,
        user_mask=str(mask) if setting.masked else None,
    )
    if status != "COMPLETE":
        raise RuntimeError(f"jwst did not correct the frame: {status}")
    return result.data


def run_fft(frame) -> np.ndarray:
    """Fit in frequency space, as for NIRSpec, whose lines are columns."""
    from jwst.clean_flicker_noise import clean_flicker_noise as jwst

    model = model_of(frame)
    mask = jwst.create_mask(model, n_sigma=3.0, single_mask=True)
    image = frame.before.data.copy()
    mask &= np.isfinite(image)
    image[~np.isfinite(image)] = 0.0
    level = jwst.background_level(image, mask, "median")
    turned = np.ascontiguousarray((image - level).T), np.ascontiguousarray(mask.T)
    return jwst.fft_clean_full_frame(*turned, "NRS1").T + np.float32(level)


def run_webbkg(frame, method: str, mask: str = "tiers"):
    from webbkg.methods.destripe import DestripeParams, destripe

    result = destripe(frame.handle, DestripeParams(method=method, mask=mask))
    return result, result.exposure


def figures(frame, after) -> dict[str, float]:
    from webbkg.validate import nircam_destripe as validation

    left = validation.stripes_left(frame, after)
    high, total = validation.row_scatter(frame, left)
    level = 0.0 if after is None else validation.level_kept(frame, after)
    return {
        "hf": high,
        "total": total,
        "bias": validation.diffuse_bias(frame, left),
        "level": level,
        "faint": validation.faint_flux(frame, left).percent,
    }


OURS = (("model", "tiers"), ("amplifiers", "tiers"), ("rows", "tiers"), ("rows", "simple"))


def compare_quality(scene: str, seeds: int, search: bool, folder: Path) -> Setting:
    """Print what is left of the stripes; return the pipeline's best setting."""
    from webbkg.validate.striped_frames import simulate

    found: dict[str, list[dict[str, float]]] = {}
    settings = list(all_settings()) if search else list(SETTINGS)
    for seed in range(1, seeds + 1):
        frame = simulate(scene, seed)
        mask = folder / f"{scene}{seed}.fits"
        found.setdefault("untouched", []).append(figures(frame, None))
        for method, kind in OURS:
            result, after = run_webbkg(frame, method, kind)
            found.setdefault(f"webbkg {method}, {kind}", []).append(figures(frame, after))
            if not mask.exists():
                write_mask(mask, result.mask)
        for setting in settings:
            data = run_jwst(model_of(frame), setting, mask)
            after = replace(frame.before, data=data)
            found.setdefault(f"jwst {setting}", []).append(figures(frame, after))
        if search:
            after = replace(frame.before, data=run_fft(frame))
            found.setdefault("jwst fft", []).append(figures(frame, after))
    return print_quality(scene, found, {f"jwst {setting}": setting for setting in settings})


def write_mask(path: Path, mask: np.ndarray) -> None:
    from stdatamodels.jwst import datamodels

    # To the pipeline, 1 is background.
    datamodels.ImageModel(data=(~mask).astype(np.float32)).save(path)


def print_quality(scene: str, found, settings) -> Setting:
    """Rms over seeds of each figure, the pipeline's settings from the best on."""

    def rms(name: str, figure: str) -> float:
        return float(np.sqrt(np.mean([one[figure] ** 2 for one in found[name]])))

    peers = sorted((name for name in found if name.startswith("jwst")), key=lambda n: rms(n, "hf"))
    names = [name for name in found if not name.startswith("jwst")] + peers[:12]
    first = next(iter(found.values()))
    print(f"{scene}, rms over {len(first)} seeds [1e-3 DN/s; faint stars: %]")
    print(f"  {'':<44}" + "".join(f"{figure:>8}" for figure in first[0]))
    for name in names:
        cells = (f"{rms(name, figure):8.3f}".replace("nan", "   ") for figure in first[0])
        print(f"  {name:<44}" + "".join(cells))
    # Timed with its own mask, as ours makes one too.
    best = next(name for name in peers if name in settings and not settings[name].masked)
    ours = f"webbkg {OURS[0][0]}, {OURS[0][1]}"
    for label, figure in (("high-frequency residual", "hf"), ("bias on extended light", "bias")):
        if figure == "bias" and scene == "sparse":
            continue
        least = min(peers, key=lambda name: rms(name, figure))
        print(
            f"  {label}: jwst {rms(least, figure):.3f} ({least.removeprefix('jwst ')}), ours "
            f"{rms(ours, figure):.3f}, ratio {rms(least, figure) / rms(ours, figure):.2f}"
        )
    return settings[best]


def compare_speed(scene: str, best: Setting, rounds: int) -> None:
    """Time all sides in turn."""
    from webbkg.validate.striped_frames import simulate

    frame = simulate(scene, 1)
    ours = {f"webbkg {method}, {kind}": (method, kind) for method, kind in OURS}
    peers = {"jwst default": DEFAULT, f"jwst {best}": best}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*ours, *peers)}
    for _ in range(rounds + 1):
        for name, (method, kind) in ours.items():
            times[name].append(timed(lambda m=method, k=kind: run_webbkg(frame, m, k)))
        for name, setting in peers.items():
            model = model_of(frame)
            times[name].append(timed(lambda m=model, s=setting: run_jwst(m, s)))
    # The first round compiles.
    middle = {name: np.median(values[1:], axis=0) for name, values in times.items()}
    print(f"{scene}: {frame.before.data.shape[0]}x{frame.before.data.shape[1]}, {rounds} rounds")
    for name, (wall, processor) in middle.items():
        print(f"  {name:<44}{wall:8.3f} s, {processor:8.3f} s of a processor")
    for name, (method, _) in ours.items():
        # A row median does the job of the default, the model that of the best setting.
        peer = "jwst default" if method == "rows" else f"jwst {best}"
        ratio = middle[peer] / middle[name]
        wanted = f"; wanted: {WANTED:g}, {SECONDS[method]:g} s" if method in SECONDS else ""
        print(f"  {peer} / {name}: {ratio[0]:.1f}, of a processor {ratio[1]:.1f}{wanted}")


def timed(function) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def write_integrations(path: Path, number: int) -> Path:
    """Noise with stripes, other ones in each integration."""
    from stdatamodels.jwst import datamodels

    from webbkg.exposure import Window
    from webbkg.sim import Stripes

    rng = np.random.default_rng(1)
    data = rng.standard_normal((number, *SHAPE), dtype=np.float32) * np.float32(0.012)
    data += np.float32(0.1)
    layer = Stripes(rms=6.4e-3, seed=(1,), read_window=Window(0, 0, *SHAPE), n_integrations=number)
    data += np.repeat(layer.levels(), SHAPE[1] // layer.n_outputs, axis=2).astype(np.float32)
    model = datamodels.CubeModel(data=data)
    model.err = np.full(data.shape, 0.012, np.float32)
    model.dq = np.zeros(data.shape, np.uint32)
    model.meta.instrument.name = "NIRCAM"
    model.meta.instrument.detector = "NRCB1"
    model.meta.exposure.type = "NRC_TSIMAGE"
    model.meta.exposure.noutputs = layer.n_outputs
    model.meta.subarray.name = "SUBGRISM256"
    model.meta.subarray.fastaxis, model.meta.subarray.slowaxis = 1, 2
    model.meta.subarray.xstart = model.meta.subarray.ystart = 1
    model.meta.subarray.ysize, model.meta.subarray.xsize = SHAPE
    model.save(path)
    return path


def compare_memory(folder: Path) -> None:
    """Peak beyond that of a file of few integrations, each side in a process of its own."""
    print(
        f"memory: rateints of {SHAPE[0]}x{SHAPE[1]}, peak beyond that of {COUNTS[0]} integrations"
    )
    paths = [write_integrations(folder / f"ints{n}_rateints.fits", n) for n in COUNTS]
    for side in ("webbkg", "jwst"):
        for number, path in zip(COUNTS[1:], paths[1:], strict=True):
            call = [sys.executable, __file__, "--peak-of", side, str(paths[0]), str(path)]
            done = subprocess.run(call, check=True, capture_output=True, text=True)
            size = path.stat().st_size / 1e6
            words = done.stdout.splitlines()[-1]
            print(f"  {side:<8}{number:3d} integrations, file {size:5.0f} MB: {words:>6} MB")


def print_peak(side: str, first: Path, path: Path) -> None:
    def peak() -> float:
        # getrusage would inherit the parent's.
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024 * 1.048576

    run = correct_with_webbkg if side == "webbkg" else correct_with_jwst
    run(first)
    before = peak()
    run(path)
    print(f"{peak() - before:.0f}")


def correct_with_webbkg(path: Path) -> None:
    from webbkg.io.files import FileHandle
    from webbkg.methods.destripe import destripe

    for _ in destripe(FileHandle(path)).planes():
        pass


def correct_with_jwst(path: Path) -> None:
    from stdatamodels.jwst import datamodels

    with datamodels.open(path) as model:
        run_jwst(model, Setting(False, "median"))


def main() -> None:
    kinds = ("quality", "speed", "memory")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--search", action="store_true", help="try many settings of jwst")
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # astropy's, about masked medians and NaN.
    warnings.simplefilter("ignore")
    if options.peak_of:
        side, *paths = options.peak_of
        print_peak(side, *map(Path, paths))
        return
    print(f"{len(os.sched_getaffinity(0))} processors")
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    # What a search and the quality below found.
    best = {"sparse": SETTINGS[1], "galaxy": SETTINGS[3], "nebula": SETTINGS[3]}
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        if "quality" in options.only:
            for scene in options.scenes:
                best[scene] = compare_quality(scene, options.seeds, options.search, Path(folder))
        if "speed" in options.only:
            for scene in options.scenes:
                compare_speed(scene, best[scene], options.rounds)
        if "memory" in options.only:
            compare_memory(Path(folder))


if __name__ == "__main__":
    main()
