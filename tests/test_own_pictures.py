"""One's own pictures, end to end: from a folder per class to a model that goes wherever the zoo's own go."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import weights_of
from loopback_hub import ALICE, YOU
from PIL import Image
from safetensors.torch import save_file
from test_docs import BLOCKS

import cnnzoo
from cnnzoo import checkpoints, hub
from cnnzoo.cli import main
from cnnzoo.data import load_split
from cnnzoo.errors import CheckpointError, CnnzooError, UnknownNameError
from cnnzoo.resolve import resolve

FAST = ("--epochs", 1, "--batch-size", 8, "--warmup-epochs", 0, "--lr", 0.001, "--ema-decay", 0, "--device", "cpu")


def run(*args, code: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def draw(root: Path, count: int, **colors: tuple[int, int, int]) -> Path:
    """Colour pictures of 64x64 pixels, `count` for each class, all different."""
    for label, color in colors.items():
        (root / label).mkdir(parents=True)
        for i in range(count):
            noise = np.random.default_rng(i).integers(-20, 20, (64, 64, 3))
            Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with forty pictures of cats and dogs, and two runs on them: one that is measured on the holdout."""
    place = tmp_path_factory.mktemp("place")
    draw(place / "pictures", 20, cat=(220, 200, 150), dog=(60, 30, 10))
    for out, *more in (("mine",), ("chosen", "--holdout")):
        args = ("train", "lenet_tiny", "--pretrained", "--data-dir", place / "pictures", "--out", place / out)
        run(*args, *FAST, *more)
    return place


@pytest.fixture
def mine(place, monkeypatch) -> str:
    """The path of the run, as one types it."""
    monkeypatch.chdir(place)
    return "mine"


def logits(model, x=None):
    x = torch.rand(3, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0)) if x is None else x
    with torch.inference_mode():
        return model.eval()(x)


# -- a run folder is a model ---------------------------------------------------------------------------------------------


def test_a_run_is_a_model_with_its_weights_its_labels_and_its_numbers(mine):
    model, info = cnnzoo.create_model(mine, pretrained=True), load_split("folder", data_dir="pictures").info
    assert all(torch.equal(v, weights_of(Path(mine))[k]) for k, v in model.state_dict().items())
    cfg = model.pretrained_cfg
    assert (cfg["architecture"], cfg["label_names"], cfg["num_classes"]) == ("lenet_tiny", ("cat", "dog"), 2)
    assert (tuple(cfg["mean"]), tuple(cfg["std"]), tuple(cfg["input_size"])) == (info.mean, info.std, (1, 28, 28))
    assert model.temperature == 1
    for same in (f"local-dir:{mine}", Path(mine), f"./{mine}/", str(Path(mine).resolve())):
        assert torch.equal(logits(cnnzoo.create_model(same, pretrained=True)), logits(model))


def test_a_run_on_the_holdout_brings_its_temperature(mine, tmp_path):
    shutil.copytree("chosen", tmp_path / "run")
    metrics = checkpoints.read_json(tmp_path / "run" / "metrics.json")
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics | dict(temperature=1.75)))
    assert cnnzoo.create_model(tmp_path / "run", pretrained=True).temperature == 1.75
    assert cnnzoo.create_model(tmp_path / "run", pretrained=True, num_classes=5).temperature == 1


def test_a_runs_model_is_a_start_for_other_channels_and_classes(mine):
    model, x = cnnzoo.create_model(mine, pretrained=True), torch.rand(2, 1, 28, 28)
    wide = cnnzoo.create_model(mine, pretrained=True, in_chans=3)
    torch.testing.assert_close(logits(wide, x.expand(-1, 3, -1, -1)), logits(model, x), atol=1e-4, rtol=1e-4)
    other = cnnzoo.create_model(mine, pretrained=True, num_classes=5).eval()
    torch.testing.assert_close(other.forward_features(x), model.forward_features(x))
    assert len(cnnzoo.create_model(mine, pretrained=True, features_only=True)(x)) > 1
    random = cnnzoo.create_model(mine)
    assert random.num_classes == 2 and not torch.equal(logits(random, x), logits(model, x))


def test_weights_of_a_run_that_changed_or_are_not_finite_are_refused(mine, tmp_path):
    shutil.copytree(mine, tmp_path / "run")
    state, weights = weights_of(tmp_path / "run"), tmp_path / "run" / "model.safetensors"
    state["head.fc.bias"][0] = float("nan")
    save_file(state, weights)
    with pytest.raises(CheckpointError, match="not the file that the run wrote"):
        cnnzoo.create_model(tmp_path / "run", pretrained=True)
    metrics = checkpoints.read_json(tmp_path / "run" / "metrics.json")
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics | dict(sha256=checkpoints.sha256(weights))))
    with pytest.raises(CheckpointError, match="head.fc.bias that are not finite"):
        cnnzoo.create_model(tmp_path / "run", pretrained=True)


def test_an_unfinished_run_names_resume_wherever_it_is_given(mine, tmp_path):
    shutil.copytree(mine, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    command = "cnnzoo train lenet_tiny --out run"
    (tmp_path / "run" / "environment.json").write_text(json.dumps(dict(command=command)))
    for args in (("build", tmp_path / "run"), ("info", tmp_path / "run"), ("push", tmp_path / "run", "a/b")):
        said = f"not a finished run: it has no weights yet. To continue it, type: {command} --resume"
        assert said in run(*args, code=1).output
    (tmp_path / "run" / "environment.json").unlink()
    assert f"--out {tmp_path / 'run'} --resume" in run("build", tmp_path / "run", code=1).output


# -- what is meant -------------------------------------------------------------------------------------------------------


def test_a_name_means_the_zoos_model_whatever_folders_there_are(mine, tmp_path, monkeypatch):
    shutil.copytree(mine, tmp_path / "lenet_tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve("lenet_tiny").kind == "name" and resolve("./lenet_tiny").kind == "run"
    assert resolve("lenet_tiny", folder_first=True).kind == "run"
    assert cnnzoo.create_model("lenet_tiny", pretrained=True).num_classes == 10
    assert resolve("lenet_tiny").folder == checkpoints.folder("lenet_tiny.fashion_mnist")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "there is no such folder"),
        ("../x", "'../x': there is no such folder"),
        ("me/model", "For a repository of the Hub write hf-hub:me/model"),
        ("mine/model.safetensors", "is a file.*Write mine for its folder"),
        ("alone/weights.safetensors", "is a file.*create_model\\(NAME, checkpoint_path=FILE\\)"),
        ("alone/model.onnx", "is a file.*An exported file is opened by cnnzoo.load_exported"),
        ("alone/notes.txt", "is a file.*Name a model or a folder"),
        ("pictures", "it has no config.json"),
        ("local-dir:nowhere", "nowhere was given for a model, but it is not a folder"),
        ("lenet_tiny.x", "tag of lenet_tiny"),
        ("x" * 300, "Unknown model"),
        (3, "A int was given for a model"),
    ],
)
def test_what_is_no_model_is_refused_with_what_would_be_one(mine, given, words):
    Path("alone").mkdir(exist_ok=True)
    for name in ("weights.safetensors", "model.onnx", "notes.txt"):
        Path("alone", name).write_bytes(b"")
    with pytest.raises(CnnzooError, match=words):
        cnnzoo.create_model(given)


# -- everywhere ----------------------------------------------------------------------------------------------------------


def test_the_commands_about_models_take_a_run(mine, tmp_path):
    picture = "pictures/cat/0.png"
    found = json.loads(run("predict", picture, "--model", mine, "--json").output)
    expected = cnnzoo.predict(cnnzoo.create_model(mine, pretrained=True), picture, 2)
    assert [(a["label"], a["probability"]) for a in found[0]["answers"]] == [(k, round(p, 4)) for k, p in expected]
    facts = json.loads(run("info", mine, "--json").output)
    measured = checkpoints.read_json(Path(mine) / "metrics.json")
    assert facts["labels"] == ["cat", "dog"] and facts["checkpoints"]["folder"]["top1"] == measured["top1"]
    assert "2: cat, dog" in run("info", mine).output
    assert json.loads(run("info", "chosen", "--json").output)["checkpoints"] == {}
    assert f"{measured['params']:,}" in run("summary", mine).output
    for kind, *more in (("filters",), ("features", picture), ("gradcam", picture), ("confusion", "--data-dir", "pictures")):
        what = [more[0]] if kind in ("features", "gradcam") else []
        run("plot", kind, mine, *what, "--out", tmp_path / f"{kind}.png", *(more if not what else []))
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000


def test_eval_measures_what_the_run_measured_and_other_pictures_of_its_classes(mine, tmp_path):
    measured = checkpoints.read_json(Path(mine) / "metrics.json")
    found = json.loads(run("eval", mine, "--data-dir", "pictures", "--json").output)
    assert [found[k] for k in ("top1", "loss", "confusion")] == [measured[k] for k in ("top1", "loss", "confusion")]
    # Other pictures: no cats, so that a dog has another index there, and other values of mean and std.
    draw(tmp_path / "some" / "train", 2, dog=(60, 30, 10), cat=(255, 255, 255))
    draw(tmp_path / "some" / "test", 3, dog=(60, 30, 10))
    model = cnnzoo.create_model(mine, pretrained=True)
    answers = [cnnzoo.predict(model, p)[0][0] for p in sorted((tmp_path / "some" / "test" / "dog").iterdir())]
    found = json.loads(run("eval", mine, "--data-dir", tmp_path / "some", "--json").output)
    assert found["confusion"] == [[0, 0], [answers.count("cat"), answers.count("dog")]]
    draw(tmp_path / "others", 2, cat=(1, 2, 3), eel=(4, 5, 6))
    text = run("eval", mine, "--data-dir", tmp_path / "others", code=1).output
    assert "classes that the model does not know: eel. It knows cat, dog" in text


@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore:.*left out:UserWarning")
def test_every_command_that_reads_a_folder_can_leave_out_its_broken_files(mine, tmp_path):
    shutil.copytree("pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "cat" / "broken.png").write_bytes(b"")
    place = ("--data-dir", tmp_path / "pictures")
    run("train", "lenet_tiny", *place, *FAST, "--skip-broken", "--out", tmp_path / "run")
    for command in (
        ("eval", tmp_path / "run"),
        ("eval", tmp_path / "run", "--dataset", "folder", "--photo", "auto"),
        ("plot", "confusion", tmp_path / "run", "--out", tmp_path / "confusion.png"),
        ("plot", "mistakes", tmp_path / "run", "--out", tmp_path / "mistakes.png"),
        ("export", tmp_path / "run", tmp_path / "int8.onnx", "--quantize", "int8"),
        ("ask", "lenet_tiny", "--teacher", tmp_path / "run", "--views", 1, "--batch-size", 8, "--out", tmp_path / "asked"),
        ("build", tmp_path / "run", "--out", tmp_path / "built"),
        ("measure", tmp_path / "run"),
    ):
        refused = run(*command, *place, code=1).output
        assert "broken.png" in refused and "--skip-broken" in refused
        assert command[0] != "build" or not (tmp_path / "built").exists()  # since it could not be measured
        run(*command, *place, "--skip-broken")
    assert "robustness" in checkpoints.read_json(tmp_path / "built" / "lenet_tiny.folder" / "metrics.json")


def test_predict_can_leave_out_broken_files(mine, tmp_path):
    broken, good = tmp_path / "broken.png", "pictures/cat/0.png"
    broken.write_bytes(b"no image")
    assert "broken.png is not an image" in run("predict", good, broken, good, "--model", mine, code=1).output
    with pytest.warns(UserWarning, match="1 of 3 images in the list cannot be used: .*broken.png; they are left out"):
        found = json.loads(run("predict", good, broken, good, "--model", mine, "--skip-broken", "--json").stdout)
    assert [row["image"] for row in found] == [good, good]
    model = cnnzoo.create_model(mine, pretrained=True)
    with pytest.warns(UserWarning, match="image 1"):
        answers = cnnzoo.predict(model, [np.zeros((3, 3, 7)), good], skip_broken=True)
    assert answers[0] is None and answers[1] == cnnzoo.predict(model, good)
    for given in ([broken], [broken, broken]):
        refused = run("predict", *given, "--model", mine, "--skip-broken", code=1).output
        assert f"{len(given)} of {len(given)} images in the list cannot be used" in refused and "leave out" not in refused


def test_broken_files_are_counted_over_training_and_test_pictures(mine, tmp_path):
    draw(tmp_path / "train", 3, cat=(1, 2, 3), dog=(4, 5, 6))
    draw(tmp_path / "test", 2, cat=(1, 2, 3), dog=(4, 5, 6))
    for part in ("train", "test"):
        (tmp_path / part / "cat" / "0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 of 10 images .*: train/cat/0.png, test/cat/0.png; they are left out"):
        split = load_split("folder", "test", data_dir=tmp_path, skip_broken=True)
    assert split.names == ("test/cat/1.png", "test/dog/0.png", "test/dog/1.png")
    assert split[1:].names == split[torch.tensor([1, 2])].names == split.names[1:] and split[0][1] == 0


def test_a_recipe_for_thousands_of_images_trains_on_a_few(place, tmp_path):
    args = ("train", "lenet_tiny", "--data-dir", place / "pictures", "--epochs", 1, "--device", "cpu")
    said = run(*args, "--out", tmp_path / "run").stderr
    assert "Batches have 8 images, not 256: without the holdout there are 29 to train on." in said
    run(*args, "--out", tmp_path / "holdout", "--holdout")  # which is to be comparable
    for out in ("run", "holdout"):
        assert checkpoints.read_json(tmp_path / out / "recipe.json")["batch_size"] == 8
    refused = run(*args, "--accumulate", 64, "--out", tmp_path / "other", code=1).output
    assert "Choose a multiple of 64, at most 29" in refused


def test_a_run_can_be_exported_and_trained_further_and_teach(mine, tmp_path):
    path = cnnzoo.export(mine, tmp_path / "mine.onnx", "onnx")
    model = cnnzoo.create_model(mine, pretrained=True)
    pixels = np.asarray(Image.open("pictures/dog/3.png").convert("L").resize((28, 28)))
    labels, probabilities = cnnzoo.load_exported(path)(pixels)
    (label, p), *_ = cnnzoo.predict(model, pixels)
    assert labels[0] == label and probabilities.max() == pytest.approx(p, abs=1e-4)
    args = ("--data-dir", "pictures", *FAST, "--lr", 0, "--weight-decay", 0)
    run("train", mine, "--pretrained", "--out", tmp_path / "more", *args)
    again = cnnzoo.create_model(tmp_path / "more", pretrained=True)
    assert again.pretrained_cfg["architecture"] == "lenet_tiny"
    assert torch.equal(again.get_classifier().weight, model.get_classifier().weight)
    run("train", "lenet_tiny", "--teacher", mine, "--out", tmp_path / "taught", *args)
    assert checkpoints.read_json(tmp_path / "taught" / "metrics.json")["teachers"] == ["lenet_tiny"]
    assert (
        "been trained on the holdout"
        in run("train", "lenet_tiny", "--teacher", mine, "--holdout", "--out", tmp_path / "not", *args, code=1).output
    )
    draw(tmp_path / "others", 12, eel=(1, 2, 3), fox=(200, 200, 200))
    args = ("train", "lenet_tiny", "--teacher", mine, "--data-dir", tmp_path / "others", "--out", tmp_path / "not", *FAST)
    assert "(cat, dog, ...)" in run(*args, code=1).output


@pytest.mark.usefixtures("quick")
def test_a_run_is_built_verified_measured_pushed_and_pulled(mine, tmp_path, server, cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    folder = Path(run("build", mine, "--holdout", "chosen", "--out", tmp_path / "out").output.strip().splitlines()[-1])
    run("verify", folder)
    top1 = checkpoints.read_json(Path(mine) / "metrics.json")["top1"]
    assert f"{mine}: good, {top1:.2f} % top-1" in run("verify", mine).output
    shutil.copytree(mine, tmp_path / "run")
    assert "added robustness" in run("measure", tmp_path / "run", "--data-dir", "pictures").output
    assert "lacks nothing" in run("measure", tmp_path / "run", "--data-dir", "pictures").output
    run("push", mine, "alice/mine")
    pulled = hub.pull("alice/mine", token=ALICE, cache_dir=cache)
    assert pulled.labels == ("cat", "dog")
    assert torch.equal(logits(pulled.model), logits(cnnzoo.create_model(mine, pretrained=True)))


@pytest.mark.usefixtures("quick")
def test_verify_and_push_take_the_names_of_checkpoints(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "lenet_tiny: good" in run("verify", "lenet_tiny").output
    assert "lenet_tiny.fashion_mnist: good" in run("verify", "lenet_tiny.fashion_mnist").output
    assert hub.push("lenet_tiny", "you/mine", token=YOU)
    with pytest.raises(UnknownNameError, match="tag of lenet_tiny .fashion."):
        hub.verify("lenet_tiny.fashion")


@pytest.mark.slow
def test_the_readmes_five_steps_run_and_the_last_without_cnnzoo(tmp_path, monkeypatch):
    draw(tmp_path / "pictures", 20, cat=(220, 200, 150), dog=(60, 30, 10))
    (command,) = [body for language, body in BLOCKS if language == "bash" and "mine.onnx" in body]
    (program,) = [body for language, body in BLOCKS if language == "python" and "mine.onnx" in body]
    monkeypatch.chdir(tmp_path)
    for line in command.splitlines():
        run(*line.split()[1:])
    absent = "import sys\nfor name in ('cnnzoo', 'timm', 'torch'): sys.modules[name] = None  # an import of it fails\n"
    done = subprocess.run([sys.executable, "-c", absent + program], capture_output=True, text=True, check=True)
    answer = done.stdout.split()
    (label, p), _ = cnnzoo.predict(cnnzoo.create_model("runs/mine", pretrained=True), "pictures/cat/1.png", 2)
    assert answer[0] == label == "cat"
    assert float(answer[1]) == pytest.approx(p, abs=1e-4)


# -- what training says --------------------------------------------------------------------------------------------------


def test_training_says_what_it_understood_before_it_begins(mine, tmp_path):
    said = " ".join(run("train", "lenet_tiny", "--data-dir", "pictures", "--out", tmp_path / "run", *FAST).output.split())
    assert "pictures: 40 pictures of 2 classes (cat 20, dog 20). Each becomes 1x28x28, gray; --image-size and" in said
    assert "32 are trained on; 8, a fifth of each class, are the test set." in said
    assert " in_chans=1 " in said and " image_size=28 " in said
    shutil.copytree("pictures", tmp_path / "two" / "train")
    draw(tmp_path / "two" / "test", 1, cat=(1, 2, 3), dog=(4, 5, 6))
    args = ("train", "resnet_tiny", "--data-dir", tmp_path / "two", "--in-chans", 3, "--image-size", 32, *FAST)
    said = " ".join(run(*args, "--out", tmp_path / "colour").output.split())
    assert "42 pictures of 2 classes (cat 21, dog 21). Each becomes 3x32x32, colour;" in said
    assert "40 are trained on; 2 are the test set." in said
    assert " in_chans=3 " in said and " image_size=32 " in said
    model = cnnzoo.create_model(tmp_path / "colour", pretrained=True)
    assert model.pretrained_cfg["input_size"] == (3, 32, 32) and len(model.pretrained_cfg["mean"]) == 3
    measured = checkpoints.read_json(tmp_path / "colour" / "metrics.json")
    found = json.loads(run("eval", tmp_path / "colour", "--data-dir", tmp_path / "two", "--json").output)
    assert found["loss"] == measured["loss"]
