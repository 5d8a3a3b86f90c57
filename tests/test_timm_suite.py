"""timm's own tests/test_models.py, of exactly the installed timm, run on the zoo: no model and no test of it left out.

The tests are not in timm's wheel, so they come from its sdist: CNNZOO_TIMM_SDIST is the path of the archive or of its
unpacked folder; without it, the slow tests `pip download` the archive once into pytest's cache. Where there is none, all are
skipped.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import timm
from helpers import MODELS, REPRESENTATIVES, native_size

import cnnzoo

# One report for all of them, so one process; conftest.py has it start first, since it takes longest.
pytestmark = [pytest.mark.timeout(7200), pytest.mark.xdist_group("timm")]

# The tests that must have seen every model, with what each is about.
EVERY_MODEL = (
    "test_model_forward", "test_model_backward", "test_model_default_cfgs", "test_model_forward_torchscript",
    "test_model_forward_features", "test_model_forward_intermediates_features", "test_model_forward_intermediates",
    "test_prune_intermediate_layers_contract", "test_model_forward_fx", "test_model_backward_fx",
    "test_model_forward_fx_torchscript",
)  # fmt: skip
SIZE_LIMIT = "Fixed input size model > limit."  # the only reason for which timm's tests may skip a model


def find_sdist(cache: Path, download: bool) -> Path:
    """The sdist of the installed timm: an archive, or an unpacked folder."""
    if given := os.environ.get("CNNZOO_TIMM_SDIST"):
        if not Path(given).exists():
            pytest.fail(f"CNNZOO_TIMM_SDIST={given} does not exist; point it to timm-{timm.__version__}.tar.gz.")
        return Path(given)
    archive = cache / f"timm-{timm.__version__}.tar.gz"
    if not archive.is_file() and download:
        wanted = f"timm=={timm.__version__}"
        command = [sys.executable, "-m", "pip", "download", "--no-binary", "timm", "--no-deps", "--dest", str(cache), wanted]
        subprocess.run(command, capture_output=True, env=dict(os.environ, CNNZOO_TESTS_ONLINE="1"))
    if not archive.is_file():
        pytest.skip(
            f"needs {archive.name}, which has timm's tests: set CNNZOO_TIMM_SDIST, or let `pytest -m slow` download it"
        )
    return archive


def unpack_tests(sdist: Path, into: Path) -> None:
    """Puts timm's tests and their settings into a folder, and nothing of its code, which would hide the installed timm."""
    if sdist.is_dir():
        members = {p.relative_to(sdist).as_posix(): p.read_bytes() for p in sdist.rglob("*") if p.is_file()}
    else:
        with tarfile.open(sdist) as tar:
            members = {m.name.partition("/")[2]: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    version = re.search(r"__version__ = ['\"](.+)['\"]", members.get("timm/version.py", b"").decode())
    found = version.group(1) if version else "none"
    assert found == timm.__version__, f"{sdist} is timm {found}, installed is {timm.__version__}"
    for name, content in members.items():
        if name in ("tests/__init__.py", "tests/conftest.py", "tests/test_models.py", "pyproject.toml"):
            (into / name).parent.mkdir(exist_ok=True)
            (into / name).write_bytes(content)


@pytest.fixture(scope="module", params=["representatives", pytest.param("all", marks=pytest.mark.slow)])
def models(request: pytest.FixtureRequest) -> list[str]:
    """The models that timm's tests are run on."""
    return MODELS if request.param == "all" else sorted(REPRESENTATIVES)


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest, models: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What timm's tests said about those models."""
    folder = tmp_path_factory.mktemp("timm")
    unpack_tests(find_sdist(request.config.cache.mkdir("timm_sdist"), download=models == MODELS), folder)
    own, package = Path(__file__).parent, Path(cnnzoo.__file__).parent.parent
    path = folder / "report.json"
    env = {k: v for k, v in os.environ.items() if k not in ("GITHUB_ACTIONS", "PYTEST_ADDOPTS")}  # either drops tests
    paths = [str(own), str(package), *filter(None, [env.get("PYTHONPATH")])]
    env.update(PYTHONPATH=os.pathsep.join(paths), CNNZOO_CONTRACT_REPORT=str(path), HF_HUB_OFFLINE="1", TIMEOUT="600")
    env.update(CNNZOO_CONTRACT_MODELS=" ".join(models))
    command = [sys.executable, "-m", "pytest", "-p", "timm_contract_plugin", "-p", "no:cacheprovider", "-q", "--tb=short"]
    command += ["-W", "ignore", "-c", "pyproject.toml", "--rootdir", str(folder), "tests/test_models.py"]
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert path.is_file(), f"timm's tests did not run:\n{run.stdout[-5000:]}{run.stderr[-5000:]}"
    return dict(json.loads(path.read_text()), exit_code=run.returncode, output=run.stdout[-5000:] + run.stderr[-5000:])


def test_timms_tests_ran_on_the_copy_under_test(report, models):
    assert report["cnnzoo"] == cnnzoo.__file__
    assert report["timm"] == timm.__version__
    assert report["models"] == models


def test_timms_tests_leave_no_model_of_ours_out(report, models):
    assert report["tests"], "no test of timm's was collected for the zoo"
    for test in EVERY_MODEL:
        seen = {t["model"] for t in report["tests"] if t["test"] == test}
        assert seen == set(models), f"{test} did not see {sorted(set(models) - seen)}"


def test_every_pretrained_model_is_loaded_by_timms_tests(report, models):
    seen = {t["model"] for t in report["tests"] if t["test"] == "test_model_load_pretrained"}
    assert seen == {name.split(".")[0] for name in cnnzoo.list_pretrained()} & set(models)


def test_every_test_of_timms_passes_on_every_model_of_ours(report):
    bad = [t for t in report["tests"] if t["outcome"] != "passed" and SIZE_LIMIT not in t["detail"]]
    failed = [f"{t['test']}[{t['model']}] {t['outcome']}\n{t['detail']}" for t in bad]
    assert not failed, "\n\n".join([f"{len(failed)} of {len(report['tests'])} failed", *failed])
    assert report["exit_code"] == 0, report["output"]


def test_only_timms_limit_of_image_size_skips_a_test(report):
    skipped = [t for t in report["tests"] if t["outcome"] == "skipped"]
    for t in skipped:
        assert SIZE_LIMIT in t["detail"], t
        assert native_size(t["model"])[1] > 200, f"{t['test']} skips {t['model']}, which is small enough"
    print(f"passed and skipped: {Counter(t['outcome'] for t in report['tests'])}")
