"""The package's own way to run the stages of the real pipeline."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from crds.core import log as crds_log
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError
from webbkg.pipeline import detector1, image2, image3
from webbkg.sim import miri_imaging, write_observation

pytestmark = pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning")

WITHOUT_BACKGROUND = {"bkg_subtract": {"skip": True}}


@pytest.fixture(scope="module")
def observation():
    return miri_imaging(shape=(128, 136), n_science=2, n_background=1, n_groups=6, seed=3)


@pytest.fixture(scope="module")
def ramps(observation, tmp_path_factory):
    return write_observation(observation, tmp_path_factory.mktemp("ramps"), level="uncal")


@pytest.fixture(scope="module")
def calibrated(observation, tmp_path_factory):
    """Rates, and what stage 2 made of them in another directory."""
    files = write_observation(observation, tmp_path_factory.mktemp("rates"))
    output = files.environment.parent / "calibrated"
    return files, image2(files.association, output, files.cache, steps=WITHOUT_BACKGROUND)


@pytest.fixture
def no_reference_files(monkeypatch):
    for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def crds_console():
    """What the CRDS client prints, which it does without being asked."""
    stream = io.StringIO()
    crds_log.remove_console_handler()
    crds_log.add_console_handler(stream=stream)
    yield stream
    crds_log.remove_console_handler()
    crds_log.add_console_handler()


@pytest.mark.slow
def test_ramps_to_calibrated_images(
    ramps, observation, tmp_path, monkeypatch, capfd, crds_console, no_reference_files
):
    monkeypatch.chdir(tmp_path)
    folder = ramps.association.parent
    handlers = {name: logging.getLogger(name).handlers[:] for name in ("", "stpipe", "jwst")}
    before = dict(os.environ), Path.cwd(), logging.getLogger("stpipe").level
    rates = detector1([str(ramps.science[0])], folder, ramps.cache)
    assert [path.name for path in rates] == [observation.science[0].name]
    with datamodels.open(rates[0]) as model:
        assert model.meta.cal_step.ramp_fit == "COMPLETE"
        assert model.meta.cal_step.rscd == "COMPLETE"
    # Only the first exposure has been processed: a product of its own is enough for stage 2.
    [image] = image2(rates[0], tmp_path / "out", ramps.cache)
    assert image.parent == tmp_path / "out"
    with datamodels.open(image) as model:
        assert model.meta.cal_step.photom == "COMPLETE"
        assert model.meta.bunit_data == "MJy/sr"
    after = dict(os.environ), Path.cwd(), logging.getLogger("stpipe").level
    # The CRDS client sets some variables when it is imported, none that says where files are.
    assert after[1:] == before[1:]
    assert not {"CRDS_PATH", "CRDS_SERVER_URL", "CRDS_CONTEXT"} & after[0].keys()
    assert handlers == {name: logging.getLogger(name).handlers for name in handlers}
    assert capfd.readouterr() == ("", "")
    assert crds_console.getvalue() == ""
    assert crds_log.THE_LOGGER.console is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_association_of_rates(calibrated, observation):
    files, images = calibrated
    assert [path.name for path in images] == [
        exposure.name.replace("_rate", "_cal") for exposure in observation.science
    ]
    for path, exposure in zip(images, observation.science, strict=True):
        with datamodels.open(path) as model:
            assert model.meta.asn.table_name == files.association.name
            rate = np.nanmedian(exposure.data)
            assert np.nanmedian(model.data) == pytest.approx(
                rate * model.meta.photometry.conversion_megajanskys, rel=0.01
            )


@pytest.mark.slow
def test_mosaic_of_members_in_the_output_directory(calibrated):
    files, images = calibrated
    [association] = (path for path in files.associations if "image3" in path.name)
    skipped = {name: {"skip": True} for name in ("tweakreg", "source_catalog")}
    mosaic = image3(association, images[0].parent, files.cache, steps=skipped)
    assert mosaic.parent == images[0].parent
    with datamodels.open(mosaic) as model:
        assert model.meta.resample.pointings == 2
        assert model.meta.asn.table_name == association.name


@pytest.mark.slow
def test_log_lines_are_printed_on_demand(calibrated, tmp_path, capfd):
    files, _ = calibrated
    skipped = {name: {"skip": True} for name in ("bkg_subtract", "resample", "flat_field")}
    image2(files.science[0], tmp_path, files.cache, steps=skipped, verbose=True)
    assert "Starting calwebb_image2" in capfd.readouterr().err


def test_environment_without_reference_files(ramps, tmp_path, no_reference_files):
    expected = (
        "the pipeline needs reference files, but neither CRDS_PATH nor CRDS_SERVER_URL is set; set "
        "them as the JWST pipeline's documentation tells, or pass a local cache"
    )
    for call in (
        lambda: detector1(ramps.science, tmp_path),
        lambda: image2(ramps.science[0], tmp_path),
        lambda: image3(ramps.association, tmp_path),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == expected


def test_missing_files(ramps, tmp_path):
    for call in (
        lambda: detector1([tmp_path / "no_uncal.fits"], tmp_path, ramps.cache),
        lambda: image2(tmp_path / "no_asn.json", tmp_path, ramps.cache),
        lambda: detector1(ramps.science, tmp_path, tmp_path / "no_cache"),
    ):
        with pytest.raises(
            InputError, match=r"/no_\w+(\.\w+)?: there is no such file or directory"
        ):
            call()


def test_missing_member(ramps, tmp_path):
    path = tmp_path / "level2_asn.json"
    product = {"name": "a", "members": [{"expname": "a_rate.fits", "exptype": "science"}]}
    path.write_text(json.dumps({"products": [product]}))
    with pytest.raises(InputError) as caught:
        image2(path, tmp_path / "out", ramps.cache)
    assert str(caught.value) == (
        f"level2_asn.json: its member a_rate.fits is not in {tmp_path} or {tmp_path / 'out'}; run "
        "the stage before, or move it there"
    )


@pytest.mark.parametrize("text", ["no json", "[]", '{"products": 1}', '{"products": [{}]}'])
def test_broken_association(ramps, tmp_path, text):
    path = tmp_path / "broken_asn.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not an association that can be read"):
        image2(path, tmp_path, ramps.cache)
