"""Ask whether the vectors follow arousal beyond the stories' own words."""

from affectome.analyses.arousal_check import arousal_check
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    arousal_check(
        of_layer(snakemake.input.vectors, headline_layer(snakemake.params.layer)),
        snakemake.input.scores,
        snakemake.input.stories,
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
