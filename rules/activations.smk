# One forward pass over every text; then one view per layer over all shards.


rule collect_activations:
    input:
        stories="results/corpora/{corpus}/stories.parquet",
        neutral="results/corpora/{corpus}/neutral.parquet",
        model="resources/models/{model}/manifest.json",
    output:
        "results/activations/{model}/{corpus}/{reading}/shards/{shard}.h5",
    log:
        "results/logs/collect_activations/{model}/{corpus}/{reading}/{shard}.log",
    benchmark:
        "results/benchmarks/collect_activations/{model}/{corpus}/{reading}/{shard}.tsv"
    conda:
        "../envs/gpu.yaml"
    envmodules:
        *WORKFLOW.modules("gpu"),
    # As many as the machine has, up to this; a GPU job needs them for tokenising only.
    threads: 8
    resources:
        **WORKFLOW.requests("collect_activations"),
    params:
        spec=WORKFLOW.activation_spec,
        code=code_digest("collect_activations"),
    script:
        "../scripts/collect_activations.py"


rule layer_activations:
    input:
        WORKFLOW.shard_files,
    output:
        "results/activations/{model}/{corpus}/{reading}/layer_{layer}.h5",
    log:
        "results/logs/layer_activations/{model}/{corpus}/{reading}/{layer}.log",
    benchmark:
        "results/benchmarks/layer_activations/{model}/{corpus}/{reading}/{layer}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("layer_activations"),
    params:
        code=code_digest("layer_activations"),
    script:
        "../scripts/layer_activations.py"
