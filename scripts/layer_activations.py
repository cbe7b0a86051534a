"""Join one layer of all shards without copying a number."""

from affectome.activations.store import write_layer
from affectome.jobs import job

with job(snakemake):
    write_layer(snakemake.output[0], list(snakemake.input), int(snakemake.wildcards.layer))
