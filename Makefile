.DEFAULT_GOAL := help
PY := .venv/bin
export UV_PYTHON_DOWNLOADS := never

help: ## what each target does
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.venv/ready: requirements.lock pyproject.toml
	python3 -m venv .venv
	$(PY)/pip install --quiet uv
	$(PY)/python -m uv pip install --quiet --python $(PY)/python --require-hashes -r requirements.lock
	$(PY)/python -m uv pip install --quiet --python $(PY)/python --no-deps --no-build-isolation -e .
	$(PY)/python -c "from stream.app import compile_kernels; compile_kernels()" # once: it takes some seconds
	touch $@

setup: .venv/ready ## make .venv from the lock and install burnguard into it

services: setup ## fetch what tests start themselves: Apache Kafka's jars (needs Java and Maven), PostgreSQL (where apt is), LiteLLM and OpenTelemetry (700 MB)
	$(PY)/python -m examples.kafka.broker fetch
	$(PY)/python -m tests.postgres fetch
	$(PY)/python -m tests.senders fetch

kafka-up: setup ## start a Kafka broker on this machine
	$(PY)/python -m examples.kafka.broker up

kafka-down: setup ## stop it
	$(PY)/python -m examples.kafka.broker down

check: setup ## format, lint, types and import rules, as CI runs them
	$(PY)/ruff format --check .
	$(PY)/ruff check .
	$(PY)/mypy
	$(PY)/lint-imports

test: setup ## all tests: first what needs no broker, on two cores, then what needs one
	$(PY)/pytest -q -n 2 -m "not kafka and not chaos"
	$(PY)/pytest -q -m "kafka or chaos"

demo: setup ## a stolen key burns, is noticed, throttled and released in a minute and a half; KAFKA=1: through Kafka, killing a worker
	$(PY)/python -m examples.demo.$(if $(KAFKA),with_kafka,demo)

lock: ## write requirements.lock again from pyproject.toml
	$(PY)/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --group dev pyproject.toml -o requirements.lock

.PHONY: help setup services kafka-up kafka-down check test demo lock
