"""Project every token of a few passages and write the page that colours them."""

from affectome.analyses.coloured_passages import coloured_passages
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    coloured_passages(
        snakemake.input.model,
        of_layer(snakemake.input.vectors, headline_layer(snakemake.params.layer)),
        snakemake.input.stories,
        snakemake.input.neutral,
        snakemake.input.projections,
        **snakemake.params.spec,
        threads=snakemake.threads,
        output=snakemake.output.json,
        page=snakemake.output.page,
    )
