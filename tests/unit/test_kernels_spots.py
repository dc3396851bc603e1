"""Connected pixels, their growth and their holes, against plain scipy."""

import numpy as np
import pytest
from scipy import ndimage

from webbkg.kernels.spots import enclosed, find_spots, paint_spots

SHAPES = [(60, 70), (1, 40), (40, 1), (2, 2)]


def speckles(seed, shape, share):
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 0.6, 1.0])
@pytest.mark.parametrize("diagonal", [True, False])
def test_spots_are_those_of_scipy(shape, share, diagonal):
    mask = speckles(1, shape, share)
    structure = np.ones((3, 3)) if diagonal else None
    labels, n_spots = ndimage.label(mask, structure)
    spots = find_spots(mask, diagonal=diagonal)
    assert spots.area.size == n_spots
    painted = np.zeros(shape, dtype=int)
    for row, first, end, spot in zip(spots.row, spots.first, spots.end, spots.spot, strict=True):
        painted[row, first:end] = spot + 1
    np.testing.assert_array_equal(painted > 0, mask)
    # One number for one label, and the other way round.
    pairs = {(int(a), int(b)) for a, b in zip(labels[mask], painted[mask], strict=True)}
    assert len(pairs) == n_spots
    np.testing.assert_array_equal(spots.area, np.bincount(painted[mask], minlength=1)[1:])


def test_the_teeth_of_a_comb_are_one_spot():
    # They have a number each until they meet in the last row.
    mask = np.zeros((20, 41), dtype=bool)
    mask[:, ::2] = mask[-1] = True
    assert find_spots(mask).area.tolist() == [mask.sum()]
    assert find_spots(mask[:-1]).area.tolist() == [19] * 21
    assert find_spots(mask[::-1]).area.tolist() == [mask.sum()]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [0, 1, 3, 12])
def test_spots_are_grown_by_discs(shape, radius):
    mask = speckles(2, shape, 0.02)
    spots = find_spots(mask)
    grown = paint_spots(spots, np.full(spots.area.size, radius), shape)
    away = np.full(shape, np.inf) if not mask.any() else ndimage.distance_transform_edt(~mask)
    np.testing.assert_array_equal(grown, away <= radius + 0.5)


def test_each_spot_has_its_own_radius():
    mask = np.zeros((30, 60), dtype=bool)
    mask[15, 10] = mask[15, 30] = mask[15, 50] = True
    grown = paint_spots(find_spots(mask), np.array([0, -1, 4]), mask.shape)
    assert grown[:, :25].sum() == 1
    assert not grown[:, 25:40].any()
    assert grown[15].nonzero()[0].tolist() == [10, *range(46, 55)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_holes_are_those_of_scipy(shape, share):
    mask = speckles(3, shape, share)
    expected = ndimage.binary_fill_holes(mask) & ~mask
    np.testing.assert_array_equal(enclosed(mask), expected)


def test_masks_with_gaps_in_memory_work():
    mask = np.asfortranarray(speckles(4, (20, 30), 0.4))
    assert find_spots(mask[::2]).area.sum() == mask[::2].sum()
