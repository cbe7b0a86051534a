"""Rank a run's emotion words under its vectors, read through the end of the model."""

from affectome.analyses.logit_lens import logit_lens
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    logit_lens(
        snakemake.input.vectors,
        snakemake.input.model,
        headline_layer(snakemake.params.layer),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
