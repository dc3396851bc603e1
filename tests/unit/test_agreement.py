"""NIRSpec's grating wheel."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from webbkg.errors import InputError, NotApplicableError
from webbkg.exposure import MemoryHandle
from webbkg.methods.agreement import check_tilts


def _handle(name: str, **meta: Any) -> MemoryHandle:
    keywords = {"INSTRUME": "NIRSPEC", "GWA_XTIL": 0.3472, "GWA_YTIL": -0.013, **meta}
    return MemoryHandle(np.zeros((2, 2)), name=name, meta=keywords)


def test_equal_tilts_pass() -> None:
    near = _handle("b.fits", GWA_XTIL=0.3472 + 0.9e-8, GWA_YTIL=-0.013 - 0.9e-8)
    check_tilts(_handle("a.fits"), [_handle("b.fits"), near])


@pytest.mark.parametrize("keyword", ["GWA_XTIL", "GWA_YTIL"])
@pytest.mark.parametrize("value", [0.5, math.nan])
def test_other_tilts_do_not_apply(keyword: str, value: float) -> None:
    ours = _handle("a.fits").meta[keyword]
    message = (
        f"c.fits: {keyword} is {value} but the science exposure a.fits has {ours}, so its spectrum "
        "lies on other pixels; give backgrounds taken without moving the grating wheel"
    )
    with pytest.raises(NotApplicableError, match=f"^{re.escape(message)}$"):
        check_tilts(_handle("a.fits"), [_handle("b.fits"), _handle("c.fits", **{keyword: value})])


def test_the_tolerance_is_that_of_the_pipeline() -> None:
    with pytest.raises(NotApplicableError):
        check_tilts(_handle("a.fits"), [_handle("b.fits", GWA_XTIL=0.3472 + 1.1e-8)])


@pytest.mark.parametrize("in_science", [True, False])
def test_missing_tilts_are_an_error(in_science: bool) -> None:
    handles = [_handle("a.fits"), _handle("b.fits")]
    bad = handles[not in_science]
    handles[not in_science] = _handle(bad.name, GWA_YTIL=None)
    message = (
        f"{bad.name}: is a NIRSpec exposure without the keyword GWA_YTIL, which tells the position "
        "of the grating wheel; add it to the primary header"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_tilts(handles[0], handles[1:])


@pytest.mark.parametrize("instrument", ["MIRI", None])
def test_other_instruments_have_no_grating_wheel(instrument: str | None) -> None:
    check_tilts(_handle("a.fits", INSTRUME=instrument, GWA_XTIL=None), [_handle("b.fits")])
