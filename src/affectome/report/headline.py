"""A few lines for the terminal: what a run found and where to look.

`python -m affectome.report.headline results/demo`
"""

import sys
from pathlib import Path
from typing import Any

from affectome.files import read_json


def headline(folder: str | Path) -> str:
    """Held-out correlations at the headline layer of the run in `folder`, its verdicts, and the files to open next."""
    summary = read_json(Path(folder, "summary.json"))
    layer, model = summary["layer"]["auto"], summary["model"]
    lines = [
        f"{summary['run']}: {model['name']}, layer {layer} of {model['blocks']}",
        *(f"  {line}" for line in findings(summary)),
        "",
        f"  read        {Path(folder, 'summary.html')}",
        f"  numbers     {Path(folder, 'summary.json')}",
        f"  vectors     {Path(folder, 'vectors', 'vectors.safetensors')}",
        f"  full report .venv/bin/snakemake --report {Path(folder, 'report.zip')}",
    ]
    return "\n".join(lines)


def findings(summary: dict[str, Any]) -> list[str]:
    """A line per norm with the held-out correlations at the headline layer, and one per trial with its verdicts."""
    lines = []
    for norm, found in summary["layers"][str(summary["layer"]["auto"])]["norms"].items():
        known = [name for name in ("valence", "arousal") if name in found and found[name]["loo_r"] is not None]
        results = "; ".join(_result(name, found[name]) for name in known)
        lines.append(f"{norm}, {found['n']} words: {results or 'too few words'}")
    for trial, found in summary["steering"].items():
        if "verdicts" in found:
            lines.append(f"steering, trial {trial}: {_counted(found['verdicts'])}")
    return lines


def _counted(verdicts: dict[str, str]) -> str:
    """How many vectors got each verdict, and which: `supported 2 (afraid, sad); inconclusive 1 (calm)`."""
    by_verdict: dict[str, list[str]] = {}
    for vector, verdict in verdicts.items():
        by_verdict.setdefault(verdict, []).append(vector)
    return "; ".join(f"{verdict} {len(names)} ({', '.join(names)})" for verdict, names in by_verdict.items())


def _result(dimension: str, found: dict[str, Any]) -> str:
    low, high = found["loo_ci"]
    spread = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    p = "" if found["loo_p"] is None else f", p = {found['loo_p']:.3f}"
    return f"{dimension} of held-out words r = {found['loo_r']:.2f}{spread}{p}"


if __name__ == "__main__":
    sys.stdout.write(headline(sys.argv[1]) + "\n")
