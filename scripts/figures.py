"""Draw one figure of a run."""

from pathlib import Path

from affectome.figures.draw import draw_figures
from affectome.jobs import job

with job(snakemake):
    tables = snakemake.input
    draw_figures(
        tables.scores,
        tables.geometry,
        tables.correlations,
        tables.profile,
        tables.similarity,
        tables.clusters,
        tables.labels,
        Path(snakemake.output.svg).parent,
        **snakemake.params.spec,
        figure=snakemake.wildcards.figure,
    )
