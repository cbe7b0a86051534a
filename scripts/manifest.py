"""Record how a run was made."""

from affectome.jobs import job
from affectome.report.manifest import write_manifest

with job(snakemake):
    write_manifest(**dict(snakemake.input.items()), output=snakemake.output[0], settings=snakemake.params.spec)
