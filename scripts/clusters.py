"""Group the emotion vectors of a run."""

from affectome.analyses.clusters import clusters
from affectome.jobs import job

with job(snakemake):
    clusters(
        snakemake.input.vectors, **snakemake.params.spec, table=snakemake.output.table, output=snakemake.output.json
    )
