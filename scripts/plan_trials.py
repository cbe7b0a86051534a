"""Print what the trials of the selected runs will take and can show."""

import sys

from affectome.jobs import job

with job(snakemake):
    sys.stdout.write(f"{snakemake.params.plan}\n")
