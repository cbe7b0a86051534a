"""The emotions that are recognised worst, and the stories to ask for."""

from affectome.analyses.weakest_emotions import weakest_emotions
from affectome.jobs import job

with job(snakemake):
    weakest_emotions(
        snakemake.input.holdout,
        snakemake.input.emotions,
        snakemake.input.before,
        **snakemake.params.spec,
        request=snakemake.output.contrasts,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
