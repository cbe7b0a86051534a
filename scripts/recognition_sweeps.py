"""What held-out recognition depends on: stories, denoising and reading."""

from pathlib import Path

from affectome.analyses.recognition_sweeps import recognition_sweeps
from affectome.jobs import job
from affectome.layers import headline_layer, of_layer

with job(snakemake):
    file = Path(of_layer(snakemake.input.layers, headline_layer(snakemake.params.layer)))
    # Layers lie in a folder called after their reading.
    recognition_sweeps(
        file,
        snakemake.input.stories,
        file.parent.name,
        {Path(other).parent.name: other for other in snakemake.input.variants if Path(other).name == file.name},
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
