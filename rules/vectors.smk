# Emotion vectors per layer, and the forms in which other tools load them.


rule emotion_vectors:
    input:
        layer=WORKFLOW.layer_file,
    output:
        "results/{run}/vectors/layer_{layer}.h5",
    log:
        "results/logs/emotion_vectors/{run}/{layer}.log",
    benchmark:
        "results/benchmarks/emotion_vectors/{run}/{layer}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("emotion_vectors"),
    params:
        spec=WORKFLOW.vector_spec,
        code=code_digest("emotion_vectors"),
    script:
        "../scripts/emotion_vectors.py"


rule export_vectors:
    input:
        vectors=WORKFLOW.vector_files,
        model=WORKFLOW.model_manifest,
    output:
        safetensors="results/{run}/vectors/vectors.safetensors",
        npz="results/{run}/vectors/vectors.npz",
        gguf=directory("results/{run}/vectors/gguf"),
    log:
        "results/logs/export_vectors/{run}.log",
    benchmark:
        "results/benchmarks/export_vectors/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("export_vectors"),
    params:
        code=code_digest("export_vectors"),
    script:
        "../scripts/export_vectors.py"
