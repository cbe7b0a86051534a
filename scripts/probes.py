"""Read every emotion off the activations of several layers by linear probes."""

from affectome.analyses.probes import probes
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    probes(
        snakemake.input.layers,
        snakemake.input.stories,
        layer=headline_layer(snakemake.params.layer),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
