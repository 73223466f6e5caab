# make                        all that is missing: environment, data, executed notebook,
#                             PDFs and zip in build/
# make DATA_SIZE=coursework   the same on data of the course's size, made in data/
# make submission             PDFs and zip of coursework2.ipynb as you ran it in Jupyter
# make test                   lint and tests
# make bench                  how fast this machine trains the model
# make release                the released run in checkpoints/: trains what is missing of
#                             it, then renews coursework2.ipynb, report.pdf and
#                             checkpoints/released
# make environment            only the Python environment, .venv
#
# Settings of the notebook can be given: make EPOCHS=3 SEED=1 DATA_DIR=<TFRecords>
# CHECKPOINT_DIR=<run>. PYTHON=<interpreter> is the one that makes .venv.

PYTHON = python3
DATA_DIR = data
CHECKPOINT_DIR = $(if $(filter submission,$(MAKECMDGOALS)),checkpoints,build/checkpoints)
LONGER_EPOCHS = 0
DATA_SIZE = $(if $(filter release,$(MAKECMDGOALS)),coursework)
override DATA_DIR := $(patsubst ~/%,$(HOME)/%,$(DATA_DIR))
override CHECKPOINT_DIR := $(patsubst ~/%,$(HOME)/%,$(CHECKPOINT_DIR))

NUMBERS = EPOCHS BATCH_SIZE LEARNING_RATE SEED DEMONSTRATION_EPOCHS SQUARES_EPOCHS
is-given = $(filter command,$(origin $(1)))
GIVEN = $(foreach name,$(NUMBERS),$(if $(call is-given,$(name)),-p $(name) "$($(name))"))
PARAMETERS = -r DATA_DIR "$(DATA_DIR)" -r CHECKPOINT_DIR "$(CHECKPOINT_DIR)" \
  -p LONGER_EPOCHS "$(LONGER_EPOCHS)" $(GIVEN) \
  $(if $(call is-given,PRECISION),-r PRECISION "$(PRECISION)")

RUN := .venv/bin/python
FIGURES := figures/model.png figures/resblock.png
CUDA := $(if $(shell command -v nvidia-smi),.venv/installed-cuda)
# Python may have been upgraded or removed since .venv was made.
FIND = import importlib.util, sys; sys.exit(not importlib.util.find_spec("tensorflow"))
BROKEN := $(shell $(RUN) -c '$(FIND)' 2>/dev/null || echo FORCE)

# What would send packages elsewhere, or other packages here.
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_NO_DEPS
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export IPYTHONDIR := $(CURDIR)/build/ipython
.DELETE_ON_ERROR:
.PHONY: all submission environment test bench release FORCE

all: $(addprefix build/,submission.zip coursework2.pdf report.pdf)
	@printf '%-24s%s\n' 'Executed notebook' build/coursework2.ipynb \
	  'The same as a PDF' build/coursework2.pdf 'Report' build/report.pdf \
	  'To upload' build/submission.zip 'Log and checkpoints' "$(CHECKPOINT_DIR)"

submission: $(addprefix build/jupyter/,submission.zip coursework2.pdf report.pdf)
	@echo 'To upload: build/jupyter/submission.zip'

environment: .venv/installed $(CUDA)

.venv/installed: requirements.txt $(BROKEN)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo 'error: $(PYTHON) is not Python 3.11 to 3.13: try make PYTHON=python3.12'; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo 'error: $(PYTHON) cannot make environments: apt install python3-venv'; \
	    exit 1; }
	rm -rf .venv && $(PYTHON) -m venv .venv
	@echo 'Installing requirements.txt into .venv, which takes one to three minutes'
	@$(RUN) -m pip install -qq -r requirements.txt
	@$(RUN) -c '$(FIND)' || { echo 'error: pip installed elsewhere: see pip config list'; \
	  exit 1; }
	@cp $< $@

.venv/installed-cuda: .venv/installed
	$(RUN) -m pip install -qq -c requirements.txt 'tensorflow[and-cuda]'
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed $(CUDA)
	@$(RUN) -m pip install -qq -r requirements-dev.txt
	@cp $< $@

# Rewritten when the data changed, so that all that was made of other data is made anew.
build/data.json: .venv/installed $(CUDA) FORCE
	@$(RUN) -m clevr prepare "$(DATA_DIR)" $(if $(DATA_SIZE),--size $(DATA_SIZE)) --state $@

build/parameters: FORCE
	@mkdir -p build
	@echo '$(PARAMETERS)' | cmp -s - $@ || echo '$(PARAMETERS)' > $@

# TensorFlow's import notices go to the terminal, not into the notebook.
build/ipython:
	@mkdir -p $@/profile_default
	@echo 'c.IPKernelApp.capture_fd_output = False; c.IPKernelApp.log_level = 40' \
	  > $@/profile_default/ipython_kernel_config.py

define execute
@$(RUN) -m papermill coursework2.ipynb build/executing.ipynb --kernel python3 $(1) \
  --no-progress-bar --log-level ERROR --stdout-file - || { echo 'The run has stopped;' \
  'the reason is above. The same command resumes it after its last finished epoch.' \
  'If the kernel died, memory may have been short: close other programs.'; exit 1; }
@$(RUN) -m nbconvert --log-level ERROR --to notebook --inplace --coalesce-streams \
  build/executing.ipynb
endef

build/coursework2.ipynb: coursework2.ipynb film_layers.py $(FIGURES) build/parameters \
  build/data.json | build/ipython
	$(call execute,$(PARAMETERS))
	@mv build/executing.ipynb $@

build/jupyter/coursework2.ipynb: coursework2.ipynb .venv/installed
	@mkdir -p $(@D) && cp -r $< figures $(@D)
	@$(RUN) -m nbconvert --log-level ERROR --to notebook --inplace --coalesce-streams $@

RELEASED = checkpoints/released/evaluation.json
NOTE = Another run than the released one: sentences about the released run are not about it.

%/coursework2.pdf: %/coursework2.ipynb report/notebook_pdf.py $(wildcard report/typst/*)
	@cmp -s "$(CHECKPOINT_DIR)/evaluation.json" $(RELEASED) && note= || note='$(NOTE)'; \
	  $(RUN) report/notebook_pdf.py $< $@ $${note:+--note "$$note"}

%/report.pdf: %/coursework2.ipynb $(wildcard report/*.typ) report/make_report.py
	@$(RUN) report/make_report.py "$(CHECKPOINT_DIR)" $@

# Beside the three to be read, what the notebook needs to be run again.
%/submission.zip: %/coursework2.ipynb %/coursework2.pdf %/report.pdf
	@rm -rf $@ $(@D)/figures && mkdir $(@D)/figures && cp $(FIGURES) $(@D)/figures
	@$(RUN) -m zipfile -c $@ $^ film_layers.py $(@D)/figures

test: .venv/installed-dev
	$(RUN) -m ruff format --check
	$(RUN) -m ruff check
	$(RUN) -m pytest

bench: environment build/data.json
	$(RUN) benchmarks/throughput.py "$(DATA_DIR)"

# Executes twice: the second time, the last epoch is trained again, so that the notebook
# shows how a run resumes. It must come out the same.
release: build/data.json | build/ipython
	$(call execute)
	@rm -rf checkpoints/released && mkdir -p checkpoints/released/question_only
	@cp checkpoints/*.json checkpoints/training_log.csv checkpoints/epoch_20.keras \
	  $$(ls checkpoints/epoch_*.keras | tail -n 1) checkpoints/released
	@cd checkpoints/question_only && cp settings.json training_log.csv \
	  $$(ls epoch_*.keras | tail -n 1) ../released/question_only
	@for run in checkpoints checkpoints/question_only; do \
	  sed '$$d' $$run/training_log.csv > $$run/log.tmp; \
	  mv $$run/log.tmp $$run/training_log.csv; \
	  rm $$(ls $$run/epoch_*.keras | tail -n 1); done
	$(call execute)
	@cmp checkpoints/evaluation.json $(RELEASED)
	@mv build/executing.ipynb coursework2.ipynb
	$(RUN) report/make_report.py checkpoints report.pdf
