# Questions asked of a run's vectors, one rule each; every answer is a table with all layers.


rule geometry:
    input:
        vectors=WORKFLOW.vector_files,
        norm=WORKFLOW.first_norm_file,
    output:
        table="results/{run}/analyses/geometry.parquet",
        json="results/{run}/analyses/geometry.json",
    log:
        "results/logs/geometry/{run}.log",
    benchmark:
        "results/benchmarks/geometry/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("geometry"),
    params:
        spec=WORKFLOW.geometry_spec,
        code=code_digest("geometry"),
    script:
        "../scripts/geometry.py"


rule norm_correlations:
    input:
        vectors=WORKFLOW.vector_files,
        scores="results/{run}/analyses/geometry.parquet",
        norms=WORKFLOW.norm_files,
    output:
        "results/{run}/analyses/norm_correlations.json",
    log:
        "results/logs/norm_correlations/{run}.log",
    benchmark:
        "results/benchmarks/norm_correlations/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    threads: 2
    resources:
        **WORKFLOW.requests("norm_correlations"),
    params:
        spec=WORKFLOW.correlation_spec,
        code=code_digest("norm_correlations"),
    script:
        "../scripts/norm_correlations.py"


rule similarity:
    input:
        vectors=WORKFLOW.vector_files,
    output:
        table="results/{run}/analyses/similarity.parquet",
        json="results/{run}/analyses/similarity.json",
    log:
        "results/logs/similarity/{run}.log",
    benchmark:
        "results/benchmarks/similarity/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("similarity"),
    params:
        spec=WORKFLOW.similarity_spec,
        code=code_digest("similarity"),
    script:
        "../scripts/similarity.py"


rule clusters:
    input:
        vectors=WORKFLOW.vector_files,
    output:
        table="results/{run}/analyses/clusters.parquet",
        json="results/{run}/analyses/clusters.json",
    log:
        "results/logs/clusters/{run}.log",
    benchmark:
        "results/benchmarks/clusters/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("clusters"),
    params:
        spec=WORKFLOW.cluster_spec,
        code=code_digest("clusters"),
    script:
        "../scripts/clusters.py"


rule layer_profile:
    input:
        vectors=WORKFLOW.vector_files,
        geometry="results/{run}/analyses/geometry.json",
        correlations="results/{run}/analyses/norm_correlations.json",
    output:
        "results/{run}/analyses/layer_profile.parquet",
    log:
        "results/logs/layer_profile/{run}.log",
    benchmark:
        "results/benchmarks/layer_profile/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("layer_profile"),
    params:
        code=code_digest("layer_profile"),
    script:
        "../scripts/layer_profile.py"
