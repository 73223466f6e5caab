# make                        all that is missing: environment, data, executed notebook, PDFs, zip
# make DATA_SIZE=coursework   the same at the size of the course's data
# make test                   lint and tests
# make bench                  how fast this machine trains, and how fast it could
# make release                make DATA_SIZE=coursework in checkpoints/, then checks the saved model and copies
#                             notebook and report here
# make environment            only the Python environment, .venv
#
# Settings: DATA_DIR=<TFRecords> CHECKPOINT_DIR=<run> EPOCHS=<number> PYTHON=<interpreter of a new .venv>

DATA_SIZE = $(if $(filter release,$(MAKECMDGOALS)),coursework)
DATA_DIR = data
CHECKPOINT_DIR = $(if $(filter release,$(MAKECMDGOALS)),checkpoints,build/checkpoints)
EPOCHS = 20
PYTHON = python3

RUN := .venv/bin/python
CUDA := $(if $(shell command -v nvidia-smi),.venv/installed-cuda)
FIGURES := figures/model.png figures/resblock.png
# Only what differs from the notebook's own settings is passed to it.
PARAMETERS = $(if $(filter-out data,$(DATA_DIR)),-r DATA_DIR "$(DATA_DIR)") \
  $(if $(filter-out checkpoints,$(CHECKPOINT_DIR)),-r CHECKPOINT_DIR "$(CHECKPOINT_DIR)") \
  $(if $(filter-out 20,$(EPOCHS)),-p EPOCHS "$(EPOCHS)")

export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DELETE_ON_ERROR:
.PHONY: all environment test bench release FORCE

all: build/submission.zip
	@printf '%-24s%s\n' 'Executed notebook' build/coursework2.ipynb 'The same as a PDF' build/coursework2.pdf \
	  'Report' build/report.pdf 'To upload' build/submission.zip 'Log and checkpoints' "$(CHECKPOINT_DIR)"

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo 'error: $(PYTHON) is not Python 3.10 to 3.13: try make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo 'error: $(PYTHON) cannot make environments: install its venv package (apt install python3-venv)'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@echo 'Installing requirements.txt into .venv, which takes one to three minutes'
	@$(RUN) -m pip install -qq -r requirements.txt
	@cp $< $@

.venv/installed-cuda: .venv/installed
	$(RUN) -m pip install -qq -c requirements.txt 'tensorflow[and-cuda]'
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed $(CUDA)
	@$(RUN) -m pip install -qq -r requirements-dev.txt
	@cp $< $@

environment: .venv/installed $(CUDA)

# Rewritten when the data changed, so that all that was made of other data is made anew.
build/data.json: .venv/installed $(CUDA) FORCE
	@$(RUN) -m clevr prepare "$(DATA_DIR)" $(if $(DATA_SIZE),--size $(DATA_SIZE)) --state $@

build/parameters: FORCE
	@mkdir -p build
	@echo '$(PARAMETERS)' | cmp -s - $@ || echo '$(PARAMETERS)' > $@

build/coursework2.ipynb: coursework2.ipynb film_layers.py $(FIGURES) build/parameters build/data.json
	@$(RUN) -m papermill $< build/executing.ipynb --kernel python3 $(PARAMETERS) \
	  --no-progress-bar --log-level ERROR --stdout-file -
	@mv build/executing.ipynb $@

build/coursework2.pdf: build/coursework2.ipynb report/notebook_pdf.py $(wildcard report/typst/*)
	@$(RUN) report/notebook_pdf.py $< $@

build/report.pdf: build/coursework2.ipynb $(wildcard report/*.typ) report/build.py
	@$(RUN) report/build.py "$(CHECKPOINT_DIR)" $@

# Beside the three to be read, what the notebook needs to be run again
build/submission.zip: build/coursework2.ipynb build/coursework2.pdf build/report.pdf
	@rm -rf $@ build/figures && mkdir build/figures && cp $(FIGURES) build/figures
	@$(RUN) -m zipfile -c $@ $^ film_layers.py build/figures

test: .venv/installed-dev
	$(RUN) -m ruff check
	$(RUN) -m pytest

bench: environment build/data.json
	$(RUN) benchmarks/throughput.py "$(DATA_DIR)"

release: all
	$(RUN) tests/alone.py "$(CHECKPOINT_DIR)" "$(DATA_DIR)"
	cp -p build/coursework2.ipynb build/report.pdf .
