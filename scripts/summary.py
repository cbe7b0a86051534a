"""Gather a run's headline numbers."""

from affectome.jobs import job
from affectome.report.summary import write_summary

with job(snakemake):
    write_summary(**dict(snakemake.input.items()), **snakemake.params.spec, output=snakemake.output[0])
