import re

import pytest
from stdatamodels.jwst.datamodels import dqflags

from webbkg.errors import ParameterError
from webbkg.masks.flags import BAD_FLAGS, DO_NOT_USE, FLAG_BITS, flag_bits


def test_flags_are_those_of_the_data_models():
    theirs = {name: bit for name, bit in dqflags.pixel.items() if name != "GOOD"}
    assert dict(FLAG_BITS) == theirs


def test_flags_are_read_only():
    with pytest.raises(TypeError, match="does not support item assignment"):
        FLAG_BITS["HOT"] = 1


@pytest.mark.parametrize(
    ("names", "bits"),
    [
        ("", 0),
        ("NONE", 0),
        ("none", 0),
        ("DO_NOT_USE", 1),
        ("DO_NOT_USE,DO_NOT_USE", 1),
        (" do_not_use , Hot,", 1 | 2048),
        ("REFERENCE_PIXEL", 2**31),
        ("NONE,SATURATED", 2),
    ],
)
def test_bits_of_names(names, bits):
    assert flag_bits(names) == bits


def test_default_flags():
    assert flag_bits(BAD_FLAGS) == 1 | 2 | 512 | 2**31
    assert DO_NOT_USE == 1


def test_unknown_name():
    message = "unknown data-quality flag 'HOTT'; known are " + ", ".join(FLAG_BITS)
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        flag_bits("DO_NOT_USE,hott")
