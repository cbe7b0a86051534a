"""Write the stories of a corpus with a language model."""

from affectome.corpus.writing import write_stories
from affectome.jobs import job

with job(snakemake):
    spec = snakemake.params.spec
    writer = {**spec.pop("writer"), "concurrency": snakemake.resources.concurrency}
    write_stories(snakemake.output[0], prompt_file=snakemake.input.prompt, writer=writer, **spec)
