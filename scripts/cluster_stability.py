"""Ask whether the groups of emotions survive other stories."""

from affectome.analyses.cluster_stability import cluster_stability
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    given, layer = snakemake.input, headline_layer(snakemake.params.layer)
    cluster_stability(
        of_layer(given.layers, layer),
        of_layer(given.vectors, layer),
        given.clusters,
        given.labels,
        next(iter(given.reference), None),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
