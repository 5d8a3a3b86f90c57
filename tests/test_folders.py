"""A user's own pictures: found in their folders, divided, and refused by name where they are broken."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import grays
from PIL import Image
from safetensors.torch import load_file
from test_images import MODES, picture

import cnnzoo
from cnnzoo import checkpoints, evaluate, train
from cnnzoo.cli import main
from cnnzoo.cli._common import may_download
from cnnzoo.data import create_transform, dataset_in, has_test_folder, load_split, load_splits, normalize, open_image
from cnnzoo.errors import CnnzooError, DataError
from cnnzoo.recipes import Recipe


def gray(path: Path, value: int, size: tuple[int, int] = (28, 28)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def fill(root: Path, counts: dict[str, int], start: int = 0) -> None:
    """Pictures of one gray value each, all different."""
    for label, count in counts.items():
        for i in range(count):
            gray(root / label / f"{i:03}.png", start)
            start += 1


@pytest.mark.parametrize("image_size", [None, (1, 28, 28), (3, 32, 40)])
def test_pictures_of_any_mode_and_size_come_as_predict_sees_them(tmp_path, image_size):
    fill(tmp_path / "train", dict(cats=3, dogs=3))
    suffixes = {"F": "tif", "LA": "png", "P": "png", "RGBA": "png", "1": "png", "I": "tif", "I;16": "png", "CMYK": "jpg"}
    for i, mode in enumerate([m for m in MODES if m in suffixes] + ["L", "RGB"]):
        for label, size in dict(cats=(40 + i, 30), dogs=(9, 20 + i)).items():
            path = tmp_path / "test" / label / f"{i}.{suffixes.get(mode, 'gif' if mode == 'L' else 'png')}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(mode, *size, seed=i).save(path)
    split = load_split("folder", data_dir=tmp_path, image_size=image_size)
    chans, *size = image_size or (1, 28, 28)
    model = timm.create_model("lenet_tiny", device="meta", in_chans=chans, img_size=tuple(size))
    transform = create_transform(model)
    paths = sorted((tmp_path / "test").rglob("*.*"))
    assert split.info.labels == ("cats", "dogs")
    assert split.labels.tolist() == [split.info.labels.index(path.parent.name) for path in paths]
    expected = torch.stack([transform(open_image(path)) for path in paths])
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    torch.testing.assert_close(normalize(split.images, tuple(mean), tuple(std)), expected)


def test_linked_folders_of_a_class_are_read_and_loops_of_links_end(tmp_path):
    fill(tmp_path / "elsewhere", dict(more=3))
    fill(tmp_path / "set", dict(a=2, b=5), start=100)
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set" / "a")
    train, test = load_splits("folder", ("train", "test"), data_dir=tmp_path / "set")
    assert sorted(grays(train) + grays(test)) == [0, 1, 2, 100, 101, 102, 103, 104, 105, 106]


def test_a_class_whose_name_is_not_utf_8_is_refused_before_training(tmp_path):
    fill(tmp_path / "set", dict(a=3, b=3))
    os.rename(tmp_path / "set" / "b", os.fsencode(tmp_path / "set") + b"/\xff")
    recipe = Recipe(model="lenet_tiny", dataset="folder", epochs=1, batch_size=2, warmup_epochs=0, amp="no")
    with pytest.raises(DataError, match="not text in UTF-8. Rename it"):
        train.train(recipe, tmp_path / "run", data_dir=tmp_path / "set", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_folder_whose_name_is_not_utf_8_trains(tmp_path, monkeypatch):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    fill(root, dict(a=3, b=3))
    monkeypatch.setattr("sys.argv", ["cnnzoo", "train", "--data-dir", str(root)])
    recipe = Recipe(model="lenet_tiny", dataset="folder", epochs=1, batch_size=2, warmup_epochs=0, amp="no")
    train.train(recipe, tmp_path / "run", data_dir=root, device="cpu")
    written = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert "\\xff" in written["command"] and written["data"]["title"] == "\\xff"


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("Train", "Validation"), ("training", "valid")])
def test_training_and_test_folders_are_found_by_their_usual_names(tmp_path, names):
    fill(tmp_path / names[0], dict(a=4, b=4))
    fill(tmp_path / names[1], dict(a=1, b=2), start=100)
    train, test = load_splits("folder", ("train", "test"), data_dir=tmp_path)
    assert sorted(grays(train)) == list(range(8))
    assert grays(test) == [100, 101, 102] and test.labels.tolist() == [0, 1, 1]
    assert train.info.title == tmp_path.name


def test_class_folders_alone_are_divided_the_same_way_every_time(tmp_path):
    counts = dict(c=21, a=9, b=6, train=2)  # train is a class here: it has pictures and no folders
    fill(tmp_path / "first", counts)
    with pytest.warns(UserWarning, match="imbalanced"):
        train, test = load_splits("folder", ("train", "test"), data_dir=tmp_path / "first")
    assert train.info.labels == ("a", "b", "c", "train")
    assert sorted(grays(train) + grays(test)) == list(range(38))
    assert test.labels.bincount().tolist() == [1, 1, 4, 1]
    for folder in sorted((tmp_path / "first").iterdir(), reverse=True):  # written in another order
        for path in sorted(folder.iterdir(), reverse=True):
            gray(tmp_path / "second" / folder.name / path.name, Image.open(path).getpixel((0, 0)))
    again = load_split("folder", data_dir=tmp_path / "second")
    assert grays(again) == grays(test)


def test_the_holdout_of_a_folder_has_every_class_and_none_of_the_rest(tmp_path):
    fill(tmp_path, dict(a=60, b=60, c=60))
    fit, holdout = load_splits("folder", ("fit", "holdout"), data_dir=tmp_path)
    assert len(fit) == 130 and len(holdout) == 14
    assert sorted(holdout.labels.bincount().tolist()) == [4, 5, 5]
    assert not set(grays(fit)) & set(grays(holdout))
    values = dict(enumerate(range(0, 180, 60)))
    for split in (fit, holdout):  # labels stay with their images
        assert all(values[k] <= v < values[k] + 60 for v, k in zip(grays(split), split.labels.tolist(), strict=True))


def test_pictures_lie_at_any_depth_and_hidden_files_are_not_theirs(tmp_path):
    fill(tmp_path / "a", {"": 2, "deep/deeper": 3})
    fill(tmp_path, dict(b=4), start=5)
    for name in (".DS_Store", "Thumbs.db", ".cache/x.png"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"no picture")
    (tmp_path / ".git").mkdir()
    train, test = load_splits("folder", ("train", "test"), data_dir=tmp_path)
    assert sorted(grays(train) + grays(test)) == list(range(9))


def broken_folder(root: Path, count: int) -> None:
    fill(root / "train", dict(a=20, b=20))
    fill(root / "test", dict(a=2, b=2), start=100)
    for i in range(count):
        (root / "train" / "a" / f"broken{i:02}.png").write_bytes(b"" if i % 2 else b"not an image")


def test_broken_files_are_listed_by_name_ten_and_how_many_more(tmp_path):
    broken_folder(tmp_path, 12)
    with pytest.raises(DataError) as e:
        load_split("folder", "train", data_dir=tmp_path)
    text = str(e.value)
    assert text.startswith(f"12 of 56 images in {tmp_path} cannot be used: train/a/broken00.png, train/a/broken01.png, ")
    assert "broken09.png and 2 more." in text and "broken10" not in text
    assert "not an image that Pillow can read" in text and "--skip-broken (in Python skip_broken=True)" in text


def test_broken_files_are_skipped_only_on_request_and_reported(tmp_path):
    broken_folder(tmp_path, 3)
    with pytest.warns(UserWarning, match=r"3 of 47 images.*broken00.png, .*broken02.png; they are left out"):
        train = load_split("folder", "train", data_dir=tmp_path, skip_broken=True)
    assert sorted(grays(train)) == list(range(40))
    assert all((value >= 20) == label for value, label in zip(grays(train), train.labels.tolist(), strict=True))
    assert train.info.num_train == 40


def test_a_broken_file_does_not_move_the_others_between_training_and_test(tmp_path):
    fill(tmp_path, dict(a=30, b=30))
    before = load_split("folder", data_dir=tmp_path)
    (tmp_path / "a" / "005.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="a/005.png"):
        after = load_split("folder", data_dir=tmp_path, skip_broken=True)
    assert grays(after) == [v for v in grays(before) if v != 5]


def test_a_class_of_broken_files_alone_is_refused(tmp_path):
    fill(tmp_path, dict(a=6, b=6))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.png").write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(DataError, match="class c.*can be read"):
        load_split("folder", data_dir=tmp_path, skip_broken=True)


def no_folder(root):
    pass


def a_file(root):
    root.write_text("")


def no_classes(root):
    gray(root / "x.png", 1)


def one_class(root):
    fill(root, dict(a=3))


def empty_class(root):
    fill(root, dict(a=3, b=3))
    (root / "c").mkdir()


def empty_test_class(root):
    fill(root / "train", dict(a=3, b=3))
    fill(root / "test", dict(a=3))
    (root / "test" / "b").mkdir()


def stranger(root):
    fill(root / "train", dict(a=3, b=3))
    fill(root / "test", dict(a=3, B=3))


def no_test(root):
    fill(root / "train", dict(a=3, b=3))


def flat(root):
    fill(root, dict(train=3, test=3))


FOLDERS = {
    no_folder: r"data cannot be read \(No such file",
    a_file: r"data cannot be read \(Not a directory",
    no_classes: r"has 0 class folders \(none\); at least two.*CLASS/",
    one_class: r"has 1 class folders \(a\); at least two",
    empty_class: "class folder .*data/c is empty.*remove",
    empty_test_class: "class folder .*data/test/b is empty.*remove",
    stranger: "data/test has classes that .*data/train lacks: B. Allowed: a, b",
    no_test: "has only the folder train.*train and test.*pass .*data/train",
    flat: "data/train has 0 class folders",
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_a_folder_that_is_no_data_set_is_refused_with_what_to_do(make, tmp_path):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=FOLDERS[make]):
        load_split("folder", data_dir=tmp_path / "data")


def deep(root):
    fill(root / "train", {"a/more/still": 3, "b/more": 3})
    fill(root / "test", {"a/more": 1, "b/more": 1})


def without_endings(root):
    fill(root, dict(a=3, b=3))
    for path in root.rglob("*.png"):
        path.rename(path.with_suffix(""))


def hidden_in_a_class_called_train(root):
    fill(root, {"train": 3, "bus": 3, "train/.ipynb_checkpoints": 1})


@pytest.mark.parametrize("make", [deep, without_endings, hidden_in_a_class_called_train], ids=lambda make: make.__name__)
def test_class_folders_of_any_kind_are_the_data_set_where_none_is_named(make, tmp_path):
    make(tmp_path / "data")
    assert dataset_in(tmp_path / "data", "fashion_mnist") == "folder"
    assert len(load_splits("folder", ("train",), data_dir=tmp_path / "data")[0].info.labels) == 2


def nothing(root):
    root.mkdir()


def texts(root):
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "README").write_text("nothing to see")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_folder, "does not exist"), (a_file, "is a file"), (no_classes, "no pictures in class folders"),
        (nothing, "no pictures in class folders"), (texts, "no pictures in class folders"),
    ],
)  # fmt: skip
def test_a_folder_without_pictures_is_refused_by_every_command_and_nothing_is_said_of_downloading(make, words, tmp_path):
    make(tmp_path / "data")
    rest = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    for args in (["train", "lenet_tiny", *rest], ["ask", "lenet_tiny", "--teacher", "lenet_tiny", *rest]):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 1 and words in result.output and "CLASS/*.png" in result.output
        assert "download" not in result.output and not (tmp_path / "out").exists()
    assert dataset_in(tmp_path / "data", "fashion_mnist", download=True) == "fashion_mnist"  # which will be put there


def test_a_folder_has_to_be_named_here_or_by_the_environment(tmp_path, monkeypatch):
    fill(tmp_path, dict(a=3, b=3))
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path))
    assert load_split("folder").info.labels == ("a", "b") and not has_test_folder(None)
    monkeypatch.setenv("CNNZOO_DATA_DIR", "")
    assert may_download(None, None)  # as if it were not set
    with pytest.raises(DataError, match="data_dir="):
        load_split("folder")


@pytest.mark.parametrize(("counts", "warns"), [(dict(a=26, b=5, c=9), True), (dict(a=25, b=5, c=9), False)])
def test_more_than_five_to_one_is_warned_of_where_one_trains(tmp_path, counts, warns):
    fill(tmp_path / "train", counts)
    fill(tmp_path / "test", dict(a=1, b=1), start=100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_splits("folder", ("test", "holdout"), data_dir=tmp_path)
        assert not caught
        load_split("folder", "fit", data_dir=tmp_path)
    texts = [str(w.message) for w in caught]
    assert texts == [f"{tmp_path.name} is imbalanced: a has 26 training images, b 5."] * warns


def test_a_model_built_from_the_facts_takes_the_images(tmp_path):
    fill(tmp_path, dict(a=6, b=6, c=6))
    split = load_split("folder", data_dir=tmp_path, image_size=(3, 32, 32))
    info = split.info
    model = cnnzoo.create_model("resnet_tiny", in_chans=info.image_size[0], num_classes=len(info.labels))
    assert len(evaluate.evaluate(model, split).per_class) == 3


# -- training on them ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path):
    """Forty pictures each of bright tops and bright bottoms, of many sizes."""
    for label, rows in (("top", slice(0, 10)), ("bottom", slice(10, 20))):
        folder = tmp_path / "shapes" / label
        folder.mkdir(parents=True)
        for i in range(40):
            pixels = np.random.default_rng(i).integers(0, 60, (20, 20 + i % 7), dtype=np.uint8)
            pixels[rows] += 150
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "shapes"


def test_fine_tuning_on_a_folder_of_pictures_learns_them(shapes, tmp_path):
    out = tmp_path / "run"
    args = ["train", "lenet_tiny", "--pretrained", "--data-dir", str(shapes), "--out", str(out), "--epochs", "8"]
    args += ["--batch-size", "16", "--warmup-epochs", "1", "--ema-decay", "0", "--device", "cpu", "--cutout", "0"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    recipe, metrics = (json.loads((out / name).read_text()) for name in ("recipe.json", "metrics.json"))
    assert (recipe["dataset"], recipe["pretrained"]) == ("folder", True)
    assert len(metrics["per_class"]) == 2
    assert metrics["top1"] >= 90


def test_a_head_that_starts_anew_is_not_averaged_with_pretrained_weights(shapes, tmp_path):
    recipe = Recipe(model="lenet_tiny", dataset="folder", epochs=1, pretrained=True, wise_ft=0.5, batch_size=8, amp="no")
    with pytest.raises(
        CnnzooError, match=r"for other classes than the data's \(bottom, top, ...\), so the head starts anew"
    ):
        train.train(recipe, tmp_path / "run", data_dir=shapes, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_head_of_other_classes_is_not_averaged_even_if_there_are_as_many(tmp_path):
    for label in range(10):
        for split in ("train", "test"):
            folder = tmp_path / "digits" / split / str(label)
            folder.mkdir(parents=True)
            Image.new("L", (28, 28), 20 * label).save(folder / "1.png")
    recipe = Recipe(model="lenet_tiny", dataset="folder", epochs=1, pretrained=True, wise_ft=0.5, batch_size=2, amp="no")
    with pytest.raises(CnnzooError, match=r"for other classes than the data's \(0, 1, 2, ...\), so the head"):
        train.train(recipe, tmp_path / "run", data_dir=tmp_path / "digits", device="cpu")
    assert not (tmp_path / "run").exists()


def test_pictures_are_read_in_the_channels_and_size_asked_for(shapes, tmp_path):
    recipe = Recipe(
        model="resnet_tiny", dataset="folder", in_chans=3, image_size=20, epochs=1, warmup_epochs=0, batch_size=8, amp="no"
    )
    metrics = train.train(recipe, tmp_path / "run", data_dir=shapes, device="cpu")
    assert metrics["macs"] < cnnzoo.info("resnet_tiny")["macs"]
    assert load_file(tmp_path / "run" / "model.safetensors")["stem.0.conv.weight"].shape[1] == 3


def test_broken_pictures_stop_training_unless_they_are_to_be_skipped(shapes, tmp_path):
    (shapes / "top" / "broken.png").write_bytes(b"")
    args = ["train", "lenet_tiny", "--data-dir", str(shapes), "--out", str(tmp_path / "run"), "--epochs", "1"]
    args += ["--batch-size", "16", "--warmup-epochs", "0", "--device", "cpu"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1 and "top/broken.png" in result.output
    with pytest.warns(UserWarning, match="top/broken.png"):
        assert CliRunner().invoke(main, [*args, "--skip-broken"]).exit_code == 0


def test_ask_finds_pictures_and_reads_model_as_train_does(tmp_path, monkeypatch):
    fill(tmp_path / "data", dict(a=3, b=3))
    chosen = []
    for name in ("train", "ask"):
        monkeypatch.setattr(train, name, lambda recipe, *args, **kwargs: chosen.append(recipe))
    rest = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    model = str(checkpoints.folder("lenet_tiny.fashion_mnist"))
    for command in ("train", "ask"):
        assert CliRunner().invoke(main, [command, model, *rest]).exit_code == 0
    assert chosen[0] == chosen[1]
    assert (chosen[1].model, chosen[1].dataset, chosen[1].start_size) == (model, "folder", 0)  # of a model of one size
    result = CliRunner().invoke(main, ["ask", "nosuchmodel", *rest])
    assert result.exit_code == 1 and "Unknown model 'nosuchmodel'" in result.output and len(chosen) == 2
