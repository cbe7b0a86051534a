"""Draw one figure of the answer to a question."""

from pathlib import Path

from affectome.figures.draw_answers import draw_answer
from affectome.jobs import job

with job(snakemake):
    found, table = snakemake.input.tables
    folder = Path(snakemake.output.svg).parent
    draw_answer(found, table, folder, **snakemake.params.spec, figure=snakemake.wildcards.figure)
