"""Make the page of figures that are explored with the mouse."""

from affectome.figures.interactive import write_interactive
from affectome.jobs import job

with job(snakemake):
    tables = snakemake.input
    write_interactive(
        tables.scores,
        tables.geometry,
        tables.correlations,
        tables.profile,
        tables.similarity,
        tables.clusters,
        tables.labels,
        tables.verdicts,
        tables.effects,
        snakemake.output[0],
        **snakemake.params.spec,
    )
