"""`python -m cnnzoo.run`: somebody else's script, with the zoo registered and otherwise none the wiser."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys, timm
import beside
print(__name__, __file__, sys.argv, beside.WORD, sys.modules["__main__"].__dict__ is globals(), sys.path[0])
print(timm.create_model("lenet_tiny", in_chans=3).pretrained_cfg["input_size"]) if "zoo" in sys.argv else None
sys.exit(len(sys.argv))
"""


def start(command, cwd, **variables):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), **variables)
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def script(tmp_path):
    """A script in a folder of its own, which imports what lies beside it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "beside.py").write_text("WORD = 'found'\n")
    (folder / "script.py").write_text(SCRIPT)
    return "theirs/script.py"


def test_a_script_sees_what_it_sees_when_it_is_started_directly(script, tmp_path):
    direct = start([script, "--a", "b c"], tmp_path)
    run = start(["-m", "cnnzoo.run", script, "--a", "b c"], tmp_path)
    assert direct.returncode == 3, direct.stderr
    assert (run.returncode, run.stderr) == (direct.returncode, direct.stderr)
    path = str(tmp_path / script)
    assert run.stdout.replace(path, script) == direct.stdout.replace(path, script)


def test_a_script_finds_the_zoo_in_timm(script, tmp_path):
    run = start(["-m", "cnnzoo.run", script, "zoo"], tmp_path)
    assert run.stdout.splitlines()[-1] == "(3, 28, 28)", run.stderr
    assert "lenet_tiny" in start([script, "zoo"], tmp_path).stderr  # not without it


@pytest.mark.parametrize(("given", "status"), [([], 2), (["no_such.py"], 1)])
def test_a_missing_script_is_one_line(given, status, tmp_path):
    run = start(["-m", "cnnzoo.run", *given], tmp_path)
    assert run.returncode == status
    assert "python -m cnnzoo.run SCRIPT ARGS..." in run.stdout + run.stderr
    assert "Traceback" not in run.stderr and (status != 1 or len(run.stderr.splitlines()) == 1)
