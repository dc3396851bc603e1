"""Factors of sky templates and levels of lines, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from webbkg.kernels.sky_scale import (
    Lines,
    bin_residuals,
    line_sums,
    predict_weights,
    solve_factors,
)

SHAPE = (20, 24)


@pytest.fixture
def images():
    """Data, model, weights and two templates, of which some pixels are unusable."""
    rng = np.random.default_rng(3)
    data, model = (rng.normal(1.0, 0.3, SHAPE).astype(np.float32) for _ in range(2))
    weights = rng.uniform(0.5, 2.0, SHAPE).astype(np.float32)
    templates = rng.uniform(0.5, 1.5, (2, *SHAPE)).astype(np.float32)
    weights[3, 5] = weights[9, 9] = 0.0
    data[3, 5] = templates[0, 3, 5] = model[3, 5] = np.nan
    for image in (data, model, weights, templates):
        image.flags.writeable = False
    return data, model, weights, templates


def lines_of(horizontal, levels=0.0):
    """Two amplifiers that share the lines unevenly."""
    length = SHAPE[1] if horizontal else SHAPE[0]
    lines = Lines.flat(SHAPE, (0, 7, length), horizontal=horizontal)
    rng = np.random.default_rng(8)
    return lines._replace(levels=(levels * rng.normal(size=lines.levels.shape)).astype(np.float32))


def spread(lines):
    """Levels of lines as an image."""
    wide = np.repeat(lines.levels, np.diff(lines.edges), axis=0)
    return wide.T if lines.horizontal else wide


def test_weights_are_those_of_the_model():
    model = np.array([[0.0, 2.0, -3.0, np.nan]], np.float32)
    usable = np.array([[True, True, True, False]])
    assert_allclose(predict_weights(model, usable, 0.5, 1.0), [[2.0, 0.4, 2.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("along_rows", [True, False])
@pytest.mark.parametrize("horizontal", [True, False])
def test_bins_are_sums_along_the_dispersion(images, along_rows, horizontal):
    data, model, weights, templates = images
    lines = lines_of(horizontal, 0.1)
    sums, norms = bin_residuals(
        data, model, templates[1], weights, lines, size=8, along_rows=along_rows, limit=0.4,
        n_threads=3,
    )  # fmt: skip
    unit = np.clip((data - model - spread(lines)) * np.sqrt(weights), -0.4, 0.4)
    part = np.where(weights > 0, unit * np.sqrt(weights) * templates[1], 0.0)
    norm = weights * templates[1] ** 2
    for found, image in ((sums, part), (norms, norm)):
        turned = image if along_rows else image.T
        expected = np.add.reduceat(turned, np.arange(0, turned.shape[1], 8), axis=1)
        assert found.shape == expected.shape
        assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("horizontal", [True, False])
def test_sums_of_lines(images, horizontal):
    data, model, weights, templates = images
    lines = lines_of(horizontal, 0.1)
    unused = np.zeros(SHAPE, bool)
    unused[:4, 10:] = True
    found = line_sums(data, model, weights, unused, templates, lines, limit=0.8, n_threads=2)
    off = np.where(weights > 0, data - model, 0.0)
    left = off - spread(lines)
    inside = ~unused & (weights > 0) & (left**2 * weights <= 0.64)
    assert 0 < inside.sum() < (~unused & (weights > 0)).sum()
    w, t = np.where(inside, weights, 0.0), np.where(inside, templates, 0.0)

    def by_line(image):
        turned = image.T if horizontal else image
        return np.add.reduceat(turned, [0, 7], axis=0)

    assert_allclose(found.weight, by_line(w), rtol=1e-5)
    assert_allclose(found.value, by_line(w * off), atol=1e-5)
    for k in range(2):
        assert_allclose(found.template[k], by_line(w * t[k]), rtol=1e-5)
        assert_allclose(found.cross[k], by_line(w * t[k] * off), atol=1e-5)
        for other in range(2):
            assert_allclose(found.product[k, other], by_line(w * t[k] * t[other]), rtol=1e-5)
    assert found.number == inside.sum()
    assert_allclose(found.square, np.sum(w * left**2), rtol=1e-5)


@pytest.mark.parametrize("horizontal", [True, False])
def test_factors_are_those_of_the_whole_covariance(images, horizontal):
    data, model, weights, templates = images
    lines = lines_of(horizontal)
    nothing = np.zeros(SHAPE, bool)
    sums = line_sums(data, model, weights, nothing, templates, lines, limit=99.0)
    before = np.array([0.7, 0.6])
    found = solve_factors(sums, before, variance=0.09, line_variance=0.04)
    # All pixels at once, with what a line has in common in the covariance.
    use = weights > 0
    numbers = np.arange(lines.levels.size).reshape(lines.levels.shape)
    line = spread(lines._replace(levels=numbers))[use]
    covariance = np.diag(0.09 / weights[use].astype(float))
    covariance += 0.04 * (line[:, None] == line)
    t = templates[:, use].T.astype(float)
    weighted = np.linalg.solve(covariance, t)
    matrix = t.T @ weighted
    residual = (data - model)[use]
    change = np.linalg.solve(matrix, weighted.T @ residual)
    assert_allclose(found.factors, before + change, rtol=1e-4)
    assert_allclose(found.errs, np.sqrt(np.diag(np.linalg.inv(matrix))), rtol=1e-4)
    best = (
        0.04 * (line == numbers.reshape(-1, 1)) @ np.linalg.solve(covariance, residual - t @ change)
    )
    assert_allclose(found.levels.ravel(), best, atol=1e-4)


def test_factors_are_not_negative(images):
    data, _, weights, templates = images
    sky = 2.0 * templates[0] - 0.5 * templates[1]
    sums = line_sums(
        np.where(weights > 0, sky, np.nan).astype(np.float32), np.zeros_like(data), weights,
        np.zeros(SHAPE, bool), templates, lines_of(True), limit=99.0,
    )  # fmt: skip
    found = solve_factors(sums, np.zeros(2), variance=1.0, line_variance=0.0)
    w = np.where(weights > 0, weights, 0.0)
    first = np.where(w > 0, templates[0], 0.0)
    alone = np.sum(w * first * np.where(w > 0, sky, 0.0)) / np.sum(w * first**2)
    assert_allclose(found.factors, [alone, 0.0], rtol=1e-5)
    assert_allclose(found.errs, [1.0 / np.sqrt(np.sum(w * first**2)), 0.0], rtol=1e-5)


def test_templates_that_are_the_same_tell_nothing(images):
    data, model, weights, templates = images
    twice = np.stack([templates[0], 2.0 * templates[0]])
    nothing = np.zeros(SHAPE, bool)
    sums = line_sums(data, model, weights, nothing, twice, lines_of(True), limit=99.0)
    found = solve_factors(sums, np.zeros(2), variance=1.0, line_variance=0.0)
    assert np.isnan(found.factors).all()
    empty = line_sums(data, model, weights, ~nothing, templates, lines_of(True), limit=99.0)
    found = solve_factors(empty, np.zeros(2), variance=1.0, line_variance=0.1)
    assert np.isnan(found.factors).all()


def test_numbers_do_not_depend_on_threads():
    rng = np.random.default_rng(1)
    shape = (1024, 1024)
    data = rng.normal(1.0, 0.1, shape).astype(np.float32)
    ones = np.ones(shape, np.float32)
    lines = Lines.flat(shape, (0, 256, 1024), horizontal=False)
    results = [
        line_sums(
            data, ones, ones, np.zeros(shape, bool), ones[None], lines, limit=9.0, n_threads=n
        )
        for n in (1, 3)
    ]
    for one, other in zip(*results, strict=True):
        assert_array_equal(one, other)
