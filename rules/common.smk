# What all rules share: the validated configuration and the digest of the code behind a rule.

from affectome.figures import COMPARISON_FIGURES, FIGURES
from affectome.identity import code_digest
from affectome.questions import category
from affectome.workflow import WorkingDirectory, Workflow, share_sources

share_sources()
WORKFLOW = Workflow(config, ["workflow_config.yaml", *workflow.overwrite_configfiles])
WORKING_DIRECTORY = WorkingDirectory()
