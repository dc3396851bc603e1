"""The rule ``pipeline`` of `soss` against the JWST pipeline's own function."""

import logging

import numpy as np
import pytest
from jwst.background.background_sub_soss import find_discontinuity, subtract_soss_bkg
from stdatamodels.jwst import datamodels

from webbkg.errors import FitError, ShapeError
from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.soss import SossParams, soss
from webbkg.methods.soss_step import find_edges
from webbkg.sim import CAMERAS, niriss_soss, sky_template
from webbkg.sky_reference import SkyReference

STRIP = CAMERAS["NIS"].subarrays["SUBSTRIP256"][0]
NAMES = ["SUBSTRIP256", "SUBSTRIP96"]
PIPELINE = SossParams(rule="pipeline", errors="keep", threads=2)


def library_of(images, window=STRIP):
    return [
        SkyReference(
            f"library[{k}]",
            image,
            np.zeros_like(image),
            np.zeros(image.shape, np.uint32),
            Window(window.y0, 0, *image.shape),
            {},
        )
        for k, image in enumerate(images, start=1)
    ]


def run_jwst(tmp_path, data, dq, images, percentiles=(35.0, 25.0, 50.0)):
    path = tmp_path / "bkg.fits"
    reference = datamodels.SossBkgModel(data=np.stack(images))
    reference.save(path)
    kind = datamodels.CubeModel if data.ndim == 3 else datamodels.ImageModel
    model = kind(data=data.copy())
    model.dq = dq.copy()
    result = subtract_soss_bkg(model, str(path), percentiles[0], list(percentiles[1:]))
    return None if result is None else result.data


def run_webbkg(data, dq, images, params=PIPELINE):
    return soss(MemoryHandle(data, dq=dq, name="x_rateints.fits"), library_of(images), params)


def assert_same(ours, theirs):
    assert (np.isfinite(ours) == np.isfinite(theirs)).all()
    # Pixels near 0 are differences of larger numbers: float32 rounds those.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert np.mean((ours == theirs) | np.isnan(theirs)) > 0.99


@pytest.fixture(scope="module", params=NAMES)
def exposure(request):
    return niriss_soss(seed=3, subarray=request.param, n_integrations=3, template=2).science[0]


@pytest.mark.parametrize("n_templates", [1, 8])
@pytest.mark.parametrize("axes", [2, 3])
def test_same_pixels(exposure, n_templates, axes, tmp_path):
    data, dq = (exposure.data, exposure.dq) if axes == 3 else (exposure.data[0], exposure.dq[0])
    # Values without a flag that are not finite occur too.
    data = data.copy()
    data[..., 40:43, 300:303] = np.nan
    data[..., 50, 300] = np.inf
    images = [sky_template(k) for k in range(n_templates)]
    theirs = run_jwst(tmp_path, data, dq, images)
    result = run_webbkg(data, dq, images)
    assert_same(result.exposure.data, theirs)
    assert result.exposure.data.shape == data.shape
    assert not np.array_equal(np.nan_to_num(theirs), np.nan_to_num(data))
    # One integration after another gives the same pixels.
    planes = np.stack([plane.data for plane in result.planes()]).reshape(data.shape)
    np.testing.assert_array_equal(planes, result.exposure.data)
    assert len(result.diagnostics.rms) == n_templates


@pytest.mark.parametrize(
    "percentiles", [(60.0, 10.0, 90.0), (50.0, 0.0, 100.0), (45.0, 40.0, 41.0)]
)
def test_same_with_other_percentiles(exposure, percentiles, tmp_path):
    images = [sky_template(k) for k in (0, 5)]
    theirs = run_jwst(tmp_path, exposure.data, exposure.dq, images, percentiles)
    params = PIPELINE.changed(
        source_percentile=percentiles[0],
        bkg_percentile_low=percentiles[1],
        bkg_percentile_high=percentiles[2],
    )
    assert_same(run_webbkg(exposure.data, exposure.dq, images, params).exposure.data, theirs)


def test_same_with_a_template_of_the_small_strip(tmp_path):
    small = CAMERAS["NIS"].subarrays["SUBSTRIP96"][0]
    exposure = niriss_soss(seed=4, small=True, n_integrations=2).science[0]
    images = [sky_template(1, small)]
    theirs = run_jwst(tmp_path, exposure.data, exposure.dq, images)
    assert_same(run_webbkg(exposure.data, exposure.dq, images).exposure.data, theirs)


def test_same_with_many_equal_values(tmp_path):
    """Rounded values, of which thousands are equal, and a template of two values."""
    rng = np.random.default_rng(5)
    image = np.where(np.arange(2048) < 702, 4.0, 8.0) * np.ones((96, 1))
    image = image.astype(np.float32)
    data = np.round(image + rng.normal(0.0, 1.0, (2, 96, 2048)), 0).astype(np.float32)
    data[:, 60:, :800] = 0.0
    dq = (rng.random(data.shape) < 0.02).astype(np.uint32)
    for percentiles in ((35.0, 25.0, 50.0), (80.0, 10.0, 95.0)):
        theirs = run_jwst(tmp_path, data, dq, [image], percentiles)
        params = PIPELINE.changed(
            source_percentile=percentiles[0],
            bkg_percentile_low=percentiles[1],
            bkg_percentile_high=percentiles[2],
        )
        if theirs is None:
            with pytest.raises(FitError, match="can be scaled"):
                run_webbkg(data, dq, [image], params)
        else:
            assert_same(run_webbkg(data, dq, [image], params).exposure.data, theirs)


def test_same_with_holes_in_the_template(exposure, tmp_path):
    images = [sky_template(0), sky_template(1)]
    for image in images:
        image[100:104, 300:310] = np.nan
        image[20:24, 900:930] = 0.0
    theirs = run_jwst(tmp_path, exposure.data, exposure.dq, images)
    assert_same(run_webbkg(exposure.data, exposure.dq, images).exposure.data, theirs)


def test_same_with_templates_without_values(exposure, tmp_path):
    images = [sky_template(k) for k in range(4)]
    images[0][:], images[2][:] = np.nan, 0.0
    theirs = run_jwst(tmp_path, exposure.data, exposure.dq, images)
    assert_same(run_webbkg(exposure.data, exposure.dq, images).exposure.data, theirs)


def test_same_with_coarse_values(exposure, tmp_path):
    images = [sky_template(k) for k in range(2)]
    data = (np.round(exposure.data / 0.007) * 0.007).astype(np.float32)
    theirs = run_jwst(tmp_path, data, exposure.dq, images)
    assert_same(run_webbkg(data, exposure.dq, images).exposure.data, theirs)


def test_template_without_a_side_is_not_taken(exposure, tmp_path):
    images = [sky_template(0), sky_template(1)]
    images[0][:, 660:] = 0.0
    theirs = run_jwst(tmp_path, exposure.data, exposure.dq, images)
    result = run_webbkg(exposure.data, exposure.dq, images)
    assert_same(result.exposure.data, theirs)
    assert result.used == ("library[2]",)
    assert np.isinf(result.diagnostics.rms[0])


def test_no_fit(exposure, tmp_path):
    image = sky_template(0)
    image[:, 660:] = 0.0
    assert run_jwst(tmp_path, exposure.data, exposure.dq, [image]) is None
    with pytest.raises(FitError, match=r"^x_rateints\.fits: none of the 1 sky templates can be"):
        run_webbkg(exposure.data, exposure.dq, [image])


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
def test_all_flagged(exposure, tmp_path):
    dq = exposure.dq | np.uint32(1)
    assert run_jwst(tmp_path, exposure.data, dq, [sky_template(0)]) is None
    with pytest.raises(FitError):
        run_webbkg(exposure.data, dq, [sky_template(0)])


def test_other_shape(tmp_path, caplog):
    small = CAMERAS["NIS"].subarrays["SUBSTRIP96"][0]
    exposure = niriss_soss(seed=3, n_integrations=0).science[0]
    images = [sky_template(0, small)]
    with caplog.at_level(logging.WARNING):
        assert run_jwst(tmp_path, exposure.data, exposure.dq, images) is None
    with pytest.raises(ShapeError, match="it has 256x2048 pixels and the sky template"):
        run_webbkg(exposure.data, exposure.dq, images)


@pytest.mark.parametrize("index", range(8))
def test_step_is_where_the_pipeline_has_it(index):
    image = sky_template(index)
    np.testing.assert_array_equal(find_edges(image), find_discontinuity(image)[:, 0])


def test_nothing_depends_on_threads_or_memory(exposure):
    images = [sky_template(k) for k in range(3)]
    first = run_webbkg(exposure.data, exposure.dq, images)
    other = run_webbkg(
        exposure.data, exposure.dq, images, PIPELINE.changed(threads=3, max_memory=16)
    )
    assert first.scales == other.scales
    assert first.diagnostics.used_fractions == other.diagnostics.used_fractions
    np.testing.assert_array_equal(first.exposure.data, other.exposure.data)
