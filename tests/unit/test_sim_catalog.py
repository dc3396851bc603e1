"""Source catalogues are read by the pipeline and agree with the scene."""

import numpy as np
import pytest
from astropy.table import QTable
from jwst.assign_wcs.util import get_object_info
from jwst.lib.catalog_utils import read_source_catalog

from webbkg.exposure import Window
from webbkg.sim import CAMERAS, Pointing, Source, miri_imaging, tangent_plane, write_observation
from webbkg.sim.catalog import mosaic_frame, write_catalog

SCALE = 0.1
FRAME = Pointing(aperture=tangent_plane((100, 200), SCALE), ra=0.0, dec=60.0)


def source(x, y, flux=100.0, **values):
    ra, dec = (float(value) for value in FRAME.to_sky(x, y))
    return Source("stars", ra, dec, flux, **values)


@pytest.fixture
def written(tmp_path):
    def write(sources, frame=FRAME, jansky=2e-6):
        path = tmp_path / "x_cat.ecsv"
        write_catalog(path, sources, frame, jansky)
        return path

    return write


def test_the_pipeline_reads_it(written):
    path = written([source(10.0, 20.0), source(150.0, 90.0, 50.0, is_extended=True, radius=2.0)])
    star, galaxy = get_object_info(str(path))
    assert (star.label, galaxy.label) == (1, 2)
    assert (star.is_extended, galaxy.is_extended) == (False, True)
    assert (star.xcentroid, star.ycentroid) == pytest.approx((10.0, 20.0), abs=1e-6)
    # AB magnitudes: 3631 Jy is 0.
    assert star.isophotal_abmag == pytest.approx(-2.5 * np.log10(100.0 * 2e-6 / 3631), abs=1e-3)
    assert galaxy.isophotal_abmag - star.isophotal_abmag == pytest.approx(2.5 * np.log10(2))


def test_columns_are_those_of_the_step(written):
    table = read_source_catalog(str(written([source(10.0, 20.0, 7.0)])))
    assert table["isophotal_flux"].unit == table["aper_total_flux"].unit == "Jy"
    assert table["isophotal_flux"][0].value == pytest.approx(14e-6)
    assert table["isophotal_flux_err"][0].value == 0.0
    assert np.isnan(table["isophotal_vegamag"][0])


@pytest.mark.parametrize(("radius", "half"), [(0.0, 0.3), (2.0, 4.0)])
def test_boxes_lie_around_the_source(written, radius, half):
    (found,) = get_object_info(str(written([source(99.5, 49.5, radius=radius)])))
    for name, (sign_x, sign_y) in {
        "ll": (-1, -1),
        "ul": (-1, 1),
        "lr": (1, -1),
        "ur": (1, 1),
    }.items():
        corner = getattr(found, f"sky_bbox_{name}")
        x, y = FRAME.to_pixels(corner.ra.deg, corner.dec.deg)
        assert (float(x) - 99.5) * SCALE == pytest.approx(sign_x * half, abs=1e-3)
        assert (float(y) - 49.5) * SCALE == pytest.approx(sign_y * half, abs=1e-3)


def test_only_sources_in_the_image_are_listed(written):
    places = [(-0.6, 50.0), (-0.4, 50.0), (199.4, 50.0), (199.6, 50.0), (5.0, 99.6), (5.0, 99.4)]
    table = QTable.read(written([source(*place) for place in places]))
    np.testing.assert_allclose(table["xcentroid"], [-0.4, 199.4, 5.0], atol=1e-6)
    np.testing.assert_array_equal(table["label"], [1, 2, 3])


def test_no_sources_is_an_empty_table(written):
    path = written([])
    assert len(QTable.read(path)) == 0
    assert get_object_info(str(path)) == []


def test_the_frame_holds_all_exposures():
    observation = miri_imaging(
        window=Window(100, 200, 300, 400), n_visits=2, roll_between_visits=40.0, dither_size=100.0
    )
    frame = mosaic_frame(observation.science)
    ny, nx = frame.aperture.shape
    inside = []
    for exposure in observation.science:
        x, y = np.array([199.5, 599.5, 599.5, 199.5]), np.array([99.5, 99.5, 399.5, 399.5])
        inside.append(frame.to_pixels(*exposure.pointing.to_sky(x, y)))
    x, y = np.concatenate(inside, axis=1)
    # All corners, with a margin of a few pixels and no more.
    assert x.min() > -0.5
    assert y.min() > -0.5
    assert x.max() < nx - 0.5
    assert y.max() < ny - 0.5
    assert nx - np.ptp(x) < 6
    assert ny - np.ptp(y) < 6
    assert frame.aperture.scale == CAMERAS["MIRIMAGE"].aperture.scale
    # North is up.
    ra, dec = frame.to_sky([nx / 2, nx / 2, nx / 2 - 1], [ny / 2, ny / 2 + 1, ny / 2])
    assert dec[1] > dec[0]
    assert ra[2] > ra[0]


def test_fluxes_of_an_observation_are_those_of_its_photom(tmp_path):
    from stdatamodels.jwst import datamodels

    observation = miri_imaging(shape=(64, 80), n_science=1, n_background=0, n_stars=2000)
    files = write_observation(observation, tmp_path)
    (path,) = (files.cache / "references/jwst/miri").glob("*photom*")
    with datamodels.open(path) as photom:
        (row,) = photom.phot_table
        area = photom.meta.photometry.pixelarea_steradians
        jansky = row["photmjsr"] * 1e6 * area
    table = QTable.read(files.catalog)
    # The galaxy is a disc and a bulge at one place.
    table = table[~table["is_extended"]]
    flux = {s.ra: s.flux for s in observation.science[0].scene.sources()}
    assert len(table) > 10
    for entry in table:
        expected = flux[min(flux, key=lambda ra: abs(ra - entry["sky_centroid"].ra.deg))]
        assert entry["isophotal_flux"].value == pytest.approx(expected * jansky, rel=1e-6)
