"""Make the emotion vectors of one layer."""

from affectome.jobs import job
from affectome.vectors.compute import emotion_vectors

with job(snakemake):
    emotion_vectors(snakemake.input.layer, snakemake.output[0], **snakemake.params.spec, code=snakemake.params.code)
