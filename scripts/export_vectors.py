"""Write a run's vectors as safetensors, NPZ and llama.cpp control vectors."""

from affectome.files import read_json
from affectome.jobs import job
from affectome.vectors.export import export_vectors

with job(snakemake):
    out = snakemake.output
    model = read_json(snakemake.input.model)
    export_vectors(snakemake.input.vectors, out.safetensors, out.npz, out.gguf, model)
