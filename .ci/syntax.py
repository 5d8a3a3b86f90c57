"""Parses every source with the Python that runs this, and imports what needs no package. Usage: python .ci/syntax.py"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

root = Path(__file__).resolve().parent.parent
files = sorted((root / "cnnzoo").rglob("*.py"))
for path in files:
    compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
package = sys.modules["cnnzoo"] = ModuleType("cnnzoo")  # without __init__.py, which imports torch
package.__path__ = [str(root / "cnnzoo")]
names = ("version", "errors", "files", "published", "run")
for name in names:
    importlib.import_module(f"cnnzoo.{name}")
print(f"Python {sys.version.split()[0]}: {len(files)} files parsed, {', '.join(names)} imported")
