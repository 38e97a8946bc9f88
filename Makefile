# Each target makes the environment that it needs in $(VENV), from the locked set in constraints.txt.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check clean

demo: $(VENV)/.core                ## install and transcribe real speech
	@echo; echo '$$ sewkit transcribe examples/*.flac'
	@$(VENV)/bin/sewkit transcribe examples/*.flac
	@echo; echo 'Next, your own audio. The bundled model knows digits and command words; for English sentences use a'
	@echo 'published model, downloaded once from the Hugging Face hub:'
	@echo '  $(VENV)/bin/sewkit transcribe YOUR.wav --model asapp/sew-d-tiny-100k-ft-ls100h'
	@echo '  $(VENV)/bin/sewkit transcribe FOLDER --model facebook/wav2vec2-base-960h --output-format srt'
	@echo '  $(VENV)/bin/sewkit --help'

test: $(VENV)/.dev                 ## install and run all tests
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev                ## format, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:                             ## remove the environment
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'installing sewkit into $(VENV): PyTorch is large, this takes a minute or more'
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'installing sewkit and its development tools into $(VENV): this takes a minute or more'
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.core $@
