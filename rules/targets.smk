# What can be asked for by name: each stage's files of the selected runs, and with them whatever they need.


rule corpora:
    input:
        WORKFLOW.corpora(),


rule activations:
    input:
        WORKFLOW.activations(),


rule vectors:
    input:
        WORKFLOW.vectors(),


rule analyses:
    input:
        WORKFLOW.analyses(),


rule steering:
    input:
        WORKFLOW.steering(),


rule report:
    input:
        WORKFLOW.report(),


rule bundle:
    input:
        WORKFLOW.bundles(),


# Only where it is asked for: which runs stand side by side is a question of its own.
rule compare:
    input:
        WORKFLOW.comparison,


# What all of that still takes, printed before anything is submitted.
rule plan:
    log:
        "results/logs/plan/plan.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    script:
        "../scripts/plan.py"
