"""``webbkg demo``: the numbers it prints are those of the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_helpers import Cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_steps"),
    pytest.mark.filterwarnings("ignore:'get_cache_lock' is deprecated:DeprecationWarning"),
]


def test_demo_prints_what_the_truth_says(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It brings reference files of its own.
    for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    ran = cli("demo", "--small", "-o", tmp_path / "demo")
    assert ran.code == 0, ran.err
    rows = re.findall(r"^jw09999001001_02101_0000\d_mirimage +(.*)$", ran.out, re.MULTILINE)
    table = [[float(word) for word in row.replace("%", "").split()] for row in rows]
    assert len(table) == 4
    for row in table:
        level, after, _, noise_before, noise_after, ratio, pulls, _, flux, flux_error = row
        assert level == pytest.approx(60.0, rel=0.03)
        # Faint light of sources that no mask finds is in it.
        assert abs(after) < 0.01
        assert noise_before > 1.15 * noise_after
        assert 1.0 < ratio < 1.06
        assert pulls == pytest.approx(1.0, abs=0.03)
        assert abs(flux) < 0.3 + 3 * flux_error
    products = tmp_path / "demo/products"
    [group] = json.loads((products / "metrics.json").read_text())["groups"]
    assert [entry["status"] for entry in group["exposures"]] == ["COMPLETE"] * 4
    mosaics = [path.parent.name for path in products.glob("calibrated3_*/*_i2d.fits")]
    assert sorted(mosaics) == [
        "calibrated3_mosaics",
        "calibrated3_mosaics_redone_with_source_emission_mask",
    ]
