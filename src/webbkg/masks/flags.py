"""JWST data-quality flags by name."""

from __future__ import annotations

from types import MappingProxyType

from webbkg.errors import ParameterError

__all__ = ["BAD_FLAGS", "DO_NOT_USE", "FLAG_BITS", "flag_bits"]

_NAMES = (
    "DO_NOT_USE",
    "SATURATED",
    "JUMP_DET",
    "DROPOUT",
    "OUTLIER",
    "PERSISTENCE",
    "AD_FLOOR",
    "CHARGELOSS",
    "RESERVED",
    "NON_SCIENCE",
    "DEAD",
    "HOT",
    "WARM",
    "LOW_QE",
    "RC",
    "TELEGRAPH",
    "NONLINEAR",
    "BAD_REF_PIXEL",
    "NO_FLAT_FIELD",
    "NO_GAIN_VALUE",
    "NO_LIN_CORR",
    "NO_SAT_CHECK",
    "UNRELIABLE_BIAS",
    "UNRELIABLE_DARK",
    "UNRELIABLE_SLOPE",
    "UNRELIABLE_FLAT",
    "OPEN",
    "ADJ_OPEN",
    "FLUX_ESTIMATED",
    "MSA_FAILED_OPEN",
    "OTHER_BAD_PIXEL",
    "REFERENCE_PIXEL",
)

#: Bit of each flag, as in ``stdatamodels.jwst.datamodels.dqflags.pixel``.
FLAG_BITS = MappingProxyType({name: 1 << bit for bit, name in enumerate(_NAMES)})

#: Flags whose pixels are not used in statistics. Not JUMP_DET: rates already fit around jumps.
BAD_FLAGS = "DO_NOT_USE,NON_SCIENCE,REFERENCE_PIXEL,SATURATED"

DO_NOT_USE = FLAG_BITS["DO_NOT_USE"]


def flag_bits(names: str) -> int:
    """
    Combine flags given by name.

    Parameters
    ----------
    names : str
        Names separated by commas; empty or ``NONE`` for no flag.

    Returns
    -------
    int
        The bits of all names.

    Raises
    ------
    ParameterError
        If a name is unknown.

    Examples
    --------
    >>> flag_bits("DO_NOT_USE,SATURATED")
    3
    """
    bits = 0
    for name in filter(None, (part.strip().upper() for part in names.split(","))):
        if name == "NONE":
            continue
        if name not in FLAG_BITS:
            raise ParameterError(
                f"unknown data-quality flag {name!r}; known are {', '.join(FLAG_BITS)}"
            )
        bits |= FLAG_BITS[name]
    return bits
