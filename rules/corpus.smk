# Texts: read from files or written by a language model, then screened.


localrules:
    plan_corpus,
    write_stories,
    write_dialogues,


rule import_corpus:
    input:
        WORKFLOW.corpus_files,
    output:
        stories="results/corpora/{corpus}/raw_stories.parquet",
        neutral="results/corpora/{corpus}/raw_neutral.parquet",
    log:
        "results/logs/import_corpus/{corpus}.log",
    benchmark:
        "results/benchmarks/import_corpus/{corpus}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.file_corpora,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("import_corpus"),
    params:
        spec=WORKFLOW.import_spec,
        code=code_digest("import_corpus"),
    script:
        "../scripts/import_corpus.py"


# A corpus that was paid for is not written again because this code was improved: planning and writing carry no digest of
# it. Replies are kept in results/corpora/{corpus}/.replies, so what is asked for anew costs nothing if it is the same.
rule plan_corpus:
    input:
        WORKFLOW.plan_files,
    output:
        "results/corpora/{corpus}/plan.parquet",
    log:
        "results/logs/plan_corpus/{corpus}.log",
    benchmark:
        "results/benchmarks/plan_corpus/{corpus}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.written_corpora,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("plan_corpus"),
    params:
        spec=WORKFLOW.plan_spec,
    script:
        "../scripts/plan_corpus.py"


rule write_stories:
    input:
        plan="results/corpora/{corpus}/plan.parquet",
        prompts=WORKFLOW.story_prompts,
        model=WORKFLOW.writer_files,
    output:
        texts="results/corpora/{corpus}/written/stories_{shard}.parquet",
        report="results/corpora/{corpus}/written/stories_{shard}.json",
    log:
        "results/logs/write_stories/{corpus}_{shard}.log",
    benchmark:
        "results/benchmarks/write_stories/{corpus}_{shard}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.service_corpora,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("write_stories"),
    params:
        spec=WORKFLOW.stories_spec,
    script:
        "../scripts/write_stories.py"


rule write_dialogues:
    input:
        plan="results/corpora/{corpus}/plan.parquet",
        prompts=WORKFLOW.dialogue_prompt,
        model=WORKFLOW.writer_files,
    output:
        texts="results/corpora/{corpus}/written/neutral.parquet",
        report="results/corpora/{corpus}/written/neutral.json",
    log:
        "results/logs/write_dialogues/{corpus}.log",
    benchmark:
        "results/benchmarks/write_dialogues/{corpus}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.service_corpora,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("write_dialogues"),
    params:
        spec=WORKFLOW.dialogues_spec,
    script:
        "../scripts/write_dialogues.py"


# The same where the model runs in the job, which then belongs on a GPU and not on the machine that runs snakemake.
use rule write_stories as generate_stories with:
    log:
        "results/logs/generate_stories/{corpus}_{shard}.log",
        engine="results/logs/generate_stories/{corpus}_{shard}.vllm.log",
    benchmark:
        "results/benchmarks/generate_stories/{corpus}_{shard}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.model_corpora,
    conda:
        WORKFLOW.writer_environment
    envmodules:
        *WORKFLOW.modules("gpu"),
    threads: 8
    resources:
        **WORKFLOW.requests("generate_stories"),


use rule write_dialogues as generate_dialogues with:
    log:
        "results/logs/generate_dialogues/{corpus}.log",
        engine="results/logs/generate_dialogues/{corpus}.vllm.log",
    benchmark:
        "results/benchmarks/generate_dialogues/{corpus}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.model_corpora,
    conda:
        WORKFLOW.writer_environment
    envmodules:
        *WORKFLOW.modules("gpu"),
    threads: 8
    resources:
        **WORKFLOW.requests("generate_dialogues"),


rule screen_corpus:
    input:
        stories=WORKFLOW.raw_stories,
        neutral=WORKFLOW.raw_neutral,
        written=WORKFLOW.writing_reports,
        words="resources/screening/leaks.tsv",
    output:
        stories="results/corpora/{corpus}/stories.parquet",
        neutral="results/corpora/{corpus}/neutral.parquet",
        report="results/corpora/{corpus}/screening.json",
    log:
        "results/logs/screen_corpus/{corpus}.log",
    benchmark:
        "results/benchmarks/screen_corpus/{corpus}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("screen_corpus"),
    params:
        spec=WORKFLOW.screening_spec,
        code=code_digest("screen_corpus"),
    script:
        "../scripts/screen_corpus.py"


rule corpus_card:
    input:
        stories="results/corpora/{corpus}/stories.parquet",
        neutral="results/corpora/{corpus}/neutral.parquet",
        screening="results/corpora/{corpus}/screening.json",
        templates=["resources/report/corpus_card.html.j2", "resources/report/page.css"],
    output:
        json="results/corpora/{corpus}/corpus_card.json",
        html=report(
            "results/corpora/{corpus}/corpus_card.html",
            caption="../resources/report/corpus_card.rst",
            category=category("Corpora"),
            labels={"corpus": "{corpus}"},
        ),
    log:
        "results/logs/corpus_card/{corpus}.log",
    benchmark:
        "results/benchmarks/corpus_card/{corpus}.tsv"
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("corpus_card"),
    params:
        spec=WORKFLOW.card_spec,
        code=code_digest("corpus_card"),
    script:
        "../scripts/corpus_card.py"
