import numpy as np
import pytest

from webbkg.exposure import Window
from webbkg.masks.regions import MIRI_REGIONS, MIRI_SHAPE, region_map, region_names
from webbkg.sim import CAMERAS

MIRI = {"DETECTOR": "MIRIMAGE", "SUBARRAY": "FULL"}
FULL = Window(0, 0, *MIRI_SHAPE)
#: Sub-arrays of coronagraphs, by SUBSTRT1, SUBSTRT2, SUBSIZE1 and SUBSIZE2 of their headers.
CORONAGRAPHS = {
    "MASK1065": (1, 19, 288, 224),
    "MASK1140": (1, 245, 288, 224),
    "MASK1550": (1, 467, 288, 224),
    "MASKLYOT": (1, 717, 320, 304),
}


def window_of(start_x, start_y, size_x, size_y):
    return Window(start_y - 1, start_x - 1, size_y, size_x)


def centre_and_size(label):
    rows, columns = np.nonzero(region_map(MIRI, FULL) == label)
    size = (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)
    return (float(rows.min() + rows.max()) / 2, float(columns.min() + columns.max()) / 2), size


def test_fields_are_where_the_siaf_has_them():
    # 1-based XDetRef, YDetRef and sizes of MIRIM_ILLUM; a pixel's centre is a whole number.
    assert centre_and_size(1) == ((511.5, 692.5), (1024, 668))
    # 24 arcsec squares of the phase masks, 30 arcsec of the Lyot one, at 0.11 arcsec.
    for label in (3, 4, 5):
        assert centre_and_size(label)[1] == (216, 216)
    assert centre_and_size(2)[1] == (272, 272)
    full = region_map(MIRI, FULL)
    assert full.dtype == np.uint8
    assert np.unique(full).tolist() == [0, 1, 2, 3, 4, 5, 6]
    # Reference pixels see nothing.
    assert not full[:, :4].any()
    assert not full[:, 1028:].any()
    assert 0.78 < (full > 0).mean() < 0.86


def test_what_is_not_lit():
    full = region_map(MIRI, FULL)
    # Between the fields, but for the slit of 4.7 by 0.51 arcsec; the Lyot spot; the knife edge.
    between = full[:, 290:350]
    assert np.unique(between).tolist() == [0, 6]
    assert (between == 6).sum() == pytest.approx(4.7 * 0.51 / 0.11**2, rel=0.2)
    assert full[300, 325] == 6
    assert full[883, 140] == 0
    assert full[883, 100] == full[883, 180] == full[840, 140] == full[925, 140] == 2
    assert full[350, 400] == 0
    assert full[300, 400] == full[400, 400] == full[350, 430] == 1
    spot = (full == 0)[855:912, 112:170]
    # A disc of 2.16 arcsec, at 0.11 arcsec a pixel.
    assert spot.sum() == pytest.approx(np.pi * (2.16 / 0.1112) ** 2, rel=0.03)


def test_sub_arrays_are_cut_from_the_full_frame():
    full = region_map(MIRI, FULL)
    windows = {name: place[0] for name, place in CAMERAS["MIRIMAGE"].subarrays.items()}
    assert windows.pop("FULL") == FULL
    assert {"BRIGHTSKY", "SUB256", "SUB128", "SUB64"} <= set(windows)
    windows |= {name: window_of(*place) for name, place in CORONAGRAPHS.items()}
    for name, window in windows.items():
        found = region_map(MIRI | {"SUBARRAY": name}, window)
        assert found.shape == window.shape
        np.testing.assert_array_equal(found, full[FULL.slices(window)])


def test_each_sub_array_sees_its_own_field():
    lit = {}
    for name, place in CORONAGRAPHS.items():
        labels = region_map(MIRI | {"SUBARRAY": name}, window_of(*place))
        counts = np.bincount(labels.reshape(-1), minlength=7)
        lit[name] = int(np.argmax(counts[1:])) + 1
        assert counts[lit[name]] > 0.6 * labels.size
    assert lit == {"MASK1065": 3, "MASK1140": 4, "MASK1550": 5, "MASKLYOT": 2}
    brightsky = region_map(MIRI | {"SUBARRAY": "BRIGHTSKY"}, window_of(457, 51, 512, 512))
    assert (brightsky == 1).all()


@pytest.mark.parametrize("meta", [{"DETECTOR": "NRCALONG"}, {"DETECTOR": "NIS"}, {}])
def test_other_detectors_have_one_region(meta):
    for window in (Window(0, 0, 64, 48), Window(100, 7, 3, 5)):
        labels = region_map(meta, window)
        assert labels.shape == window.shape
        assert (labels == 1).all()
        assert region_names(labels) == {1: "frame"}


def test_names_are_not_case_sensitive():
    assert (region_map({"detector": "MIRIMAGE"}, FULL) == 1).all()
    np.testing.assert_array_equal(
        region_map({"DETECTOR": "mirimage", "SUBARRAY": "full"}, FULL), region_map(MIRI, FULL)
    )


@pytest.mark.parametrize("factor", [2, 4])
def test_a_smaller_full_frame_shows_all_of_it(factor):
    full = region_map(MIRI, FULL)
    small = region_map(MIRI, Window(0, 0, MIRI_SHAPE[0] // factor, MIRI_SHAPE[1] // factor))
    blocks = full.reshape(small.shape[0], factor, small.shape[1], factor).transpose(0, 2, 1, 3)
    blocks = blocks.reshape(*small.shape, -1)
    whole = (blocks == blocks[..., :1]).all(axis=2)
    assert whole.mean() > 0.95
    np.testing.assert_array_equal(small[whole], blocks[whole][:, 0])


def test_names():
    names = region_names(region_map(MIRI, FULL))
    expected = {region.label: region.name for region in MIRI_REGIONS if region.label}
    assert names == expected | {0: "not lit"}
    assert names[1] == "imager"
    # Those that occur, and no others; the imager alone is the whole frame.
    labels = region_map(MIRI | {"SUBARRAY": "SUB64"}, window_of(1, 779, 72, 64))
    assert region_names(labels) == {0: "not lit", 2: "Lyot"}
    assert region_names(np.ones((4, 4), np.uint8)) == {1: "frame"}
