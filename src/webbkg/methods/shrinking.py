"""The mean of dedicated backgrounds with less noise, region by region of the detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import FloatArray, MaskArray, Window
from webbkg.kernels.pattern import (
    Pattern,
    Power,
    Sample,
    find_special,
    measure_power,
    pattern_of,
)
from webbkg.kernels.shrink import ROUNDS, shrink
from webbkg.kernels.smooth import local_mean
from webbkg.masks.regions import region_map
from webbkg.methods.stack import Stack, StackMean
from webbkg.parallel import run_tasks

__all__ = ["MIN_REGION", "Box", "measure_patterns", "region_boxes", "shrink_mean"]

#: Bounding box of a region, and its pixels in that box.
Box: TypeAlias = tuple[tuple[slice, slice], MaskArray]

#: Smaller regions are too small for a spectrum of their pattern [px].
MIN_REGION = 1024
#: Backgrounds that the power of the pattern is measured on.
_SAMPLES = 4


def shrink_mean(stack: Stack, mean: StackMean, window: Window, *, n_threads: int) -> float:
    """
    Take noise out of the mean of a stack, in place; what is undefined stays so.

    Parameters
    ----------
    stack : Stack
        The exposures.
    mean : StackMean
        Their mean on `window`.
    window : Window
        Where on the detector.
    n_threads : int
        Threads to work with.

    Returns
    -------
    float
        Rms of the pattern in the largest region, unit of the data; NaN if none was measured.

    Notes
    -----
    The power of the pattern is that which an exposure has in common with the mean of the others,
    (n T - x) / (n - 1) where the exposure's own value x is in the mean T of n.
    """
    n = len(stack.handles)
    boxes = dict(region_boxes(region_map(stack.handles[0].meta, window)))
    patterns = measure_patterns(
        lambda index: _sample(stack, mean, window, index), n, boxes, n_threads=n_threads
    )
    var = np.square(mean.err)
    for label, pattern in patterns.items():
        (rows, columns), inside = boxes[label]
        cut, cut_var = mean.image[rows, columns], var[rows, columns]
        n_used = mean.n_used[rows, columns].astype(np.float32)
        of_one = np.where(inside, cut_var * n_used, np.float32(np.nan))
        with np.errstate(divide="ignore", invalid="ignore"):
            # ERR is smaller where a pixel is low by chance: as a weight it would bias the level.
            even = np.where(np.isfinite(of_one), local_mean(of_one) / n_used, np.float32(np.nan))
        better = shrink(
            np.where(inside, cut, np.float32(np.nan)),
            even,
            pattern,
            rounds=ROUNDS if np.isnan(cut[inside]).any() else 1,
        )
        known = inside & np.isfinite(cut) & np.isfinite(better.image) & ~better.own
        np.copyto(cut, better.image, where=known)
        np.copyto(mean.err[rows, columns], np.sqrt(better.var), where=known)
    largest = max(patterns, key=lambda label: int(boxes[label][1].sum()), default=None)
    return math.nan if largest is None else patterns[largest].rms


def measure_patterns(
    sample: Callable[[int], Sample], n: int, boxes: Mapping[int, Box], *, n_threads: int
) -> dict[int, Pattern]:
    """
    Measure the power of the pattern in each region, on some of the exposures.

    Parameters
    ----------
    sample : callable
        Gives an exposure and the background of the others by index.
    n : int
        Number of exposures.
    boxes : mapping
        What `region_boxes` gives.
    n_threads : int
        Exposures measured at a time.

    Returns
    -------
    dict of Pattern
        Pattern by label, of the regions that are lit and large enough.
    """
    chosen = [int(index) for index in np.unique(np.linspace(0, n - 1, min(n, _SAMPLES)).round())]
    large = {
        label: box
        for label, box in boxes.items()
        if label and np.count_nonzero(box[1]) >= MIN_REGION
    }
    first = sample(chosen[0])
    special = {
        label: find_special(*(_cut(plane, box) for plane in (first.template, first.template_var)))
        for label, box in large.items()
    }
    powers: dict[tuple[int, int], Power] = {}

    def measure(index: int) -> None:
        whole = first if index == chosen[0] else sample(index)
        for label, box in large.items():
            part = Sample(*(_cut(plane, box) for plane in whole))
            powers[label, index] = measure_power(part, special[label][0])

    run_tasks(measure, chosen, n_threads)
    found = {
        label: pattern_of([powers[label, index] for index in chosen], *special[label])
        for label in large
    }
    return {label: pattern for label, pattern in found.items() if pattern is not None}


def _cut(plane: FloatArray, box: Box) -> FloatArray:
    """Part of an image in the box of a region, NaN outside of the region."""
    (rows, columns), inside = box
    return np.where(inside, plane[rows, columns], np.float32(np.nan))


def region_boxes(regions: NDArray[np.uint8]) -> Iterator[tuple[int, Box]]:
    """
    Cut a detector into its regions.

    Parameters
    ----------
    regions : numpy.ndarray
        Map of regions, uint8, shape ``(ny, nx)``.

    Yields
    ------
    tuple
        Label of a region, and its bounding box with the pixels of that box that belong to it.
    """
    for label in np.unique(regions):
        inside = regions == label
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        yield int(label), (box, inside[box])


def _sample(stack: Stack, mean: StackMean, window: Window, index: int) -> Sample:
    """Give one exposure with the mean of the others."""
    image, own_var = stack.load_one(index, window)
    n_used = mean.n_used.astype(np.float32)
    var = np.square(mean.err)
    with np.errstate(divide="ignore", invalid="ignore"):
        template = (n_used * mean.image - image) / (n_used - 1)
        template_var = (n_used**2 * var - own_var) / (n_used - 1) ** 2
        # A value that was clipped is not in the mean.
        foreign = np.abs(image - mean.image) > stack.rule.sigma * np.sqrt(1.5 * own_var)
        unknown = foreign | (n_used < 2) | ~(template_var > 0)
    template[unknown] = np.nan
    return Sample(image, own_var, template, template_var)
