"""Bring an existing corpus into corpus tables."""

from affectome.corpus.importing import import_corpus
from affectome.jobs import job

with job(snakemake):
    import_corpus(**snakemake.params.spec, raw_stories=snakemake.output.stories, raw_neutral=snakemake.output.neutral)
