"""Gather a run's headline measures by depth."""

from affectome.analyses.layer_profile import layer_profile
from affectome.jobs import job

with job(snakemake):
    layer_profile(snakemake.input.vectors, snakemake.input.geometry, snakemake.input.correlations, snakemake.output[0])
