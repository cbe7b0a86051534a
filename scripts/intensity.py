"""Relate what a model holds in mind to a number in the prompt."""

from affectome.analyses.intensity import intensity
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    intensity(
        snakemake.input.vectors,
        snakemake.input.readouts,
        layer=headline_layer(snakemake.params.layer),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
