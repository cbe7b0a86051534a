"""Rank the emotions in texts from elsewhere and compare the rankings of corpora."""

from affectome.analyses.external_text import external_text
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    external_text(
        snakemake.input.projections,
        snakemake.input.facts,
        of_layer(snakemake.input.vectors, headline_layer(snakemake.params.layer)),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
