"""Maps of exposures that only the pipeline's assign_wcs can give."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from jwst.assign_wcs import AssignWcsStep

from webbkg.errors import InputError
from webbkg.pipeline import assigned_map, sky_maps
from webbkg.sim import ObservationFiles, local_crds, miri_imaging
from webbkg.sim.crds import write_cache

pytestmark = [
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    # Of gwcs: a SIP polynomial for the header is not as good as the WCS.
    pytest.mark.filterwarnings("ignore:Failed to achieve requested SIP"),
]


def without(source: Path, target: Path, *keywords: str) -> Path:
    """Copy a file without some keywords."""
    shutil.copy(source, target)
    with fits.open(target, mode="update") as hdus:
        for key in keywords:
            (hdu,) = (hdu for hdu in hdus[:2] if key in hdu.header)
            del hdu.header[key]
    return target


def test_rates_are_assigned_and_others_bring_their_own(
    simulated: ObservationFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = miri_imaging(shape=(64, 72), n_science=3)
    with local_crds(simulated.cache):
        AssignWcsStep.call(
            str(simulated.science[1]), output_dir=str(tmp_path), save_results=True
        ).close()
    (own,) = tmp_path.glob("*_assignwcsstep.fits")
    assigned: list[str] = []
    real = AssignWcsStep.run

    def counted(self: AssignWcsStep, model: Any) -> object:
        assigned.append(model.meta.filename)
        return real(self, model)

    monkeypatch.setattr(AssignWcsStep, "run", counted)
    paths = [simulated.science[2], own, simulated.science[0], str(simulated.science[2])]
    found = sky_maps(paths, simulated.cache)
    assert sorted(assigned) == sorted(simulated.science[k].name for k in (0, 2))
    rows, columns = np.indices((64, 72))
    for sky, index in zip(found, (2, 1, 0, 2), strict=True):
        truth = observation.science[index].pointing
        place = truth.to_pixels(*sky.to_sky(columns, rows))
        np.testing.assert_allclose(place, (columns, rows), rtol=0, atol=1e-5)


def test_a_compressed_rate_is_assigned(simulated: ObservationFiles, tmp_path: Path) -> None:
    path = tmp_path / "a_rate.fits.gz"
    with fits.open(simulated.science[0]) as hdus:
        hdus.writeto(path)
    found = assigned_map(path, simulated.cache)
    plain = assigned_map(simulated.science[0], simulated.cache)
    np.testing.assert_array_equal(found.to_sky(3, 4), plain.to_sky(3, 4))


def test_without_crds_the_variables_are_named(
    simulated: ObservationFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="neither CRDS_PATH nor CRDS_SERVER_URL is set"):
        sky_maps(simulated.science)


@pytest.mark.parametrize("keyword", ["V2_REF", "V3_REF", "RA_REF", "DEC_REF", "ROLL_REF"])
def test_a_missing_pointing_is_named(
    simulated: ObservationFiles, tmp_path: Path, keyword: str
) -> None:
    path = without(simulated.science[0], tmp_path / "a_rate.fits", keyword)
    with pytest.raises(InputError) as caught:
        assigned_map(path, simulated.cache)
    assert str(caught.value) == (
        f"{path}: assign_wcs needs the pointing in V2_REF, V3_REF, RA_REF, DEC_REF, ROLL_REF, but "
        f"{keyword} is missing; run set_telescope_pointing.py on it"
    )


@pytest.mark.parametrize(
    ("keywords", "are"),
    [
        (["DATE-OBS"], "DATE-OBS is"),
        (["EXP_TYPE"], "EXP_TYPE is"),
        (["FILTER"], "FILTER is"),
        (["TIME-OBS", "DETECTOR"], "DETECTOR, TIME-OBS are"),
    ],
)
def test_keywords_that_choose_reference_files_are_named(
    simulated: ObservationFiles, tmp_path: Path, keywords: list[str], are: str
) -> None:
    path = without(simulated.science[0], tmp_path / "a_rate.fits", *keywords)
    with pytest.raises(InputError) as caught:
        assigned_map(path, simulated.cache)
    assert str(caught.value) == (
        f"{path}: assign_wcs needs the keywords INSTRUME, DETECTOR, EXP_TYPE, DATE-OBS, TIME-OBS, "
        f"FILTER, but {are} missing; fetch the file again"
    )


@pytest.mark.parametrize("keyword", ["RA_V1", "DEC_V1", "PA_V3", "VPARITY", "V3I_YANG"])
def test_other_keywords_of_the_pointing_change_nothing(
    simulated: ObservationFiles, tmp_path: Path, keyword: str
) -> None:
    path = without(simulated.science[0], tmp_path / "a_rate.fits", keyword)
    found = assigned_map(path, simulated.cache)
    whole = assigned_map(simulated.science[0], simulated.cache)
    np.testing.assert_array_equal(found.to_sky(3, 4), whole.to_sky(3, 4))


def test_a_step_that_fails_is_told_in_one_sentence(
    simulated: ObservationFiles, tmp_path: Path
) -> None:
    path = tmp_path / "a_rate.fits"
    shutil.copy(simulated.science[0], path)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["EXP_TYPE"] = "MIR_NOTHING"
    with pytest.raises(InputError) as caught:
        assigned_map(path, simulated.cache)
    text = str(caught.value)
    assert text.startswith(f"{path}: the pipeline's assign_wcs cannot tell where it looks (")
    assert "\n" not in text
    assert text.endswith(
        "; check the CRDS set-up, or give its cal product, which brings a WCS along"
    )


def test_a_model_that_the_step_skips_is_named(simulated: ObservationFiles, tmp_path: Path) -> None:
    path = tmp_path / "a_rate.fits"
    shutil.copy(simulated.science[0], path)
    fits.setval(path, "DATAMODL", value="SlitModel")
    with pytest.raises(InputError) as caught:
        assigned_map(path, simulated.cache)
    assert str(caught.value) == (
        f"{path}: the pipeline's assign_wcs skips a SlitModel; give an image of a whole detector "
        "or sub-array (keyword DATAMODL)"
    )


def test_crds_without_a_distortion_is_told(simulated: ObservationFiles, tmp_path: Path) -> None:
    write_cache(tmp_path / "crds", (), ("MIRI",))
    with pytest.raises(InputError) as caught:
        assigned_map(simulated.science[0], tmp_path / "crds")
    assert str(caught.value) == (
        f"{simulated.science[0]}: the pipeline's assign_wcs cannot tell where it looks (assign_wcs "
        "needs reference files to compute the WCS, none were passed); check the CRDS set-up, or "
        "give its cal product, which brings a WCS along"
    )
