# Several runs side by side.


rule compare_runs:
    input:
        summaries=WORKFLOW.compared("summary.json"),
        profiles=WORKFLOW.compared("analyses/layer_profile.parquet"),
        scores=WORKFLOW.compared("analyses/geometry.parquet"),
        cosines=WORKFLOW.compared("analyses/similarity.parquet"),
        verdicts=WORKFLOW.compared_verdicts,
        norm=WORKFLOW.comparison_norm_file,
        templates=["resources/report/comparison.html.j2", "resources/report/page.css"],
        captions=[f"resources/report/captions/{name}.rst" for name in COMPARISON_FIGURES],
    output:
        page=report(
            "results/comparisons/{comparison}/comparison.html",
            caption="../resources/report/captions/comparison.rst",
            category="Comparison",
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
