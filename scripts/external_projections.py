"""Read texts from elsewhere with a run's model and project them on its emotion vectors."""

from affectome.activations.projections import external_projections
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    external_projections(
        snakemake.input.neutral,
        snakemake.input.model,
        of_layer(snakemake.input.vectors, headline_layer(snakemake.params.layer)),
        **snakemake.params.spec,
        code=snakemake.params.code,
        threads=snakemake.threads,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
