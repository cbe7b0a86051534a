"""Draw one figure of a trial."""

from pathlib import Path

from affectome.figures.draw_steering import draw_trial
from affectome.jobs import job

with job(snakemake):
    folder = Path(snakemake.output.svg).parent
    draw_trial(snakemake.input.tables, folder, **snakemake.params.spec, figure=snakemake.wildcards.figure)
