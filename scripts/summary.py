"""Gather a run's headline numbers."""

from affectome.jobs import job
from affectome.report.summary import write_summary

with job(snakemake):
    inputs = {name: value for name, value in snakemake.input.items() if name != "chosen"}
    write_summary(**inputs, **snakemake.params.spec, output=snakemake.output[0])
