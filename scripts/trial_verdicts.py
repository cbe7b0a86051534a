"""Say of every vector of a trial whether steering along it did what was predicted."""

from affectome.jobs import job
from affectome.steering.results import write_verdicts

with job(snakemake):
    given, out = snakemake.input, snakemake.output
    write_verdicts(given.table, given.costs, out.verdict, out.effects, **snakemake.params.spec)
