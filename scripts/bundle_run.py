"""Pack a run into one archive to hand round."""

from affectome.bundle.contents import write_bundle
from affectome.jobs import job

with job(snakemake):
    inputs = {name: value for name, value in snakemake.input.items() if name != "templates"}
    write_bundle(**inputs, output=snakemake.output[0], config=snakemake.params.spec)
