"""Masks of sources on the sky land on the sources in every corner of the detector."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from jwst.assign_wcs import AssignWcsStep
from numpy.typing import NDArray
from scipy.ndimage import label

from webbkg.exposure import Window
from webbkg.io.seed import read_mosaic, read_seed, write_seed
from webbkg.io.wcs import map_of_header, sky_map_of
from webbkg.kernels.pixel_map import PixelMap, sample_mask
from webbkg.pipeline import image2, image3, sky_maps
from webbkg.sim import (
    CAMERAS,
    Camera,
    Detector,
    Label,
    Pointing,
    Scene,
    Setup,
    Sky,
    Stars,
    local_crds,
    write_observation,
)
from webbkg.sim.layers import moffat_radius
from webbkg.sim.scene import Observation, SimulatedExposure
from webbkg.sky import SkyMap, common_grid

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Input association file contains path information"),
    # Of gwcs: a SIP polynomial for the header is not as good as the WCS.
    pytest.mark.filterwarnings("ignore:Failed to achieve requested SIP"),
]

Mask = NDArray[np.bool_]
MODES = {
    "MIRIMAGE": ("MIR_IMAGE", "F770W", None, "FASTR1"),
    "NRCBLONG": ("NRC_IMAGE", "F356W", "CLEAR", "BRIGHT1"),
    "NIS": ("NIS_IMAGE", "CLEAR", "F150W", "NIS"),
}
FWHM, BETA, FAINT_EDGE = 2.4, 2.5, 0.2
#: Where a star has 20 % of its peak [px].
EDGE = moffat_radius(FWHM, BETA) * math.sqrt(FAINT_EDGE ** (-1 / BETA) - 1)


def places(window: Window) -> NDArray[np.float64]:
    """Centre and corners of a window, at various fractions of a pixel; detector pixels x, y."""
    ny, nx = window.shape
    inside = [(nx / 2, ny / 2), (6.3, 6.1), (nx - 7.2, 6.8), (6.5, ny - 7.5), (nx - 6.7, ny - 7.1)]
    return np.add(inside, (window.x0, window.y0))


def expose(
    camera: Camera,
    *,
    window: Window | None = None,
    dithers: tuple[tuple[float, float], ...] = ((0.0, 0.0),),
    starts: tuple[float, float] = (50.0, 15.0),
) -> Observation:
    """Make exposures of stars in the corners of the first one."""
    exp_type, filter_name, pupil, readout = MODES[camera.detector]
    setup = Setup(
        camera=camera,
        exp_type=exp_type,
        filter_name=filter_name,
        pupil=pupil,
        readout=readout,
        n_groups=5,
        window=window,
    )
    first = Pointing(aperture=camera.aperture, ra=starts[0], dec=starts[1], roll=77.0)
    x, y = places(setup.detector_window).T
    ra, dec = first.to_sky(x, y)
    stars = Stars(ra=ra, dec=dec, flux=np.full(5, 3000.0), fwhm=FWHM, beta=BETA)
    exposures = tuple(
        SimulatedExposure(
            scene=Scene((Sky(level=5.0), stars)),
            pointing=first.dithered(*dither),
            setup=setup,
            detector=Detector(camera=camera),
            label=Label(
                observation=1,
                exposure=k + 1,
                target="T",
                target_ra=first.ra,
                target_dec=first.dec,
                dither=k + 1,
                n_dithers=len(dithers),
                start=1000.0 * k,
            ),
            seed=(k,),
        )
        for k, dither in enumerate(dithers)
    )
    return Observation(preset="test", science=exposures)


def star_places(exposure: SimulatedExposure) -> NDArray[np.float64]:
    """True places of the stars in an exposure, array pixels x, y."""
    stars = exposure.scene.layers[1]
    places = np.transpose(exposure.pointing.to_pixels(stars.ra, stars.dec))
    return places - (exposure.window.x0, exposure.window.y0)


def disks(shape: tuple[int, int], centres: NDArray[np.float64], radius: float) -> Mask:
    mask = np.zeros(shape, bool)
    for x, y in centres:
        # A box around the disk is enough, and much faster than the whole image.
        rows, columns = np.mgrid[around(y, shape[0]), around(x, shape[1])]
        mask[rows, columns] |= np.hypot(columns - x, rows - y) <= radius
    return mask


def around(place: float, n: int) -> slice:
    return slice(max(0, round(place) - 6), min(n, round(place) + 7))


def masked_shares(exposure: SimulatedExposure, mask: Mask) -> NDArray[np.float64]:
    """Share of each star's pixels above 20 % of its peak that are masked."""
    window, shares = exposure.window, []
    for x, y in star_places(exposure):
        rows, columns = around(y, window.ny), around(x, window.nx)
        box = Window(
            window.y0 + rows.start,
            window.x0 + columns.start,
            rows.stop - rows.start,
            columns.stop - columns.start,
        )
        image = exposure.scene.layers[1].render(exposure.pointing, box)
        bright = image > FAINT_EDGE * image.max()
        assert bright.sum() > 8
        shares.append(mask[rows, columns][bright].mean())
    return np.array(shares)


def project(mask: Mask, grid: SkyMap, sky: SkyMap, grow: float = 1.0) -> Mask:
    return sample_mask(mask, *PixelMap.between(sky, grid).rows(0, sky.shape[0]), grow)


def star_mask(exposure: SimulatedExposure, grid: SkyMap) -> Mask:
    """Mask stars on a grid by their true positions, with pixels of the grid as large as theirs."""
    stars = exposure.scene.layers[1]
    return disks(grid.shape, np.transpose(grid.to_pixels(stars.ra, stars.dec)), EDGE)


CASES = {
    "MIRIMAGE": ("MIRIMAGE", None),
    "MIRI sub-array": ("MIRIMAGE", Window(50, 456, 512, 512)),
    "NRCBLONG": ("NRCBLONG", None),
    "NIS": ("NIS", None),
}


@pytest.fixture(scope="module", params=CASES)
def routes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SimulatedExposure, dict[str, SkyMap], SkyMap]:
    """Maps of one exposure by three routes, and by keywords without distortion."""
    detector, window = CASES[request.param]
    observation = expose(CAMERAS[detector], window=window)
    folder = tmp_path_factory.mktemp("routes")
    files = write_observation(observation, folder)
    with local_crds(files.cache):
        AssignWcsStep.call(str(files.science[0]), output_dir=str(folder), save_results=True).close()
    (own,) = folder.glob("*_assignwcsstep.fits")
    maps: dict[str, SkyMap] = {"assigned": sky_maps(files.science, files.cache)[0]}
    maps["gwcs"] = sky_maps([own])[0]
    sip = folder / "sip_cal.fits"
    with fits.open(own) as hdus:
        assert hdus["SCI"].header["CTYPE1"] == "RA---TAN-SIP"
        del hdus["ASDF"]
        hdus.writeto(sip)
    maps["sip"] = sky_maps([sip])[0]
    with fits.open(files.science[0]) as hdus:
        flat = map_of_header(hdus["SCI"].header, maps["sip"].shape, "rate", rectified=True)
    assert sky_map_of(files.science[0]) is None
    return observation.science[0], maps, flat


@pytest.mark.parametrize("route", ["assigned", "gwcs", "sip"])
def test_masks_cover_sources_in_every_corner(
    routes: tuple[SimulatedExposure, dict[str, SkyMap], SkyMap], route: str
) -> None:
    exposure, maps, _ = routes
    sky = maps[route]
    grid = common_grid([sky])
    found = project(star_mask(exposure, grid), grid, sky)
    assert (masked_shares(exposure, found) >= 0.95).all()
    # And no more than 20 % of the peak, its growth, and a pixel cut at its edge call for.
    assert not (found & ~disks(sky.shape, star_places(exposure), EDGE + 1.0 + 1.5)).any()
    # Without growth the middle of each mask is that of its star, but for the two grids' pixels.
    labels, n_found = label(project(star_mask(exposure, grid), grid, sky, grow=0.0))
    assert n_found == 5
    for x, y in star_places(exposure):
        rows, columns = np.nonzero(labels == labels[round(y), round(x)])
        assert math.hypot(columns.mean() - x, rows.mean() - y) < 0.8


def test_keywords_without_distortion_would_miss_sources(
    routes: tuple[SimulatedExposure, dict[str, SkyMap], SkyMap],
) -> None:
    exposure, maps, flat = routes
    grid = common_grid([maps["gwcs"]])
    shares = masked_shares(exposure, project(star_mask(exposure, grid), grid, flat))
    assert shares.min() < 0.5


def test_a_mask_made_on_a_real_mosaic_covers_the_sources(tmp_path: Path) -> None:
    observation = expose(
        CAMERAS["MIRIMAGE"].resized((256, 260)), dithers=((0.0, 0.0), (4.3, -2.7), (-3.2, 4.5))
    )
    files = write_observation(observation, tmp_path)
    off = {"skip": True}
    cals = image2(files.association, tmp_path, files.cache, steps={"resample": off})
    names = ("tweakreg", "skymatch", "outlier_detection", "source_catalog")
    steps = dict.fromkeys(names, off)
    path = image3(files.associations[1], tmp_path, files.cache, steps=steps)
    mosaic = read_mosaic(path)
    emission = mosaic.image - np.nanmedian(mosaic.image)
    # The sharpest of the stars counts: resampling makes some of them flatter.
    tiers = (emission > 0.8 * FAINT_EDGE * np.nanmax(emission)).astype(np.uint8)
    assert 5 * 9 < tiers.sum() < 5 * 30
    seed_path = tmp_path / "seed.fits"
    write_seed(seed_path, emission, tiers, mosaic.meta)
    seed = read_seed(seed_path)
    for exposure, sky in zip(observation.science, sky_maps(cals), strict=True):
        found = project(seed.mask, seed.sky, sky)
        assert (masked_shares(exposure, found) >= 0.95).all()
        assert not (found & ~disks(sky.shape, star_places(exposure), EDGE + 3.0)).any()
