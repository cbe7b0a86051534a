"""Name the emotions of held-out stories by vectors, and by words alone."""

from affectome.analyses.story_holdout import story_holdout
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    story_holdout(
        of_layer(snakemake.input.layers, headline_layer(snakemake.params.layer)),
        snakemake.input.stories,
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
