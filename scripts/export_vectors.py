"""Write a run's vectors as safetensors, NPZ and llama.cpp control vectors."""

from affectome.jobs import job
from affectome.models.fetch import read_manifest
from affectome.vectors.export import export_vectors

with job(snakemake):
    out = snakemake.output
    model_type = read_manifest(snakemake.input.model)["model_type"]
    export_vectors(snakemake.input.vectors, out.safetensors, out.npz, out.gguf, model_type)
