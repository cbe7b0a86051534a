"""Draw the figures of a steering trial from what its statistics wrote."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from affectome.figures import STEERING_FIGURES
from affectome.figures.steering import cost_curves, dose_response, preference, specificity
from affectome.figures.style import house_style, save
from affectome.files import read_json


def draw_trial(tables: Sequence[str | Path], folder: str | Path, dpi: int, figure: str | None = None) -> None:
    """Write every figure of `affectome.figures.STEERING_FIGURES` for a trial's kind as SVG and PNG into `folder`.

    `tables` are the trial's files: safe_ranges.json of a cost trial; verdict.json and effects.parquet of any other, and
    preferences.json of one of preferences. `figure` names the only one to draw; `dpi` is the resolution of the PNGs.
    """
    files = {Path(table).name: table for table in tables}
    if "safe_ranges.json" in files:
        kind, inputs = "cost", (read_json(files["safe_ranges.json"]),)
    else:
        verdict = read_json(files["verdict.json"])
        kind, inputs = verdict["kind"], (pd.read_parquet(files["effects.parquet"]), verdict)
    with house_style():
        for name in STEERING_FIGURES[kind]:
            if figure in (None, name):
                more = (read_json(files["preferences.json"]),) if name == "preference" else ()
                save(_DRAWN[name](*inputs, *more), folder, name, dpi)


_DRAWN = {
    "dose_response": dose_response,
    "specificity": specificity,
    "preference": preference,
    "cost_curves": cost_curves,
}
