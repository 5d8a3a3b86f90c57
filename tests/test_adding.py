"""The README's steps for adding a model are true: its example, as a file, passes the contract."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CONTRACT = (TESTS / "test_contract.py", TESTS / "test_contract_features.py")
README = (TESTS.parent / "README.md").read_text(encoding="utf-8")

# Loaded before the tests look at the registry, as an import in cnnzoo/models/__init__.py would be.
PLUGIN = """
import importlib.util
import sys

import cnnzoo

spec = importlib.util.spec_from_file_location("cnnzoo.models.separable", {path!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
"""


def run_contract(tmp_path: Path, family: str) -> tuple[int, str]:
    """Exit code and output of the contract and budget tests of a family in a file of its own."""
    (tmp_path / "separable.py").write_text(family)
    (tmp_path / "with_separable.py").write_text(PLUGIN.format(path=str(tmp_path / "separable.py")))
    paths = [str(tmp_path), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pytest", "-p", "with_separable", "-p", "no:cacheprovider", "-n", "0", "-m", ""]
    command += [*map(str, CONTRACT), str(TESTS / "test_budgets.py"), "-k", "separable_tiny"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
    run = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture(scope="module")
def family() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if "@register_model" in block)


@pytest.mark.slow
def test_the_readmes_family_passes_the_contract(tmp_path, family):
    code, output = run_contract(tmp_path, family)
    assert code == 0, output
    contract = "".join(path.read_text() for path in CONTRACT)
    assert output.count(".") > contract.count("\ndef test_") / 2, output  # most clauses are per model, and ran


@pytest.mark.slow
def test_a_family_that_breaks_the_contract_fails(tmp_path, family):
    code, output = run_contract(tmp_path, family.replace("reduction=2 ** (i + 1)", "reduction=2"))
    assert code == 1, output
    assert "test_the_feature" in output or "reduction" in output
