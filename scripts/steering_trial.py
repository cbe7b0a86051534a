"""Run one trial: every condition, every item, every score."""

from affectome.jobs import job
from affectome.steering.trial import run_trial

with job(snakemake):
    run_trial(
        snakemake.input.directions,
        snakemake.input.model,
        snakemake.input.trial_set,
        snakemake.input.judge,
        snakemake.input.stories,
        snakemake.output.table,
        snakemake.output.notes,
        snakemake.params.spec,
        snakemake.params.code,
        snakemake.threads,
    )
