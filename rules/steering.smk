# Trials that steer the model along a run's vectors and say what came of it, each with controls and at a price.


localrules:
    plan_trials,


rule steering_directions:
    input:
        vectors=WORKFLOW.steered_vectors,
        layers=WORKFLOW.steered_activations,
        chosen=WORKFLOW.chosen_layer,
    output:
        "results/{run}/steering/{trial}/directions.h5",
    log:
        "results/logs/steering_directions/{run}/{trial}.log",
    benchmark:
        "results/benchmarks/steering_directions/{run}/{trial}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("steering_directions"),
    params:
        spec=WORKFLOW.directions_spec,
        code=code_digest("steering_directions"),
    script:
        "../scripts/steering_directions.py"


rule steering_trial:
    input:
        directions="results/{run}/steering/{trial}/directions.h5",
        model=WORKFLOW.model_manifest,
        trial_set=WORKFLOW.trial_set,
        set_files=WORKFLOW.trial_set_files,
        judge="resources/prompts/judge.j2",
        stories=WORKFLOW.stories,
        chosen=WORKFLOW.chosen_layer,
    output:
        table="results/{run}/steering/{trial}/items.parquet",
        notes="results/{run}/steering/{trial}/notes.json",
    log:
        "results/logs/steering_trial/{run}/{trial}.log",
    benchmark:
        "results/benchmarks/steering_trial/{run}/{trial}.tsv"
    conda:
        "../envs/gpu.yaml"
    envmodules:
        *WORKFLOW.modules("gpu"),
    threads: 8
    resources:
        **WORKFLOW.requests("steering_trial"),
    params:
        spec=WORKFLOW.trial_spec,
        code=code_digest("steering_trial"),
    script:
        "../scripts/steering_trial.py"


rule safe_ranges:
    input:
        "results/{run}/steering/{trial}/items.parquet",
    output:
        "results/{run}/steering/{trial}/safe_ranges.json",
    log:
        "results/logs/safe_ranges/{run}/{trial}.log",
    benchmark:
        "results/benchmarks/safe_ranges/{run}/{trial}.tsv"
    wildcard_constraints:
        trial=WORKFLOW.trials_of("cost"),
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("safe_ranges"),
    params:
        spec=WORKFLOW.safety_spec,
        code=code_digest("safe_ranges"),
    script:
        "../scripts/safe_ranges.py"


rule trial_verdicts:
    input:
        table="results/{run}/steering/{trial}/items.parquet",
        costs=WORKFLOW.safe_ranges,
    output:
        verdict="results/{run}/steering/{trial}/verdict.json",
        effects="results/{run}/steering/{trial}/effects.parquet",
    log:
        "results/logs/trial_verdicts/{run}/{trial}.log",
    benchmark:
        "results/benchmarks/trial_verdicts/{run}/{trial}.tsv"
    wildcard_constraints:
        trial=WORKFLOW.trials_of("expression", "preference", "behaviour"),
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("trial_verdicts"),
    params:
        spec=WORKFLOW.verdict_spec,
        code=code_digest("trial_verdicts"),
    script:
        "../scripts/trial_verdicts.py"


rule preferences:
    input:
        table="results/{run}/steering/{trial}/items.parquet",
        notes="results/{run}/steering/{trial}/notes.json",
        trial_set=WORKFLOW.trial_set,
        activities=WORKFLOW.trial_set_files,
        verdict="results/{run}/steering/{trial}/verdict.json",
        effects="results/{run}/steering/{trial}/effects.parquet",
    output:
        "results/{run}/steering/{trial}/preferences.json",
    log:
        "results/logs/preferences/{run}/{trial}.log",
    benchmark:
        "results/benchmarks/preferences/{run}/{trial}.tsv"
    wildcard_constraints:
        trial=WORKFLOW.trials_of("preference"),
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("preferences"),
    params:
        spec=WORKFLOW.preference_spec,
        code=code_digest("preferences"),
    script:
        "../scripts/preferences.py"


rule trial_figures:
    input:
        tables=WORKFLOW.figure_tables,
        caption="resources/report/captions/{figure}.rst",
    output:
        svg=report(
            "results/{run}/steering/{trial}/figures/{figure}.svg",
            caption="../resources/report/figure.rst",
            category=category("Steering"),
            subcategory="{run}",
            labels=WORKFLOW.trial_figure_labels,
        ),
        png="results/{run}/steering/{trial}/figures/{figure}.png",
        text="results/{run}/steering/{trial}/figures/{figure}.txt",
    log:
        "results/logs/trial_figures/{run}/{trial}/{figure}.log",
    benchmark:
        "results/benchmarks/trial_figures/{run}/{trial}/{figure}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("trial_figures"),
    params:
        spec=WORKFLOW.trial_figure_spec,
        code=code_digest("trial_figures"),
    script:
        "../scripts/trial_figures.py"


rule generations:
    input:
        table="results/{run}/steering/{trial}/items.parquet",
        template="resources/report/generations.html.j2",
    output:
        report(
            "results/{run}/steering/{trial}/generations.html",
            caption="../resources/report/captions/generations.rst",
            category=category("Steering"),
            subcategory="{run}",
            labels={"trial": "{trial}", "figure": "Every item"},
        ),
    log:
        "results/logs/generations/{run}/{trial}.log",
    benchmark:
        "results/benchmarks/generations/{run}/{trial}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("generations"),
    params:
        spec=WORKFLOW.generations_spec,
        code=code_digest("generations"),
    script:
        "../scripts/generations.py"


rule plan_trials:
    log:
        "results/logs/plan_trials/plan.log",
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    params:
        plan=WORKFLOW.trial_plan,
    script:
        "../scripts/plan_trials.py"
