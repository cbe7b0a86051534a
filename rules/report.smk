# Pictures, the summary for people and machines, and the record of how a run was made.


rule figures:
    input:
        scores="results/{run}/analyses/geometry.parquet",
        geometry="results/{run}/analyses/geometry.json",
        correlations="results/{run}/analyses/norm_correlations.json",
        profile="results/{run}/analyses/layer_profile.parquet",
        similarity="results/{run}/analyses/similarity.parquet",
        clusters="results/{run}/analyses/clusters.json",
        labels="results/{run}/analyses/clusters.parquet",
        norm=WORKFLOW.first_norm_file,
        chosen=WORKFLOW.chosen_layer,
        caption="resources/report/captions/{figure}.rst",
    output:
        svg=report(
            "results/{run}/figures/{figure}.svg",
            caption="../resources/report/figure.rst",
            category=WORKFLOW.figure_category,
            labels=WORKFLOW.figure_labels,
        ),
        png="results/{run}/figures/{figure}.png",
        text="results/{run}/figures/{figure}.txt",
    log:
        "results/logs/figures/{run}/{figure}.log",
    benchmark:
        "results/benchmarks/figures/{run}/{figure}.tsv"
    wildcard_constraints:
        figure=WORKFLOW.run_figures,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("figures"),
    params:
        spec=WORKFLOW.figure_spec,
        code=code_digest("figures"),
    script:
        "../scripts/figures.py"


rule answer_figures:
    input:
        tables=WORKFLOW.answer_tables,
        chosen=WORKFLOW.chosen_layer,
        caption="resources/report/captions/{figure}.rst",
    output:
        svg=report(
            "results/{run}/figures/{figure}.svg",
            caption="../resources/report/figure.rst",
            category=WORKFLOW.answer_category,
            labels=WORKFLOW.answer_labels,
        ),
        png="results/{run}/figures/{figure}.png",
        text="results/{run}/figures/{figure}.txt",
    log:
        "results/logs/answer_figures/{run}/{figure}.log",
    benchmark:
        "results/benchmarks/answer_figures/{run}/{figure}.tsv"
    wildcard_constraints:
        figure=WORKFLOW.answer_figures,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("answer_figures"),
    params:
        spec=WORKFLOW.answer_spec,
        code=code_digest("answer_figures"),
    script:
        "../scripts/answer_figures.py"


rule interactive_figures:
    input:
        chosen=WORKFLOW.chosen_layer,
        scores="results/{run}/analyses/geometry.parquet",
        geometry="results/{run}/analyses/geometry.json",
        correlations="results/{run}/analyses/norm_correlations.json",
        profile="results/{run}/analyses/layer_profile.parquet",
        similarity="results/{run}/analyses/similarity.parquet",
        clusters="results/{run}/analyses/clusters.json",
        labels="results/{run}/analyses/clusters.parquet",
        norm=WORKFLOW.first_norm_file,
        verdicts=WORKFLOW.verdicts,
        effects=WORKFLOW.effects,
        template="resources/report/interactive.html.j2",
        style="resources/report/page.css",
    output:
        report(
            "results/{run}/figures/interactive.html",
            caption="../resources/report/captions/interactive.rst",
            category=category("Summary"),
            labels={"figure": "Figures to explore", "run": "{run}"},
        ),
    log:
        "results/logs/interactive_figures/{run}.log",
    benchmark:
        "results/benchmarks/interactive_figures/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **WORKFLOW.requests("interactive_figures"),
    params:
        spec=WORKFLOW.interactive_spec,
        code=code_digest("interactive_figures"),
    script:
        "../scripts/interactive_figures.py"


rule summary:
    input:
        vectors=WORKFLOW.vector_files,
        activations=WORKFLOW.headline_layer_files,
        chosen=WORKFLOW.chosen_layer,
        model=WORKFLOW.model_manifest,
        screening=WORKFLOW.screening,
        geometry="results/{run}/analyses/geometry.json",
        correlations="results/{run}/analyses/norm_correlations.json",
        similarity="results/{run}/analyses/similarity.json",
        trials=WORKFLOW.trial_findings,
    output:
        "results/{run}/summary.json",
    log:
        "results/logs/summary/{run}.log",
    benchmark:
        "results/benchmarks/summary/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("summary"),
    params:
        spec=WORKFLOW.summary_spec,
        code=code_digest("summary"),
    script:
        "../scripts/summary.py"


rule summary_page:
    input:
        summary="results/{run}/summary.json",
        screening=WORKFLOW.screening,
        correlations="results/{run}/analyses/norm_correlations.json",
        figures=[f"results/{{run}}/figures/{name}.svg" for name in FIGURES],
        interactive="results/{run}/figures/interactive.html",
        captions=[f"results/{{run}}/figures/{name}.txt" for name in FIGURES],
        answers=WORKFLOW.answers,
        answer_pictures=WORKFLOW.answer_pictures,
        answer_captions=WORKFLOW.answer_captions,
        trials=WORKFLOW.trial_findings,
        trial_figures=WORKFLOW.trial_figures,
        trial_captions=WORKFLOW.trial_captions,
        trial_pages=WORKFLOW.trial_pages,
        template="resources/report/summary.html.j2",
        templates=[
            "resources/report/steering.html.j2",
            "resources/report/page.css",
            "resources/report/overview.rst.j2",
        ],
    output:
        page=report(
            "results/{run}/summary.html",
            caption="../resources/report/captions/summary.rst",
            category=category("Summary"),
            labels={"figure": "Summary", "run": "{run}"},
        ),
        overview="results/{run}/overview.rst",
    log:
        "results/logs/summary_page/{run}.log",
    benchmark:
        "results/benchmarks/summary_page/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("summary_page"),
    params:
        spec=WORKFLOW.page_spec,
        code=code_digest("summary_page"),
    script:
        "../scripts/summary_page.py"


rule manifest:
    input:
        summary="results/{run}/summary.json",
        activations=WORKFLOW.headline_layer_files,
        model=WORKFLOW.model_manifest,
    output:
        "results/{run}/manifest.json",
    log:
        "results/logs/manifest/{run}.log",
    benchmark:
        "results/benchmarks/manifest/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("manifest"),
    params:
        spec=WORKFLOW.manifest_spec,
        code=code_digest("manifest"),
    script:
        "../scripts/manifest.py"


rule bundle_run:
    input:
        files=WORKFLOW.bundle_files,
        screening=WORKFLOW.screening,
        corpus=WORKFLOW.corpus_tables,
        sources=WORKFLOW.named_files,
        project=["requirements.lock", "CITATION.cff", "LICENSE"],
        templates=[f"resources/report/bundle/{name}.md.j2" for name in ("README", "CITING", "LICENCES")],
    output:
        "results/{run}/bundle.zip",
    log:
        "results/logs/bundle_run/{run}.log",
    benchmark:
        "results/benchmarks/bundle_run/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("bundle_run"),
    params:
        spec=WORKFLOW.bundle_spec,
        code=code_digest("bundle_run"),
    script:
        "../scripts/bundle_run.py"
