# Texts: read from files or written by a language model, then screened.


localrules:
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


# A corpus that was paid for is not written again because this code was improved: these two rules carry no code digest.
rule write_stories:
    input:
        prompt="resources/prompts/story.j2",
    output:
        "results/corpora/{corpus}/raw_stories.parquet",
    log:
        "results/logs/write_stories/{corpus}.log",
    benchmark:
        "results/benchmarks/write_stories/{corpus}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.written_corpora,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("write_stories"),
        concurrency=WORKFLOW.concurrency,
    params:
        spec=WORKFLOW.stories_spec,
    script:
        "../scripts/write_stories.py"


rule write_dialogues:
    input:
        prompt="resources/prompts/neutral_dialogue.j2",
        topics="resources/prompts/neutral_topics.txt",
    output:
        "results/corpora/{corpus}/raw_neutral.parquet",
    log:
        "results/logs/write_dialogues/{corpus}.log",
    benchmark:
        "results/benchmarks/write_dialogues/{corpus}.tsv"
    wildcard_constraints:
        corpus=WORKFLOW.written_corpora,
    conda:
        "../envs/cpu.yaml"
    envmodules:
        *WORKFLOW.modules("cpu"),
    resources:
        **WORKFLOW.requests("write_dialogues"),
        concurrency=WORKFLOW.concurrency,
    params:
        spec=WORKFLOW.dialogues_spec,
    script:
        "../scripts/write_dialogues.py"


rule screen_corpus:
    input:
        stories="results/corpora/{corpus}/raw_stories.parquet",
        neutral="results/corpora/{corpus}/raw_neutral.parquet",
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
