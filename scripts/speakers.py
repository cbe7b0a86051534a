"""Tell the emotion of whoever speaks from that of the one who listens."""

from affectome.analyses.speakers import speakers
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    speakers(
        snakemake.input.readouts,
        snakemake.input.vectors,
        layer=headline_layer(snakemake.params.layer),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
