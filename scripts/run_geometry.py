"""Compare how two runs arrange the same emotions."""

from pathlib import Path

from affectome.analyses.run_geometry import run_geometry
from affectome.figures.draw_answers import draw_pair
from affectome.jobs import job
from affectome.layers import headline_layer

with job(snakemake):
    given, made = snakemake.input, snakemake.output
    headlines = [headline_layer(layer) for layer in snakemake.params.headlines]
    run_geometry(given.a, given.b, headlines=headlines, **snakemake.params.spec, table=made.table, output=made.json)
    draw_pair(made.json, made.table, Path(made.svg).parent, snakemake.params.dpi)
