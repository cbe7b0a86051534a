"""Compare the vectors of synonyms and antonyms with those of unrelated words."""

from affectome.analyses.relations import relations
from affectome.jobs import job

with job(snakemake):
    relations(
        snakemake.input.vectors,
        snakemake.input.relations,
        **snakemake.params.spec,
        table=snakemake.output.table,
        output=snakemake.output.json,
    )
