"""Drop unfit texts and count them by reason and emotion."""

from affectome.corpus.screening import screen_corpus
from affectome.jobs import job

with job(snakemake):
    screen_corpus(
        snakemake.input.stories,
        snakemake.input.neutral,
        snakemake.output.stories,
        snakemake.output.neutral,
        snakemake.output.report,
        written=snakemake.input.written,
        **snakemake.params.spec,
    )
