"""Read a model on a list of prompts."""

from affectome.activations.readouts import collect_readouts
from affectome.jobs import job

with job(snakemake):
    collect_readouts(
        snakemake.input.model,
        snakemake.input.prompts,
        snakemake.output[0],
        **snakemake.params.spec,
        code=snakemake.params.code,
        threads=snakemake.threads,
    )
