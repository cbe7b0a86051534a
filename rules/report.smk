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
    output:
        svg=[
            report(
                f"results/{{run}}/figures/{name}.svg",
                caption=f"../resources/report/captions/{name}.rst",
                category="{run}",
                subcategory=FIGURES[name].subcategory,
                labels={"figure": FIGURES[name].title, "form": "picture"},
            )
            for name in FIGURES
        ],
        png=[f"results/{{run}}/figures/{name}.png" for name in FIGURES],
        interactive=report(
            "results/{run}/figures/pc_scatter.html",
            caption="../resources/report/captions/pc_scatter.rst",
            category="{run}",
            subcategory=FIGURES["pc_scatter"].subcategory,
            labels={"figure": FIGURES["pc_scatter"].title, "form": "interactive"},
        ),
    log:
        "results/logs/figures/{run}.log",
    benchmark:
        "results/benchmarks/figures/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        spec=WORKFLOW.figure_spec,
        code=code_digest("figures"),
    script:
        "../scripts/figures.py"


rule summary:
    input:
        vectors=WORKFLOW.vector_files,
        activations=WORKFLOW.headline_layer_file,
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
        trials=WORKFLOW.trial_findings,
        trial_figures=WORKFLOW.trial_figures,
        trial_pages=WORKFLOW.trial_pages,
        template="resources/report/summary.html.j2",
        templates=["resources/report/steering.html.j2"],
        captions=WORKFLOW.captions,
    output:
        report(
            "results/{run}/summary.html",
            caption="../resources/report/captions/summary.rst",
            category="{run}",
            subcategory="Summary",
            labels={"figure": "Summary", "form": "page"},
        ),
    log:
        "results/logs/summary_page/{run}.log",
    benchmark:
        "results/benchmarks/summary_page/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        spec=WORKFLOW.page_spec,
        code=code_digest("summary_page"),
    script:
        "../scripts/summary_page.py"


rule manifest:
    input:
        summary="results/{run}/summary.json",
        activations=WORKFLOW.headline_layer_file,
        model=WORKFLOW.model_manifest,
    output:
        "results/{run}/manifest.json",
    log:
        "results/logs/manifest/{run}.log",
    benchmark:
        "results/benchmarks/manifest/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        spec=WORKFLOW.manifest_spec,
        code=code_digest("manifest"),
    script:
        "../scripts/manifest.py"
