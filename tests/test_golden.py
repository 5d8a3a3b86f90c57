"""What each model is: one row of golden.csv with its size, cost, shapes, and first logits under closed-form weights.

A row that changes means that an architecture changed, and that weights published for it no longer fit or no longer mean the
same. A renamed parameter changes the logits too, for the same reason.
"""

import csv
from pathlib import Path

import pytest
import timm
import torch
from helpers import MAX_PARAMS, MODELS, cost, fill, images

from cnnzoo.files import atomic

PATH = Path(__file__).parent / "golden.csv"
LOGITS = ("logit0", "logit1", "logit2", "logit3")
COLUMNS = ("model", "params", "macs", "num_features", "head_hidden_size", "pool", *LOGITS)
ACCEPT = "If that was meant: `pytest tests/test_golden.py --accept` rewrites golden.csv; read its diff, then commit."


def logits(name: str) -> list[str]:
    """The first four logits, none for a model too large to be worth the time."""
    if cost(name).params > MAX_PARAMS:
        return [""] * len(LOGITS)
    model = fill(timm.create_model(name)).eval()
    with torch.inference_mode():
        return [f"{v:.6g}" for v in model(images(name, 1))[0, : len(LOGITS)].tolist()]


def row(name: str) -> dict[str, str]:
    """The row of a model as it is now."""
    model = timm.create_model(name, device="meta")
    size = cost(name)
    pool = model.forward_features(images(name, 1, device="meta")).shape[2:]
    shapes = (model.num_features, model.head_hidden_size, f"{pool[0]}x{pool[1]}")
    values = (name, size.params, size.macs, *shapes, *logits(name))
    return dict(zip(COLUMNS, map(str, values), strict=True))


def changes(now: dict[str, str], then: dict[str, str]) -> list[str]:
    """In which columns two rows of a model differ by more than rounding."""
    scale = max((abs(float(then[c])) for c in LOGITS if then[c]), default=0.0)

    def same(column: str) -> bool:
        one, other = now[column], then[column]
        if column not in LOGITS or "" in (one, other):
            return one == other
        return abs(float(one) - float(other)) <= 1e-4 * scale

    return [f"{c}: {then[c]} then, {now[c]} now" for c in COLUMNS if not same(c)]


def read() -> dict[str, dict[str, str]]:
    """The table by model name."""
    with open(PATH, newline="", encoding="utf-8") as f:
        return {r["model"]: r for r in csv.DictReader(f)}


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> dict[str, dict[str, str]]:
    """The table by model name; with --accept, the rows that changed are written anew first."""
    if request.config.getoption("--accept"):
        known = read()
        rows = [row(name) for name in MODELS]
        rows = [known[r["model"]] if r["model"] in known and not changes(r, known[r["model"]]) else r for r in rows]
        with atomic(PATH) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return read()


def test_the_golden_table_has_one_row_for_every_model_and_no_other(golden):
    missing, left_over = set(MODELS) - set(golden), set(golden) - set(MODELS)
    assert not missing and not left_over, f"without a row: {sorted(missing)}; without a model: {sorted(left_over)}. {ACCEPT}"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_what_its_golden_row_says(golden, name):
    assert name in golden, f"{name} has no row. {ACCEPT}"
    changed = changes(row(name), golden[name])
    assert not changed, f"{name} changed ({'; '.join(changed)}). {ACCEPT}"
