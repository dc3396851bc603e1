"""``webbkg demo``: the numbers it prints are those of the truth."""

import json
import sys

import pytest

from webbkg.cli.main import main
from webbkg.exposure import Window


@pytest.mark.slow
def test_demo_prints_what_the_truth_says(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["webbkg", "demo", "-o", str(tmp_path / "demo")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith("jw09999001001_02101")]
    table = [[float(word) for word in row[1:]] for row in rows if len(row) == 8]
    assert len(table) == 4
    for before, after, _, noise_before, noise_after, expected, pulls in table:
        assert before == pytest.approx(60.0, abs=0.2)
        # Less than 1 % of the noise of a pixel; they share the error of one background.
        assert abs(after) < 0.003
        assert noise_before > 2 * noise_after
        assert noise_after == pytest.approx(expected, rel=0.01)
        assert pulls == pytest.approx(1.0, abs=0.01)
    metrics = json.loads((tmp_path / "demo/products/metrics.json").read_text())
    windows = [Window(**entry["metrics"]["window"]) for entry in metrics["exposures"]]
    assert windows == [Window(0, 0, 1024, 1032)] * 4
