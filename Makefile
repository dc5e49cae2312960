# `make run` and `make test` set everything up in .venv by themselves.
PYTHON ?=
ARGS ?=

.PHONY: run test test-cluster test-chaos lint setup

# The whole way, from images to an ensemble, on faces drawn by the program itself.
run: .venv/.ready
	.venv/bin/raysearch tune $(ARGS)

# Without ARGS everything, in two processes side by side.
test: lint
	.venv/bin/python $(if $(ARGS),-m pytest $(ARGS),.ci/test.py)

# Everything that can happen to a cluster, on machines made out of namespaces; needs root.
test-cluster: .venv/.ready
	.venv/bin/python -m pytest tests/cluster -m cluster $(ARGS)

# Searches killed 200 times, and 20 times with all of Ray; trials by Ray Train stopped, killed, hung.
test-chaos: .venv/.ready
	RAYSEARCH_KILLS=200 RAYSEARCH_COMMAND_KILLS=20 .venv/bin/python -m pytest \
		tests/search/test_kills.py tests/search/test_killed_commands.py tests/search/test_ledger.py \
		tests/search/test_stops.py tests/search/test_population.py tests/search/test_failures.py \
		tests/search/test_tuner.py -m 'chaos or not chaos' -o timeout=3000 $(ARGS)

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt .ci/setup.sh
	@.ci/setup.sh $(PYTHON)
	@touch $@
