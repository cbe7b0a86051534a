"""Compare the arrangement of the emotions layer by layer."""

from affectome.analyses.layer_similarity import layer_similarity
from affectome.jobs import job

with job(snakemake):
    layer_similarity(
        snakemake.input.vectors, **snakemake.params.spec, table=snakemake.output.table, output=snakemake.output.json
    )
