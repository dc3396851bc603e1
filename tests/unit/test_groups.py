import numpy as np
import pytest

from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.groups import fwhm_px, group_exposures

MIRI = {
    "INSTRUME": "MIRI",
    "DETECTOR": "MIRIMAGE",
    "FILTER": "F1000W",
    "SUBARRAY": "FULL",
    "READPATT": "FASTR1",
    "BUNIT": "DN/s",
    "PROGRAM": "01345",
    "OBSERVTN": "002",
}
NIRCAM = MIRI | {"INSTRUME": "NIRCAM", "DETECTOR": "NRCB1", "FILTER": "F200W", "PUPIL": "CLEAR"}


def handle(base=MIRI, name="a_rate.fits", window=None, shape=(2, 2), **meta):
    values = {key.replace("_", "-"): value for key, value in (base | meta).items()}
    values = {key: value for key, value in values.items() if value is not None}
    return MemoryHandle(np.zeros(shape), name=name, meta=values, window=window)


def names(*handles):
    return [group.name for group in group_exposures(handles)]


def test_no_exposures_no_groups():
    assert group_exposures([]) == []


def test_members_stay_in_order():
    one, two, three, four = handle(), handle(FILTER="F770W"), handle(), handle(FILTER="F770W")
    groups = group_exposures(iter([one, two, three, four]))
    assert [group.members for group in groups] == [(one, three), (two, four)]
    assert [group.name for group in groups] == [
        "jw01345_obs002_MIRI_F1000W",
        "jw01345_obs002_MIRI_F770W",
    ]
    assert groups[0].key != groups[1].key


@pytest.mark.parametrize(
    "other",
    [
        {"INSTRUME": "NIRISS"},
        {"DETECTOR": "MIRIFUSHORT"},
        {"FILTER": "F770W"},
        {"FILTER": None},
        {"PUPIL": "CLEAR"},
        {"SUBARRAY": "SUB64"},
        {"BUNIT": "MJy/sr"},
        {"READPATT": "SLOWR1"},
        {"window": Window(1, 0, 2, 2)},
        {"shape": (3, 2, 2)},
    ],
    ids=str,
)
def test_what_tells_groups_apart(other):
    groups = group_exposures([handle(), handle(**other)])
    assert len(groups) == 2
    assert len({group.name for group in groups}) == 2


@pytest.mark.parametrize(
    "other",
    [{"READPATT": "FAST"}, {"OBSERVTN": "003"}, {"PROGRAM": "01346"}, {"FILTER": "f1000w"}],
    ids=str,
)
def test_what_does_not_tell_groups_apart(other):
    assert len(group_exposures([handle(), handle(**other)])) == 1


def test_readout_matters_for_miri_alone():
    one, two = handle(NIRCAM, READPATT="MEDIUM8"), handle(NIRCAM, READPATT="RAPID")
    assert len(group_exposures([one, two])) == 1


def test_arrays_without_keywords_are_one_group():
    (group,) = group_exposures([MemoryHandle(np.zeros((2, 2))), MemoryHandle(np.ones((2, 2)))])
    assert group.name == "exposures"


@pytest.mark.parametrize(
    ("meta", "name"),
    [
        ({}, "jw01345_obs002_MIRI_F1000W"),
        ({"PROGRAM": 1345, "OBSERVTN": 2}, "jw01345_obs002_MIRI_F1000W"),
        ({"SUBARRAY": "BRIGHTSKY"}, "jw01345_obs002_MIRI_F1000W_BRIGHTSKY"),
        ({"FILTER": "../F1 W"}, "jw01345_obs002_MIRI_F1W"),
        ({"PROGRAM": None}, "exposures_MIRI_F1000W"),
        (
            {"OBSERVTN": None, "FILENAME": "jw02514003001_02101_00001_mirimage_rate.fits"},
            "jw02514_obs003_MIRI_F1000W",
        ),
        (
            {"PROGRAM": None, "name": "jw02514003001_02101_00001_mirimage_rate.fits"},
            "jw02514_obs003_MIRI_F1000W",
        ),
    ],
    ids=str,
)
def test_name(meta, name):
    assert names(handle(**meta)) == [name]


@pytest.mark.parametrize(
    ("meta", "name"),
    [
        ({}, "jw01345_obs002_NIRCAM_F200W_NRCB1"),
        (
            {"FILTER": "F150W2", "PUPIL": "F162M", "SUBARRAY": "SUB160"},
            "jw01345_obs002_NIRCAM_F150W2-F162M_NRCB1_SUB160",
        ),
        (
            {"INSTRUME": "NIRISS", "DETECTOR": "NIS", "FILTER": "CLEAR", "PUPIL": "F200W"},
            "jw01345_obs002_NIRISS_F200W",
        ),
        (
            {"INSTRUME": "NIRISS", "DETECTOR": "NIS", "FILTER": "F277W", "PUPIL": "CLEARP"},
            "jw01345_obs002_NIRISS_F277W",
        ),
    ],
    ids=str,
)
def test_name_of_other_imagers(meta, name):
    assert names(handle(NIRCAM, **meta)) == [name]


def test_name_of_several_observations_and_programs():
    several = [handle(OBSERVTN=f"{number:03d}") for number in (3, 2, 3)]
    assert names(*several) == ["jw01345_obs002-003_MIRI_F1000W"]
    other = handle(PROGRAM="02514", OBSERVTN="001")
    assert names(*several, other) == ["jw01345-02514_obs001-002-003_MIRI_F1000W"]
    # One that does not tell is named with the others.
    assert names(*several, handle(PROGRAM=None)) == ["jw01345_obs002-003_MIRI_F1000W"]
    many = [handle(OBSERVTN=f"{number:03d}") for number in range(1, 10)]
    assert names(*many[:8]) == ["jw01345_obs001-002-003-004-005-006-007-008_MIRI_F1000W"]
    assert names(*many) == ["jw01345_obs001to009_MIRI_F1000W"]


def test_names_that_would_be_the_same():
    slow, fast = handle(READPATT="SLOWR1"), handle()
    assert names(slow, fast) == ["jw01345_obs002_MIRI_F1000W", "jw01345_obs002_MIRI_F1000W_FAST"]
    windows = [handle(NIRCAM, window=Window(start, 0, 2, 2)) for start in range(3)]
    name = "jw01345_obs002_NIRCAM_F200W_NRCB1"
    assert names(*windows) == [name, f"{name}_2", f"{name}_3"]


#: Widths given in JWST's documentation [px].
WIDTHS = {
    ("MIRI", "MIRIMAGE"): {
        "F560W": 1.882, "F770W": 2.445, "F1000W": 2.982, "F1130W": 3.409, "F1280W": 3.818,
        "F1500W": 4.436, "F1800W": 5.373, "F2100W": 6.127, "F2550W": 7.300,
    },
    ("NIRCAM", "NRCA3"): {"F200W": 2.141, "F212N": 2.304},
    ("NIRCAM", "NRCBLONG"): {"F356W": 1.830, "F444W": 2.302, "F480M": 2.524},
}  # fmt: skip


@pytest.mark.parametrize("camera", WIDTHS, ids=str)
def test_width_of_point_sources(camera):
    instrument, detector = camera
    for name, width in WIDTHS[camera].items():
        found = fwhm_px({"INSTRUME": instrument, "DETECTOR": detector, "FILTER": name})
        assert found == pytest.approx(width, rel=0.05 if instrument == "MIRI" else 0.1), name


#: Pivot wavelengths of all filters for images [um], as in JWST's documentation.
PIVOTS = {
    "MIRI": {
        "F560W": 5.635, "F770W": 7.639, "F1000W": 9.953, "F1130W": 11.309, "F1280W": 12.810,
        "F1500W": 15.064, "F1800W": 17.984, "F2100W": 20.795, "F2550W": 25.365,
        "F2550WR": 25.365, "F1065C": 10.563, "F1140C": 11.310, "F1550C": 15.517,
        "F2300C": 22.645, "FND": 12.9,
    },
    "NIRCAM": {
        "F070W": 0.704, "F090W": 0.901, "F115W": 1.154, "F140M": 1.404, "F150W": 1.501,
        "F162M": 1.626, "F164N": 1.644, "F150W2": 1.671, "F182M": 1.845, "F187N": 1.874,
        "F200W": 1.990, "F210M": 2.093, "F212N": 2.120, "F250M": 2.503, "F277W": 2.786,
        "F300M": 2.996, "F322W2": 3.247, "F323N": 3.237, "F335M": 3.365, "F356W": 3.563,
        "F360M": 3.621, "F405N": 4.055, "F410M": 4.092, "F430M": 4.280, "F444W": 4.421,
        "F460M": 4.624, "F466N": 4.654, "F470N": 4.707, "F480M": 4.834,
    },
    "NIRISS": {
        "F090W": 0.902, "F115W": 1.150, "F140M": 1.404, "F150W": 1.498, "F158M": 1.582,
        "F200W": 1.993, "F277W": 2.776, "F356W": 3.593, "F380M": 3.825, "F430M": 4.285,
        "F444W": 4.427, "F480M": 4.815,
    },
}  # fmt: skip


@pytest.mark.parametrize("instrument", PIVOTS)
def test_every_filter_is_known(instrument):
    scale = {"MIRI": 0.11, "NIRCAM": 0.063, "NIRISS": 0.0656}[instrument]
    for name, pivot in PIVOTS[instrument].items():
        found = fwhm_px({"INSTRUME": instrument, "DETECTOR": "NRCALONG", "FILTER": name})
        airy = np.degrees(1.03 * pivot * 1e-6 / 6.5) * 3600 / scale
        assert found == pytest.approx(max(np.hypot(airy, 0.8), 1.6), rel=0.02), name


def test_narrow_filters_are_in_the_pupil_wheel():
    meta = {"INSTRUME": "NIRCAM", "DETECTOR": "NRCALONG", "FILTER": "F444W"}
    narrow = fwhm_px(meta | {"PUPIL": "F323N"})
    assert narrow == fwhm_px(meta | {"FILTER": "F323N"})
    assert narrow < fwhm_px(meta | {"PUPIL": "CLEAR"}) == fwhm_px(meta | {"PUPIL": "GRISMR"})
    assert fwhm_px(meta | {"DETECTOR": "NRCA5"}) == fwhm_px(meta)
    assert fwhm_px(meta | {"DETECTOR": "NRCA4"}) > 1.5 * fwhm_px(meta)


def test_width_for_niriss():
    meta = {"INSTRUME": "NIRISS", "DETECTOR": "NIS", "FILTER": "F480M", "PUPIL": "CLEARP"}
    assert fwhm_px(meta) == pytest.approx(2.5219, abs=1e-4)


def test_width_has_a_floor():
    assert fwhm_px({"INSTRUME": "NIRCAM", "DETECTOR": "NRCA1", "FILTER": "F070W"}) == 1.6


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"INSTRUME": "MIRI"},
        {"FILTER": "F770W"},
        {"INSTRUME": "NIRISS", "FILTER": "CLEAR", "PUPIL": "NRM"},
        {"INSTRUME": "FGS", "DETECTOR": "GUIDER1"},
        {"INSTRUME": "MIRI", "FILTER": "OPAQUE"},
    ],
    ids=str,
)
def test_width_where_the_filter_is_not_known(meta):
    assert fwhm_px(meta) == 2.5
