"""Make the page that a person reads top to bottom, and the run's part of the report's front page."""

from pathlib import Path

from affectome.jobs import job
from affectome.report.overview import write_overview
from affectome.report.page import write_page

with job(snakemake):
    inputs, spec = snakemake.input, snakemake.params.spec
    write_page(
        inputs.summary,
        inputs.screening,
        inputs.correlations,
        Path(inputs.figures[0]).parent,
        snakemake.output.page,
        **spec,
        trials=inputs.trials,
        answers=inputs.answers,
    )
    told = (spec["title"], list(spec["norms"]), inputs.trials, inputs.answers)
    write_overview(inputs.summary, snakemake.output.overview, *told)
