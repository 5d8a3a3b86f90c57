"""A pytest plugin (`pytest -p timm_contract_plugin`) that points timm's own tests/test_models.py at the zoo.

timm's tests are parametrised by `timm.list_models(...)`, so this replaces the listing, before they import it, by one that
knows only the models that `import cnnzoo` added. Everything that would leave one of them out is dropped: timm's lists of
modules that are known to support a test, and its lists of names that are known to fail one. The environment variable
CNNZOO_CONTRACT_MODELS names the models that are looked at; what happened is written as JSON to the path in
CNNZOO_CONTRACT_REPORT.
"""

import fnmatch
import json
import os
from pathlib import Path

import pytest
import timm
import timm.models

_before = set(timm.list_models())
import cnnzoo  # noqa: E402

OURS = sorted((set(timm.list_models()) - _before) & set(os.environ["CNNZOO_CONTRACT_MODELS"].split()))
_list_models, _list_pretrained = timm.list_models, timm.list_pretrained


def list_models(
    filter="", module="", pretrained=False, exclude_filters="", name_matches_cfg=False, include_tags=None
) -> list[str]:
    """timm's, without `module` and `exclude_filters`, limited to the zoo."""
    listed = _list_models(filter, "", pretrained, "", name_matches_cfg, include_tags)
    return [name for name in listed if name.split(".")[0] in OURS]


def list_pretrained(filter="", exclude_filters="") -> list[str]:
    """timm's, without `exclude_filters`, limited to the zoo."""
    return [name for name in _list_pretrained(filter) if name.split(".")[0] in OURS]


for _module in (timm, timm.models):
    _module.list_models, _module.list_pretrained = list_models, list_pretrained


class Report:
    """Collects what ran and how it ended."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.tests: dict[str, dict[str, str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves out timm's tests of its own models by name."""
        ours = [item for item in items if _model_of(item) in OURS]
        config.hook.pytest_deselected(items=[item for item in items if item not in ours])
        items[:] = ours
        self.tests = {
            item.nodeid: dict(test=item.originalname, model=_model_of(item), outcome="not run", detail="") for item in items
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes the outcome; a failure in set-up or tear-down counts."""
        entry = self.tests[report.nodeid]
        if report.when == "call" or report.outcome != "passed":
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr  # a tuple where skipped
            entry.update(outcome=report.outcome, detail=str(why or "")[-3000:])

    def pytest_sessionfinish(self) -> None:
        """Writes the report."""
        report = dict(cnnzoo=cnnzoo.__file__, timm=timm.__version__, models=OURS, tests=list(self.tests.values()))
        self.path.write_text(json.dumps(report))


def _model_of(item: pytest.Item) -> str:
    name = item.callspec.params.get("model_name", "") if hasattr(item, "callspec") else ""
    return str(name).split(".")[0]


def pytest_configure(config: pytest.Config) -> None:
    """Refuses names that timm's filters treat specially, then starts the report."""
    special = ("test_*", "vit_*", "*mixer_*", "*huge*", "*giant*", "*pruned*")
    clash = [name for name in OURS if any(fnmatch.fnmatch(name, pattern) for pattern in special)]
    if clash:
        raise pytest.UsageError(f"timm's tests treat these names specially: {clash}. Rename them.")
    config.pluginmanager.register(Report(os.environ["CNNZOO_CONTRACT_REPORT"]), "cnnzoo-contract-report")
