"""Find the strengths at which steering costs no more than config allows."""

from affectome.jobs import job
from affectome.steering.safety import write_safe_ranges

with job(snakemake):
    write_safe_ranges(snakemake.input[0], snakemake.output[0], **snakemake.params.spec)
