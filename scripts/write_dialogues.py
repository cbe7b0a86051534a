"""Write the neutral dialogues of a corpus with a language model."""

from affectome.corpus.writing import write_dialogues
from affectome.jobs import job

with job(snakemake):
    spec = snakemake.params.spec
    writer = {**spec.pop("writer"), "concurrency": snakemake.resources.concurrency}
    prompt, topics = snakemake.input.prompt, snakemake.input.topics
    write_dialogues(snakemake.output[0], topics_file=topics, prompt_file=prompt, writer=writer, **spec)
