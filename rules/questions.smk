# Questions asked of a run beyond those that its summary rests on, one rule each; `affectome.questions` lists them.


rule readouts:
    input:
        prompts=WORKFLOW.prompt_list,
        model="resources/models/{model}/manifest.json",
    output:
        "results/readouts/{model}/{prompts}.h5",
    log:
        "results/logs/readouts/{model}/{prompts}.log",
    benchmark:
        "results/benchmarks/readouts/{model}/{prompts}.tsv"
    conda:
        "../envs/gpu.yaml"
    envmodules:
        *WORKFLOW.modules("gpu"),
    threads: 8
    resources:
        **WORKFLOW.requests("readouts"),
    params:
        spec=WORKFLOW.readout_spec,
        code=code_digest("readouts"),
    script:
        "../scripts/readouts.py"


rule published:
    input:
        answers=WORKFLOW.published_answers,
        chosen=WORKFLOW.chosen_layer,
        geometry="results/{run}/analyses/geometry.json",
        correlations="results/{run}/analyses/norm_correlations.json",
        similarity="results/{run}/analyses/similarity.parquet",
        norms=WORKFLOW.norm_files,
        facts="resources/facts/published.csv",
    output:
        table="results/{run}/analyses/published.parquet",
        json="results/{run}/analyses/published.json",
    log:
        "results/logs/published/{run}.log",
    benchmark:
        "results/benchmarks/published/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("published"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.published_spec,
        code=code_digest("published"),
    script:
        "../scripts/published.py"


rule arousal_check:
    input:
        vectors=WORKFLOW.vector_files,
        chosen=WORKFLOW.chosen_layer,
        scores="results/{run}/analyses/geometry.parquet",
        stories=WORKFLOW.stories,
        norms=WORKFLOW.norm_files,
        lexicon=WORKFLOW.lexicon_file,
    output:
        table="results/{run}/analyses/arousal_check.parquet",
        json="results/{run}/analyses/arousal_check.json",
    log:
        "results/logs/arousal_check/{run}.log",
    benchmark:
        "results/benchmarks/arousal_check/{run}.tsv"
    wildcard_constraints:
        run=WORKFLOW.lexical_runs,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("arousal_check"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.arousal_check_spec,
        code=code_digest("arousal_check"),
    script:
        "../scripts/arousal_check.py"


rule layer_sweep:
    input:
        layers=WORKFLOW.swept_layer_files,
        correlations="results/{run}/analyses/norm_correlations.json",
        stories=WORKFLOW.stories,
    output:
        table="results/{run}/analyses/layer_sweep.parquet",
        json="results/{run}/analyses/layer_sweep.json",
    log:
        "results/logs/layer_sweep/{run}.log",
    benchmark:
        "results/benchmarks/layer_sweep/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("layer_sweep"),
    params:
        spec=WORKFLOW.layer_sweep_spec,
        code=code_digest("layer_sweep"),
    script:
        "../scripts/layer_sweep.py"


rule layer_similarity:
    input:
        vectors=WORKFLOW.vector_files,
    output:
        table="results/{run}/analyses/layer_similarity.parquet",
        json="results/{run}/analyses/layer_similarity.json",
    log:
        "results/logs/layer_similarity/{run}.log",
    benchmark:
        "results/benchmarks/layer_similarity/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("layer_similarity"),
    params:
        spec=WORKFLOW.layer_similarity_spec,
        code=code_digest("layer_similarity"),
    script:
        "../scripts/layer_similarity.py"


rule relations:
    input:
        vectors=WORKFLOW.vector_files,
        relations=WORKFLOW.relations_file,
    output:
        table="results/{run}/analyses/relations.parquet",
        json="results/{run}/analyses/relations.json",
    log:
        "results/logs/relations/{run}.log",
    benchmark:
        "results/benchmarks/relations/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("relations"),
    params:
        spec=WORKFLOW.resampled_spec,
        code=code_digest("relations"),
    script:
        "../scripts/relations.py"


rule cluster_stability:
    input:
        layers=WORKFLOW.headline_layer_files,
        chosen=WORKFLOW.chosen_layer,
        vectors=WORKFLOW.headline_vector_files,
        clusters="results/{run}/analyses/clusters.json",
        labels="results/{run}/analyses/clusters.parquet",
        reference=WORKFLOW.reference_clusters,
    output:
        table="results/{run}/analyses/cluster_stability.parquet",
        json="results/{run}/analyses/cluster_stability.json",
    log:
        "results/logs/cluster_stability/{run}.log",
    benchmark:
        "results/benchmarks/cluster_stability/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("cluster_stability"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.cluster_stability_spec,
        code=code_digest("cluster_stability"),
    script:
        "../scripts/cluster_stability.py"


rule emotion_maps:
    input:
        vectors=WORKFLOW.headline_vector_files,
        chosen=WORKFLOW.chosen_layer,
        labels="results/{run}/analyses/clusters.parquet",
    output:
        table="results/{run}/analyses/emotion_maps.parquet",
        json="results/{run}/analyses/emotion_maps.json",
    log:
        "results/logs/emotion_maps/{run}.log",
    benchmark:
        "results/benchmarks/emotion_maps/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("emotion_maps"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.emotion_maps_spec,
        code=code_digest("emotion_maps"),
    script:
        "../scripts/emotion_maps.py"


rule story_holdout:
    input:
        layers=WORKFLOW.headline_layer_files,
        chosen=WORKFLOW.chosen_layer,
        stories=WORKFLOW.stories,
    output:
        table="results/{run}/analyses/story_holdout.parquet",
        json="results/{run}/analyses/story_holdout.json",
    log:
        "results/logs/story_holdout/{run}.log",
    benchmark:
        "results/benchmarks/story_holdout/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("story_holdout"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.story_holdout_spec,
        code=code_digest("story_holdout"),
    script:
        "../scripts/story_holdout.py"


rule recognition_sweeps:
    input:
        layers=WORKFLOW.headline_layer_files,
        chosen=WORKFLOW.chosen_layer,
        stories=WORKFLOW.stories,
        variants=WORKFLOW.reading_variants,
    output:
        table="results/{run}/analyses/recognition_sweeps.parquet",
        json="results/{run}/analyses/recognition_sweeps.json",
    log:
        "results/logs/recognition_sweeps/{run}.log",
    benchmark:
        "results/benchmarks/recognition_sweeps/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("recognition_sweeps"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.recognition_sweeps_spec,
        code=code_digest("recognition_sweeps"),
    script:
        "../scripts/recognition_sweeps.py"


rule weakest_emotions:
    input:
        holdout="results/{run}/analyses/story_holdout.json",
        emotions="results/{run}/analyses/story_holdout.parquet",
        before=WORKFLOW.before,
    output:
        table="results/{run}/analyses/weakest_emotions.parquet",
        json="results/{run}/analyses/weakest_emotions.json",
        contrasts="results/{run}/analyses/weakest_emotions.csv",
    log:
        "results/logs/weakest_emotions/{run}.log",
    benchmark:
        "results/benchmarks/weakest_emotions/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("weakest_emotions"),
    params:
        spec=WORKFLOW.weakest_emotions_spec,
        code=code_digest("weakest_emotions"),
    script:
        "../scripts/weakest_emotions.py"


rule probes:
    input:
        layers=WORKFLOW.probed_layer_files,
        chosen=WORKFLOW.chosen_layer,
        stories=WORKFLOW.stories,
    output:
        table="results/{run}/analyses/probes.parquet",
        json="results/{run}/analyses/probes.json",
    log:
        "results/logs/probes/{run}.log",
    benchmark:
        "results/benchmarks/probes/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("probes"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.probes_spec,
        code=code_digest("probes"),
    script:
        "../scripts/probes.py"


rule logit_lens:
    input:
        vectors=WORKFLOW.vector_files,
        chosen=WORKFLOW.chosen_layer,
        model=WORKFLOW.model_manifest,
    output:
        table="results/{run}/analyses/logit_lens.parquet",
        json="results/{run}/analyses/logit_lens.json",
    log:
        "results/logs/logit_lens/{run}.log",
    benchmark:
        "results/benchmarks/logit_lens/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("logit_lens"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.logit_lens_spec,
        code=code_digest("logit_lens"),
    script:
        "../scripts/logit_lens.py"


rule implicit_scenarios:
    input:
        vectors=WORKFLOW.vector_files,
        chosen=WORKFLOW.chosen_layer,
        readouts=WORKFLOW.readouts("implicit"),
    output:
        table="results/{run}/analyses/implicit_scenarios.parquet",
        json="results/{run}/analyses/implicit_scenarios.json",
    log:
        "results/logs/implicit_scenarios/{run}.log",
    benchmark:
        "results/benchmarks/implicit_scenarios/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("implicit_scenarios"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.resampled_spec,
        code=code_digest("implicit_scenarios"),
    script:
        "../scripts/implicit_scenarios.py"


rule intensity:
    input:
        vectors=WORKFLOW.vector_files,
        chosen=WORKFLOW.chosen_layer,
        readouts=WORKFLOW.readouts("intensity"),
    output:
        table="results/{run}/analyses/intensity.parquet",
        json="results/{run}/analyses/intensity.json",
    log:
        "results/logs/intensity/{run}.log",
    benchmark:
        "results/benchmarks/intensity/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("intensity"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.resampled_spec,
        code=code_digest("intensity"),
    script:
        "../scripts/intensity.py"


rule external_projections:
    input:
        vectors=WORKFLOW.headline_vector_files,
        chosen=WORKFLOW.chosen_layer,
        neutral=WORKFLOW.neutral,
        model=WORKFLOW.model_manifest,
        texts=WORKFLOW.external_files,
    output:
        table="results/{run}/external/{texts}.parquet",
        json="results/{run}/external/{texts}.json",
    log:
        "results/logs/external_projections/{run}/{texts}.log",
    benchmark:
        "results/benchmarks/external_projections/{run}/{texts}.tsv"
    conda:
        "../envs/gpu.yaml"
    envmodules:
        *WORKFLOW.modules("gpu"),
    threads: 8
    resources:
        **WORKFLOW.requests("external_projections"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.external_spec,
        code=code_digest("external_projections"),
    script:
        "../scripts/external_projections.py"


rule external_text:
    input:
        projections=WORKFLOW.projections("parquet"),
        facts=WORKFLOW.projections("json"),
        vectors=WORKFLOW.headline_vector_files,
        chosen=WORKFLOW.chosen_layer,
    output:
        table="results/{run}/analyses/external_text.parquet",
        json="results/{run}/analyses/external_text.json",
    log:
        "results/logs/external_text/{run}.log",
    benchmark:
        "results/benchmarks/external_text/{run}.tsv"
    wildcard_constraints:
        run=WORKFLOW.external_runs,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("external_text"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.external_text_spec,
        code=code_digest("external_text"),
    script:
        "../scripts/external_text.py"


rule coloured_passages:
    input:
        vectors=WORKFLOW.headline_vector_files,
        chosen=WORKFLOW.chosen_layer,
        model=WORKFLOW.model_manifest,
        stories=WORKFLOW.stories,
        neutral=WORKFLOW.neutral,
        projections=WORKFLOW.projections("parquet"),
        templates=["resources/report/passages.html.j2", "resources/report/page.css"],
    output:
        json="results/{run}/analyses/coloured_passages.json",
        page=report(
            "results/{run}/figures/passages.html",
            caption="../resources/report/captions/coloured_passages.rst",
            category=category("External text"),
            labels={"figure": "Passages in colour", "run": "{run}"},
        ),
    log:
        "results/logs/coloured_passages/{run}.log",
    benchmark:
        "results/benchmarks/coloured_passages/{run}.tsv"
    conda:
        "../envs/gpu.yaml"
    envmodules:
        *WORKFLOW.modules("gpu"),
    threads: 8
    resources:
        **WORKFLOW.requests("coloured_passages"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.coloured_passages_spec,
        code=code_digest("coloured_passages"),
    script:
        "../scripts/coloured_passages.py"


rule speakers:
    input:
        vectors=WORKFLOW.vector_files,
        chosen=WORKFLOW.chosen_layer,
        readouts=WORKFLOW.readouts("speakers"),
    output:
        table="results/{run}/analyses/speakers.parquet",
        json="results/{run}/analyses/speakers.json",
    log:
        "results/logs/speakers/{run}.log",
    benchmark:
        "results/benchmarks/speakers/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("speakers"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.resampled_spec,
        code=code_digest("speakers"),
    script:
        "../scripts/speakers.py"


rule refusal:
    input:
        vectors=WORKFLOW.vector_files,
        chosen=WORKFLOW.chosen_layer,
        readouts=WORKFLOW.readouts("refusal"),
    output:
        table="results/{run}/analyses/refusal.parquet",
        json="results/{run}/analyses/refusal.json",
        vectors="results/{run}/analyses/refusal.safetensors",
    log:
        "results/logs/refusal/{run}.log",
    benchmark:
        "results/benchmarks/refusal/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("refusal"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.resampled_spec,
        code=code_digest("refusal"),
    script:
        "../scripts/refusal.py"


rule robustness:
    input:
        layers=WORKFLOW.headline_layer_files,
        chosen=WORKFLOW.chosen_layer,
        norm=WORKFLOW.first_norm_file,
        readings=WORKFLOW.reading_variants,
        models=WORKFLOW.model_variants,
    output:
        table="results/{run}/analyses/robustness.parquet",
        json="results/{run}/analyses/robustness.json",
    log:
        "results/logs/robustness/{run}.log",
    benchmark:
        "results/benchmarks/robustness/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("robustness"),
    params:
        layer=WORKFLOW.headline,
        spec=WORKFLOW.robustness_spec,
        code=code_digest("robustness"),
    script:
        "../scripts/robustness.py"
