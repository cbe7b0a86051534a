"""Plan a corpus: what every text is about, how it is told, which job writes it."""

from affectome.corpus.planning import plan_corpus
from affectome.jobs import job

with job(snakemake):
    plan_corpus(snakemake.output[0], **snakemake.params.spec)
