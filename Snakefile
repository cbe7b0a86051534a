# affectome: emotion directions in language models, from seed words to a report.
#
# `snakemake` builds the runs named in workflow_config.yaml; `rules/` holds one file per stage, `src/affectome/` all that
# can be called without Snakemake. Settings of this machine are in profiles/default, which Snakemake picks up by itself.

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")
sys.path.insert(0, str(Path(workflow.basedir, "src")))


configfile: "workflow_config.yaml"


include: "rules/common.smk"


wildcard_constraints:
    **WORKFLOW.constraints,
    layer=r"\d+",
    shard=r"\d+",


report: "resources/report/workflow.rst"


include: "rules/models.smk"
include: "rules/corpus.smk"
include: "rules/activations.smk"
include: "rules/vectors.smk"
include: "rules/analyses.smk"
include: "rules/questions.smk"
include: "rules/steering.smk"
include: "rules/report.smk"
include: "rules/comparison.smk"
include: "rules/targets.smk"


onstart:
    WORKING_DIRECTORY.hold()


rule all:
    default_target: True
    input:
        WORKFLOW.targets(),
