"""Compare the headline layer's vectors with what other topics, denoising, readings and precision give."""

from affectome.analyses.robustness import robustness, variants_by_name
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    layer = headline_layer(snakemake.params.layer)
    robustness(
        of_layer(snakemake.input.layers, layer),
        readings=variants_by_name(snakemake.input.readings, layer, "reading"),
        models=variants_by_name(snakemake.input.models, layer, "model"),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
