"""Find the principal components of a run's vectors."""

from affectome.analyses.geometry import geometry
from affectome.jobs import job

with job(snakemake):
    geometry(
        snakemake.input.vectors, **snakemake.params.spec, table=snakemake.output.table, output=snakemake.output.json
    )
