import re

import numpy as np
import pytest

from webbkg.errors import InputError
from webbkg.exposure import MemoryHandle
from webbkg.methods.inputs import check_inputs

META = {
    "INSTRUME": "NIRSPEC",
    "DETECTOR": "NRS1",
    "FILTER": "F100LP",
    "GRATING": "G140M",
    "BUNIT": "DN/s",
    "READPATT": "NRSIRS2",
    "EXP_TYPE": "NRS_IFU",
}


def handle(name="b_rate.fits", **meta):
    values = {key: value for key, value in (META | meta).items() if value is not None}
    return MemoryHandle(np.zeros((2, 2)), name=name, meta=values)


def science(**meta):
    return handle("s_rate.fits", **meta)


def refused(message, ours, others):
    """It is refused, and forced it is a warning."""
    with pytest.raises(InputError, match=f"^{re.escape(message)} \\(--force overrides\\)$"):
        check_inputs(ours, others)
    kept, remarks = check_inputs(ours, others, force=True)
    assert kept == others
    assert remarks == [f"forced: {message}"]


def test_good_inputs():
    others = [handle("b.fits"), handle("c.fits")]
    assert check_inputs(science(), others) == (others, [])


def test_no_background():
    message = (
        "s_rate.fits: no background exposure was given; name at least one with --bkg or as a "
        "member of exptype 'background'"
    )
    for force in (False, True):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            check_inputs(science(), [], force=force)


def test_science_is_no_background_of_itself():
    ours = science()
    again = MemoryHandle(ours._source, name="link.fits", meta=ours.meta)
    message = (
        "link.fits: is the science exposure itself; subtracting it from itself would remove the "
        "source, so leave it out of the backgrounds"
    )
    for force in (False, True):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            check_inputs(ours, [handle(), again], force=force)


def test_background_given_twice_is_used_once():
    one, other = handle("b.fits"), handle("c.fits")
    again = MemoryHandle(one._source, name="b_again.fits", meta=META)
    kept, remarks = check_inputs(science(), [one, other, again, one])
    assert kept == [one, other]
    assert remarks == [
        "b_again.fits: given more than once as background, used once",
        "b.fits: given more than once as background, used once",
    ]


@pytest.mark.parametrize(
    ("keyword", "word", "theirs"),
    [
        ("INSTRUME", "instrument", "MIRI"),
        ("DETECTOR", "detector", "NRS2"),
        ("CHANNEL", "channel", "SHORT"),
        ("BAND", "band", "LONG"),
        ("FILTER", "filter", "F170LP"),
        ("PUPIL", "pupil", "CLEAR"),
        ("GRATING", "grating", "G235M"),
        ("BUNIT", "unit", "MJy/sr"),
    ],
)
def test_disagreement(keyword, word, theirs):
    ours = META.get(keyword, "OURS")
    # NIRSpec and MIRI readouts cannot be compared.
    meta = {keyword: theirs} | ({"READPATT": None} if keyword == "INSTRUME" else {})
    refused(
        f"b_rate.fits: {word} {theirs} ({keyword}) but the science exposure s_rate.fits has {ours};"
        f" give backgrounds of the same {word}",
        science(**{keyword: ours}),
        [handle(**meta)],
    )


def test_a_keyword_that_one_lacks_is_told():
    doubt = "b_rate.fits: {} missing in it or in the science exposure s_rate.fits, so that it is"
    for given, keyword in (
        ((science(FILTER=None), [handle()]), "FILTER"),
        ((science(), [handle(GRATING=None)]), "GRATING"),
    ):
        found = check_inputs(*given)[1]
        assert len(found) == 1
        assert found[0].startswith(doubt.format(keyword))
    # Bare arrays have no keywords at all.
    assert check_inputs(science(), [MemoryHandle(np.zeros((2, 2)))])[1] == []


def test_pixels_that_are_not_what_the_header_says():
    short = handle(SUBSIZE1=1032, SUBSIZE2=1024)
    with pytest.raises(InputError, match=r"but SUBSIZE2 and SUBSIZE1 say 1024x1032, .*--force"):
        check_inputs(science(), [short])
    assert check_inputs(science(), [short], force=True)[1][0].startswith("forced: ")
    # A slit cut out of a frame keeps the frame's keywords.
    slit = handle(SUBSIZE1=1032, SUBSIZE2=1024, SLTSIZE1=2, SLTSIZE2=2)
    assert check_inputs(science(), [slit])[1] == []


@pytest.mark.parametrize(
    ("instrument", "ours", "theirs"),
    [
        ("NIRSPEC", "NRSIRS2RAPID", "NRSRAPID"),
        ("NIRSPEC", "NRS", "NRSIRS2"),
        ("MIRI", "FASTR1", "SLOWR1"),
    ],
)
def test_other_readout(instrument, ours, theirs):
    refused(
        f"b_rate.fits: readout {theirs} but the science exposure s_rate.fits has {ours}, whose "
        "detector pattern differs; give backgrounds of the same readout",
        science(INSTRUME=instrument, READPATT=ours),
        [handle(INSTRUME=instrument, READPATT=theirs)],
    )


@pytest.mark.parametrize(
    ("instrument", "ours", "theirs"),
    [
        ("NIRSPEC", "NRSIRS2RAPID", "NRSIRS2"),
        ("NIRSPEC", "NRSRAPID", "NRS"),
        ("MIRI", "FASTR1", "FASTR100"),
        ("NIRCAM", "BRIGHT1", "SHALLOW4"),
        ("MIRI", "FASTR1", None),
    ],
)
def test_readouts_that_may_be_mixed(instrument, ours, theirs):
    found = check_inputs(
        science(INSTRUME=instrument, READPATT=ours), [handle(INSTRUME=instrument, READPATT=theirs)]
    )
    assert found[1] == []


def test_subtracted_already():
    message = (
        "{}: its background has been subtracted already (S_BKDSUB=COMPLETE); give the exposure "
        "before that"
    )
    refused(message.format("s_rate.fits"), science(S_BKDSUB="COMPLETE"), [handle()])
    refused(message.format("b_rate.fits"), science(), [handle(S_BKDSUB="COMPLETE")])
    assert check_inputs(science(S_BKDSUB="SKIPPED"), [handle(S_BKDSUB="SKIPPED")])[1] == []


@pytest.mark.parametrize("kind", ["NIS_WFSS", "NRC_WFSS", "NRC_GRISM", "MIR_WFSS", "NIS_SOSS"])
def test_sky_that_is_a_template(kind):
    refused(
        f"s_rate.fits: EXP_TYPE is {kind}, whose sky is a scaled template and not an average of "
        f"exposures; use webbkg {'soss' if kind == 'NIS_SOSS' else 'wfss'}",
        science(EXP_TYPE=kind),
        [handle()],
    )


def test_all_problems_are_told_when_forced():
    ours = science(S_BKDSUB="COMPLETE")
    others = [handle("b.fits", FILTER="X"), handle("c.fits", DETECTOR="NRS2", READPATT="NRS")]
    _, remarks = check_inputs(ours, others, force=True)
    assert [text.split(";")[0][:40] for text in remarks] == [
        "forced: s_rate.fits: its background has ",
        "forced: b.fits: filter X (FILTER) but th",
        "forced: c.fits: detector NRS2 (DETECTOR)",
        "forced: c.fits: readout NRS but the scie",
    ]
