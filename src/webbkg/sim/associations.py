"""Level-2 and level-3 associations of simulated observations, as the archive makes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from webbkg.sim.scene import Observation, SimulatedExposure

__all__ = ["level2", "level3"]


def level2(observation: Observation, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """
    Describe the second stage of the pipeline.

    Parameters
    ----------
    observation : Observation
        The observation.
    folder : pathlib.Path
        Directory of the exposures. Its full path is part of the members' names: the pipeline's
        second stage looks for members where it is started, not beside the association.

    Returns
    -------
    list of tuple
        File name and content of each association: one for the exposures of the target, whose
        products have the blank field's exposures or the other nods as background, one for images
        and one for spectra if there are both.
    """
    tables = []
    place = folder.resolve()
    for kind, exposures in _by_kind(observation.science):
        files = [a for a in observation.attachments if a.kind is not None and kind == "spec"]
        products = []
        for e in exposures:
            members = [_member(str(place / e.name), "science")]
            members += [
                _member(str(place / background.name), "background")
                for background in observation.backgrounds_of(e)
            ]
            members += [
                _member(str(place / item.name), item.kind)
                for item in files
                if item.exposures is None or e.stem in item.exposures
            ]
            products.append({"name": e.stem, "members": members})
        rule = "candidate_Asn_Lv2Image" if kind == "image" else "candidate_Asn_Lv2Spec"
        label = exposures[0].label
        name = f"jw{label.program:05d}-o{label.observation:03d}_{kind}2_00001_asn.json"
        tables.append((name, _association(exposures[0], f"{kind}2", rule, products)))
    return tables


def level3(observation: Observation) -> list[tuple[str, dict[str, Any]]]:
    """
    Describe the mosaics of images.

    Parameters
    ----------
    observation : Observation
        The observation.

    Returns
    -------
    list of tuple
        File name and content of each association, one per filter and channel; none for spectra.
    """
    tables = []
    groups: dict[str, list[SimulatedExposure]] = {}
    for exposure in observation.science:
        # Integrations are not made into mosaics.
        if exposure.setup.exp_type.endswith("_IMAGE") and exposure.setup.n_integrations is None:
            groups.setdefault(_optics(exposure), []).append(exposure)
    for number, (optics, exposures) in enumerate(groups.items(), start=1):
        label = exposures[0].label
        stem = f"jw{label.program:05d}-o{label.observation:03d}"
        product = {
            "name": f"{stem}_t001_{optics}",
            "members": [_member(f"{e.stem}_cal.fits", "science") for e in exposures],
        }
        content = _association(exposures[0], "image3", "candidate_Asn_Lv3Image", [product])
        tables.append((f"{stem}_image3_{number:05d}_asn.json", content))
    return tables


def _by_kind(
    exposures: Iterable[SimulatedExposure],
) -> Iterable[tuple[str, list[SimulatedExposure]]]:
    kinds: dict[str, list[SimulatedExposure]] = {}
    for exposure in exposures:
        kind = "image" if exposure.setup.exp_type.endswith("_IMAGE") else "spec"
        kinds.setdefault(kind, []).append(exposure)
    return kinds.items()


def _optics(exposure: SimulatedExposure) -> str:
    """Name instrument and optical elements as in names of level-3 products."""
    setup = exposure.setup
    parts = [setup.pupil or "", setup.filter_name]
    elements = "-".join(part.lower() for part in parts if part)
    return f"{setup.camera.instrument.lower()}_{elements}"


def _association(
    exposure: SimulatedExposure, kind: str, rule: str, products: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "asn_type": kind,
        "asn_rule": rule,
        "version_id": None,
        "code_version": "webbkg simulation",
        "degraded_status": "No known degraded exposures in association.",
        "program": f"{exposure.label.program:05d}",
        "constraints": "No constraints",
        "asn_id": f"o{exposure.label.observation:03d}",
        "asn_pool": "none",
        "target": "1",
        "products": products,
    }


def _member(name: str, kind: str | None) -> dict[str, str]:
    return {"expname": name, "exptype": str(kind), "exposerr": "null"}
