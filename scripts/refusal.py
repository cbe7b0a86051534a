"""Make and test the directions of refusal."""

from affectome.analyses.refusal import refusal
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    refusal(
        snakemake.input.readouts,
        snakemake.input.vectors,
        layer=headline_layer(snakemake.params.layer),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
        vectors_output=snakemake.output.vectors,
    )
