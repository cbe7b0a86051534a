"""Write the neutral dialogues of a corpus with a language model."""

from affectome.config import load_config
from affectome.corpus.writing import write_texts
from affectome.jobs import job

with job(snakemake):
    # How fast and where a service is asked changes nothing that is written, so it is no parameter.
    manner = load_config(snakemake.config).writer_manner(snakemake.wildcards.corpus)
    write_texts(
        snakemake.output.texts,
        snakemake.output.report,
        snakemake.input.plan,
        neutral=True,
        shard=0,
        manner=manner,
        engine_log=snakemake.log.get("engine", ""),
        **snakemake.params.spec,
    )
