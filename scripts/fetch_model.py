"""Bring a model's weights into a plain Transformers folder."""

from pathlib import Path

from affectome.jobs import job
from affectome.models.fetch import fetch_model

with job(snakemake):
    fetch_model(Path(snakemake.output[0]).parent, **snakemake.params.spec)
