import re

import numpy as np
import pytest

from webbkg.errors import NoOverlapError, ShapeError
from webbkg.exposure import Exposure, ExposureHandle, MemoryHandle, Window
from webbkg.template import Template


def frozen(array):
    array.flags.writeable = False
    return array


def handle(**kwargs):
    """5x4 pixels and two integrations, all different."""
    data = np.arange(40.0, dtype=np.float32).reshape(2, 5, 4)
    parts = {
        "err": data / 10,
        "dq": data.astype(np.uint32),
        "mask": data % 3 == 0,
        "window": Window(10, 20, 5, 4),
        "name": "a_rateints.fits",
        "meta": {"FILTER": "F770W"},
    }
    return MemoryHandle(data, **(parts | kwargs))


# Window


@pytest.mark.parametrize("y0", [-4, -3, -1, 0, 1, 2, 4, 5])
@pytest.mark.parametrize("x0", [-6, -5, -1, 0, 1, 2, 4, 5])
def test_overlap_is_the_same_pixels_from_either_side(y0, x0):
    """Every pixel of the detector carries its own number."""
    numbers = np.arange(40 * 40).reshape(40, 40)
    ours, theirs = Window(10, 10, 5, 5), Window(10 + y0, 10 + x0, 4, 6)
    cut = {w: numbers[w.y0 : w.y1, w.x0 : w.x1] for w in (ours, theirs)}
    shared = np.intersect1d(cut[ours], cut[theirs])
    for one, other in ((ours, theirs), (theirs, ours)):
        assert one.overlaps(other) is bool(shared.size)
        if shared.size:
            inside, outside = one.overlap(other)
            np.testing.assert_array_equal(cut[one][inside].ravel(), shared)
            np.testing.assert_array_equal(cut[other][outside].ravel(), shared)
            assert one.intersection(other).shape == cut[one][inside].shape
        else:
            with pytest.raises(NoOverlapError):
                one.overlap(other)


def test_message_of_no_overlap():
    message = (
        "the windows Window(y0=0, x0=0, ny=2, nx=2) and Window(y0=2, x0=0, ny=2, nx=2) share no "
        "pixel of the detector"
    )
    with pytest.raises(NoOverlapError, match=f"^{re.escape(message)}$"):
        Window(0, 0, 2, 2).overlap(Window(2, 0, 2, 2))


@pytest.mark.parametrize(("ny", "nx"), [(0, 3), (3, 0), (-1, 3)])
def test_empty_window(ny, nx):
    message = (
        f"a window needs at least one row and one column, got Window(y0=1, x0=2, ny={ny}, nx={nx})"
    )
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Window(1, 2, ny, nx)


def test_window_numbers():
    window = Window(3, 5, 7, 11)
    assert (window.shape, window.y1, window.x1) == ((7, 11), 10, 16)
    assert window.slices(Window(4, 7, 2, 3)) == (slice(1, 3), slice(2, 5))
    assert window.intersection(window) == window


# Exposure


def parts(shape=(5, 4), **kwargs):
    made = {
        "data": np.zeros(shape, np.float32),
        "err": np.zeros(shape, np.float32),
        "dq": np.zeros(shape, np.uint32),
        "window": Window(0, 0, *shape[-2:]),
        "name": "x_rate.fits",
    }
    return made | kwargs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"err": np.zeros((5, 3))}, "x_rate.fits: ERR has shape (5, 3) but SCI has (5, 4)"),
        ({"dq": np.zeros((2, 5, 4))}, "x_rate.fits: DQ has shape (2, 5, 4) but SCI has (5, 4)"),
        ({"mask": np.zeros((4, 5))}, "x_rate.fits: mask has shape (4, 5) but SCI has (5, 4)"),
        (
            {"data": np.zeros(5)},
            "x_rate.fits: an exposure needs 2 or 3 axes, got shape (5,)",
        ),
        (
            {"data": np.zeros((1, 2, 5, 4))},
            "x_rate.fits: an exposure needs 2 or 3 axes, got shape (1, 2, 5, 4)",
        ),
        ({"window": Window(0, 0, 4, 5)}, "x_rate.fits: SCI has 5x4 pixels but its window is 4x5"),
    ],
)
def test_shapes_that_do_not_fit(wrong, message):
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Exposure(**parts(**wrong))


def test_number_of_integrations():
    assert Exposure(**parts()).n_integrations == 1
    assert Exposure(**parts((3, 5, 4))).n_integrations == 3


def test_exposure_is_frozen_and_its_meta_read_only():
    exposure = Exposure(**parts())
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        exposure.name = "other"
    with pytest.raises(TypeError, match="does not support item assignment"):
        exposure.meta["FILTER"] = "F770W"


def test_template_shapes():
    good = {
        "image": np.zeros((2, 3), np.float32),
        "err": np.zeros((2, 3), np.float32),
        "n_used": np.zeros((2, 3), np.uint16),
        "dq": np.zeros((2, 3), np.uint32),
        "window": Window(0, 0, 2, 3),
    }
    good["image"][1] = np.nan
    template = Template(**good)
    assert template.coverage == 0.5
    np.testing.assert_array_equal(template.undefined, [[False] * 3, [True] * 3])
    for label in ("image", "err", "n_used", "dq"):
        message = f"template: {label} has shape (3, 2), window (2, 3)"
        with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
            Template(**(good | {label: np.zeros((3, 2))}))


# MemoryHandle


def test_memory_handle_is_a_handle():
    assert isinstance(handle(), ExposureHandle)


def test_what_is_known_without_loading():
    ints = handle()
    assert ints.name == "a_rateints.fits"
    assert ints.window == Window(10, 20, 5, 4)
    assert dict(ints.meta) == {"FILTER": "F770W"}
    assert ints.n_integrations == 2
    assert MemoryHandle(np.zeros((5, 4))).n_integrations is None
    with pytest.raises(TypeError, match="does not support item assignment"):
        ints.meta["FILTER"] = "F1000W"


def test_load_rows():
    whole, part = handle().load(), handle().load_rows(1, 3)
    assert part.window == Window(11, 20, 2, 4)
    for name in ("data", "err", "dq", "mask"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, 1:3])
    assert (part.name, part.meta) == (whole.name, whole.meta)


def test_load_integration():
    whole = handle().load()
    for index in (0, 1):
        part = handle().load_integration(index)
        assert part.window == whole.window
        for name in ("data", "err", "dq", "mask"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[index])


def test_integration_zero_of_an_image_is_itself():
    image = MemoryHandle(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(image.load_integration(0).data, image.load().data)


def test_what_is_not_given():
    made = MemoryHandle([[1.0, 2.0]]).load()
    assert made.data.dtype == np.float32
    assert np.isnan(made.err).all()
    np.testing.assert_array_equal(made.dq, np.zeros((1, 2), np.uint32))
    assert made.mask is None
    assert made.window == Window(0, 0, 1, 2)
    assert made.name == "array"
    assert dict(made.meta) == {}


def test_types_are_those_of_exposures():
    made = MemoryHandle(
        np.ones((2, 2), ">f8"), np.ones((2, 2), ">f4"), np.ones((2, 2), np.int64), mask=[[1, 0]] * 2
    ).load()
    assert (made.data.dtype, made.err.dtype, made.dq.dtype, made.mask.dtype) == (
        np.dtype(np.float32),
        np.dtype(np.float32),
        np.dtype(np.uint32),
        np.dtype(bool),
    )


def test_shapes_of_memory_handles_are_checked():
    with pytest.raises(ShapeError, match=r"^sky: an exposure needs 2 or 3 axes, got shape \(3,\)$"):
        MemoryHandle([1.0, 2.0, 3.0], name="sky")
    with pytest.raises(ShapeError, match=r"^sky: ERR has shape \(1, 3\) but SCI has \(1, 2\)$"):
        MemoryHandle([[1.0, 2.0]], [[1.0, 2.0, 3.0]], name="sky")


def test_arrays_are_not_copied_nor_changed():
    data = frozen(np.ones((2, 5, 4), np.float32))
    made = MemoryHandle(data, frozen(data.copy()), frozen(np.zeros(data.shape, np.uint32)))
    assert np.shares_memory(made.load().data, data)
    assert np.shares_memory(made.load_rows(1, 2).data, data)
    assert np.shares_memory(made.load_integration(1).data, data)


def test_is_same():
    data = np.ones((5, 4))
    one = MemoryHandle(data)
    assert one.is_same(one)
    assert one.is_same(MemoryHandle(data, name="another name"))
    assert not one.is_same(MemoryHandle(data.copy()))
    assert not one.is_same(MemoryHandle(np.ones((5, 4), np.float32)))
    exposure = one.load()
    assert MemoryHandle.of(exposure).is_same(MemoryHandle.of(exposure))


def test_of_an_exposure_keeps_everything():
    exposure = handle().load()
    copy = MemoryHandle.of(exposure).load()
    for name in ("data", "err", "dq", "mask"):
        assert getattr(copy, name) is getattr(exposure, name)
    assert (copy.window, copy.name, copy.meta) == (exposure.window, exposure.name, exposure.meta)
