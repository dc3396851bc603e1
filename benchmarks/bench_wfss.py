"""
Skies of grism exposures: masks of spectra, scale and subtraction, against jwst in one run.

Question: how much faster than the pipeline are `webbkg.io.grism_boxes.spectra_mask`, for a
catalogue of 2500 sources and with the same mask pixel for pixel, and `webbkg.methods.wfss` under
the rule ``pipeline``, with the same factor, on a simulated exposure of 2048x2048 pixels? The rule
``model`` is timed too; it is compared with the pipeline for information, as it does more. In
`scale` both sides begin with arrays in memory and end with corrected data and flags; in `step` each
side's step of the pipeline runs, with its reading of the reference file, on a model in memory and
with a mask of the user's. The sides take turns in one run, so that other work slows all; medians
over the rounds are printed, by the clock and of the processor, since ours works on threads.

Usage: ``python benchmarks/bench_wfss.py [--only mask scale step] [--presets PRESET ...]
[--sources 2500] [--rounds 5] [--scratch DIR]``.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

PRESETS = ("niriss-wfss", "nircam-wfss")
#: Least ratio of times wanted, and most seconds for the mask.
WANTED = 8.0
SECONDS = 1.0
#: Sources simulated for one that is detected, at least.
SURPLUS = {"niriss-wfss": 1.3, "nircam-wfss": 1.6}


def prepare(preset: str, n_sources: int, folder: Path):
    """An exposure with its WCS and a catalogue of so many sources, and its reference files."""
    from astropy.table import QTable, vstack
    from jwst.assign_wcs import AssignWcsStep

    from webbkg.sim import local_crds, simulate, write_observation

    n = round(n_sources * SURPLUS[preset])
    observation = simulate(preset, n_science=1, n_sources=n, seed=1)
    files = write_observation(observation, folder)
    with local_crds(files.cache):
        model = AssignWcsStep.call(str(files.science[0]))
    table = QTable.read(files.catalog, format="ascii.ecsv")
    table = vstack([table] * -(-n_sources // len(table)), metadata_conflicts="silent")[:n_sources]
    catalog = folder / "some_cat.ecsv"
    table.write(catalog, format="ascii.ecsv", overwrite=True)
    model.meta.source_catalog = str(catalog)
    [ranges] = files.cache.glob("references/jwst/*/*wavelengthrange*")
    [template] = files.cache.glob("references/jwst/*/*bkg*")
    return files, model, str(ranges), str(template)


def timed(function):
    """Seconds by the clock and of the processor, and the result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return (time.perf_counter() - wall, time.process_time() - processor), result


def compare(sides, rounds: int, *, slow: str | None = None):
    """Let sides take turns; the first round compiles. One that is slow runs once."""
    times = {name: [] for name in sides}
    results = {}
    for number in range(rounds + 1):
        for name, function in sides.items():
            if name != slow or number == 1:
                found, results[name] = timed(function)
                times[name].append(found)
    middle = {
        name: np.median(values if name == slow else values[1:], axis=0)
        for name, values in times.items()
    }
    for name, (wall, processor) in middle.items():
        print(f"  {name:<24}{wall:8.3f} s, {processor:8.3f} s of a processor")
    return middle, results


def print_ratio(middle, peer: str, ours: str, wanted: str = "") -> None:
    ratio = middle[peer] / middle[ours]
    print(f"  {peer} / {ours}: {ratio[0]:.1f}, of a processor {ratio[1]:.1f}{wanted}")


def compare_masks(model, ranges: str, rounds: int) -> None:
    from jwst.background.background_sub_wfss import _mask_from_source_cat

    from webbkg.io.grism_boxes import spectra_mask

    catalog = model.meta.source_catalog
    sides = {
        "jwst": lambda: _mask_from_source_cat(model, ranges),
        "webbkg": lambda: spectra_mask(model, catalog, ranges),
    }
    middle, results = compare(sides, rounds, slow="jwst")
    found = results["webbkg"]
    other = int(np.count_nonzero(found.mask == results["jwst"]))
    share = 100 * found.mask.mean()
    print(f"  {found.n_spectra} spectra of {found.n_sources} sources mask {share:.1f} %")
    print(f"  {other} pixels differ from jwst")
    print_ratio(middle, "jwst", "webbkg", f"; wanted: {SECONDS:g} s")


def scale_with_jwst(model, reference, mask):
    """The pipeline's function, which finds its reference file read already."""
    from jwst.background import background_sub_wfss as jwst

    with mock.patch.object(jwst.datamodels, "open", return_value=reference):
        result = jwst.subtract_wfss_bkg(model, "sky", "N/A", user_mask=~mask)
    return result.meta.background.scaling_factor, result.data, result.dq


def scale_with_webbkg(model, template, mask, rule: str):
    from webbkg.exposure import MemoryHandle
    from webbkg.methods.wfss import WfssParams, wfss

    handle = MemoryHandle(model.data, model.err, model.dq, name="exposure", meta=template.meta)
    errors = "keep" if rule == "pipeline" else "propagate"
    params = WfssParams(rule=rule, errors=errors)
    result = wfss(handle, [template], params, mask=mask, dispersion_axis=1)
    return result.scales[0], result.exposure.data, result.exposure.dq


def compare_scales(model, template_file: str, ranges: str, rounds: int) -> None:
    from stdatamodels.jwst import datamodels

    from webbkg.io.grism_boxes import spectra_mask
    from webbkg.io.sky_references import read_sky_references

    # The function changes the model that it is given, by new arrays.
    arrays = SimpleNamespace(data=model.data, err=model.err, dq=model.dq)
    [template] = read_sky_references(template_file)
    mask = spectra_mask(model, model.meta.source_catalog, ranges, 24.0).mask
    print(f"  {100 * mask.mean():.1f} % masked as spectra")

    def run_jwst():
        model.data, model.dq = arrays.data, arrays.dq
        return scale_with_jwst(model, reference, mask)

    sides = {
        "jwst": run_jwst,
        "webbkg, rule pipeline": lambda: scale_with_webbkg(arrays, template, mask, "pipeline"),
        "webbkg, rule model": lambda: scale_with_webbkg(arrays, template, mask, "model"),
    }
    with datamodels.open(template_file) as reference:
        # Read now, not when they are looked at.
        reference.data, reference.err, reference.dq = template.image, template.err, template.dq
        middle, results = compare(sides, rounds)
    model.data, model.dq = arrays.data, arrays.dq
    expected = results["jwst"]
    factor, data, dq = results["webbkg, rule pipeline"]
    off = np.nanmax(np.abs(data - expected[1])) / factor
    flags = np.count_nonzero(dq != expected[2])
    print(
        f"  factor {factor:.8g}, off from jwst by {factor / expected[0] - 1:.1e} of it, data by at "
        f"most {off:.1e} of the sky, flags of {flags} pixels"
    )
    print(f"  factor of rule model {results['webbkg, rule model'][0]:.8g}")
    print_ratio(middle, "jwst", "webbkg, rule pipeline", f"; wanted: {WANTED:g}")
    print_ratio(middle, "jwst", "webbkg, rule model")


def compare_steps(files, model, template: str, folder: Path, rounds: int) -> None:
    import jwst.background
    from stdatamodels.jwst import datamodels

    from webbkg.sim import local_crds
    from webbkg.steps import BackgroundStep

    mask = folder / "mask.fits"
    with datamodels.ImageModel() as found:
        found.mask = np.ones(model.data.shape, np.uint32)
        found.save(mask)

    def run(kind):
        step = kind(wfss_mask=str(mask))
        step.override_bkg = template
        step.override_wavelengthrange = "N/A"
        return step.run(model)

    with local_crds(files.cache):
        sides = {
            "jwst": lambda: run(jwst.background.BackgroundStep),
            "webbkg": lambda: run(BackgroundStep),
        }
        middle, _ = compare(sides, rounds)
    print_ratio(middle, "jwst", "webbkg")


def main() -> None:
    kinds = ("mask", "scale", "step")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--sources", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # numpy's, about NaN.
    warnings.simplefilter("ignore")
    print(f"{len(os.sched_getaffinity(0))} processors")
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    for preset in options.presets:
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            folder = Path(name)
            files, model, ranges, template = prepare(preset, options.sources, folder)
            shape = "x".join(map(str, model.data.shape))
            if "mask" in options.only:
                print(f"{preset}, mask of {options.sources} sources, {shape}")
                compare_masks(model, ranges, options.rounds)
            if "scale" in options.only:
                print(f"{preset}, scale and subtraction, {shape}, {options.rounds} rounds")
                compare_scales(model, template, ranges, options.rounds)
            if "step" in options.only:
                print(f"{preset}, whole step with a mask of the user's, {shape}")
                compare_steps(files, model, template, folder, options.rounds)


if __name__ == "__main__":
    main()
