import dataclasses
import json
import math

import numpy as np
import pytest

import webbkg
from webbkg.exposure import MemoryHandle
from webbkg.io.provenance import (
    INPUT_COLUMNS,
    Provenance,
    history,
    product_keywords,
    provenance_rows,
)
from webbkg.methods.average import AverageParams, average


def subtraction(exp_type="MIR_MRS", n=4, **kwargs):
    science = MemoryHandle(
        np.full((4, 4), 12.0), np.ones((4, 4)), name="s_rate.fits", meta={"EXP_TYPE": exp_type}
    )
    sky = [
        MemoryHandle(np.full((4, 4), 10.0), np.ones((4, 4)), name=f"b{index}_rate.fits")
        for index in range(n)
    ]
    sky[0].load().data[0, 0] = 99.0
    return average(science, sky, AverageParams(**kwargs))


def provenance(**kwargs):
    given = {"method": "average", "params": AverageParams(), "checksums": []}
    return Provenance(**(given | kwargs))


def test_keywords():
    found = product_keywords(
        subtraction(),
        provenance(
            noise_before=0.5, noise_after=0.25, noise_expected=0.125, masked_fraction=0.0625
        ),
    )
    assert {key: value for key, (value, _) in found.items()} == {
        "S_BKDSUB": "COMPLETE",
        "BKGMETH": "average",
        "BKGD_SCL": 1.0,
        "BKGLEVEL": 10.0,
        "BKGSUB": True,
        "WB_VER": webbkg.__version__,
        "WB_METH": "average",
        "WB_NUSED": 4,
        "WB_LEVEL": 10.0,
        "WB_SCALE": 1.0,
        "WB_SCERR": 0.0,
        "WB_MFRAC": 0.0625,
        "WB_COVER": 1.0,
        "WB_RMSB": 0.5,
        "WB_RMSA": 0.25,
        "WB_RMSE": 0.125,
    }
    assert all(key == key.upper() and len(key) <= 8 for key in found)
    assert all(comment for _, comment in found.values())


@pytest.mark.parametrize("exp_type", ["MIR_IMAGE", "NRC_IMAGE", "NIS_IMAGE", "FGS_IMAGE"])
def test_imaging_has_no_keywords_that_skymatch_takes_for_its_own(exp_type):
    found = product_keywords(subtraction(exp_type), provenance())
    assert "BKGLEVEL" not in found
    assert "BKGSUB" not in found
    assert found["WB_LEVEL"][0] == 10.0


def test_what_is_not_measured_has_no_keyword():
    found = product_keywords(subtraction(), provenance(noise_before=math.inf))
    assert not {"WB_MFRAC", "WB_RMSB", "WB_RMSA", "WB_RMSE"} & set(found)


def test_history():
    found, *_ = made = history(subtraction(n=1), provenance())
    assert found == (
        f"webbkg {webbkg.__version__} average: subtracted the mean of 1 background exposure, "
        "median level 10"
    )
    assert made[1] == (
        "clipping: noise expected from ERR, 4 sigma below and 3 above the median; 0 % of the "
        "values rejected"
    )
    assert made[2] == "inputs and parameters are in the extension WEBBKG"
    assert made[3] == (
        "warning: one background only: nothing can be clipped, sources in the background leave "
        "holes in the science exposure; give 3 or more"
    )
    assert len(made) == 4
    # One of 64 values.
    assert "1.56 % of the values rejected" in history(subtraction(), provenance())[1]


def test_table_of_inputs():
    params = AverageParams(sigma=2.5)
    rows = provenance_rows(
        subtraction(n=2),
        provenance(params=params, checksums=[("s_rate.fits", "ab"), ("b1_rate.fits", "cd" * 32)]),
    )
    assert rows.dtype.names == INPUT_COLUMNS == ("ROLE", "NAME", "SHA256", "VALUE")
    texts = [tuple(item.decode() for item in row) for row in rows.tolist()]
    assert texts[:3] == [
        ("science", "s_rate.fits", "ab", ""),
        ("background", "b0_rate.fits", "", ""),
        ("background", "b1_rate.fits", "cd" * 32, ""),
    ]
    role, name, digest, value = texts[3]
    assert (role, name, digest) == ("parameters", "average", "")
    assert AverageParams(**json.loads(value)) == params


def test_names_that_are_not_ascii():
    made = subtraction(n=1)
    made = dataclasses.replace(made, used=("façade_rate.fits",))
    assert provenance_rows(made, provenance())["NAME"].tolist()[1] == b"fa?ade_rate.fits"


def test_table_without_checksums_has_no_empty_columns():
    rows = provenance_rows(subtraction(), provenance())
    assert all(rows.dtype[name].itemsize >= 1 for name in INPUT_COLUMNS)


def test_only_backgrounds_that_contributed_are_listed():
    science = MemoryHandle(np.zeros((4, 4)), name="s_rate.fits")
    sky = [MemoryHandle(np.ones((4, 4)), name="b.fits")]
    sky.append(MemoryHandle(np.full((4, 4), np.nan), name="nan.fits"))
    rows = provenance_rows(average(science, sky), provenance())
    assert rows["NAME"].tolist() == [b"s_rate.fits", b"b.fits", b"average"]
