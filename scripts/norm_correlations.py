"""Relate a run's geometry to human ratings."""

from affectome.analyses.norm_correlations import norm_correlations
from affectome.jobs import job

with job(snakemake):
    norm_correlations(
        snakemake.input.vectors, snakemake.input.scores, **snakemake.params.spec, output=snakemake.output[0]
    )
