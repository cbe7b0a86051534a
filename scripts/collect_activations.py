"""Collect the pooled activations of one shard of a corpus."""

from affectome.activations.collect import collect_shard
from affectome.jobs import job

with job(snakemake):
    collect_shard(
        snakemake.input.stories,
        snakemake.input.neutral,
        snakemake.input.model,
        snakemake.output[0],
        int(snakemake.wildcards.shard),
        snakemake.params.spec,
        snakemake.params.code,
        snakemake.threads,
    )
