# make                        whatever is missing: environment, data, executed notebook, PDFs, zip
# make DATA_SIZE=coursework   the same at the size of the course's own data: the run in checkpoints/
# make test                   the tests
# make bench                  how fast this machine trains, and how fast it could
#
# make environment            only the Python environment, .venv
#
# Choices: DATA_DIR=<TFRecords> CHECKPOINT_DIR=<run> EPOCHS=<number> PYTHON=<interpreter>

PYTHON ?= python3
DATA_SIZE ?= small
DATA_DIR ?= data
EPOCHS ?= 20
SEED := 2

ifeq ($(DATA_SIZE),small)
TRAIN_IMAGES := 512
VAL_IMAGES := 128
CHECKPOINT_DIR ?= build/checkpoints-small
else ifeq ($(DATA_SIZE),coursework)
TRAIN_IMAGES := 14950
VAL_IMAGES := 3750
CHECKPOINT_DIR ?= checkpoints
else
$(error DATA_SIZE is small or coursework, not $(DATA_SIZE))
endif

# CUDA's build of TensorFlow where there is an NVIDIA GPU
REQUIREMENTS := requirements-$(if $(shell command -v nvidia-smi),gpu,cpu).txt
RUN := .venv/bin/python
ENVIRONMENT := .venv/$(REQUIREMENTS)
DATA := build/data
LIST := wc -c $(DATA_DIR)/*/*tfrecords 2>/dev/null
OURS := [ -z '$(wildcard $(DATA_DIR)/train/*tfrecords)' ] || \
  grep -qs 'seed $(SEED), $(TRAIN_IMAGES) + $(VAL_IMAGES) images' $(DATA_DIR)/source.txt
DRAWINGS := figures/model.png figures/resblock.png
# Only what differs from the notebook's own settings is passed to it.
DEFAULTS := DATA_DIR=data CHECKPOINT_DIR=checkpoints EPOCHS=20
GIVEN = $(filter-out $(DEFAULTS),DATA_DIR=$(DATA_DIR) CHECKPOINT_DIR=$(CHECKPOINT_DIR) EPOCHS=$(EPOCHS))

.DELETE_ON_ERROR:
.PHONY: all environment test bench again

all: build/submission.zip
	@printf '%-26s%s\n' \
	  'Executed notebook' build/coursework2.ipynb \
	  'the same as a PDF' build/coursework2.pdf \
	  'Report' build/report.pdf \
	  'All of it, to upload' build/submission.zip \
	  'Log and models of the run' $(CHECKPOINT_DIR)

$(ENVIRONMENT): $(REQUIREMENTS) requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	  echo 'error: $(PYTHON) is not Python 3.10 to 3.13: try make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --disable-pip-version-check -r $(REQUIREMENTS)
	cp $< $@

# Data that somebody brought are taken as they are. Ours are made, or finished, if they are not whole.
# The target lists the files and their sizes, so that all that was made of other data is made anew.
$(DATA): $(ENVIRONMENT) again
	@mkdir -p build
	@if $(OURS); then \
	  $(LIST) | cmp -s - $@ || $(RUN) -m clevr check $(DATA_DIR) 2>/dev/null || { \
	    $(RUN) -m clevr generate build/clevr-$(DATA_SIZE) \
	      --train $(TRAIN_IMAGES) --val $(VAL_IMAGES) --seed $(SEED) && \
	    $(RUN) -m clevr convert build/clevr-$(DATA_SIZE) $(DATA_DIR) && \
	    $(RUN) -m clevr check $(DATA_DIR); }; \
	elif [ '$(origin DATA_SIZE)' = 'command line' ]; then \
	  echo 'error: $(DATA_DIR) holds other data: empty it, or name another with DATA_DIR=...'; exit 1; \
	else \
	  $(LIST) | cmp -s - $@ || $(RUN) -m clevr check $(DATA_DIR); \
	fi
	@$(LIST) | cmp -s - $@ || $(LIST) > $@

build/settings: again
	@mkdir -p build
	@echo '$(GIVEN)' | cmp -s - $@ || echo '$(GIVEN)' > $@

build/coursework2.ipynb: coursework2.ipynb film_layers.py hardware.py $(DRAWINGS) build/settings $(DATA)
	$(RUN) -m papermill $< build/executing.ipynb --log-output --progress-bar \
	  $(foreach pair,$(GIVEN),-p $(subst =, ,$(pair)))
	mv build/executing.ipynb $@

build/coursework2.pdf: build/coursework2.ipynb report/notebook_pdf.py $(wildcard report/typst/*)
	$(RUN) report/notebook_pdf.py $< $@

build/report.pdf: build/coursework2.ipynb report/build.py report/report.typ
	$(RUN) report/build.py $(CHECKPOINT_DIR) $@

# Beside the three to be read, what the notebook needs to be run again
build/submission.zip: build/coursework2.ipynb build/coursework2.pdf build/report.pdf
	rm -rf $@ build/figures && mkdir build/figures && cp $(DRAWINGS) build/figures
	$(RUN) -m zipfile -c $@ $^ film_layers.py hardware.py build/figures

environment: $(ENVIRONMENT)

test: $(ENVIRONMENT)
	$(RUN) -m pytest

bench: $(ENVIRONMENT)
	$(RUN) benchmarks/throughput.py
