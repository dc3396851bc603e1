import json
import re
from pathlib import Path

import pytest

from webbkg.errors import InputError
from webbkg.io.associations import AssociationProduct, read_association

KNOWN = (
    "science, background, imprint, sourcecat, segmap, direct_image, selfcal, psf, acq, "
    "target_acquisition, autowave, autoflat"
)

OWN = "give each science exposure a product of its own"


def product(name="jw01", members=("science:a_rate.fits", "background:b_rate.fits")):
    pairs = [member.split(":") for member in members]
    return {
        "name": name,
        "members": [{"expname": expname, "exptype": exptype} for exptype, expname in pairs],
    }


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "x_asn.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_products_in_order_with_paths_beside_the_association(write):
    path = write(
        {
            "asn_type": "image2",
            "products": [
                product("one", ["science:a.fits", "background:b.fits", "background:c.fits"]),
                product("two", ["background:b.fits", "SCIENCE:sub/d.fits", "sourcecat:x.ecsv"]),
                product("three", ["science:/abs/e.fits"]),
            ],
        }
    )
    folder = path.parent
    assert read_association(path) == (
        AssociationProduct("one", folder / "a.fits", (folder / "b.fits", folder / "c.fits")),
        AssociationProduct("two", folder / "sub/d.fits", (folder / "b.fits",)),
        AssociationProduct("three", Path("/abs/e.fits"), ()),
    )


def test_association_of_the_simulator(tmp_path):
    from webbkg.sim import miri_imaging, write_observation

    files = write_observation(
        miri_imaging(shape=(16, 24), n_science=2, n_background=2), tmp_path / "sim"
    )
    products = read_association(files.association)
    assert tuple(item.science for item in products) == files.science
    assert all(item.backgrounds == files.backgrounds for item in products)


def test_missing_file(tmp_path):
    path = tmp_path / "none_asn.json"
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}: no such file')}$"):
        read_association(path)


def test_directory(tmp_path):
    message = f"{tmp_path}: cannot be read (Is a directory)"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_association(tmp_path)


def test_not_json(write):
    path = write("{'products': []}")
    message = (
        f"{path}: not a valid JSON association (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_association(path)


def test_not_text(tmp_path):
    path = tmp_path / "x_asn.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: not a valid JSON association"):
        read_association(path)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([], "none"),
        ("null", "none"),
        ({}, "none"),
        ({"products": []}, "none"),
        ({"products": None}, "none"),
        ({"products": {"name": "a"}}, "dict"),
        ({"products": "a.fits"}, "str"),
    ],
)
def test_no_products(write, content, got):
    path = write(content)
    message = (
        f"{path}: an association needs a list 'products' with at least one entry, got {got}; make "
        "it with asn_from_list"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_association(path)


def without(key):
    item = product()
    del item["members"][1][key]
    return item


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("a.fits", "needs a 'name' that is a plain file name, got None"),
        (product(""), "needs a 'name' that is a plain file name, got ''"),
        (product(7), "needs a 'name' that is a plain file name, got 7"),
        (product("../jw01"), "needs a 'name' that is a plain file name, got '../jw01'"),
        (
            {"name": "jw01"},
            "(jw01) has no members; list a science and background exposures",
        ),
        (
            {"name": "jw01", "members": []},
            "(jw01) has no members; list a science and background exposures",
        ),
        (
            {"name": "jw01", "members": ["a.fits"]},
            "(jw01): each member needs 'expname' and 'exptype', got 'a.fits'",
        ),
        (
            without("exptype"),
            "(jw01): each member needs 'expname' and 'exptype', got {'expname': 'b_rate.fits'}",
        ),
        (
            without("expname"),
            "(jw01): each member needs 'expname' and 'exptype', got {'exptype': 'background'}",
        ),
        (
            product(members=["science:a.fits", "sky:b.fits"]),
            f"(jw01): b.fits has the unknown exptype 'sky'; known are {KNOWN}",
        ),
        (
            product(members=["background:b.fits"]),
            "(jw01) needs one science member, has 0; " + OWN,
        ),
        (
            product(members=["science:a.fits", "science:b.fits"]),
            "(jw01) needs one science member, has 2; " + OWN,
        ),
    ],
)
def test_bad_product_is_named_by_its_number(write, item, message):
    path = write({"products": [product("good"), item]})
    space = "" if message.startswith(":") else " "
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}: product 2{space}{message}')}$"):
        read_association(path)


def test_two_products_of_one_name(write):
    path = write({"products": [product("a"), product("b"), product("a")]})
    message = f"{path}: two products are named 'a'; give each its own name"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_association(path)
