"""The command line: what it prints, its exit codes, and one line for a user's error."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints
from cnnzoo.cli import TASKS, main
from cnnzoo.datasets import get_dataset_info


def run(*args: str, code: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.effect_noise((40, 30), 50).save(path)
    return path


def test_help_lists_each_command_once_below_its_task():
    lines = run("--help").output.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in main.commands]
    assert sorted(listed) == sorted(main.commands)
    assert [line for line in lines if line in ("Use:", "Train:", "Share:", "Measure:", "More:")] == [f"{t}:" for t in TASKS]


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help(command):
    first = main.commands[command].help.split("\n\n")[0]
    assert " ".join(first.split()) in " ".join(run(command, "--help").output.split())


def test_a_name_without_wildcards_is_told_which_would_find_it():
    assert "'*nin*' does" in run("list", "nin", code=1).output
    assert "does." not in run("list", "nothing", code=1).output


def test_a_model_in_the_place_of_an_image_is_told_where_it_belongs():
    assert "Write --model resnext_small" in run("predict", "resnext_small", "a.png", code=2).output


def test_warnings_are_one_line_without_a_place_in_the_code(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    Image.new("L", (28, 28)).save(tmp_path / "good.png")
    args = ["predict", tmp_path / "broken.png", tmp_path / "good.png", "--model", "lenet_tiny", "--skip-broken"]
    said = subprocess.run([sys.executable, "-m", "cnnzoo", *args], capture_output=True, text=True)
    assert said.returncode == 0
    assert [line for line in said.stderr.splitlines() if line.strip()] == [
        f"Warning: 1 of 2 images in the list cannot be used: {tmp_path / 'broken.png'}; they are left out."
    ]


def test_version_is_the_packages():
    assert cnnzoo.__version__ in run("--version").output


def test_list_shows_every_model_aligned():
    lines = run("list").output.splitlines()
    assert [line.split()[0] for line in lines[2:]] == cnnzoo.list_models()
    assert len({line.index("x28x28") for line in lines if "1x28x28" in line}) == 1


def test_list_takes_a_pattern_and_json():
    rows = json.loads(run("list", "resnext*", "--json").output)
    assert [row["name"] for row in rows] == cnnzoo.list_models("resnext*")
    small = next(row for row in rows if row["name"] == "resnext_small")
    assert small["params"] == cnnzoo.info("resnext_small")["params"]


def test_list_pretrained_shows_the_results_as_data_and_aligned():
    assert json.loads(run("list", "--pretrained", "--json").output) == json.loads(json.dumps(cnnzoo.results()))
    lines = run("list", "--pretrained").output.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [r["checkpoint"] for r in cnnzoo.results()]
    small = next(line for line in lines if line.startswith("resnext_small."))
    metrics = checkpoints.metrics("resnext_small.fashion_mnist")
    for value in (f"{metrics['params']:,}", f"{metrics['top1']:.2f}", f"{metrics['ece_calibrated']:.1f}"):
        assert value in small.split()
    end = lines[0].index("parameters") + len("parameters")
    assert all(line[end - 1] != " " and line[end : end + 1] in " " for line in lines)
    some = json.loads(run("list", "lenet*", "--pretrained", "--json").output)
    assert {row["family"] for row in some} == {"lenet"}
    one = json.loads(run("list", "lenet_d2l.*", "--supports", "img_size", "--pretrained", "--json").output)
    assert {row["checkpoint"] for row in one} == set(cnnzoo.list_pretrained("lenet_d2l"))
    run("list", "alexnet*", "--pretrained", code=1)


def test_lists_and_info_tell_the_number_of_the_weights_that_ship_from_the_mean_over_seeds():
    m = checkpoints.metrics("nin_small.fashion_mnist")
    weights, mean, std = (f"{m[k]:.2f}" for k in ("top1", "top1_mean", "top1_std"))
    assert weights != mean
    both = f"{weights} %, mean of {len(m['seeds'])} seeds {mean} ± {std}"
    assert both in run("list", "nin_small").output and both in run("info", "nin_small").output
    header, _, row = run("list", "nin_small", "--pretrained").output.splitlines()
    found = dict(zip(header.replace("M MACs", "MACs").split(), row.split(), strict=True))
    assert (found["top-1"], found["mean"], found["std"], found["n"]) == (weights, mean, std, str(len(m["seeds"])))
    assert found["TTA"] == f"{m['top1_tta']:.2f}"


def test_list_supports_shows_only_models_that_can():
    fixed = [row["name"] for row in json.loads(run("list", "--supports", "img_size", "--json").output)]
    assert "lenet_d2l" in fixed and "resnext_small" not in fixed
    any_size = cnnzoo.list_models(supports="dynamic_size")
    assert sorted([*fixed, *any_size]) == cnnzoo.list_models()
    assert cnnzoo.list_models("resnext*", supports=["dynamic_size", "drop_path_rate"]) == cnnzoo.list_models("resnext*")


def test_eval_of_a_checkpoint_that_names_no_data_set_asks_for_it(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(checkpoints.folder("lenet_tiny.fashion_mnist"), folder)
    config = json.loads((folder / "config.json").read_text())
    del config["pretrained_cfg"]["tag"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "--dataset" in run("eval", f"local-dir:{folder}", code=1).output


@pytest.mark.parametrize("classes", [("cat", "dog"), tuple("abcdefghij")], ids=len)
def test_eval_on_data_of_other_classes_is_refused_in_one_line(tmp_path, classes):
    for name in classes:
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.effect_noise((28, 28), 50).save(tmp_path / name / f"{i}.png")
    result = run("eval", "lenet_tiny", "--dataset", "folder", "--data-dir", tmp_path, code=1)
    assert "It knows T-shirt/top, Trouser" in result.stderr and len(result.stderr.splitlines()) == 1


def test_info_shows_size_cost_and_accuracy():
    text = run("info", "resnext_small").output
    assert "238,010" in text
    assert f"{checkpoints.metrics('resnext_small.fashion_mnist')['top1']:.2f} %" in text
    assert json.loads(run("info", "resnext_small", "--json").output)["params"] == 238_010


def test_info_says_how_to_train_what_has_no_weights():
    said = run("info", "alexnet_d2l").output
    assert "no, too large for the package; to train it, type: cnnzoo train alexnet_d2l --recipe textbook" in said
    trained = {name.split(".")[0] for name in cnnzoo.list_pretrained()}
    untrained = next(name for name in cnnzoo.list_models() if name not in {*trained, *checkpoints.TOO_LARGE})
    assert f"not yet; to train it, type: cnnzoo train {untrained} " in run("info", untrained).output
    assert "pretrained  no\n" in run("info", "timm:test_resnet").output


def test_summary_lists_layers_with_totals():
    text = run("summary", "lenet_d2l").output
    assert "61,706" in text
    assert "16x5x5" in text
    found = json.loads(run("summary", "lenet_d2l", "--depth", "1", "--json").output)
    assert [layer["path"] for layer in found["layers"]] == ["stem", "stages", "head"]
    run("summary", "lenet_d2l", "--depth", "0", code=1)


def test_predict_prints_a_row_per_image(image):
    lines = run("predict", image, image, "--topk", "2", "--photo", "never").output.splitlines()
    assert len(lines) == 4
    assert lines[2] == lines[3]
    found = json.loads(run("predict", image, "--json").output)
    assert len(found[0]["answers"]) == 3
    assert found[0]["image"] == str(image)


def test_predict_works_offline(image, no_network):
    run("predict", image)


def test_the_demo_gets_at_least_eight_drawings_right_offline(tmp_path, no_network):
    sheet = tmp_path / "sheet.png"
    result = run("demo", "--sheet", sheet, "--json")
    rows = json.loads(result.output)["drawings"]
    assert [row["drawing"] for row in rows] == list(get_dataset_info("fashion_mnist").labels)
    assert sum(row["right"] for row in rows) >= 8
    with Image.open(sheet) as picture:
        assert min(picture.size) > 200
    text = run("demo", "--sheet", sheet).output
    assert "drawings, not photographs" in text
    assert text.splitlines()[-1].endswith(f"Contact sheet: {sheet}")


@pytest.mark.data
def test_eval_prints_the_accuracy_in_its_last_line(fashion_mnist_dir, no_network):
    *_, card, last = run("eval", "nin_tiny", "--data-dir", fashion_mnist_dir).output.splitlines()
    expected = checkpoints.metrics("nin_tiny.fashion_mnist")["top1"]
    assert card.startswith(f"accuracy on the model card (test set): {expected:.2f} %, mean of 3 seeds ")
    assert f"{expected:.2f} % top-1 on 10,000 test images" in last


@pytest.mark.data
def test_eval_gives_json(fashion_mnist_dir):
    found = json.loads(run("eval", "lenet_tiny", "--data-dir", fashion_mnist_dir, "--json").output)
    assert found["count"] == 10_000
    assert found["top1"] == pytest.approx(checkpoints.metrics("lenet_tiny.fashion_mnist")["top1"], abs=0.01)


def test_train_runs_and_says_where_the_weights_are(tmp_path, miniature):
    out = tmp_path / "run"
    result = run(
        "train", "lenet_tiny", "--out", out, "--data-dir", miniature[0], "--dataset", "miniature", "--epochs", "1",
        "--batch-size", "8", "--warmup-epochs", "0", "--amp", "no", "--no-flip", "--device", "cpu",
    )  # fmt: skip
    assert f"weights in {out}" in result.output
    assert json.loads((out / "recipe.json").read_text())["flip"] is False


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["info", "resnxt_small"], "Did you mean resnext_small"),
        (["info", "resnext_small.nope"], "tag of resnext_small"),
        (["info", "../x"], "Unknown model '../x': there is no such folder"),
        (["info", "runs/mine"], "or the path of a run folder"),
        (["info", "."], "it has no config.json"),
        (["publish", "--root", "/nonexistent"], "/nonexistent is not a folder; nothing was published"),
        (["publish", "--root", "."], "no checkpoint folder"),
        (["verify", "alexnet_d2l"], "without weights"),
        (["verify", "hf-hub:a/b"], "on the Hub"),
        (["list", "nothing*"], "No model matches"),
        (["list", "--supports", "dynamic_sise"], "Did you mean dynamic_size"),
        (["eval", "local-dir:no/such/folder"], "config.json"),
        (["eval", "local-dir:."], "config.json"),
        (["summary", "local-dir:no/such/folder"], "config.json"),
        (["train", "lenet_tiny", "--out", "run", "--distill", "0.5"], "it needs --teacher or --answers"),
        (["eval", "hf-hub:"], "hf-hub:ORG/NAME"),
        (["eval", "hf-hub:a b"], "ORG/NAME"),
        (["eval", "nowhere:x"], "local-dir:FOLDER"),
        (["build", ".", "--holdout", "."], "or recipe.json"),
        (["measure", "lenet_d2l.fashion_mnist", "--holdout", "."], "or recipe.json"),
        (["measure", "no/such/folder"], "Unknown model 'no/such/folder': there is no such folder"),
        (["verify", "no/such/folder"], "no such folder"),
        (["push", "no/such/folder", "a/b"], "no such folder"),
        (["pull", "a b"], "ORG/NAME"),
        (["train", "lenet_tiny", "--out", "x", "--opt", "sdg"], "Did you mean"),
        (["train", "alexnet_d2l", "--out", "x"], "224x224 only"),
        (["train", "lenet_tiny", "--out", "x", "--start-size", "4"], "start_size=0"),
        (["eval", "resnext_tiny.nope"], "tag"),
        (["eval", "lenet_tiny", "--split", "tset"], "Did you mean test"),
        (["eval", "lenet_tiny", "--device", "tpu9"], "--device cpu"),
        (["eval", "lenet_tiny", "--device", "meta"], "--device cpu"),
        (["eval", "lenet_tiny", "--device", "hpu"], "--device cpu"),
        (["predict", "no/such.png"], "no/such.png does not exist"),
        (["predict", "."], "is a folder"),
        (["train", "lenet_tiny", "--out", "x", "--recipe", "quick"], "recipe"),
        (["train", "lenet_tiny", "--out", "x", "--dataset", "mnits"], "data set"),
        (["train", "lenet_tiny", "--out", "x", "--epochs", "0"], "epochs=0"),
    ],
)
def test_a_users_error_is_one_line_exit_code_one_and_no_file(args, words, tmp_path, monkeypatch, miniature):
    monkeypatch.chdir(tmp_path)
    if args[0] == "train" and "--dataset" not in args:
        args = [*args, "--dataset", "miniature", "--data-dir", str(miniature[0]), "--batch-size", "8"]
    result = run(*args, code=1)
    assert not os.path.exists("x")
    assert words in result.output
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    "args", [["predict"], ["train", "lenet_tiny"], ["eval", "x", "--nope"], ["nope"], ["list", "a", "b"]]
)
def test_wrong_use_is_exit_code_two(args):
    run(*args, code=2)


def test_a_data_folder_without_the_data_is_named(tmp_path):
    (tmp_path / "FashionMNIST" / "raw").mkdir(parents=True)
    result = run("eval", "lenet_tiny", "--data-dir", tmp_path, code=1)
    assert str(tmp_path) in result.output
    assert "t10k-images-idx3-ubyte.gz" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "no/such.png", "--show"],
        ["plot", "filters", "nosuchmodel", "--out"],
        ["bench", "infer", "nosuchmodel", "--picture"],
        ["demo", "--model", "nosuchmodel", "--sheet"],
    ],
    ids=lambda command: command[0],
)
def test_a_picture_of_an_unknown_ending_is_refused_before_anything_is_computed(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("picture.xyz", "picture"):
        assert f"{name} was given" in run(*command, name, code=1).output
    assert not list(tmp_path.iterdir())


def test_an_unwritable_sheet_leaves_nothing_behind(tmp_path):
    result = run("demo", "--sheet", tmp_path / "no" / "sheet.png", code=1)
    assert "could not be written" in result.output
