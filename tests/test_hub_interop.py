"""Other people's libraries and tools on repositories that push made: transformers, its pipeline, the `hf` command."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import HUB_NAME as NAME
from hub_helpers import FILES, FOLDER, MINE, assert_right, pull
from loopback_hub import ALICE
from PIL import Image

import cnnzoo
from cnnzoo import hub

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brisk")]  # each starts a process that imports torch


def run(command, tmp_path, **variables):
    """A fresh process as Alice, with a cache of its own."""
    environment = dict(os.environ, HF_TOKEN=ALICE, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1", **variables)
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert ALICE not in result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.effect_noise((28, 28), 60).save(path)
    return path


_TRANSFORMERS = """
import json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

repo_id, path = sys.argv[1:]
answers = {}
timm_model = model  # the card's
for revision, mode in (("main", "L"), ("rgb", "RGB")):
    model = AutoModelForImageClassification.from_pretrained(repo_id, revision=revision).eval()
    processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    inputs = processor(Image.open(path).convert(mode), return_tensors="pt")
    with torch.inference_mode():
        answers[revision] = model(**inputs).logits[0].tolist()
answers["labels"] = [model.config.id2label[i] for i in range(10)]
answers["pipeline"] = classify(path, top_k=10)  # the card's
with torch.inference_mode():
    assert timm_model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
print(json.dumps(answers))
"""


def test_the_cards_snippets_run_and_transformers_and_its_pipeline_give_our_logits(server, tmp_path, image):
    hub.push(FOLDER, MINE, token=ALICE)
    blocks = server.read(MINE, "README.md").decode().split("```python\n")[1:]
    snippets = [block.split("```")[0] for block in blocks]
    assert len(snippets) == 3 and snippets[0].startswith("import cnnzoo") and snippets[2].startswith("import cnnzoo")
    code = "\n".join(snippets) + _TRANSFORMERS
    answers = json.loads(run([sys.executable, "-c", code, MINE, str(image)], tmp_path).splitlines()[-1])
    model = cnnzoo.create_model(NAME, pretrained=True).eval()
    with torch.inference_mode():
        expected = model(cnnzoo.create_transform(model)(Image.open(image))[None])[0]
    for revision in ("main", "rgb"):
        torch.testing.assert_close(torch.tensor(answers[revision]), expected, atol=1e-4, rtol=1e-4)
    scores = {answer["label"]: answer["score"] for answer in answers["pipeline"]}
    assert set(scores) == set(answers["labels"]) == set(model.pretrained_cfg["label_names"])
    torch.testing.assert_close(
        torch.tensor([scores[label] for label in answers["labels"]]), expected.softmax(0), atol=1e-4, rtol=1e-3
    )


def test_the_hf_command_uploads_what_pull_takes_and_downloads_what_push_sent(server, tmp_path, cache):
    hf = [sys.executable, "-m", "huggingface_hub.cli.hf"]
    run([*hf, "upload", "alice/by_hand", str(FOLDER), "--private"], tmp_path)
    assert set(FILES) <= server.names("alice/by_hand")
    assert_right(pull(cache, "alice/by_hand", token=ALICE))
    hub.push(FOLDER, MINE, token=ALICE)
    run([*hf, "download", MINE, "--local-dir", "downloaded"], tmp_path)
    for name, content in FILES.items():
        if name != "README.md":  # which names the repository it is in
            assert (tmp_path / "downloaded" / name).read_bytes() == content
