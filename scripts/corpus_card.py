"""Write the card of a corpus: what it holds, what was left out, what it cost and how much words alone give away."""

from affectome.corpus.card import corpus_card
from affectome.jobs import job

with job(snakemake):
    corpus_card(
        snakemake.input.stories,
        snakemake.input.neutral,
        snakemake.input.screening,
        snakemake.output.json,
        snakemake.output.html,
        **snakemake.params.spec,
    )
