"""
``webbkg wfss`` and ``webbkg soss`` on bad input: one line that helps, exit 1, nothing written.

Or a warning and a product, where something can be done.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from cli_helpers import tree
from destripe_helpers import names_of, set_keywords
from sky_helpers import skies, sky_originals, truth_of

from webbkg.masks.flags import FLAG_BITS

__all__ = ["skies", "sky_originals"]

pytestmark = [
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
]


@pytest.fixture
def refused(cli, tmp_path):
    """Call a command, check that it refuses in one line and leaves no trace, return the line."""

    def call(method, *words, code=1, out=tmp_path / "out"):
        before = tree(tmp_path)
        ran = cli(method, *words, "-o", out)
        assert ran.code == code, ran
        assert ran.out == ""
        assert "Traceback" not in ran.err
        assert tree(tmp_path) == before
        if code == 1:
            assert ran.line.startswith("webbkg: ")
            return ran.line
        return ran.err

    return call


@pytest.fixture
def product(cli, tmp_path):
    """Call a command, which must succeed; give the product and the warnings."""

    def call(method, *words, out=tmp_path / "out"):
        ran = cli(method, *words, "-o", out)
        assert ran.code == 0, ran
        [path] = out.glob("*_bsub*.fits")
        return path, ran.err

    return call


def says(line, *patterns):
    """Check that a line has all these patterns."""
    for pattern in patterns:
        assert re.search(pattern, line), f"{pattern!r} is not in: {line}"


def set_pixels(value, *, name="SCI", rows=slice(None), columns=slice(None)):
    """Change pixels of an image, of all integrations."""

    def change(hdus):
        hdus[name].data[..., rows, columns] = value

    return change


KINDS = [("wfss", "niriss"), ("soss", "soss")]


# Files that are none, and exposures of another kind


@pytest.mark.parametrize("method", ["wfss", "soss"])
def test_missing_file(refused, skies, method):
    says(refused(method, skies.folder / "no_rate.fits"), "no_rate.fits: no such file")


@pytest.mark.parametrize("method", ["wfss", "soss"])
def test_truncated(refused, skies, method):
    path = skies("niriss")
    path.write_bytes(path.read_bytes()[:60000])
    says(refused(method, path), rf"{path.name}: .*(truncated|ends inside)")


@pytest.mark.parametrize(
    ("method", "kind", "needed"),
    [
        ("wfss", "soss", "NIS_WFSS, NRC_WFSS or MIR_WFSS; use webbkg soss"),
        ("soss", "niriss", "NIS_SOSS; use webbkg wfss"),
    ],
)
def test_exposure_of_another_kind(refused, skies, method, kind, needed):
    path = skies(kind)
    says(refused(method, path), f"{path.name}: EXP_TYPE is NIS_", needed)


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_image(refused, skies, method, kind):
    path = skies(kind, change=set_keywords(EXP_TYPE="NIS_IMAGE"))
    says(refused(method, path), "EXP_TYPE is NIS_IMAGE", "use webbkg average")
    path = skies(kind, change=set_keywords(EXP_TYPE=None))
    says(refused(method, path), "EXP_TYPE is missing, needed for webbkg")


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_empty_crds_cache(refused, skies, monkeypatch, tmp_path, method, kind):
    """The CRDS client exits then, which is no error of Python's."""
    path = skies(kind)
    skies.without_crds()
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("CRDS_SERVER_URL", "http://127.0.0.1:9")
    says(refused(method, path), f"{path.name}: CRDS cannot tell", "--template")


def test_filter_that_is_not_known(refused, skies):
    path = skies(change=set_keywords(PUPIL="F999W"))
    says(refused("wfss", path), f"{path.name}: CRDS", "F999W|reference file bkg")


def test_pipeline_rule_needs_usable_pixels(refused, skies):
    path = skies(change=set_pixels(1, name="DQ"))
    options = ["--rule", "pipeline", "--template", skies.template()]
    says(refused("wfss", path, *options), f"{path.name}: no pixel that tells the factor is usable")


def test_soss_exposure_of_another_height(refused, skies):
    def cut(hdus):
        for name in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"):
            if name in hdus:
                hdus[name].data = hdus[name].data[..., :64, :]

    path = skies("soss", change=lambda hdus: (cut(hdus), set_keywords(SUBSIZE2=64)(hdus)))
    says(refused("soss", path), f"{path.name}: has 64 rows", "256 or 96", "SUBSTRIP")


def test_grism_exposure_with_integrations(refused, skies):
    def stack(hdus):
        for name in ("SCI", "ERR", "DQ"):
            hdus[name].data = np.stack([hdus[name].data] * 2)

    path = skies(change=stack)
    says(refused("wfss", path), f"{path.name}: has 2 integrations", "give the rate file")


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_product_of_ours(refused, product, skies, tmp_path, method, kind):
    first, _ = product(method, skies(kind))
    line = refused(method, first, out=tmp_path / "again")
    says(line, rf"{first.name}: its background has been subtracted already \(S_BKDSUB=COMPLETE\)")
    says(line, "--force overrides")


def test_product_of_ours_if_it_is_meant_so(product, skies, tmp_path):
    first, _ = product("wfss", skies())
    second, err = product("wfss", first, "--force", out=tmp_path / "again")
    says(err, "warning: .*forced: .*subtracted already")
    # What the first one added is told once.
    names = names_of(second)
    assert len(names) == len(set(names))


def test_header_of_another_size(refused, product, skies):
    path = skies(change=set_keywords(SUBSIZE2=32))
    says(refused("wfss", path), "SCI is 512x512 but SUBSIZE2 and SUBSIZE1 say 32x512")


# Reference files


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_no_reference_files(refused, skies, method, kind):
    path = skies(kind)
    skies.without_crds()
    line = refused(method, path)
    says(line, f"{path.name}: ", "neither CRDS_PATH nor CRDS_SERVER_URL is set")
    says(line, "give a template with --template")


def test_no_template_in_crds(refused, skies):
    path = skies(change=set_keywords(FILTER="GR150C"))
    line = refused("wfss", path)
    says(line, f"{path.name}: CRDS ", "bkg", "give a template with --template")


def test_no_wavelength_range(refused, skies):
    path = skies(change=set_keywords(PUPIL="F090W"))
    line = refused("wfss", path, "--catalog", skies.catalog(), "--template", skies.template())
    # The template is of another filter, too: leave that to --force.
    says(line, "F150W", "F090W")
    line = refused(
        "wfss", path, "--catalog", skies.catalog(), "--template", skies.template(), "--force"
    )
    says(line, f"{path.name}: ", "(wavelengthrange|assign_wcs|specwcs)", "mask")


def test_no_wcs(refused, product, skies):
    def drop(hdus):
        for key in ("V2_REF", "RA_REF"):
            del hdus["SCI"].header[key]

    path, catalog = skies(change=drop), skies.catalog()
    line = refused("wfss", path, "--catalog", catalog)
    says(line, f"{path.name}: assign_wcs needs the pointing .* V2_REF, RA_REF are missing")
    says(line, "set_telescope_pointing.py", "or give a mask with --mask")
    # A mask needs none, and so does a run without a catalogue.
    done, _ = product("wfss", path, "--mask", skies.mask(np.ones((512, 512), np.uint8)))
    assert fits.getval(done, "WB_MSKBY") == "mask"


def test_catalogue_that_only_the_exposure_names_may_be_of_no_use(product, skies):
    def drop(hdus):
        del hdus["SCI"].header["V2_REF"]
        hdus[0].header["SCATFILE"] = name

    name = skies.catalog().name
    done, err = product("wfss", skies(change=drop))
    says(err, "warning: .*does not tell where spectra are .*V2_REF is missing")
    assert fits.getval(done, "WB_MSKBY") == "nothing"


def test_catalogue_that_the_exposure_names_is_not_there(product, skies):
    done, err = product("wfss", skies(change=set_keywords(SCATFILE="gone_cat.ecsv")))
    says(err, r"warning: .*gone_cat.ecsv \(SCATFILE\) is neither beside it", "--catalog")
    assert fits.getval(done, "WB_MSKBY") == "nothing"


# Catalogues


def test_no_catalogue(refused, skies):
    path = skies()
    line = refused("wfss", path, "--catalog", skies.folder / "no_cat.ecsv")
    says(line, "no_cat.ecsv: there is no such source catalogue", "mask")


def test_member_that_is_not_there(refused, skies):
    table = skies.association(skies(), sourcecat="no_cat.ecsv")
    says(refused("wfss", table), "no_cat.ecsv: there is no such source catalogue")


def test_two_catalogues(refused, skies):
    table = skies.association(skies())
    content = json.loads(table.read_text())
    members = content["products"][0]["members"]
    members.append({"expname": "b_cat.ecsv", "exptype": "sourcecat"})
    table.write_text(json.dumps(content))
    says(refused("wfss", table), "has 2 members of exptype 'sourcecat'")


@pytest.mark.parametrize("column", ["isophotal_abmag", "sky_bbox_ul"])
def test_catalogue_without_a_column(refused, skies, column):
    path, catalog = skies(), skies.catalog()
    table = QTable.read(catalog, format="ascii.ecsv")
    table.remove_column(column)
    table.write(catalog, format="ascii.ecsv", overwrite=True)
    line = refused("wfss", path, "--catalog", catalog)
    says(line, f"{catalog.name}: the source catalogue has no column {column}", "source_catalog")


def test_catalogue_that_is_none(refused, skies):
    path, catalog = skies(), skies.catalog()
    catalog.write_text("label x y\n1 2 3\n")
    says(refused("wfss", path, "--catalog", catalog), "cannot be read as a source catalogue")


# Masks


@pytest.mark.parametrize("shape", [(32, 512), (2048, 2048), (2, 512, 512)])
def test_mask_of_another_shape(refused, skies, shape):
    path = skies()
    line = refused("wfss", path, "--mask", skies.mask(np.ones(shape, np.uint8)))
    says(line, rf"mask.fits: the mask has shape \({', '.join(map(str, shape))}\)")
    says(line, rf"{path.name} needs one of \(512, 512\)", "give a mask")


def test_mask_without_its_extension(refused, skies):
    path = skies()
    mask = skies.mask(np.ones((512, 512), np.uint8), name="SCI")
    line = refused("wfss", path, "--mask", mask)
    says(line, r"mask.fits: has no extension MASK \(extensions: PRIMARY, SCI\)", "1 where")


def test_mask_that_is_no_fits(refused, skies):
    path = skies.folder / "mask.fits"
    path.write_text("mask")
    says(refused("wfss", skies(), "--mask", path), "mask.fits: cannot be read as a FITS image")


@pytest.mark.parametrize("rule", ["model", "pipeline"])
def test_mask_of_all_pixels(refused, skies, rule):
    path = skies()
    mask = skies.mask(np.zeros((512, 512), np.uint8))
    says(refused("wfss", path, "--mask", mask, "--rule", rule), f"{path.name}: ")


@pytest.mark.parametrize("rule", ["model", "pipeline"])
def test_mask_of_most_pixels(product, skies, rule):
    background = np.zeros((512, 512), np.uint8)
    background[200:230, 100:400] = 1
    done, _ = product("wfss", skies(), "--mask", skies.mask(background), "--rule", rule)
    level = truth_of(skies.original(), "sky")["level"]
    assert abs(fits.getval(done, "WB_SCALE") / level - 1.0) < 0.05


# Templates


def test_no_template(refused, skies):
    says(refused("wfss", skies(), "--template", skies.folder / "t.fits"), "t.fits: no such file")


@pytest.mark.parametrize(("key", "value"), [("FILTER", "GR150C"), ("PUPIL", "F200W")])
def test_template_of_another_grism_or_filter(refused, product, skies, key, value):
    path, template = skies(), skies.template(**{key: value})
    line = refused("wfss", path, "--template", template)
    says(line, f"template.fits: .*{value}", f"{path.name} has .*{fits.getval(path, key)}")
    _, err = product("wfss", path, "--template", template, "--force")
    says(err, "warning: .*forced: .*template.fits")


def test_template_of_another_place(refused, skies):
    path = skies("sub-array")
    place = skies.folder / "place.fits"
    primary = fits.PrimaryHDU()
    primary.header.update(SUBSTRT1=1, SUBSTRT2=1, INSTRUME="NIRISS")
    image = fits.ImageHDU(np.ones((32, 32), np.float32), name="SCI")
    fits.HDUList([primary, image]).writeto(place)
    line = refused("wfss", path, "--template", place)
    says(line, f"{path.name}: ", "place.fits", "do not overlap", "give a template")


@pytest.mark.parametrize("rule", ["model", "pipeline"])
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_template_with_holes(product, skies, rule, value):
    path, template = skies(), skies.template()
    with fits.open(template, mode="update") as hdus:
        hdus["SCI"].data[100:140, 200:300] = value
    done, _ = product("wfss", path, "--template", template, "--rule", rule)
    level = truth_of(skies.original(), "sky")["level"]
    assert abs(fits.getval(done, "WB_SCALE") / level - 1.0) < 0.05
    before, after = fits.getdata(path), fits.getdata(done)
    hole = (slice(100, 140), slice(200, 300))
    if np.isnan(value) and rule == "model":
        # Left as they are, and flagged.
        np.testing.assert_array_equal(after[hole], before[hole])
        assert (fits.getdata(done, "DQ")[hole] & FLAG_BITS["DO_NOT_USE"]).all()
        assert fits.getval(done, "WB_COVER") < 1.0
    outside = np.isfinite(before)
    outside[hole] = False
    assert np.isfinite(after[outside]).all()


def test_template_without_a_value(refused, skies):
    template = skies.template()
    with fits.open(template, mode="update") as hdus:
        hdus["SCI"].data[:] = np.nan
    path = skies()
    says(refused("wfss", path, "--template", template), "template.fits")


def test_empty_library(refused, skies):
    path = skies("soss")
    empty = skies.folder / "empty.fits"
    primary = fits.PrimaryHDU()
    primary.header.update(EXP_TYPE="NIS_SOSS", INSTRUME="NIRISS")
    image = fits.ImageHDU(np.zeros((1, 256, 2048), np.float32), name="SCI")
    fits.HDUList([primary, image]).writeto(empty)
    content = empty.read_bytes().replace(
        b"NAXIS3  =                    1", b"NAXIS3  =                    0"
    )
    empty.write_bytes(content[: 2 * 2880])
    says(refused("soss", path, "--template", empty), "empty.fits: .*library has no template")


def test_soss_sub_array_of_unknown_height(refused, skies):
    def cut(hdus):
        for name in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"):
            hdus[name].data = hdus[name].data[:, :64]
        hdus[0].header["SUBSIZE2"] = 64

    path = skies("soss", change=cut)
    says(refused("soss", path), f"{path.name}: .*64", "SUBSTRIP256", "SUBSTRIP96")


def test_soss_template_of_other_height(refused, skies):
    path = skies("soss")
    template = skies.folder / "t.fits"
    primary = fits.PrimaryHDU()
    primary.header.update(EXP_TYPE="NIS_SOSS", INSTRUME="NIRISS", SUBSTRT1=1, SUBSTRT2=1)
    image = fits.ImageHDU(np.ones((1, 40, 2048), np.float32), name="SCI")
    fits.HDUList([primary, image]).writeto(template)
    says(refused("soss", path, "--template", template), "t.fits", "40")


# Pixels that tell nothing


@pytest.mark.parametrize(("method", "kind"), KINDS)
@pytest.mark.parametrize(
    "change",
    [set_pixels(np.nan), set_pixels(1, name="DQ")],
    ids=["NaN", "flagged"],
)
def test_frames_without_a_value(refused, skies, method, kind, change):
    path = skies(kind, change=change)
    says(refused(method, path, "--errors", "keep"), f"{path.name}: ", "(pixel|usable)")


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_no_variance_anywhere_is_an_error_of_the_pipelines_rule(refused, skies, value):
    path = skies(change=set_pixels(value, name="ERR"))
    says(refused("wfss", path, "--rule", "pipeline"), f"{path.name}: ")


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_no_variance_anywhere(cli, skies, tmp_path, value):
    """The noise can be measured on the sky, or not: never is the result wrong without a word."""
    path = skies(change=set_pixels(value, name="ERR"))
    ran = cli("wfss", path, "-o", tmp_path / "out")
    assert f"{path.name}: " in ran.err
    if ran.code == 0:
        [done] = (tmp_path / "out").glob("*_bsub.fits")
        level = truth_of(skies.original(), "sky")["level"]
        assert abs(fits.getval(done, "WB_SCALE") / level - 1.0) < 0.05
    else:
        assert ran.code == 1
        says(ran.line, "(ERR|error|variance)")


# Where to write, and how to go on


def test_the_others_are_done(cli, skies, tmp_path):
    bad = skies(index=1, change=set_pixels(np.nan))
    ran = cli("wfss", bad, skies(), "-o", tmp_path / "out")
    assert ran.code == 1
    assert len(list((tmp_path / "out").glob("*_bsub.fits"))) == 1
    entries = json.loads((tmp_path / "out" / "metrics.json").read_text())["exposures"]
    assert [entry["status"] for entry in entries] == ["FAILED", "COMPLETE"]
    assert entries[0]["error"]


def test_product_exists(refused, product, skies):
    path = skies()
    done, _ = product("wfss", path)
    (done.parent / "webbkg-report.html").unlink()
    (done.parent / "metrics.json").unlink()
    says(refused("wfss", path), rf"{done.name}: exists already; use --overwrite")


def test_inputs_are_never_replaced(refused, skies):
    template = skies.template()
    path = skies(name="template_rate.fits")
    template.rename(skies.folder / "template_bsub.fits")
    line = refused(
        *("wfss", path, "--template", skies.folder / "template_bsub.fits", "--overwrite"),
        out=skies.folder,
    )
    says(line, "template_bsub.fits: is an input of this run; choose another directory with -o")


def test_two_exposures_with_one_product(refused, skies, tmp_path):
    path = skies()
    (tmp_path / "other").mkdir()
    other = path.rename(tmp_path / "other" / path.name)
    says(refused("wfss", skies(), other), "their products would both be named")


def test_nothing_is_left_of_a_write_that_fails(cli, skies, tmp_path, monkeypatch):
    path = skies()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("webbkg.io.products._write_rows", fail)
    before = tree(tmp_path)
    ran = cli("wfss", path, "-q", "-o", tmp_path / "out")
    assert ran.code == 1
    says(ran.line, "_bsub.fits: cannot be written .No space left on device")
    assert tree(tmp_path) == before


# Calls


@pytest.mark.parametrize("method", ["wfss", "soss"])
def test_no_file(refused, method):
    says(refused(method, code=2), "Give at least one exposure")


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_no_output(cli, skies, method, kind):
    ran = cli(method, skies(kind))
    assert ran.code == 2
    says(ran.err, "Give the output directory with -o")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["wfss", "--rule", "best"], "'best' is not one of 'model', 'pipeline'"),
        (["wfss", "--outlier-percent", "60"], "outlier_percent must be at least 0 and at most 50"),
        (["wfss", "--bad-flags", "DEADLY"], "unknown data-quality flag 'DEADLY'"),
        (["soss", "--bkg-percentile", "25"], "is not a valid float"),
        (["soss", "--bkg-percentile", "25", "150"], "bkg_percentile_high must be at least 0"),
        (["soss", "--source-percentile", "0"], "source_percentile must be greater than 0"),
    ],
)
def test_bad_options(refused, skies, words, text):
    method, *options = words
    says(refused(method, skies(), *options, code=2), text)
