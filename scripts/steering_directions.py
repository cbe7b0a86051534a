"""Put the vectors that a trial steers along beside its controls."""

from affectome.jobs import job
from affectome.steering.directions import make_directions

with job(snakemake):
    given = snakemake.input
    make_directions(
        given.vectors, given.layers, snakemake.output[0], **snakemake.params.spec, code=snakemake.params.code
    )
