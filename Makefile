PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPEC ?= search/specs/ae.yaml

.PHONY: install sweep study docs bench bench-search test test-slow test-long test-cluster test-faults fuzz check format clean

install: $(STAMP)

# Made anew only when the project's dependencies change, so it costs nothing otherwise.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The main job: a cross-validated sweep on FashionMNIST, the best configuration refitted and tested once.
sweep: install
	$(BIN)/foldrace sweep $(SPEC) --refit

# The whole reference study: four sweeps, refits, reports, and a page that tells its story. Goes on where it stopped.
study: install
	$(BIN)/foldrace study

# A sweep against Optuna alone and plain Ray Tune, three seeds of each: the better part of an hour on two cores.
bench-search: install
	$(BIN)/python -m tests.benchmarks.search runs/bench-search

# The training step, what a trial costs beside it, how sweeps grow, the shared data, the study against a notebook's way:
# each side by side with its rival. Three hours on two cores, which it wants for itself; each line runs alone as well.
bench: install
	$(BIN)/python -m tests.benchmarks.step runs/bench
	$(BIN)/python -m tests.benchmarks.overhead runs/bench
	$(BIN)/python -m tests.benchmarks.scaling runs/bench
	$(BIN)/python -m tests.benchmarks.sharing runs/bench
	$(BIN)/python -m tests.benchmarks.outage runs/bench
	$(BIN)/python -m tests.benchmarks.determinism runs/bench
	$(BIN)/python -m tests.benchmarks.study runs/bench

# In two processes, of which one has the tests of whole sweeps.
test: install
	$(BIN)/python -m pytest -n 2

# What takes minutes: a whole study in small, comparisons, resuming, the reports in a browser (needs Chromium).
test-slow: install
	$(BIN)/python -m pytest -n 2 -m slow

# Every configuration of what `test` and `test-slow` try some of: 6,000 of the CPU layers, 288 of fused folds, and a metric
# and its negative under each sampler and scheduler; the study's benchmark in small. A quarter of an hour on two cores.
test-long: install
	$(BIN)/python -m pytest -n 2 -m long

# `ray up` on three machines and a laptop that are namespaces of this one: needs root, openssh-server, rsync, iproute2 and
# PostgreSQL, and says so, loudly, where it lacks one.
test-cluster: install
	$(BIN)/python -m pytest -m cluster -rs tests/cluster

# Kills workers, drivers and Ray, cuts the power, fills the disk: 60 sweeps hurt at random, each compared with one that
# was left alone. The better part of an hour on two cores; the seed is printed, and SEED=N repeats it.
test-faults: install
	$(BIN)/python -m tests.faults --sweeps 60 $(if $(SEED),--seed $(SEED)) --output runs/faults

# 10,000 sweep files, 500 data sets, 1,000 folders of images, 500 records and 500 tasks that are damaged or made to harm, and
# 150 environments and terminals that nobody set up with care.
fuzz: install
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED))

check: install .types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The folders at the address that they are imported by, as links: mypy does not follow an editable install's mapping.
.PHONY: .types
.types:
	@rm -rf .types && mkdir -p .types/foldrace
	@ln -sfn $(foreach name,$(wildcard foldrace/*) trainables search analysis cluster,$(CURDIR)/$(name)) .types/foldrace

# The documentation as a site in site/; any warning fails it.
docs: install .types
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .types site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
