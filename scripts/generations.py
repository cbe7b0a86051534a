"""Write the page on which every item of a trial can be looked up."""

from affectome.jobs import job
from affectome.report.generations import write_generations

with job(snakemake):
    write_generations(snakemake.input.table, snakemake.output[0], **snakemake.params.spec)
