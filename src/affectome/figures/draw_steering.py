"""Draw the figures of a steering trial from what its statistics wrote."""

from collections.abc import Sequence
from pathlib import Path

from affectome.figures import STEERING_FIGURES, captions
from affectome.figures.steering import cost_curves, dose_response, preference, specificity
from affectome.figures.style import house_style, save
from affectome.files import read_json, read_table


def draw_trial(tables: Sequence[str | Path], folder: str | Path, dpi: int, figure: str | None = None) -> None:
    """Write every figure of `affectome.figures.STEERING_FIGURES` for a trial's kind as SVG, PNG and caption (TXT).

    They go into `folder`. `tables` are the trial's files: safe_ranges.json of a cost trial; verdict.json and
    effects.parquet of any other, and preferences.json of one of preferences. `figure` names the only one to draw; `dpi`
    is the resolution of the PNGs.
    """
    files = {Path(table).name: table for table in tables}
    if "safe_ranges.json" in files:
        kind, inputs = "cost", (read_json(files["safe_ranges.json"]),)
    else:
        verdict = read_json(files["verdict.json"])
        kind, inputs = verdict["kind"], (read_table(files["effects.parquet"]), verdict)
    with house_style():
        for name in STEERING_FIGURES[kind]:
            if figure in (None, name):
                more = (read_json(files["preferences.json"]),) if name == "preference" else ()
                draw, numbers = _DRAWN[name]
                save(draw(*inputs, *more), folder, name, dpi)
                captions.write_caption(folder, name, numbers(*inputs, *more))


_DRAWN = {
    "dose_response": (dose_response, captions.of_dose_response),
    "specificity": (specificity, captions.of_specificity),
    "preference": (preference, captions.of_preference),
    "cost_curves": (cost_curves, captions.of_cost_curves),
}
