"""What the system does not permit is one line, and leaves nothing: tried as a user who owns nothing."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import matplotlib
import pytest
from apart import NOBODY, run_apart
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints, train
from cnnzoo.recipes import Recipe

BRIEF = "--epochs 1 --warmup-epochs 0 --image-size 28 --batch-size 4 --amp no"
# A line for each thing that may be forbidden, and a word that the message has to have. `open` may be written to, `closed`
# not even looked into, `readonly` only read; pictures and weights called `secret` may not be read.
REFUSED = {
    f"train lenet_tiny --out readonly/run --data-dir pictures {BRIEF}": "readonly/run",
    f"train lenet_tiny --out closed/run --data-dir pictures {BRIEF}": "closed/run",
    f"train lenet_tiny --out readonly --data-dir pictures {BRIEF}": "readonly",
    f"train lenet_tiny --out open/run --data-dir closed {BRIEF}": "closed",
    f"train lenet_tiny --out open/run --data-dir half {BRIEF}": "half",
    f"train lenet_tiny --out open/run --data-dir deep {BRIEF}": "deep/cat/more",
    f"train secret --pretrained --out open/run --data-dir pictures {BRIEF}": "secret",
    f"train lenet_tiny --out begun --resume --data-dir pictures {BRIEF}": "begun",
    f"ask lenet_tiny --teacher run0 --out readonly/said --views 1 --dataset folder --data-dir pictures {BRIEF}": "readonly",
    "predict secret.png --model run0": "secret.png",
    "predict closed/image.png --model run0": "closed/image.png",
    "predict image.png --model secret": "secret",
    "predict image.png --model closed/run0": "closed/run0",
    "predict image.png --model run0 --show readonly/new.png": "readonly/new.png",
    "export run0 readonly/model.onnx": "readonly/model.onnx",
    "export run0 closed/model.onnx": "closed/model.onnx",
    "export secret open/model.onnx": "secret",
    "build run0 --out readonly": "readonly",
    "build run0 --out closed/configs": "closed/configs",
    "build closed/run0 --out open": "closed/run0",
    "build secret --out open": "secret",
    "verify closed/run0": "closed/run0",
    "twin readonly/lenet_tiny.custom readonly": "readonly",
    "demo --model lenet_tiny --sheet readonly/sheet.png": "readonly/sheet.png",
    "plot curves run0 --out readonly/new.png": "readonly/new.png",
    "plot curves closed --out open/new.png": "closed",
    "plot gradcam run0 secret.png --out open/new.png": "secret.png",
    "bench scaling --out readonly/new.json": "readonly/new.json",
    "eval lenet_tiny": "closed",
    "eval lenet_tiny --download": "closed",
    "pull a/b": "a/b",
    "publish --root closed": "closed",
}


@pytest.fixture(scope="module")
def work():
    """Not below pytest's own folder, which only its owner may enter."""
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("only root can become a user who may do nothing")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        work = Path(folder)
        for name in ("open", "closed", "readonly", "half/cat", "half/dog", "deep/cat/more"):
            (work / name).mkdir(parents=True)
        for place in ("pictures/cat", "pictures/dog", "half/cat", "half/dog", "deep/cat", "deep/dog"):
            (work / place).mkdir(parents=True, exist_ok=True)
            for i in range(5):
                Image.effect_noise((28, 28), 50).save(work / place / f"{i}.png")
        recipe = Recipe(
            model="lenet_tiny", dataset="folder", epochs=1, warmup_epochs=0, image_size=28, batch_size=4, amp="no"
        )
        train.train(recipe, work / "run0", data_dir=work / "pictures", device="cpu")
        for copy in ("secret", "begun", "closed/run0"):
            shutil.copytree(work / "run0", work / copy)
        shutil.copytree(checkpoints.folder("lenet_tiny.fashion_mnist"), work / "readonly/lenet_tiny.custom")
        for name in ("image.png", "secret.png", "closed/image.png"):
            shutil.copy(work / "pictures/cat/0.png", work / name)
        os.chmod(work / "open", 0o777)
        os.chmod(work / "begun", 0o777)
        for name in ("closed", "half/dog", "deep/cat/more"):
            os.chmod(work / name, 0o700)
        for name in ("secret.png", "secret/model.safetensors", "begun/checkpoint.pt"):
            os.chmod(work / name, 0o600)
        for package in (cnnzoo, matplotlib):  # a picture needs matplotlib's fonts, which are opened when it is drawn
            may_read = ["test", "-r", package.__file__]
            if subprocess.run(may_read, user=NOBODY, group=NOBODY, extra_groups=[]).returncode:
                pytest.skip(f"user {NOBODY} may not read {package.__file__}: open the folders above it to everyone (o+rx)")
        yield work


def everything(work: Path) -> dict:
    return {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in work.rglob("*")}


def test_what_is_not_permitted_is_one_line_and_leaves_nothing(work, monkeypatch):
    monkeypatch.delenv("CNNZOO_DATA_DIR", raising=False)
    before = everything(work)
    home = dict(HOME=str(work / "closed"), XDG_CACHE_HOME=str(work / "closed/cache"), HF_HOME=str(work / "closed/hf"))
    lines = [line.split() for line in REFUSED]
    for line, ended in zip(lines, run_apart(lines, work, **home), strict=True):
        told = (" ".join(line), ended)
        assert ended.code in (1, 2), told
        assert "Traceback" not in ended.stderr + ended.stdout, told
        last = ended.stderr.splitlines()[-1]
        assert last.startswith("Error: ") and REFUSED[" ".join(line)] in last and "Permission denied" in last, told
        assert len(ended.stderr.splitlines()) == 1, told
    after = everything(work)
    assert {p: v for p, v in after.items() if not p.is_dir()} == {p: v for p, v in before.items() if not p.is_dir()}
    assert set(after) == set(before)


def test_a_home_that_cannot_be_read_is_in_nobodys_way(work):
    home = dict(HOME=str(work / "closed"), XDG_CACHE_HOME=str(work / "closed/cache"), HF_HOME=str(work / "closed/hf"))
    lines = [
        "list lenet_tiny", "predict image.png --model run0", "predict image.png --model lenet_tiny",
        "demo --sheet open/sheet.png",
        "plot curves run0 --out open/curves.png", f"train lenet_tiny --out open/run --data-dir pictures {BRIEF}",
    ]  # fmt: skip
    for line, ended in zip(lines, run_apart([line.split() for line in lines], work, **home), strict=True):
        assert ended.code == 0 and "Traceback" not in ended.stderr, (line, ended)
        assert len(ended.stderr.splitlines()) <= (12 if line.startswith("train") else 0), (line, ended)
