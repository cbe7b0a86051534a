"""Make the page that a person reads top to bottom."""

from pathlib import Path

from affectome.jobs import job
from affectome.report.page import write_page

with job(snakemake):
    folder = Path(snakemake.input.figures[0]).parent
    inputs = snakemake.input
    write_page(
        inputs.summary,
        inputs.screening,
        inputs.correlations,
        folder,
        snakemake.output[0],
        **snakemake.params.spec,
        trials=inputs.trials,
    )
