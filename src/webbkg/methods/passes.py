"""The others of each exposure, where not all of them serve each."""

from __future__ import annotations

from collections.abc import Sequence

from webbkg.exposure import ExposureHandle
from webbkg.methods.leave_one_out import Levels, LooPlanes, LooRule, RowMask, leave_one_out

__all__ = ["combine_others"]


def combine_others(
    handles: Sequence[ExposureHandle],
    masks: Sequence[RowMask],
    partners: Sequence[Sequence[int]],
    levels: Levels,
    *,
    rule: LooRule,
    bad_bits: int,
    max_bytes: int,
    n_threads: int,
    out: LooPlanes,
) -> None:
    """
    Combine for each exposure those that serve it; those that share partners in one pass.

    Parameters
    ----------
    handles : sequence of ExposureHandle
        Exposures on one window.
    masks : sequence of RowMask
        Pixels of each that are not used.
    partners : sequence of sequence of int
        Exposures that serve each.
    levels : Levels
        How each is brought to the common level.
    rule : LooRule
        How they are combined.
    bad_bits : int
        Data-quality bits of pixels that are not used.
    max_bytes : int
        Memory to work in, that of `out` counted.
    n_threads : int
        Threads to work with.
    out : LooPlanes
        Filled with the results.
    """
    passes: dict[tuple[int, ...], list[int]] = {}
    for index, chosen in enumerate(partners):
        passes.setdefault(tuple(sorted({index, *chosen})), []).append(index)
    free = max_bytes - out.in_memory
    for members, wanted in passes.items():
        whole = len(wanted) == len(handles)
        shape = out.image.shape[1], out.image.shape[2]
        planes = out if whole else LooPlanes.empty(len(members), shape, free // 2)
        leave_one_out(
            [handles[k] for k in members],
            [masks[k] for k in members],
            Levels(levels.factors[list(members)], levels.offsets[list(members)], levels.regions),
            rule=rule,
            bad_bits=bad_bits,
            max_bytes=free if whole else free - planes.in_memory,
            n_threads=n_threads,
            out=planes,
        )
        for k in () if whole else wanted:
            for ours, theirs in zip(out, planes, strict=True):
                ours[k] = theirs[members.index(k)]
