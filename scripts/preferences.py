"""Rank the activities of a preference trial and hold them against the vectors."""

from affectome.jobs import job
from affectome.steering.results import write_preferences

with job(snakemake):
    given = snakemake.input
    write_preferences(
        given.table,
        given.notes,
        given.trial_set,
        given.verdict,
        given.effects,
        snakemake.output[0],
        **snakemake.params.spec,
    )
