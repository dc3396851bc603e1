import numpy as np
import pytest

from webbkg.kernels.decode import prepare_pixels, swap_bytes


def prepared(data, err, dq, *, bad_bits=1, offset=0.0, flags=0):
    n = len(data)
    values, variances = np.empty(n, np.float32), np.empty(n, np.float32)
    bits = np.full(n, flags, np.uint32)
    counts = prepare_pixels(
        np.array(data, np.float32),
        np.array(err, np.float32),
        np.array(dq, np.uint32),
        bad_bits,
        offset,
        values,
        variances,
        bits,
    )
    return values, variances, bits, counts


def test_swap_bytes_of_floats():
    numbers = np.array([0.0, -0.0, 1.0, -1.5, 3e38, 1e-45, np.inf, -np.inf], ">f4")
    words = numbers.view(np.uint32).copy()
    swap_bytes(words, 0)
    np.testing.assert_array_equal(words.view("<f4"), numbers)
    assert np.signbit(words.view("<f4")[1])


def test_swap_bytes_of_unsigned_integers():
    numbers = np.array([0, 1, 2**31 - 1, 2**31, 2**31 + 5, 2**32 - 1], np.uint32)
    stored = (numbers.astype(np.int64) - 2**31).astype(">i4")
    words = stored.view(np.uint32).copy()
    swap_bytes(words, 2**31)
    np.testing.assert_array_equal(words, numbers)


def test_swap_bytes_of_random_words():
    words = np.random.default_rng(1).integers(0, 2**32, 999, np.uint32)
    swapped = words.copy()
    swap_bytes(swapped, 0)
    np.testing.assert_array_equal(swapped, words.byteswap())


def test_usable_values_and_variances():
    values, variances, flags, counts = prepared([1.0, 2.0], [0.5, 3.0], [0, 4], flags=16)
    np.testing.assert_array_equal(values, np.float32([1.0, 2.0]))
    np.testing.assert_array_equal(variances, np.float32([0.25, 9.0]))
    np.testing.assert_array_equal(flags, [16, 20])
    assert counts == (2, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_nan(value):
    values, _, _, counts = prepared([value, 1.0], [1.0, 1.0], [0, 0])
    np.testing.assert_array_equal(values, np.float32([np.nan, 1.0]))
    assert counts == (1, 0)


@pytest.mark.parametrize("value", [7.0, np.nan, np.inf])
def test_flagged_values_are_nan_and_their_flags_stay(value):
    values, _, flags, counts = prepared([value] * 3, [1.0] * 3, [1, 3, 2], bad_bits=1)
    assert np.isnan(values[:2]).all()
    np.testing.assert_array_equal(flags, [1, 3, 2])
    assert counts == (int(np.isfinite(value)), 0)


def test_highest_bit_is_a_flag_like_any_other():
    values, _, _, counts = prepared([1.0, 1.0], [1.0, 1.0], [2**31, 2**30], bad_bits=2**31)
    np.testing.assert_array_equal(values, np.float32([np.nan, 1.0]))
    assert counts == (1, 0)


@pytest.mark.parametrize("err", [np.nan, np.inf, 0.0, -1.0])
def test_impossible_errors_are_unknown(err):
    _, variances, _, counts = prepared([1.0, 1.0, np.nan], [err, 2.0, err], [0, 0, 0])
    np.testing.assert_array_equal(variances, np.float32([np.nan, 4.0, np.nan]))
    # The third value is not usable, so nobody misses its error.
    assert counts == (2, 1)


def test_offset_is_taken_off():
    values, variances, _, _ = prepared([1.0, 2.0, np.nan], [1.0] * 3, [0] * 3, offset=0.25)
    np.testing.assert_array_equal(values, np.float32([0.75, 1.75, np.nan]))
    np.testing.assert_array_equal(variances, np.float32([1.0, 1.0, 1.0]))
