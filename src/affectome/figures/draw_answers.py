"""Draw the figures of a run's answers, and put the answers in words, from what their questions wrote."""

from pathlib import Path
from typing import Any

from affectome.figures import answers, captions
from affectome.figures.run_geometry import draw_run_geometry, numbers_run_geometry
from affectome.figures.style import house_style, save
from affectome.files import read_json, read_table
from affectome.layers import headline_layer
from affectome.questions import ANSWER_FIGURES


def draw_answer(
    found: str | Path, table: str | Path, folder: str | Path, layer: int | str, dpi: int, figure: str
) -> None:
    """Write `figure` as SVG and PNG into `folder`, with its caption (TXT).

    `found` and `table` are the JSON and Parquet files of its question, `layer` is the run's headline layer or the
    sweep that chose it, `dpi` the resolution of the PNG.
    """
    module = answers.MODULES[ANSWER_FIGURES[figure]]
    given = (read_json(found), read_table(table), headline_layer(layer))
    with house_style():
        save(getattr(module, f"draw_{figure}")(*given), folder, figure, dpi)
    captions.write_caption(folder, figure, getattr(module, f"numbers_{figure}")(*given))


def draw_pair(found: str | Path, table: str | Path, folder: str | Path, dpi: int) -> None:
    """Write the figure of what `run_geometry` found (JSON and Parquet) into `folder`, with its caption."""
    given = (read_json(found), read_table(table))
    with house_style():
        save(draw_run_geometry(*given), folder, "run_geometry", dpi)
    captions.write_caption(folder, "run_geometry", numbers_run_geometry(*given))


def said(question: str, found: dict[str, Any], layer: int) -> str:
    """The answer to `question` in a sentence or two, from its numbers `found` (its JSON)."""
    return answers.MODULES[question].said(found, layer)
