import json
import os
import re
from pathlib import Path

import pytest

from webbkg.errors import InputError
from webbkg.io.associations import Level3, exposures_from, read_level3

ONE = "jw01345002001_04101_00001_mirimage"
TWO = "jw01345002001_04101_00002_mirimage"
THREE = "jw01345002002_04101_00001_mirimage"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def level3(path, *members, kind="image3", name="jw01345_obs002_MIRI_F1000W"):
    members = [item if isinstance(item, tuple) else (item, "science") for item in members]
    product = {"name": name, "members": [{"expname": e, "exptype": t} for e, t in members]}
    return write(path, [product], kind)


def write(path, products, kind):
    content = {"asn_type": kind, "products": products}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def level2(path, *members, kind="image2"):
    products = [
        {
            "name": f"product{number}",
            "members": [
                {"expname": member, "exptype": "science"},
                {"expname": "background_rate.fits", "exptype": "background"},
            ],
        }
        for number, member in enumerate(members)
    ]
    return write(path, products, kind)


def refused(message, function, argument):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        function(argument)


# Level 3


def test_rates_beside_the_association(tmp_path):
    rates = tuple(touch(tmp_path / f"{name}_rate.fits") for name in (TWO, ONE))
    path = level3(
        tmp_path / "x_asn.json",
        f"{TWO}_cal.fits",
        (f"{THREE}_cal.fits", "background"),
        (f"{ONE}_cal.fits", "SCIENCE"),
    )
    assert read_level3(path) == Level3("jw01345_obs002_MIRI_F1000W", rates)


@pytest.mark.parametrize(
    "member",
    [
        f"{ONE}_rate.fits",
        f"{ONE}_cal.fits",
        f"{ONE}_a3001_crf.fits",
        f"{ONE}_i2d.fits",
        f"{ONE}_bkgsub_masked_source_emission_cal.fits",
        f"calibrated/{ONE}_a3001_match.fits",
        f"/elsewhere/{ONE}_cal.fits",
    ],
)
def test_every_product_leads_to_the_rate(tmp_path, member):
    rate = touch(tmp_path / f"{ONE}_rate.fits")
    assert read_level3(level3(tmp_path / "x_asn.json", member)).members == (rate,)


@pytest.mark.parametrize(
    ("stem", "suffix"),
    [
        ("det_image_seq1_MIRIMAGE_F560Wexp1", "cal"),
        ("field", "crf"),
        ("jw01345002001_04101_00001-seg002_nrca1", "a3001_crf"),
        ("jw01345002001_0410a_00001_nrcblong", "a3001_crf"),
    ],
)
def test_other_names(tmp_path, stem, suffix):
    rate = touch(tmp_path / f"{stem}_rate.fits")
    path = level3(tmp_path / "x_asn.json", f"{stem}_{suffix}.fits")
    assert read_level3(path).members == (rate,)


@pytest.mark.parametrize(
    ("association", "member", "rate"),
    [
        # As the scripts for image-for-image backgrounds lay their files out.
        ("calibrated3_mosaics/x_asn.json", "{}_cal.fits", "{}/calibrated1_rates"),
        ("x_asn.json", "{}_cal.fits", "{}/calibrated1_rates"),
        ("mosaics/x_asn.json", "../{0}/calibrated2_cals/{0}_cal.fits", "{}/calibrated1_rates"),
        ("a/b/c/x_asn.json", "../../../{0}/calibrated2_cals/{0}_cal.fits", "{}/calibrated1_rates"),
        ("x_asn.json", "cals/{}_cal.fits", "cals"),
    ],
)
def test_layouts(tmp_path, association, member, rate):
    expected = touch(tmp_path / rate.format(ONE) / f"{ONE}_rate.fits")
    (tmp_path / ONE / "calibrated2_cals").mkdir(parents=True, exist_ok=True)
    path = level3(tmp_path / association, member.format(ONE))
    assert read_level3(path).members == (expected,)


def test_layout_seen_from_inside_it(tmp_path, monkeypatch):
    expected = touch(tmp_path / ONE / "calibrated1_rates" / f"{ONE}_rate.fits")
    path = level3(tmp_path / "calibrated3_mosaics" / "x_asn.json", f"{ONE}_cal.fits")
    monkeypatch.chdir(path.parent)
    assert read_level3(Path(path.name)).members == (expected,)


def test_the_rate_where_the_member_is_comes_first(tmp_path):
    touch(tmp_path / f"{ONE}_rate.fits")
    nearest = touch(tmp_path / "cals" / f"{ONE}_rate.fits")
    path = level3(tmp_path / "x_asn.json", f"cals/{ONE}_cal.fits")
    assert read_level3(path).members == (nearest,)


def test_rate_not_found(tmp_path):
    path = level3(tmp_path / "mosaics" / "x_asn.json", f"../cals/{ONE}_cal.fits")
    (path.parent / f"{ONE}_rate.fits").mkdir()
    places = (
        tmp_path / "cals",
        tmp_path / "mosaics",
        tmp_path / "calibrated1_rates",
        tmp_path / "mosaics" / ONE / "calibrated1_rates",
        tmp_path / ONE / "calibrated1_rates",
    )
    message = (
        f"{path}: member {ONE}_cal.fits needs its {ONE}_rate.fits, which is in none of "
        f"{', '.join(map(str, places))}; put it there, or give the rate files themselves"
    )
    refused(message, read_level3, path)


@pytest.mark.parametrize("kind", ["spec3", "image2", "tso3", "Coron3"])
def test_other_kinds(tmp_path, kind):
    path = level3(tmp_path / "x_asn.json", f"{ONE}_cal.fits", kind=kind)
    message = (
        f"{path}: is an association of type '{kind.lower()}', needed is image3 or image2; only "
        "images have an image-for-image background"
    )
    refused(message, read_level3, path)
    if kind != "image2":
        refused(message, exposures_from, [path])


def test_several_products(tmp_path):
    product = {"name": "a", "members": [{"expname": "a_cal.fits", "exptype": "science"}]}
    path = write(tmp_path / "x_asn.json", [product, product], "image3")
    message = (
        f"{path}: a level-3 association has one product, this one has 2; give each mosaic an "
        "association of its own"
    )
    refused(message, read_level3, path)


def test_no_science_member(tmp_path):
    path = level3(tmp_path / "x_asn.json", (f"{ONE}_cal.fits", "background"), name="a")
    refused(f"{path}: product 1 (a) has no science member; list its exposures", read_level3, path)


def test_what_level_2_refuses_is_refused(tmp_path):
    path = level3(tmp_path / "x_asn.json", (f"{ONE}_cal.fits", "sky"), name="a")
    with pytest.raises(InputError, match=r"product 1 \(a\): .* has the unknown exptype 'sky'"):
        read_level3(path)
    missing = tmp_path / "none_asn.json"
    refused(f"{missing}: no such file", read_level3, missing)


def test_associations_of_the_archive(tmp_path, shared_data):
    path = tmp_path / "asn.json"
    path.write_bytes((shared_data / "asn" / "jw09505-o001_image3_00001_asn.json").read_bytes())
    names = [f"jw0950500100{n}" for n in ("1_02101_00001", "2_02101_00001", "2_02101_00002")]
    names.append("jw09505001003_02101_00001")
    found = json.loads(path.read_text())["products"][0]["members"]
    assert [item["expname"] for item in found] == [f"{name}_mirimage_cal.fits" for name in names]
    rates = tuple(touch(tmp_path / f"{name}_mirimage_rate.fits") for name in names)
    assert read_level3(path) == Level3("jw09505-o001_t001_miri_f560w", rates)
    assert exposures_from([path]) == list(rates)


def test_associations_without_a_type(tmp_path, shared_data):
    path = tmp_path / "asn.json"
    path.write_bytes((shared_data / "asn" / "nircam1_f200w_final.json").read_bytes())
    members = json.loads(path.read_text())["products"][0]["members"]
    exposures = [Path(item["expname"]).name.split("_a3001_")[0] for item in members]
    rates = [touch(tmp_path / "calibrated" / f"{name}_rate.fits") for name in exposures]
    assert len(rates) > 1
    assert exposures_from([path]) == rates


# What a user gives


def test_rate_files_as_they_are():
    names = [Path("b_rate.fits"), Path("a.fits"), Path("none/c_rate.fits.gz")]
    assert exposures_from(names) == names


def test_level_2_association(tmp_path):
    path = level2(tmp_path / "x_asn.json", f"{TWO}_rate.fits", f"sub/{ONE}_rate.fits")
    rates = [tmp_path / f"{TWO}_rate.fits", tmp_path / "sub" / f"{ONE}_rate.fits"]
    assert exposures_from([path]) == rates
    for kind in (None, "None"):
        assert exposures_from([level2(path, *(str(rate) for rate in rates), kind=kind)]) == rates


def test_spectra(tmp_path):
    path = level2(tmp_path / "x_asn.json", f"{TWO}_rate.fits", kind="spec2")
    message = (
        f"{path}: is an association of type 'spec2', needed is image3 or image2; only images have "
        "an image-for-image background"
    )
    refused(message, exposures_from, [path])


def test_associations_are_merged(tmp_path):
    rates = [touch(tmp_path / f"{name}_rate.fits") for name in (ONE, TWO, THREE)]
    first = level3(tmp_path / "o002_asn.json", f"{ONE}_cal.fits", f"{TWO}_cal.fits")
    second = level3(tmp_path / "o003_ASN.JSON", f"{TWO}_cal.fits", f"{THREE}_cal.fits")
    assert exposures_from([first, second]) == rates


def test_each_file_once_by_whatever_path(tmp_path, monkeypatch):
    rate = touch(tmp_path / "rates" / f"{ONE}_rate.fits")
    other = touch(tmp_path / "rates" / f"{TWO}_rate.fits")
    (tmp_path / "symbolic_rate.fits").symlink_to(rate)
    os.link(rate, tmp_path / "hard_rate.fits")
    monkeypatch.chdir(tmp_path)
    given = [
        Path("rates") / rate.name,
        Path("rates/../rates") / rate.name,
        rate,
        Path("symbolic_rate.fits"),
        Path("hard_rate.fits"),
        Path("rates"),
        Path("none_rate.fits"),
        tmp_path / "none_rate.fits",
    ]
    expected = [given[0], Path("rates") / other.name, Path("none_rate.fits")]
    assert exposures_from(given) == expected


def test_directory(tmp_path):
    beside = touch(tmp_path / f"{TWO}_rate.fits")
    last, first = touch(tmp_path / "z_rate.fits"), touch(tmp_path / "a_rate.fits")
    inside = touch(tmp_path / ONE / "calibrated1_rates" / f"{ONE}_rate.fits")
    for name in (
        f"{THREE}_rateints.fits",
        f"{THREE}_cal.fits",
        f"._{TWO}_rate.fits",
        f"{ONE}/{ONE}_rate.fits",
        f"{ONE}/calibrated1_rates/{ONE}_masked_source_emission_rate.fits",
        f"{ONE}/calibrated1_rates/merged_other_visits_masked_source_emission_rate.fits",
        f"a/b/calibrated1_rates/{THREE}_rate.fits",
        "merged_other_visits_rate.fits",
        f"{TWO}_masked_source_emission_rate.fits",
    ):
        touch(tmp_path / name)
    assert exposures_from([tmp_path]) == [first, inside, beside, last]
    assert exposures_from([beside, tmp_path]) == [beside, first, inside, last]


def test_directory_named_like_an_association(tmp_path):
    rate = touch(tmp_path / "x.json" / f"{ONE}_rate.fits")
    assert exposures_from([tmp_path / "x.json"]) == [rate]


def test_empty_directory(tmp_path):
    touch(tmp_path / f"{TWO}_masked_source_emission_rate.fits")
    message = (
        f"{tmp_path}: holds no exposure, neither as *_rate.fits nor as "
        "*/calibrated1_rates/*_rate.fits; give the directory of the rate files"
    )
    refused(message, exposures_from, [tmp_path])
    refused(message, exposures_from, [Path("a_rate.fits"), tmp_path])


def test_nothing_given():
    message = (
        "no exposure was given; give *_rate.fits files, level-3 or level-2 associations, or a "
        "directory of rate files"
    )
    refused(message, exposures_from, [])


@pytest.mark.parametrize(
    "name",
    [
        "merged_other_visits_masked_source_emission_rate.fits",
        f"{ONE}_masked_source_emission_rate.fits",
    ],
)
def test_files_made_of_exposures(name):
    message = (
        f"calibrated1_rates/{name}: is no exposure but was made of exposures by an "
        "image-for-image run; leave it out, or give the directory, where such files are passed "
        "over"
    )
    refused(message, exposures_from, [Path("a_rate.fits"), Path("calibrated1_rates") / name])


def test_associations_of_the_simulator(tmp_path):
    from webbkg.sim import miri_i4i, write_observation

    files = write_observation(miri_i4i(shape=(64, 64), n_science=3), tmp_path)
    for association in files.associations:
        assert exposures_from([association]) == list(files.science)
    assert exposures_from([*files.associations, tmp_path]) == list(files.science)
