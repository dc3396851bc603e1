"""Files of an image-for-image background, and what the pipeline makes of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from i4i_helpers import FILLED, FILLED_FLAG, HOLE, SIGMA, Run, load, prepare
from jwst.associations.load_as_asn import LoadAsLevel2Asn
from jwst.background import BackgroundStep
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, OutputError, ShapeError
from webbkg.exposure import MemoryHandle
from webbkg.io.associations import AssociationProduct
from webbkg.io.files import FileHandle
from webbkg.io.i4i_calibrated import complete_calibrated
from webbkg.io.i4i_files import (
    Layout,
    read_level2,
    write_background,
    write_level2,
    write_level3,
    write_masked_rate,
    write_merged_rate,
)
from webbkg.masks.flags import DO_NOT_USE
from webbkg.sim import local_crds, write_observation
from webbkg.sim.presets.i4i import miri_i4i

pytestmark = [
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Input association file contains path information"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("i4i_files")
    observation = miri_i4i(shape=(64, 72), n_science=4)
    files = write_observation(observation, folder / "in")
    return prepare(observation, files, folder / "out")


@pytest.fixture
def science(run: Run) -> Path:
    return run.science[1]


def test_names_and_folders() -> None:
    layout = Layout(Path("out"))
    rate = Path("in/jw01345002001_04101_00001_mirimage_rate.fits")
    exposure = "jw01345002001_04101_00001_mirimage"
    group = "jw01345_obs002_MIRI_F1000W"
    rates, cals = f"out/{exposure}/calibrated1_rates", f"out/{exposure}/calibrated2_cals"
    before, after = (
        "out/calibrated3_mosaics",
        "out/calibrated3_mosaics_redone_with_source_emission_mask",
    )
    expected = {
        layout.masked_rate(rate): f"{rates}/{exposure}_masked_source_emission_rate.fits",
        layout.merged_rate(rate): f"{rates}/merged_other_visits_masked_source_emission_rate.fits",
        layout.merged_list(
            rate
        ): f"{rates}/merged_other_visits_masked_source_emission_rate.list.txt",
        layout.subtracted(rate): f"{rates}/{exposure}_bsub.fits",
        layout.association(rate): f"{cals}/{exposure}_bkgsub_masked_source_emission_asn.json",
        layout.calibrated(rate): f"{cals}/{exposure}_bkgsub_masked_source_emission_cal.fits",
        layout.plain_calibrated(rate): f"{cals}/{exposure}_cal.fits",
        layout.mosaic_before(group): f"{before}/{group}_i2d.fits",
        layout.seed(group): f"{before}/{group}_i2d_galaxy_seed_image.fits",
        layout.mosaic_after(group): f"{after}/{group}_i2d.fits",
    }
    assert {str(path): name for path, name in expected.items()} == {
        name: name for name in expected.values()
    }
    assert layout.masked_rate(Path("a_rate.fits.gz")).name == "a_masked_source_emission_rate.fits"


def test_exposures_of_one_name_are_refused() -> None:
    layout = Layout(Path("out"))
    layout.check_distinct([Path("in/a_rate.fits"), Path("in/b_rate.fits")])
    with pytest.raises(InputError) as caught:
        layout.check_distinct([Path("in/a_rate.fits"), Path("other/a_rate.fits")])
    assert str(caught.value) == (
        "other/a_rate.fits and in/a_rate.fits: their products would both be in out/a; run them "
        "with different output directories, or leave one out if they are one exposure"
    )


def test_masked_rate(run: Run, science: Path) -> None:
    mask = run.sources(science) > 0.3
    before, after = load(science), load(run.layout.masked_rate(science))
    assert 0.001 < mask.mean() < 0.5
    assert np.array_equal(after.data, np.where(mask, 0.0, before.data), equal_nan=True)
    assert np.array_equal(after.dq, before.dq | np.where(mask, DO_NOT_USE, 0).astype(np.uint32))
    assert np.array_equal(after.err, before.err, equal_nan=True)
    with (
        fits.open(science) as old,
        fits.open(run.layout.masked_rate(science), memmap=False) as new,
        datamodels.open(run.layout.masked_rate(science)) as model,
    ):
        assert [hdu.name for hdu in old] == [hdu.name for hdu in new]
        assert np.array_equal(old["VAR_RNOISE"].data, new["VAR_RNOISE"].data, equal_nan=True)
        assert isinstance(model, datamodels.ImageModel)
        assert model.meta.filename == run.layout.masked_rate(science).name
        history = " ".join(new[0].header["HISTORY"])
        assert f"{np.count_nonzero(mask)} pixels with sources of a_seed.fits set to 0" in history


def test_masked_rate_of_a_file_without_flags(science: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare_rate.fits"
    with fits.open(science) as hdus:
        fits.HDUList([hdu for hdu in hdus if hdu.name not in ("DQ", "ERR")]).writeto(bare)
    mask = np.zeros((64, 72), bool)
    mask[3, 5] = True
    write_masked_rate(FileHandle(bare), mask, tmp_path / "masked.fits")
    assert np.array_equal(load(tmp_path / "masked.fits").dq, mask.astype(np.uint32))
    with fits.open(tmp_path / "masked.fits") as hdus:
        assert "ERR" not in hdus
        assert [hdu.name for hdu in hdus][-2:] == ["DQ", "ASDF"]


def test_mask_of_another_shape(science: Path, tmp_path: Path) -> None:
    with pytest.raises(ShapeError) as caught:
        write_masked_rate(FileHandle(science), np.zeros((64, 64), bool), tmp_path / "a.fits")
    assert str(caught.value) == (
        f"{science.name}: the mask has shape (64, 64) but SCI has (64, 72)"
    )


def test_a_partner_that_went_away(science: Path, tmp_path: Path) -> None:
    path = shutil.copy(science, tmp_path / "gone_rate.fits")
    handle = FileHandle(path)
    path.unlink()
    with pytest.raises(InputError, match=f"^{path}: .*"):
        write_masked_rate(handle, np.zeros((64, 72), bool), tmp_path / "a.fits")
    assert list(tmp_path.iterdir()) == []


def test_merged_rate(run: Run, science: Path) -> None:
    template = run.subtractions[science].template
    path = run.layout.merged_rate(science)
    with datamodels.open(path) as model, fits.open(path) as hdus:
        assert isinstance(model, datamodels.ImageModel)
        model.validate()
        assert model.meta.filename == path.name
        assert model.meta.instrument.filter == "F770W"
        assert np.array_equal(model.data, np.nan_to_num(template.image))
        assert np.array_equal(model.err, template.err, equal_nan=True)
        assert np.array_equal(model.dq, template.dq)
        assert np.array_equal(hdus["COVERAGE"].data, template.n_used)
        header = hdus[0].header
        assert "S_BKDSUB" not in header
        assert (header["WB_METH"], header["WB_NUSED"], header["BKGMETH"]) == ("i4i", 3, "i4i")
        assert header["WB_LEVEL"] == pytest.approx(60.0, rel=0.05)
        assert list(hdus["WEBBKG"].data["NAME"][1:4]) == [
            other.name for other in run.science if other != science
        ]


@pytest.mark.usefixtures("quick_steps")
def test_the_pipeline_subtracts_the_merged_rate(run: Run, science: Path, tmp_path: Path) -> None:
    template, before = run.subtractions[science].template, load(science)
    with_nan = tmp_path / "nan_rate.fits"
    shutil.copy(run.layout.merged_rate(science), with_nan)
    with fits.open(with_nan, mode="update") as hdus:
        hdus["SCI"].data[HOLE] = np.nan
    for background in (run.layout.merged_rate(science), with_nan):
        with local_crds(run.files.cache):
            result = BackgroundStep.call(str(science), [str(background)])
        assert result.meta.cal_step.bkg_subtract == "COMPLETE"
        expected = before.data - np.nan_to_num(template.image)
        assert np.allclose(result.data, expected, rtol=0, atol=1e-5, equal_nan=True)
        assert np.array_equal(result.dq, before.dq | template.dq)
        # What io.i4i_calibrated makes up for.
        assert np.array_equal(result.err, before.err, equal_nan=True)


def test_list_of_partners(run: Run, science: Path) -> None:
    expected = [
        run.layout.masked_rate(other).resolve() for other in run.science if other != science
    ]
    lines = run.layout.merged_list(science).read_text().splitlines()
    assert lines == [str(path) for path in expected]
    assert all(path.is_file() for path in expected)


def test_level2_association(run: Run, science: Path) -> None:
    path = run.layout.association(science)
    [product] = LoadAsLevel2Asn.load(str(path))["products"]
    assert product["name"] == path.name.removesuffix("_asn.json")
    merged = run.layout.merged_rate(science)
    assert [(m["expname"], m["exptype"]) for m in product["members"]] == [
        (str(science.resolve()), "science"),
        (str(merged.resolve()), "background"),
    ]
    assert read_level2(path) == AssociationProduct(
        product["name"], science.resolve(), (merged.resolve(),)
    )
    assert json.loads(path.read_text())["program"] == "09999"


def test_associations_that_are_not_of_one_background(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "two_asn.json"
    table = json.loads(run.layout.association(run.science[0]).read_text())
    del table["products"][0]["members"][1]
    path.write_text(json.dumps(table))
    with pytest.raises(InputError) as caught:
        read_level2(path)
    assert str(caught.value) == (
        f"{path}: needs one product with one background, has 1 with 0; write it with webbkg i4i "
        "merge"
    )
    with pytest.raises(InputError, match="has 4 with 0 and 0 and 0 and 0;"):
        read_level2(run.files.association)


def test_level3_association(run: Run, tmp_path: Path) -> None:
    write_level3(run.science, tmp_path / "group_asn.json")
    table = json.loads((tmp_path / "group_asn.json").read_text())
    assert (table["asn_type"], table["products"][0]["name"]) == ("image3", "group")
    members = table["products"][0]["members"]
    assert [member["expname"] for member in members] == [str(p.resolve()) for p in run.science]
    with pytest.raises(InputError, match=r"no_cal\.fits"):
        write_level3([tmp_path / "no_cal.fits"], tmp_path / "other_asn.json")


def test_nothing_is_replaced_unasked(run: Run, science: Path, tmp_path: Path) -> None:
    subtraction, provenance = run.subtractions[science], run.provenances[science]
    target = tmp_path / "there"
    target.write_text("precious")
    partners = [other for other in run.science if other != science]
    for write in (
        lambda: write_masked_rate(FileHandle(science), np.zeros((64, 72), bool), target),
        lambda: write_merged_rate(subtraction, provenance, target),
        lambda: write_level2(FileHandle(science), science, target),
        lambda: write_level3([science], target),
        lambda: write_background(run.layout, subtraction, provenance, partners),
    ):
        with pytest.raises(OutputError, match="exists already; use --overwrite"):
            write()
    assert target.read_text() == "precious"
    before = run.layout.merged_list(science).stat().st_ino
    path = write_background(run.layout, subtraction, provenance, partners, overwrite=True)
    assert path == run.layout.association(science)
    assert run.layout.merged_list(science).stat().st_ino != before


def test_exposures_in_memory_have_no_files(run: Run, science: Path) -> None:
    subtraction = replace(run.subtractions[science], science=MemoryHandle(np.zeros((64, 72))))
    with pytest.raises(InputError, match="array: is no file, so there is no product"):
        write_background(run.layout, subtraction, run.provenances[science], [], overwrite=True)


FACTOR = 0.35


@pytest.fixture
def calibrated(run: Run, science: Path, tmp_path: Path) -> tuple[Path, AssociationProduct]:
    """What calwebb_image2 makes of an exposure, but for its WCS: pixels times FACTOR."""
    path = tmp_path / "a_cal.fits"
    with datamodels.open(science) as model:
        model.data = FACTOR * (model.data - np.nan_to_num(run.subtractions[science].template.image))
        model.err *= FACTOR
        model.dq |= run.subtractions[science].template.dq
        model.var_rnoise *= FACTOR**2
        model.var_poisson *= FACTOR**2
        model.meta.bunit_data = "MJy/sr"
        model.meta.cal_step.bkg_subtract = "COMPLETE"
        model.save(path)
    return path, read_level2(run.layout.association(science))


def test_calibrated_exposure_gets_the_error_of_its_background(
    calibrated: tuple[Path, AssociationProduct], run: Run, science: Path, tmp_path: Path
) -> None:
    raw, product = calibrated
    target = tmp_path / "full_cal.fits"
    complete_calibrated(raw, product, target)
    before, after = load(raw), load(target)
    added = np.full(before.err.shape, FACTOR * SIGMA)
    added[HOLE] = 0.0
    assert np.allclose(after.err, np.hypot(before.err, added), rtol=1e-5, equal_nan=True)
    assert np.array_equal(after.data, before.data, equal_nan=True)
    assert np.array_equal(after.dq, before.dq)
    assert (after.dq[FILLED] & FILLED_FLAG != 0).all()
    assert (after.dq[HOLE] & DO_NOT_USE != 0).all()
    with datamodels.open(target) as model, fits.open(target) as hdus:
        model.validate()
        assert model.meta.cal_step.bkg_subtract == "COMPLETE"
        usable = np.isfinite(before.err)
        assert np.allclose(hdus["VAR_BKG"].data[usable], added[usable] ** 2, rtol=1e-5)
        assert hdus["VAR_BKG"].header["BUNIT"] == "(MJy/sr)^2"
        with fits.open(run.layout.merged_rate(science)) as merged:
            assert np.array_equal(hdus["WEBBKG"].data, merged["WEBBKG"].data)
            level = merged[0].header["WB_LEVEL"]
        header = hdus[0].header
        assert header["FILENAME"] == "full_cal.fits"
        assert (header["WB_METH"], header["WB_NUSED"], header["BKGD_SCL"]) == ("i4i", 3, 1.0)
        assert header["WB_LEVEL"] == pytest.approx(FACTOR * level, rel=1e-5)
        assert header["WB_RMSB"] == pytest.approx(FACTOR * 0.35, rel=1e-5)
        assert "BKGSUB" not in header
        assert "variance is VAR_BKG and part of ERR" in " ".join(header["HISTORY"])


def test_factor_without_variances(
    calibrated: tuple[Path, AssociationProduct], tmp_path: Path
) -> None:
    raw, product = calibrated
    with fits.open(raw, mode="update") as hdus:
        for name in ("VAR_RNOISE", "VAR_POISSON"):
            hdus[name].data[:] = 0.0
    complete_calibrated(raw, product, tmp_path / "full_cal.fits")
    with fits.open(tmp_path / "full_cal.fits") as hdus:
        variance = hdus["VAR_BKG"].data
        usable = np.isfinite(hdus["SCI"].data) & (hdus["DQ"].data & DO_NOT_USE == 0)
    assert np.allclose(variance[usable], (FACTOR * SIGMA) ** 2, rtol=0.01)


def test_errors_that_are_kept(calibrated: tuple[Path, AssociationProduct], tmp_path: Path) -> None:
    raw, product = calibrated
    target = tmp_path / "full_cal.fits"
    complete_calibrated(raw, product, target, propagate_errors=False)
    assert np.array_equal(load(target).err, load(raw).err, equal_nan=True)
    with fits.open(target) as hdus:
        assert "VAR_BKG" not in hdus
        assert "WEBBKG" in hdus
        assert "VAR_BKG" not in " ".join(hdus[0].header["HISTORY"])


def test_calibrated_without_subtraction(
    calibrated: tuple[Path, AssociationProduct], tmp_path: Path
) -> None:
    raw, product = calibrated
    with fits.open(raw, mode="update") as hdus:
        hdus[0].header["S_BKDSUB"] = "SKIPPED"
    with pytest.raises(InputError) as caught:
        complete_calibrated(raw, product, tmp_path / "full_cal.fits")
    assert str(caught.value) == (
        f"{product.science}: calwebb_image2 did not subtract {product.backgrounds[0]} (S_BKDSUB is "
        "'SKIPPED'); run it with its step bkg_subtract"
    )


def test_background_of_another_make(
    calibrated: tuple[Path, AssociationProduct], science: Path, tmp_path: Path
) -> None:
    raw, product = calibrated
    foreign = replace(product, backgrounds=(science,))
    with pytest.raises(InputError) as caught:
        complete_calibrated(raw, foreign, tmp_path / "full_cal.fits")
    assert str(caught.value) == (
        f"{science}: needs the extensions ERR and WEBBKG of a merged background, has SCI, ERR, DQ, "
        "VAR_POISSON, VAR_RNOISE, ASDF; make it with webbkg i4i merge"
    )


@pytest.mark.parametrize("gone", ["science", "background"])
def test_files_that_went_away(
    calibrated: tuple[Path, AssociationProduct], tmp_path: Path, gone: str
) -> None:
    raw, product = calibrated
    away = tmp_path / "away_rate.fits"
    change = {"science": away} if gone == "science" else {"backgrounds": (away,)}
    with pytest.raises(InputError, match=f"^{away}: "):
        complete_calibrated(raw, replace(product, **change), tmp_path / "full_cal.fits")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_cal.fits"]
