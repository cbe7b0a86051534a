"""Write the neutral dialogues of a corpus with a language model."""

from affectome.corpus.writing import write_dialogues
from affectome.jobs import job

with job(snakemake):
    write_dialogues(
        snakemake.output[0],
        topics_file=snakemake.input.topics,
        prompt_file=snakemake.input.prompt,
        **snakemake.params.spec,
    )
