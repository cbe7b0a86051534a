"""The lines printed at the end of `make demo`."""

import json
from pathlib import Path

from affectome.report.headline import headline


def test_verdicts_are_counted_and_named(tmp_path: Path) -> None:
    result = {"loo_r": 0.846, "loo_ci": [0.76, 0.91], "loo_p": 0.001}
    summary = {
        "run": "demo",
        "model": {"name": "m", "blocks": 30},
        "layer": {"auto": 20},
        "layers": {"20": {"norms": {"first": {"n": 45, "valence": result}}}},
        "steering": {
            "expression": {"verdicts": {"calm": "supported", "sad": "inconclusive", "angry": "supported"}},
            "cost": {"safe": {"calm": [0, 0.1]}},
        },
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    lines = headline(tmp_path).splitlines()
    assert "  first, 45 words: valence of held-out words r = 0.85 [0.76, 0.91], p = 0.001" in lines
    assert "  steering, trial expression: supported 2 (calm, angry); inconclusive 1 (sad)" in lines
    assert not [line for line in lines if "cost" in line]
