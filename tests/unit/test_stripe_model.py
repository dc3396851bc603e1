"""Stripes and sky by their power: the same as solving the whole problem at once."""

import numpy as np
import pytest
from scipy import fft

from webbkg.kernels.stripe_model import StripePower, solve_stripes
from webbkg.kernels.stripe_sums import segment_means

N_LINES, N_AMPLIFIERS, PER, N_NODES = 24, 2, 3, 6


def design():
    """What each amplitude adds to each mean, modes of stripes first."""
    n_segments = N_AMPLIFIERS * PER
    columns = []
    turn = fft.dct(np.eye(N_AMPLIFIERS), axis=0, norm="ortho")
    for k in range(N_LINES):
        line = fft.idct(np.eye(N_LINES)[k], norm="ortho")
        columns += [np.outer(line, np.repeat(row, PER)) for row in turn]
    at = np.clip((np.arange(N_LINES) + 0.5) * N_NODES / N_LINES - 0.5, 0, N_NODES - 1)
    for k in range(N_NODES):
        for j in range(n_segments):
            mode = np.zeros((N_NODES, n_segments))
            mode[k, j] = 1.0
            nodes = fft.idctn(mode, norm="ortho")
            columns.append(
                np.stack(
                    [np.interp(at, np.arange(N_NODES), nodes[:, s]) for s in range(n_segments)], 1
                )
            )
    return np.stack([column.ravel() for column in columns], axis=1)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_solution_is_that_of_the_whole_problem(missing):
    rng = np.random.default_rng(3)
    shape = N_LINES, N_AMPLIFIERS * PER
    frequency = np.maximum(np.arange(N_LINES), 1.0)
    radius = np.hypot(np.arange(N_NODES)[:, None], np.arange(shape[1])[None])
    sky = 8.0 / np.maximum(radius, 1) ** 2
    sky[:, 0] = 0.0
    power = StripePower(20.0 / frequency, 4.0 / frequency, sky)
    means = rng.normal(0.0, 2.0, shape).astype(np.float32)
    weights = rng.uniform(1.0, 3.0, shape).astype(np.float32)
    weights[rng.random(shape) < missing] = 0.0
    variances = np.concatenate(
        [np.stack([power.common, power.separate], 1).ravel(), np.maximum(sky, 1e-14).ravel()]
    )
    matrix = design()
    left = matrix.T @ (weights.reshape(-1, 1) * matrix) + np.diag(1.0 / variances)
    amplitudes = np.linalg.solve(left, matrix.T @ (weights * means).ravel())
    n = N_LINES * N_AMPLIFIERS
    stripes = (matrix[:, :n] @ amplitudes[:n]).reshape(shape)[:, ::PER]
    found = solve_stripes(means, weights, N_AMPLIFIERS, power)
    np.testing.assert_allclose(found.stripes, stripes, atol=2e-3)
    np.testing.assert_allclose(
        found.sky, (matrix[:, n:] @ amplitudes[n:]).reshape(shape), atol=2e-3
    )


def test_means_of_segments():
    rng = np.random.default_rng(1)
    lines = rng.normal(0.0, 1.0, (5, 13)).astype(np.float32)
    used = rng.random(lines.shape) < 0.7
    used[2, 4:9] = False
    lines[~used] = np.nan
    edges = np.array([0, 4, 9, 13])
    centre = rng.normal(0.0, 0.1, (5, 3)).astype(np.float32)
    means, numbers = segment_means(lines, used, edges, centre, 1.5)
    for y, k in np.ndindex(5, 3):
        part = slice(edges[k], edges[k + 1])
        kept = lines[y, part][used[y, part] & (np.abs(lines[y, part] - centre[y, k]) <= 1.5)]
        assert numbers[y, k] == kept.size
        assert means[y, k] == pytest.approx(kept.mean() if kept.size else 0.0, abs=1e-6)
