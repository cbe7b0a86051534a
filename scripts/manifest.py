"""Record how a run was made."""

from affectome.jobs import job
from affectome.report.manifest import write_manifest

with job(snakemake):
    given = snakemake.input
    # What it says of the activations holds for all layers alike.
    write_manifest(given.summary, given.activations[0], given.model, snakemake.output[0], snakemake.params.spec)
