"""Write simulated observations as JWST products, with all that the pipeline needs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from webbkg.errors import OutputError, ParameterError
from webbkg.io.atomic import check_free, make_directory, replacing
from webbkg.sim import crds
from webbkg.sim.associations import level2, level3
from webbkg.sim.catalog import mosaic_frame, write_catalog
from webbkg.sim.keywords import header_values, integration_times
from webbkg.sim.layers import Grid, Image
from webbkg.sim.references import imaging_references, photmjsr, pixel_area
from webbkg.sim.scene import Frames, Observation, SimulatedExposure, add_up

__all__ = ["LEVELS", "ObservationFiles", "write_observation"]

LEVELS = ("uncal", "rate")
#: Size of the reference files of the first stage, per pixel of the detector.
_REFERENCE_BYTES = 48
_DONE_STEPS = (
    "dq_init",
    "saturation",
    "firstframe",
    "lastframe",
    "reset",
    "linearity",
    "rscd",
    "dark_sub",
    "jump",
    "ramp_fit",
)


@dataclass(frozen=True)
class ObservationFiles:
    """
    Files of an observation.

    Parameters
    ----------
    science, backgrounds : tuple of pathlib.Path
        Exposures: rate or rateints products, or ramps.
    associations : tuple of pathlib.Path
        Level-2 and, for images, level-3 associations. The first has one product per science
        exposure, with all backgrounds.
    catalog : pathlib.Path
        Source catalogue of the target's field, in the pipeline's form.
    truths : tuple of pathlib.Path
        Truth of the science and then of the background exposures: one image extension per layer,
        and TRUTH, what a perfect background subtraction leaves [DN/s].
    truth_tables : tuple of pathlib.Path
        Levels, noise, pointing and the sources in the exposure as JSON, in the same order.
    attachments : tuple of pathlib.Path
        More files.
    environment : pathlib.Path
        Shell variables that make the pipeline use the reference files made for it.
    """

    science: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    associations: tuple[Path, ...]
    catalog: Path
    truths: tuple[Path, ...]
    truth_tables: tuple[Path, ...]
    attachments: tuple[Path, ...]
    environment: Path

    @property
    def association(self) -> Path:
        """Level-2 association of the science exposures."""
        return self.associations[0]

    @property
    def cache(self) -> Path:
        """Directory of the reference files: a local CRDS cache."""
        return self.environment.parent / "crds"


def write_observation(
    observation: Observation,
    directory: str | Path,
    *,
    level: str = "rate",
    overwrite: bool = False,
    progress: Callable[[str], object] = str,
) -> ObservationFiles:
    """
    Write exposures, their truth, catalogue, associations and reference files.

    Parameters
    ----------
    observation : Observation
        As presets make it. Pixels are made one exposure after the other and not kept.
    directory : str or pathlib.Path
        Directory; it is made if it is not there.
    level : str, optional
        ``rate``, or ``uncal`` for ramps with the reference files of ``calwebb_detector1``.
    overwrite : bool, optional
        Whether files of the same names may be replaced.
    progress : callable, optional
        Called with the name of each exposure that has been written.

    Returns
    -------
    ObservationFiles
        What was written.

    Raises
    ------
    ParameterError
        If there is no such level.
    OutputError
        If a file exists and may not be replaced, cannot be written, or there is not enough space.
    """
    if level not in LEVELS:
        raise ParameterError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    files = _plan(observation, Path(directory), level)
    _check_targets(files, overwrite)
    folder = make_directory(files.environment.parent)
    _check_space(folder, observation, level)
    try:
        exposures = zip(
            observation.exposures,
            files.science + files.backgrounds,
            files.truths,
            files.truth_tables,
            strict=True,
        )
        for exposure, path, truth, table in exposures:
            layers = exposure.layers()
            _write_exposure(path, exposure, layers, level)
            _write_truth(truth, exposure, layers)
            _write_json(table, _truth_table(exposure, layers))
            progress(path.name)
        _write_about(files, observation, level)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror or error})") from error
    return files


def _plan(observation: Observation, folder: Path, level: str) -> ObservationFiles:
    """Name all files."""
    names = [
        exposure.name if level == "rate" else f"{exposure.stem}_uncal.fits"
        for exposure in observation.exposures
    ]
    n_science = len(observation.science)
    associations = [*level2(observation, folder), *level3(observation)]
    target = observation.science[0]
    catalog = f"{_program_stem(target)}_cat.ecsv"
    return ObservationFiles(
        science=tuple(folder / name for name in names[:n_science]),
        backgrounds=tuple(folder / name for name in names[n_science:]),
        associations=tuple(folder / name for name, _ in associations),
        catalog=folder / catalog,
        truths=tuple(folder / f"{e.stem}_truth.fits" for e in observation.exposures),
        truth_tables=tuple(folder / f"{e.stem}_truth.json" for e in observation.exposures),
        attachments=tuple(folder / item.name for item in observation.attachments),
        environment=folder / crds.ENVIRONMENT_FILE,
    )


def _program_stem(exposure: SimulatedExposure) -> str:
    label = exposure.label
    return f"jw{label.program:05d}-o{label.observation:03d}"


def _all_files(files: ObservationFiles) -> Iterator[Path]:
    yield from files.science + files.backgrounds + files.associations
    yield from files.truths + files.truth_tables + files.attachments
    yield from (files.catalog, files.environment)


def _check_targets(files: ObservationFiles, overwrite: bool) -> None:
    for path in _all_files(files):
        check_free(path, overwrite=overwrite)


def _check_space(folder: Path, observation: Observation, level: str) -> None:
    """Compare what the exposures take with what the disk has."""
    needed = 0
    for exposure in observation.exposures:
        pixels = exposure.window.ny * exposure.window.nx
        n = exposure.setup.n_integrations or 1
        per_pixel = 2 * exposure.setup.n_groups * n if level == "uncal" else 20 * n
        needed += pixels * (per_pixel + 4 * (len(exposure.scene.layers) + 1))
    if level == "uncal":
        cameras = {e.setup.camera.detector: e.setup.camera for e in observation.exposures}
        needed += sum(_REFERENCE_BYTES * math.prod(c.shape) for c in cameras.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the observation needs {needed / 1e6:.0f} MB, but {free / 1e6:.0f} MB are "
            "free; make room, choose another directory or simulate fewer exposures"
        )


def _write_exposure(
    path: Path, exposure: SimulatedExposure, layers: dict[str, Image], level: str
) -> None:
    if level == "uncal":
        from webbkg.sim.ramps import write_ramp

        write_ramp(path, exposure, layers)
    else:
        _write_rate(path, exposure, exposure.observe(layers))


def _write_rate(path: Path, exposure: SimulatedExposure, frames: Frames) -> None:
    from stdatamodels.jwst import datamodels

    is_cube = exposure.setup.n_integrations is not None
    with datamodels.CubeModel() if is_cube else datamodels.ImageModel() as model:
        for name in ("data", "err", "dq", "var_poisson", "var_rnoise"):
            model[name] = getattr(frames, name)
        keywords = {
            **header_values(exposure),
            **{f"cal_step.{step}": "COMPLETE" for step in _DONE_STEPS},
            "filename": path.name,
        }
        for name, value in keywords.items():
            model[f"meta.{name}"] = value
        if is_cube:
            rows = integration_times(exposure)
            model.int_times = np.array(rows, dtype=model.get_dtype("int_times"))
        with replacing(path, overwrite=True) as temporary:
            model.to_fits(temporary, overwrite=True)


def _write_truth(path: Path, exposure: SimulatedExposure, layers: dict[str, Image]) -> None:
    """Write one image per layer and the sources' sum."""
    from astropy.io import fits

    hdus = fits.HDUList([fits.PrimaryHDU()])
    for key in ("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"):
        hdus[0].header[key] = exposure.meta[key]
    are_sources = {layer.name: layer.is_source for layer in exposure.scene.layers}
    sources = {name: image for name, image in layers.items() if are_sources[name]}
    truth = add_up(sources, exposure.window.shape).astype(np.float32)
    for name, image in {**layers, "truth": truth}.items():
        hdu = fits.ImageHDU(image, name=name.upper())
        hdu.header["BUNIT"] = "DN/s"
        hdus.append(hdu)
    with replacing(path, overwrite=True) as temporary:
        hdus.writeto(temporary, overwrite=True)


def _truth_table(exposure: SimulatedExposure, layers: dict[str, Image]) -> dict[str, Any]:
    pointing, window, noise = exposure.pointing, exposure.window, exposure.setup.noise
    return {
        "exposure": exposure.name,
        "truth": f"{exposure.stem}_truth.fits",
        "unit": "DN/s",
        "seed": exposure.seed,
        "pointing": {
            "aperture": pointing.aperture.name,
            "ra": pointing.ra,
            "dec": pointing.dec,
            "roll": pointing.roll,
            "dx": pointing.dither[0],
            "dy": pointing.dither[1],
        },
        "window": asdict(window),
        "noise": {**asdict(noise), "var_rnoise": noise.var_rnoise, "electrons": noise.electrons},
        # Mean of each layer, and what it is made of, but for arrays.
        "levels": {name: float(image.mean(dtype=np.float64)) for name, image in layers.items()},
        "layers": {layer.name: _numbers(layer) for layer in exposure.scene.layers},
        "sources": list(_seen_sources(exposure)),
    }


def _numbers(layer: Any) -> dict[str, Any]:
    """Give what a layer, or a part of one, is made of, but for arrays."""
    plain = (bool, int, float, str, tuple)
    values = {
        name: _part(value)
        for name, value in vars(layer).items()
        if isinstance(value, plain) or is_dataclass(value)
    }
    return {"kind": type(layer).__name__, **values}


def _part(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_part(item) for item in value]
    return _numbers(value) if is_dataclass(value) else value


def _seen_sources(exposure: SimulatedExposure) -> Iterator[dict[str, Any]]:
    """List sources in the exposure; x and y are 0-based pixels of its arrays."""
    sources = exposure.scene.sources()
    if not sources:
        return
    ra, dec = np.array([s.ra for s in sources]), np.array([s.dec for s in sources])
    x, y = exposure.pointing.to_pixels(ra, dec)
    area = exposure.pointing.aperture.relative_area(x, y)
    window = exposure.window
    parts = _throughput(exposure, x, y)
    places = zip(sources, x - window.x0, y - window.y0, area, parts, strict=True)
    for source, at_x, at_y, size, part in places:
        if -0.5 < at_x < window.nx - 0.5 and -0.5 < at_y < window.ny - 0.5:
            in_frame = part * source.flux / size
            yield {
                **asdict(source),
                "x": float(at_x),
                "y": float(at_y),
                "flux_in_frame": float(in_frame),
            }


def _throughput(exposure: SimulatedExposure, x: Grid, y: Grid) -> Grid:
    """Give the fraction of each source's light that reaches the detector."""
    parts, start = [], 0
    for layer in exposure.scene.layers:
        places = slice(start, start + len(tuple(layer.sources())))
        parts.append(layer.throughput(x[places], y[places]))
        start = places.stop
    return np.concatenate(parts)


def _write_about(files: ObservationFiles, observation: Observation, level: str) -> None:
    """Write associations, catalogue, attachments and reference files."""
    folder = files.association.parent
    tables = [*level2(observation, folder), *level3(observation)]
    for path, (_, table) in zip(files.associations, tables, strict=True):
        _write_json(path, table)
    for item, path in zip(observation.attachments, files.attachments, strict=True):
        with replacing(path, overwrite=True) as temporary:
            item.write(temporary)
    first = observation.science[0]
    aperture = first.setup.camera.aperture
    instrument = first.setup.camera.instrument
    band = first.setup.pupil if instrument == "NIRISS" else None
    jansky = photmjsr(band or first.setup.filter_name, instrument) * 1e6 * pixel_area(aperture)
    if files.catalog not in files.attachments:
        frame = mosaic_frame(observation.science)
        with replacing(files.catalog, overwrite=True) as temporary:
            write_catalog(temporary, first.scene.sources(), frame, jansky)
    instruments = {exposure.setup.camera.instrument for exposure in observation.exposures}
    crds.write_cache(files.cache, _references(observation, level), instruments)
    with replacing(files.environment, overwrite=True) as temporary:
        temporary.write_text(crds.environment_text(files.cache), encoding="utf-8")


def _references(observation: Observation, level: str) -> Iterable[crds.Reference]:
    """Collect the reference files of all set-ups, each once."""
    described: dict[tuple[str, str, tuple[str, ...]], crds.Reference] = {}
    found: list[crds.Reference] = []
    for exposure in observation.exposures:
        found += imaging_references(exposure.setup)
        if level == "uncal":
            from webbkg.sim.ramp_references import ramp_references

            found += ramp_references(exposure)
    for item in [*found, *observation.references]:
        described.setdefault((item.instrument, item.kind, tuple(item.match.values())), item)
    return described.values()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
