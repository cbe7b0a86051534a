"""Print what the selected runs still take."""

import sys

from affectome.jobs import job
from affectome.scheduling.plan import plan

with job(snakemake):
    sys.stdout.write(plan(snakemake.config))
