# Several runs side by side, and every two of them layer by layer.


rule run_geometry:
    input:
        a=WORKFLOW.vectors_of(0),
        b=WORKFLOW.vectors_of(1),
        chosen=WORKFLOW.chosen_layers,
        norm=WORKFLOW.comparison_norm_file,
        caption="resources/report/captions/run_geometry.rst",
    output:
        table="results/comparisons/{comparison}/run_geometry.parquet",
        json="results/comparisons/{comparison}/run_geometry.json",
        svg=report(
            "results/comparisons/{comparison}/run_geometry.svg",
            caption="../resources/report/figure.rst",
            category=category("Comparison"),
            labels={"figure": "Layers against layers", "runs": "{comparison}"},
        ),
        png="results/comparisons/{comparison}/run_geometry.png",
        text="results/comparisons/{comparison}/run_geometry.txt",
    log:
        "results/logs/run_geometry/{comparison}.log",
    benchmark:
        "results/benchmarks/run_geometry/{comparison}.tsv"
    wildcard_constraints:
        comparison=WORKFLOW.pairs,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("run_geometry"),
    params:
        spec=WORKFLOW.run_geometry_spec,
        headlines=WORKFLOW.headlines,
        dpi=WORKFLOW.comparison_dpi,
        code=code_digest("run_geometry"),
    script:
        "../scripts/run_geometry.py"


rule compare_runs:
    input:
        summaries=WORKFLOW.compared("summary.json"),
        profiles=WORKFLOW.compared("analyses/layer_profile.parquet"),
        scores=WORKFLOW.compared("analyses/geometry.parquet"),
        cosines=WORKFLOW.compared("analyses/similarity.parquet"),
        verdicts=WORKFLOW.compared_verdicts,
        geometries=WORKFLOW.compared_geometries("json"),
        geometry_figures=WORKFLOW.compared_geometries("svg"),
        geometry_captions=WORKFLOW.compared_geometries("txt"),
        norm=WORKFLOW.comparison_norm_file,
        templates=["resources/report/comparison.html.j2", "resources/report/page.css"],
        captions=[f"resources/report/captions/{name}.rst" for name in COMPARISON_FIGURES],
    output:
        page=report(
            "results/comparisons/{comparison}/comparison.html",
            caption="../resources/report/captions/comparison.rst",
            category=category("Comparison"),
            labels={"figure": "Comparison", "runs": "{comparison}"},
        ),
        numbers="results/comparisons/{comparison}/comparison.json",
        table="results/comparisons/{comparison}/comparison.parquet",
        figures=[
            f"results/comparisons/{{comparison}}/{name}.{form}"
            for name in COMPARISON_FIGURES
            for form in ("svg", "png")
        ],
    log:
        "results/logs/compare_runs/{comparison}.log",
    benchmark:
        "results/benchmarks/compare_runs/{comparison}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("compare_runs"),
    params:
        spec=WORKFLOW.comparison_spec,
        code=code_digest("compare_runs"),
    script:
        "../scripts/compare_runs.py"
