"""What the modules may know of each other, how long they may be, and what `import cnnzoo` may cost."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cnnzoo

PACKAGE = Path(cnnzoo.__file__).parent

# A module imports only from modules before it. A new module is put where it belongs.
ORDER = (
    "process", "version", "progress", "errors", "files", "client", "memory", "folding", "layers", "summary",
    "primitives", "datasets", "resnet8", "recipes", "checkpoints", "storage", "metrics", "data", "inference", "models",
    "configs", "remote", "resolve", "registry", "holdout", "evaluate", "predict", "photos", "robustness", "published",
    "canvas", "frontier", "plots", "drawings", "hub", "train", "reproduce", "exporting", "bench", "app", "cli", "run",
)  # fmt: skip
APART = ({"data", "models"},)  # neither imports the other, whatever the order

FILES = sorted(p for p in PACKAGE.rglob("*.py"))
# Everything in the package but the re-exports of __init__.py and the starter of `python -m cnnzoo`.
MODULES = [p for p in FILES if p.relative_to(PACKAGE).parts not in (("__init__.py",), ("__main__.py",))]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def top(path: Path) -> str:
    """The module of a file, or the folder it is in: its place in the order."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The cnnzoo modules that a file imports anywhere, inside functions included, by their place in the order."""
    package = ["cnnzoo", *path.relative_to(PACKAGE).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names = [".".join(base + [alias.name]) for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("cnnzoo.")}
    return found


@pytest.mark.parametrize("path", [p for p in MODULES if relative(p) != "files.py"], ids=relative)
def test_json_is_read_in_one_place(path):
    """Only `files.parse_json` bears what a stranger may have written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) == "json")


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_imports_only_from_modules_above_it(path):
    me = top(path)
    assert me in ORDER, f"{relative(path)} has no place in ORDER; put {me!r} below everything it imports"
    for other in imported(path) - {me}:
        assert other in ORDER, f"{relative(path)} imports cnnzoo.{other}, which is no module of the package"
        assert ORDER.index(other) < ORDER.index(me), f"{relative(path)} imports {other}, which stands below it in ORDER"
        assert not any({me, other} <= pair for pair in APART), f"{relative(path)} imports {other}; they are kept apart"


@pytest.mark.parametrize("path", [p for p in MODULES if top(p) == "models" and not p.name.startswith("_")], ids=relative)
def test_a_family_imports_no_other_family(path):
    families = {p.stem for p in (PACKAGE / "models").glob("*.py") if not p.name.startswith("_")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            assert not families & set(names), f"{relative(path)} imports {names}: what two families share is in layers.py"


def test_the_check_sees_imports_of_every_form(tmp_path, monkeypatch):
    source = (
        "import cnnzoo.data\nfrom cnnzoo import train\nfrom . import hub\nfrom .models._convnet import x\n"
        "def f():\n    from .cli import main\nimport torch\nfrom timm.models import y\n"
    )
    (tmp_path / "probe.py").write_text(source)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "probe.py").write_text("from ..data import x\nfrom .. import bench\nfrom ._convnet import y\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert imported(tmp_path / "probe.py") == {"data", "train", "hub", "models", "cli"}
    assert imported(tmp_path / "models" / "probe.py") == {"data", "bench", "models"}


TESTS = sorted(Path(__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_and_no_function_is_too_long_to_read(path):
    text = path.read_text(encoding="utf-8")
    family = path in FILES and top(path) == "models" and not path.name.startswith("_")
    limit = 200 if family else 400
    assert len(text.splitlines()) <= limit, f"{path.name} has {len(text.splitlines())} lines, allowed are {limit}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{path.name}: {node.name} has {lines} lines, allowed are 60"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_what_the_messages_tell_people_to_type_exists(path):
    known = {"cnnzoo." + name for name in (*cnnzoo.__all__, *(top(p) for p in MODULES))}
    docstrings = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstrings.add(id(node.body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            for word in node.value.replace("(", " ").replace("'", " ").replace("`", " ").split():
                if word.startswith("cnnzoo.") and len(word) > len("cnnzoo."):
                    name = ".".join(word.rstrip(".,;:)").split(".")[:2])
                    assert name in known, f"{relative(path)}:{node.lineno} tells people to type {word}, which does not exist"


def test_every_module_for_people_is_an_attribute_after_a_bare_import_and_in_dir():
    # predict is the function
    inner = {"canvas", "cli", "client", "frontier", "holdout", "published", "predict", "remote", "run", "storage"}
    names = sorted({top(p) for p in MODULES} - inner)
    code = f"import cnnzoo; assert set({names}) <= set(dir(cnnzoo)); print(*(getattr(cnnzoo, n).__name__ for n in {names}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert shown == [f"cnnzoo.{name}" for name in names]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnnzoo.nothing  # noqa: B018


# -- the cost of the import ----------------------------------------------------------------------------------------------

_MEASURE = """
import json, sys
import socket
def refuse(*args): raise OSError("the import tried the network")
socket.socket.connect = socket.getaddrinfo = refuse
import timm
before = set(sys.modules)
import cnnzoo
print(json.dumps(dict(file=cnnzoo.__file__, new=sorted(set(sys.modules) - before))))
"""


def test_the_import_adds_only_light_modules_of_our_own_to_timms_and_touches_no_network():
    run = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert Path(found["file"]) == Path(cnnzoo.__file__)
    tops = {name.split(".")[0] for name in found["new"]}
    assert tops - set(sys.stdlib_module_names) == {"cnnzoo"}
    heavy = {"app", "bench", "cli", "client", "hub", "plots", "reproduce", "train"}
    assert not heavy & {name.split(".")[1] for name in found["new"] if name.startswith("cnnzoo.")}
