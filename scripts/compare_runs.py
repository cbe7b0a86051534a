"""Put several runs side by side."""

from affectome.jobs import job
from affectome.report.comparison import compare_runs

with job(snakemake):
    inputs, outputs = snakemake.input, snakemake.output
    compare_runs(
        inputs.summaries,
        inputs.profiles,
        inputs.scores,
        inputs.cosines,
        inputs.verdicts,
        inputs.geometries,
        outputs.page,
        outputs.numbers,
        outputs.table,
        **snakemake.params.spec,
    )
