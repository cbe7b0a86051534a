"""Recognition of held-out stories at every layer, and the layer that is best."""

from affectome.analyses.layer_sweep import layer_sweep
from affectome.jobs import job

with job(snakemake):
    layer_sweep(
        snakemake.input.layers,
        snakemake.input.stories,
        snakemake.input.correlations,
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
