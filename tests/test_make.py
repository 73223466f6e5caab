"""The Makefile with a Python that only notes how it is called; README's lines."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

NOTE_CALL = """
import json, os, sys
with open(sys.argv[1], "a") as log:
    print(json.dumps([sys.argv[2:], dict(os.environ)]), file=log)
"""


@pytest.fixture
def project(tmp_path):
    """A copy of what make looks at, with an environment that is complete and fake."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "coursework2.ipynb", "film_layers.py", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("figures", "report"):
        shutil.copytree(ROOT / name, folder / name)
    make_fake_python(folder)
    (folder / ".venv" / "installed").touch()
    return folder


def make_fake_python(folder):
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = folder / "note_call.py"
    script.write_text(NOTE_CALL)
    command = f"exec '{sys.executable}' '{script}' '{folder / 'calls'}'"
    python.write_text(f'#!/bin/sh\n{command} "$@"\n')
    python.chmod(0o755)


def make(project, *arguments, **environment):
    return subprocess.run(
        ["make", *arguments],
        cwd=project,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def calls(project):
    """[arguments, environment] of each call of the fake Python."""
    lines = (project / "calls").read_text().splitlines()
    return [json.loads(line) for line in lines]


def parameters_of(project, *arguments, **environment):
    """{setting: value} that papermill gets; the rest of the build fails."""
    make(project, "build/coursework2.ipynb", *arguments, **environment)
    (call,) = [words for words, _ in calls(project) if words[:2] == ["-m", "papermill"]]
    flags = [i for i, word in enumerate(call) if word in ("-p", "-r")]
    return {call[i + 1]: call[i + 2] for i in flags}


def test_the_defaults_of_make_are_passed(project):
    defaults = {"DATA_DIR": "data", "CHECKPOINT_DIR": "build/checkpoints"}
    assert parameters_of(project) == defaults | {"LONGER_EPOCHS": "0"}


def test_every_setting_is_passed_whatever_its_value(project):
    given = {"EPOCHS": "20", "BATCH_SIZE": "64", "LEARNING_RATE": "3e-4", "SEED": "0"}
    given |= {"LONGER_EPOCHS": "40", "PRECISION": "float32", "SQUARES_EPOCHS": "0"}
    given |= {"DEMONSTRATION_EPOCHS": "3", "CHECKPOINT_DIR": "checkpoints"}
    given |= {"DATA_DIR": "~/my data"}
    arguments = [f"{name}={value}" for name, value in given.items()]
    expanded = os.path.expanduser(given["DATA_DIR"])
    assert parameters_of(project, *arguments) == given | {"DATA_DIR": expanded}


def test_the_users_settings_for_other_projects_do_not_reach_python(project):
    hostile = {"PYTHONPATH": "/x", "PYTHONHOME": "", "PIP_TARGET": "/x"}
    wanted = {"PIP_INDEX_URL": "https://x.invalid"}
    parameters_of(project, **hostile, **wanted)
    for words, environment in calls(project):
        if words[0] != "-c":  # make's own look at .venv comes before
            assert not hostile.keys() & environment.keys()
            assert environment["PIP_INDEX_URL"] == wanted["PIP_INDEX_URL"]


def test_an_environment_that_does_not_run_is_made_anew(project):
    assert "-m venv" not in make(project, "environment", "-n").stdout
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert "-m venv" in make(project, "environment", "-n").stdout


def test_zip_holds_what_is_read_and_what_runs(project):
    made = ["build/coursework2.ipynb", "build/coursework2.pdf", "build/report.pdf"]
    (project / "build").mkdir()
    for name in made:
        (project / name).write_text(name)
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(sys.executable)
    old = [word for name in made for word in ("-o", name)]
    make(project, "build/submission.zip", *old)
    names = set(zipfile.ZipFile(project / "build" / "submission.zip").namelist())
    files = {name for name in names if not name.endswith("/")}
    assert files == {
        "coursework2.ipynb",
        "coursework2.pdf",
        "report.pdf",
        "film_layers.py",
        "figures/model.png",
        "figures/resblock.png",
    }


def run_readme(words):
    """What README's lines print for these words."""
    (source,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    source = source.replace("what color is the large ball", words)
    return subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True
    )


def test_readme_asks_the_released_model():
    done = run_readme("what color is the large ball")
    settings = json.loads((ROOT / "checkpoints/released/settings.json").read_text())
    assert done.stdout.strip() in settings["answers"]
    assert done.stderr.count("\n") <= 2, done.stderr  # of nine when TensorFlow starts
    done = run_readme("what colour is the large ball")
    assert done.stderr.splitlines()[-1] == "unknown word: {'colour'}"
