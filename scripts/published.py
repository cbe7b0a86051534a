"""Put a run's headline results beside published figures."""

from pathlib import Path

from affectome.analyses.published import published
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    published(
        snakemake.input.correlations,
        snakemake.input.geometry,
        snakemake.input.similarity,
        snakemake.input.facts,
        {Path(path).stem: path for path in snakemake.input.answers},
        headline_layer(snakemake.params.layer),
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
