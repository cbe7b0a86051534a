"""Look for the emotions that scenarios imply in what a model holds in mind."""

from affectome.analyses.implicit_scenarios import implicit_scenarios
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    implicit_scenarios(
        snakemake.input.vectors,
        snakemake.input.readouts,
        layer=headline_layer(snakemake.params.layer),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
