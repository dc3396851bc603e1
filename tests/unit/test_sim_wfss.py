"""Tests of the grism presets and of what they are made of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.sim import (
    CAMERAS,
    DirectImage,
    DispersedSources,
    Pointing,
    ScatteredLight,
    Setup,
    SkyTemplate,
    StarGlow,
    grism_template,
    nircam_wfss,
    niriss_wfss,
    simulate,
    tangent_plane,
)
from webbkg.sim.dispersed import PROFILES, half_light_radius, radial, spread, transmission
from webbkg.sim.grism_references import grism_of, grism_wcs
from webbkg.sim.presets.wfss_fields import ecliptic_latitude

SETUPS = {
    "GR150R": ("NIS", "NIS_WFSS", "GR150R", "F150W", 33.78),
    "GR150C": ("NIS", "NIS_WFSS", "GR150C", "F200W", 354.10),
    "GRISMR": ("NRCALONG", "NRC_WFSS", "F356W", "GRISMR", None),
    "GRISMR-B": ("NRCBLONG", "NRC_WFSS", "F444W", "GRISMR", None),
    "GRISMC": ("NRCALONG", "NRC_WFSS", "F444W", "GRISMC", None),
}


def setup_of(name):
    detector, exp_type, filter_name, pupil, wheel = SETUPS[name]
    return Setup(
        camera=CAMERAS[detector],
        exp_type=exp_type,
        filter_name=filter_name,
        pupil=pupil,
        readout="NIS" if detector == "NIS" else "SHALLOW4",
        n_groups=10,
        keywords={} if wheel is None else {"instrument.filter_position": wheel},
    )


def source_at(setup, x, y, *, line=None, profile=0, flux=1000.0):
    """Make one source, with all its light in a line or with a plain continuum."""
    pointing = Pointing(aperture=setup.camera.aperture, ra=150.0, dec=2.0, roll=40.0)
    ra, dec = pointing.to_sky(np.array([x]), np.array([y]))
    layer = DispersedSources(
        setup=setup,
        ra=ra,
        dec=dec,
        flux=np.array([flux]),
        profile=np.array([profile]),
        slope=np.array([-1.0]),
        lines=np.array([[line or 1.0]]),
        strengths=np.array([[0.0 if line is None else 1.0]]),
    )
    return layer, pointing


def around(x, y, margin):
    """Make a window around places."""
    x0, y0 = math.floor(min(x)) - margin, math.floor(min(y)) - margin
    ny, nx = math.ceil(max(y)) - y0 + margin, math.ceil(max(x)) - x0 + margin
    return Window(y0, x0, ny, nx)


@pytest.mark.parametrize(
    ("name", "orders", "x"),
    [("GR150R", (1, 0, 2, -1), 900), ("GR150C", (2,), 900), ("GRISMR-B", (1,), 1500)],
)
def test_source_has_its_flux_in_each_order(name, orders, x):
    setup = setup_of(name)
    layer, pointing = source_at(setup, float(x), 1100.0)
    traces = layer.traces(pointing, pointing.aperture.window)
    for order in orders:
        row = np.flatnonzero(traces["order"] == order)[0]
        ends_x = traces["x_first"][row], traces["x_last"][row]
        ends_y = traces["y_first"][row], traces["y_last"][row]
        window = around(ends_x, ends_y, 33)
        expected = 1000.0 * grism_of(setup).throughput[order]
        assert_allclose(traces["flux"][row], expected)
        assert_allclose(traces["flux_in_frame"][row], expected, rtol=1e-9)
        for shape in (0, 3):
            image = replace(layer, profile=np.array([shape])).render(pointing, window)
            assert_allclose(image.sum(dtype=float), expected, rtol=0.002)


@pytest.mark.parametrize(
    ("name", "line", "orders"),
    [
        ("GR150R", 1.45, (1, 2, -1)),
        ("GR150C", 1.93, (1,)),
        ("GRISMR", 3.501, (1,)),
        ("GRISMC", 4.377, (1,)),
    ],
)
def test_emission_line_is_where_the_wcs_puts_it(name, line, orders):
    setup = setup_of(name)
    layer, pointing = source_at(setup, 1000.3, 1203.6, line=line)
    wcs = grism_wcs(setup, pointing)
    for order in orders:
        x, y, *_ = wcs.backward_transform(layer.ra, layer.dec, np.array([line]), order)
        window = around(x, y, 25)
        image = layer.render(pointing, window).astype(float)
        rows, columns = np.indices(window.shape)
        place = [np.sum(image * axis) / image.sum() for axis in (columns, rows)]
        assert_allclose(place, [x[0] - window.x0, y[0] - window.y0], atol=0.02)


def test_grism_wcs_turns_with_the_filter_wheel():
    setup = setup_of("GR150R")
    turned = replace(setup, keywords={"instrument.filter_position": 33.66 + 1.0})
    straight = replace(setup, keywords={"instrument.filter_position": 33.66})
    layer, pointing = source_at(setup, 1023.5, 1023.5)
    x = [
        grism_wcs(one, pointing).backward_transform(layer.ra, layer.dec, np.array([1.6]), 2)[0][0]
        for one in (straight, turned)
    ]
    # In its nominal position the wheel turns nothing: -1.0 px across, and 0.5 px per order more at
    # 2.30 um than at 0.75 um.
    assert_allclose(x[0], 1023.5 - 1.0 + 0.5 * 2 * (1.6 - 0.75) / 1.55, atol=0.02)
    # 452 px from the direct position, turned by a degree.
    assert_allclose(abs(x[1] - x[0]), 452.0 * math.tan(math.radians(1.0)), rtol=0.02)


def test_image_of_a_subarray_is_a_cutout():
    exposure = niriss_wfss(small=True, n_science=1, n_sources=2500).science[0]
    layer, pointing = exposure.scene.layers[-1], exposure.pointing
    whole = layer.render(pointing, Window(0, 0, 512, 512))
    part = layer.render(pointing, Window(100, 37, 64, 200))
    assert_allclose(part, whole[100:164, 37:237], atol=1e-6 * whole.max())
    assert (part > 0).any()


def test_named_subarray_is_read():
    exposure = nircam_wfss(n_science=1, subarray="SUBGRISM64", n_sources=2500).science[0]
    assert exposure.window == Window(0, 0, 64, 2048)
    assert exposure.setup.subarray == "SUBGRISM64"
    assert exposure.sources().shape == (64, 2048)


def test_sources_beyond_the_mirror_have_no_spectrum():
    setup = setup_of("GR150R")
    window = Window(1800, 980, 200, 40)
    seen, pointing = source_at(setup, 1000.0, 2048 + 100.0)
    hidden, _ = source_at(setup, 1000.0, 2048 + 150.0)
    assert seen.render(pointing, window).max() > 0
    assert hidden.render(pointing, window).max() == 0


def test_layer_says_what_is_wrong():
    setup = setup_of("GR150R")
    layer, _ = source_at(setup, 1000.0, 1000.0)
    with pytest.raises(ShapeError, match=r"1 right ascensions need as many .* got \[2, 1, 1"):
        replace(layer, dec=np.zeros(2))
    with pytest.raises(ParameterError, match="fluxes must be positive"):
        replace(layer, flux=np.array([0.0]))
    with pytest.raises(ParameterError, match="profiles be numbers below 4"):
        replace(layer, profile=np.array([4]))
    with pytest.raises(ParameterError, match="NIS needs a grism, GR150R or GR150C"):
        replace(layer, setup=replace(setup, filter_name="CLEAR"))
    with pytest.raises(ParameterError, match=r"the filter must be one of F090W.* got 'F380M'"):
        replace(layer, setup=replace(setup, pupil="F380M"))


def test_profiles_and_filter():
    for shape in PROFILES:
        assert_allclose(sum(part for _, part in shape), 1.0)
        radius = np.arange(0.005, 60.0, 0.01)
        light = 2.0 * np.pi * radius * radial(shape, radius) * 0.01
        assert_allclose(light.sum(), 1.0, rtol=1e-4)
    assert_allclose(half_light_radius(((2.0, 1.0),)), 2.0 * math.sqrt(2.0 * math.log(2.0)))
    waves = np.array([1.20, 1.33, 1.5, 1.671, 1.8])
    assert_allclose(transmission(waves, 1.33, 1.671), [0, 0.5, 1, 0.5, 0], atol=1e-9)


@pytest.mark.parametrize("sigma", [1.4, 8.0, 15.0])
def test_spread_is_as_wide_as_told_and_keeps_the_light(sigma):
    image = np.zeros((201, 201), dtype=np.float32)
    image[100, 100] = 1.0
    blurred = spread(image, sigma).astype(float)
    rows = np.arange(201) - 100.0
    assert_allclose(blurred.sum(), 1.0, rtol=1e-5)
    assert_allclose(math.sqrt(np.sum(blurred.sum(axis=1) * rows**2)), sigma, atol=0.5)


def test_sky_ends_where_the_mirror_ends():
    template = grism_template(setup_of("GRISMR"))
    profile = np.median(template, axis=0)
    assert_allclose(np.median(template[4:-4, 4:-4]), 1.0)
    # The first order of F356W comes from 40 px to the left to 800 px to the right.
    assert_allclose(profile[1200] / profile[600], 1.0, atol=0.03)
    assert profile[1800] < 0.6
    opposite = np.median(grism_template(replace(setup_of("GRISMR-B"), filter_name="F356W")), axis=0)
    assert opposite[250] < 0.6
    assert_allclose(opposite[850] / opposite[1450], 1.0, atol=0.03)


def test_sky_of_niriss_has_steps_and_spots():
    template = grism_template(setup_of("GR150R"))
    profile = np.median(template, axis=1)
    # No first order from beyond the upper edge of the mirror: it is shifted downwards.
    assert profile[2000] < 0.95 * profile[1500]
    # The largest spot of the coronagraph, at (1188, 1976), is smeared below its direct place.
    assert template[1860:1890, 1180:1196].mean() < 0.9 * template[1860:1890, 1250:1300].mean()


def test_sky_has_the_depth_and_the_seed_that_are_asked_for():
    setup = setup_of("GR150C")
    small = replace(setup, camera=setup.camera.resized((256, 256)))
    template, half = grism_template(small), grism_template(small, strength=0.5)
    assert_allclose(half - 1.0, 0.5 * (template - 1.0), atol=0.011)
    assert_array_equal(grism_template(small, strength=0.0), np.ones((256, 256)))
    assert_array_equal(grism_template(small, seed=2), grism_template(small, seed=2))
    assert (grism_template(small, seed=2) != template).any()


def test_sky_layer_is_level_times_template():
    template = np.arange(12.0).reshape(3, 4)
    image = SkyTemplate(level=2.0, template=template).render(None, Window(1, 1, 2, 2))
    assert_array_equal(image, 2.0 * template[1:, 1:3])
    with pytest.raises(ShapeError, match="the template must be an image"):
        SkyTemplate(level=1.0, template=np.zeros(3))


def test_stray_light_is_where_it_is_told():
    window = Window(0, 0, 200, 300)
    band = ScatteredLight(level=2.0, centre=(50.0, 100.0), angle=0.0, width=10.0)
    image = band.render(None, window)
    assert_allclose(image[50], 2.0)
    assert_allclose(image[60], 2.0 * math.exp(-0.5), rtol=1e-6)
    assert_array_equal(ScatteredLight(level=0.5).render(None, window), np.full((200, 300), 0.5))
    star = StarGlow(x=150.0, y=100.0, level=1.0, radius=20.0, axis=1, length=30.0)
    glow = star.render(None, window)
    assert np.unravel_index(glow.argmax(), glow.shape)[1] == 150
    assert glow[129, 150] > 10 * glow[100, 180]
    with pytest.raises(ParameterError, match="width must be positive"):
        ScatteredLight(level=1.0, width=0.0)
    with pytest.raises(ParameterError, match="radius and length above 0"):
        replace(star, radius=0.0)


def test_the_same_seed_gives_the_same_bits():
    first, again, other = (
        niriss_wfss(seed=seed, small=True, n_science=1, stripe_rms=0.003).science[0]
        for seed in (1, 1, 2)
    )
    assert_array_equal(first.data, again.data)
    # Noise and sources are others with another seed.
    noise = [(one.data - one.model())[one.dq == 0][:1000] for one in (first, other)]
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.2
    assert (first.sources() != other.sources()).any()


@pytest.mark.parametrize("preset", ["niriss-wfss", "nircam-wfss"])
def test_layers_add_up(preset):
    exposure = simulate(preset, small=True, n_science=1, stripe_rms=0.003).science[0]
    layers = exposure.layers()
    assert list(layers) == ["sky", "stripes", "spectra"]
    model = sum(layers.values())
    good = exposure.dq == 0
    pull = (exposure.data - model)[good] / exposure.err[good]
    assert_allclose([pull.mean(), pull.std()], [0.0, 1.0], atol=0.01)
    assert_allclose(exposure.model(), model, rtol=1e-5)
    # What a perfect subtraction leaves are the spectra.
    assert_array_equal(exposure.sources(), layers["spectra"])


def test_stripes_run_along_the_fast_axis():
    exposure = niriss_wfss(small=True, n_science=1, stripe_rms=0.01).science[0]
    stripes = exposure.layers()["stripes"]
    # NIRISS is read along columns.
    assert np.ptp(stripes[:100, 7]) == 0 < np.ptp(stripes[50])


def test_catalogue_map_and_image_agree(tmp_path: Path):
    from astropy.io import fits
    from astropy.table import QTable

    observation = niriss_wfss(small=True, n_science=2, n_sources=2500)
    files = {item.kind or item.name: item for item in observation.attachments}
    for item in files.values():
        item.write(tmp_path / item.name)
    labels = fits.getdata(tmp_path / files["segmap"].name)
    image = fits.getdata(tmp_path / files["direct_image"].name)
    table = QTable.read(tmp_path / files["sourcecat"].name, format="ascii.ecsv")
    assert labels.shape == image.shape
    assert_array_equal(np.unique(labels), np.arange(len(table) + 1))
    assert len(table) > 100
    x, y = np.array(table["xcentroid"]), np.array(table["ycentroid"])
    own = labels[np.rint(y).astype(int), np.rint(x).astype(int)] == table["label"]
    # Only where two sources fall on each other is the centre another's.
    assert own.mean() > 0.97
    with fits.open(tmp_path / files["direct_image"].name) as hdus:
        noise = np.median(hdus["ERR"].data)
    assert_allclose(image[labels == 0].std(), noise, rtol=0.1)
    assert image[labels > 0].mean() > 5 * noise
    for row in (0, 50, 100):
        rows, columns = np.nonzero(labels == table["label"][row])
        scale = observation.science[0].setup.camera.aperture.scale
        for first, second, size in (("ll", "lr", np.ptp(columns)), ("ll", "ul", np.ptp(rows))):
            side = table[f"sky_bbox_{first}"][row].separation(table[f"sky_bbox_{second}"][row])
            assert_allclose(side.arcsec / scale, size + 1, atol=1e-3)


def test_pixels_belong_to_the_brightest_source():
    setup = setup_of("GR150R")
    frame = Pointing(aperture=tangent_plane((21, 31), 0.0656), ra=150.0, dec=2.0)
    ra, dec = frame.to_sky(np.array([10.0, 14.0, 25.0, 40.0]), np.array([10.0, 10.0, 10.0, 10.0]))
    layer, _ = source_at(setup, 10.0, 10.0)
    layer = replace(
        layer,
        ra=ra,
        dec=dec,
        flux=np.array([1000.0, 20.0, 0.01, 50.0]),
        profile=np.zeros(4, dtype=int),
        slope=np.zeros(4),
        lines=np.ones((4, 1)),
        strengths=np.zeros((4, 1)),
    )
    direct = DirectImage(
        setup=setup, layers=(layer,), frame=frame, noise=0.1, threshold=1.0, seed=(1,), stem="x"
    )
    labels, kept = direct.segments
    # The third is too faint, the fourth outside of the image.
    assert_array_equal(kept, [0, 1])
    # The wings of the first are brighter beside the second than this one is.
    assert_array_equal(labels[10, 8:16], [1, 1, 1, 1, 1, 1, 2, 2])
    assert (labels[:, 24:27] == 0).all()


def test_traces_and_exposures_are_listed(tmp_path: Path):
    from astropy.table import Table

    observation = niriss_wfss(small=True, n_science=6, n_pointings=3, n_bad=3, sky=0.3)
    items = {item.name: item for item in observation.attachments}
    stem = observation.science[0].stem
    items[f"{stem}_traces.ecsv"].write(tmp_path / "traces.ecsv")
    traces = Table.read(tmp_path / "traces.ecsv", format="ascii.ecsv")
    light = observation.science[0].layers()["spectra"].sum(dtype=float)
    assert_allclose(traces["flux_in_frame"].sum(), light, rtol=0.02)
    items["jw09999-o001_exposures.json"].write(tmp_path / "exposures.json")
    rows = json.loads((tmp_path / "exposures.json").read_text())
    assert [row["exposure"] for row in rows] == [e.name for e in observation.science]
    assert sorted(reason for row in rows for reason in row["reasons"]) == [
        "saturated star",
        "scattered light",
        "wrong level",
    ]
    assert sum(row["is_bad"] for row in rows) == 3
    assert rows[0]["sky"] == 0.3
    # The nearer to the ecliptic, the brighter.
    by_latitude = sorted(rows, key=lambda row: abs(row["ecliptic_latitude"]))
    levels = [row["sky"] for row in by_latitude]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > levels[-1]
    # Each exposure has the catalogue of its own field.
    catalogs = [item for item in observation.attachments if item.kind == "sourcecat"]
    assert [item.exposures for item in catalogs] == [
        tuple(e.stem for e in observation.science[i : i + 2]) for i in (0, 2, 4)
    ]


def test_nebula_covers_a_third_of_the_frame():
    exposure = niriss_wfss(small=True, n_science=1, extended=True).science[0]
    layers = exposure.layers()
    covered = layers["nebula"] > 0.15 * layers["sky"]
    assert 0.25 < covered.mean() < 0.45
    assert len(list(exposure.scene.sources())) == len(exposure.scene.layers[1].ra)


def test_empty_sky_and_wrong_reference():
    observation = nircam_wfss(small=True, n_science=1, n_sources=0, reference_error=0.02)
    assert list(observation.science[0].layers()) == ["sky"]
    assert {reference.kind for reference in observation.references} == {
        "specwcs",
        "wavelengthrange",
        "bkg",
    }


def test_wrong_reference_is_as_wrong_as_told(tmp_path: Path):
    from astropy.io import fits

    observation = niriss_wfss(small=True, n_science=1, reference_error=0.02)
    (reference,) = (item for item in observation.references if item.kind == "bkg")
    reference.write(tmp_path / "bkg.fits")
    ratio = fits.getdata(tmp_path / "bkg.fits") / observation.science[0].scene.layers[0].template
    assert_allclose(ratio.std(), 0.02, rtol=0.02)


def test_parameters_that_do_not_go_together():
    with pytest.raises(ParameterError, match="must be at most n_science, 2, got 3 and 0"):
        niriss_wfss(small=True, n_science=2, n_pointings=3)
    with pytest.raises(ParameterError, match=r"faintest must be below brightest, got 5.0 and 2.0"):
        nircam_wfss(small=True, faintest=5.0, brightest=2.0)
    with pytest.raises(ParameterError, match="has no sub-array 'SUBGRISM64'; it has FULL"):
        nircam_wfss(small=True, subarray="SUBGRISM64")


def test_ecliptic_latitude_of_known_places():
    # The spring equinox, the poles of the equator and of the ecliptic.
    assert_allclose(ecliptic_latitude(0.0, 0.0), 0.0, atol=1e-9)
    assert_allclose(ecliptic_latitude(123.0, 90.0), 90.0 - 23.4393, atol=1e-6)
    assert_allclose(ecliptic_latitude(270.0, 66.5607), 90.0, atol=1e-3)
