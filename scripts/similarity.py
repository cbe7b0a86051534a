"""Compare every two emotion vectors of a run."""

from affectome.analyses.similarity import similarity
from affectome.jobs import job

with job(snakemake):
    similarity(
        snakemake.input.vectors, **snakemake.params.spec, table=snakemake.output.table, output=snakemake.output.json
    )
