"""Draw the emotions of the headline layer on planes."""

from affectome.analyses.emotion_maps import emotion_maps
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    emotion_maps(
        of_layer(snakemake.input.vectors, headline_layer(snakemake.params.layer)),
        snakemake.input.labels,
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
