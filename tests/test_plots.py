"""Pictures: what they show, by their own artists and pixels, and what they refuse. (How they look, people judged.)"""

import dataclasses
import json
import subprocess
import sys

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image, ImageChops, ImageOps

import cnnzoo
from cnnzoo import checkpoints, data, drawings, plots, published
from cnnzoo.cli import main
from cnnzoo.drawings import garments
from cnnzoo.errors import CheckpointError, CnnzooError, InputError


@pytest.fixture(scope="module")
def model():
    return cnnzoo.create_model("resnet_tiny", pretrained=True).train()  # a plot must look at it in evaluation mode


@pytest.fixture
def log(tmp_path):
    lines = [
        dict(epoch=e, lr=0.1, train_loss=2 / e, train_top1=60.0 + e, holdout_loss=3 / e, holdout_top1=50.0 + e)
        for e in (1, 2, 3)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def shown(axes) -> torch.Tensor:
    return torch.as_tensor(axes.images[0].get_array().data)


def drawn(axes) -> dict:
    """Label to the points of each line that has one."""
    return {line.get_label().split(",")[0]: line.get_xydata().tolist() for line in axes.lines if line.get_label()[0] != "_"}


def test_curves_draw_loss_and_accuracy_by_epoch_in_two_panels(log):
    figure = plots.curves(log)
    loss, accuracy = figure.axes
    assert drawn(loss) == {"training": [[1, 2], [2, 1], [3, 2 / 3]], "validation": [[1, 3], [2, 1.5], [3, 1]]}
    assert drawn(accuracy) == {"training": [[1, 61], [2, 62], [3, 63]], "validation": [[1, 51], [2, 52], [3, 53]]}
    assert loss.get_ylim()[0] == 0 and loss.get_ylim()[1] > 3
    for axes in figure.axes:
        assert len({line.get_linestyle() for line in axes.lines}) == len({line.get_color() for line in axes.lines}) == 2


def test_the_title_of_curves_is_the_result_once_there_is_one(log):
    assert "3 epochs, not finished" in plots.curves(log)._suptitle.get_text()
    (log / "metrics.json").write_text(json.dumps(dict(model="nin_tiny", epochs=3, top1=91.234, split="test")))
    assert plots.curves(log)._suptitle.get_text() == "nin_tiny, 3 epochs: 91.23 % accuracy on the test set"


def test_curves_of_a_run_without_validation_leave_it_out(log):
    path = log / "metrics.jsonl"
    path.write_text(json.dumps(dict(epoch=1, train_loss=1.0, train_top1=50.0)))
    assert [list(drawn(axes)) for axes in plots.curves(path).axes] == [["training"], ["training"]]


@pytest.mark.parametrize("content", ["", "not json", '{"loss": 1}', "[1]"])
def test_what_is_no_log_is_refused(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match="metrics.jsonl"):
        plots.curves(tmp_path)
    with pytest.raises(CheckpointError, match="run folder"):
        plots.curves(tmp_path / "nothing")


def test_the_confusion_matrix_shows_percent_of_the_true_class():
    figure = plots.confusion_matrix([[8, 2], [0, 5]], ("cat", "dog"))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["80.0", "20.0", "0", "100.0"]
    assert torch.equal(shown(axes), torch.tensor([[0.0, 20.0], [0.0, 0.0]], dtype=torch.double))  # errors only
    assert len(axes.patches) == 2  # the right answers have a ground of their own, be they ever so few
    with pytest.raises(InputError, match="a row and a column for each"):
        plots.confusion_matrix([[1, 2]], ("cat", "dog"))


@pytest.mark.parametrize(("error", "colour"), [(90, "white"), (50, "black"), (10, "black")])
def test_the_numbers_of_the_confusion_matrix_stand_out_from_their_ground(error, colour):
    axes = plots.confusion_matrix([[100 - error, error], [90, 10]], ("cat", "dog")).axes[0]
    assert axes.texts[1].get_color() == colour


def test_a_class_that_is_never_right_has_its_zero_on_the_diagonal():
    axes = plots.confusion_matrix([[0, 5], [0, 5]], ("cat", "dog")).axes[0]
    assert axes.texts[0].get_text() == "0" and axes.texts[0].get_color() == "black"


def test_filters_shows_every_kernel_of_the_first_convolution(model):
    weight = model.get_parameter("stem.0.conv.weight")
    tiles = [axes for axes in plots.filters(model).axes if axes.images]
    assert len(tiles) == weight.shape[0]
    expected = weight[0, 0].detach() / weight[0, 0].abs().max()
    torch.testing.assert_close(shown(tiles[0]).float(), expected)


def test_filters_needs_a_convolution():
    with pytest.raises(InputError, match="no 2d convolution"):
        plots.filters(torch.nn.Linear(2, 2))


def test_feature_maps_shows_the_image_and_the_most_varied_channels_of_every_level(model):
    figure = plots.feature_maps(model, garments()["Ankle boot"], channels=3)
    assert model.training
    assert len(figure.axes) == 4 * len(model.feature_info) + 1  # and a scale
    x = data.create_transform(model)(garments()["Ankle boot"])[None]
    level = model.eval().forward_intermediates(x, intermediates_only=True)[1][0]
    model.train()
    assert [bool(axes.images) for axes in figure.axes[:-1:4]] == [True] + [False] * (len(model.feature_info) - 1)
    assert figure.axes[4].get_ylabel().startswith("1/2 of the size")
    spread = level.flatten(1).std(1)
    names = [axes.get_title() for axes in figure.axes[5:8]]
    assert names == [f"channel {c}" for c in spread.topk(3).indices.tolist()]
    torch.testing.assert_close(shown(figure.axes[5]), level[spread.argmax()].detach())


def test_grad_cam_is_the_gradients_mean_times_the_features():
    """A network of one channel and one weight, worked out by hand."""
    network = timm.create_model("lenet_tiny").eval()
    x = torch.rand(1, 1, 28, 28)
    cam, logits = plots.class_activation(network, x, label=3)
    assert cam.shape == (28, 28)
    assert cam.min() >= 0 and cam.max() in (0, pytest.approx(1))
    features = network.forward_features(x).detach().requires_grad_()
    out = network.forward_head(features)
    torch.testing.assert_close(out[0].detach(), logits)
    (slope,) = torch.autograd.grad(out[0, 3], features)
    coarse = torch.einsum("chw,c->hw", features[0].detach(), slope[0].mean((1, 2))).relu()
    fine = torch.nn.functional.interpolate(coarse[None, None], (28, 28), mode="bilinear")[0, 0]
    torch.testing.assert_close(cam, fine / fine.max().clamp(min=1e-12))


def test_grad_cam_takes_any_timm_model_and_leaves_no_hook():
    network = timm.create_model("resnet10t", in_chans=1, num_classes=10)
    cam, _ = plots.class_activation(network, torch.rand(1, 1, 64, 64), level=2)
    assert cam.shape == (64, 64)
    assert not any(m._forward_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("photo", ["auto", "makers", "never"])
def test_grad_cam_names_the_class_and_the_probability_that_predict_gives(model, photo):
    assert model.temperature != 1
    bag = garments()["Bag"]
    on_white = ImageOps.expand(ImageOps.invert(bag.resize((112, 112))), 20, fill=255)  # a photo
    for image in (bag, on_white):
        label, probability = cnnzoo.predict(model, image, photo=photo)[0]
        title = plots.grad_cam(model, image, photo=photo)._suptitle.get_text()
        assert title == f"Evidence for {label} ({probability:.1%})"


def test_grad_cam_leaves_the_image_as_it_is_where_there_is_no_evidence(model):
    image, evidence, both = plots.grad_cam(model, garments()["Bag"]).axes[:3]
    over = both.images[1]
    assert torch.equal(shown(both), shown(image))
    torch.testing.assert_close(torch.as_tensor(over.get_alpha()), 0.75 * shown(evidence))


def test_grad_cam_explains_the_class_that_is_asked_for(model):
    image = garments()["Bag"]
    assert "Trouser" in plots.grad_cam(model, image, label=1)._suptitle.get_text()


@pytest.mark.parametrize("wrong", [dict(label=10), dict(label=-1), dict(level=9), dict(level=-9)])
def test_grad_cam_refuses_classes_and_levels_that_do_not_exist(model, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        plots.grad_cam(model, garments()["Bag"], **wrong)


def test_mistakes_shows_the_surest_first(tiny_split):
    logits = torch.zeros(len(tiny_split), 10)
    logits[torch.arange(len(tiny_split)), tiny_split.labels] = 5.0
    for sure, i in enumerate((4, 7, 9), start=6):
        logits[i, (tiny_split.labels[i] + 1) % 10] = float(sure)
    figure = plots.mistakes(logits, tiny_split, count=2)
    names = tiny_split.info.labels
    assert "3 mistakes" in figure._suptitle.get_text()
    titles = [axes.get_title() for axes in figure.axes]
    assert [t.split("labelled ")[1] for t in titles] == [f"{names[tiny_split.labels[i]]}\nimage {i}" for i in (9, 7)]
    assert torch.equal(shown(figure.axes[0]), tiny_split.images[9, 0])


def test_mistakes_have_the_probabilities_at_the_models_temperature(tiny_split):
    logits = torch.nn.functional.one_hot((tiny_split.labels + 1) % 10, 10) * 2.0
    for temperature in (1.0, 0.5):
        sure = (logits[:1] / temperature).softmax(1).max().item()
        title = plots.mistakes(logits, tiny_split, count=1, temperature=temperature).axes[0].get_title()
        assert f" {sure:.0%}\n" in title


def test_mistakes_say_which_files_they_are(tiny_split):
    logits = torch.nn.functional.one_hot((tiny_split.labels + 1) % 10, 10) * 2.0
    logits[0] *= 2  # the surest
    named = dataclasses.replace(tiny_split, names=tuple(f"shirt/{'a' * 30}{i}.png" for i in range(len(tiny_split))))
    title = plots.mistakes(logits, named, count=1).axes[0].get_title()
    assert title.endswith(f"\n…{'a' * 14}0.png")


def test_mistakes_refuses_a_faultless_model_and_outputs_of_another_split(tiny_split):
    logits = torch.nn.functional.one_hot(tiny_split.labels, 10).float()
    with pytest.raises(InputError, match="all 40 images right"):
        plots.mistakes(logits, tiny_split)
    with pytest.raises(InputError, match="39 outputs"):
        plots.mistakes(logits[1:], tiny_split)
    with pytest.raises(InputError, match="count=0"):
        plots.mistakes(logits, tiny_split, count=0)


def test_a_picture_is_saved_in_the_format_of_its_ending_or_not_at_all(tmp_path, log):
    figure = plots.curves(log)
    with Image.open(plots.save(figure, tmp_path / "curves.png")) as picture:
        assert picture.size == (800, 400)
    assert plots.save(figure, tmp_path / "curves.svg").read_text().startswith("<?xml")
    for wrong in ("curves", "curves.txt"):
        with pytest.raises(CnnzooError, match="png"):
            plots.save(figure, tmp_path / wrong)
        assert not (tmp_path / wrong).exists()


def test_the_command_draws_each_kind(tmp_path, log, monkeypatch):
    monkeypatch.chdir(tmp_path)
    garments()["Bag"].save("bag.png")
    for args in (
        ["curves", "."],
        ["filters", "lenet_tiny"],
        ["features", "lenet_tiny", "bag.png"],
        ["gradcam", "lenet_tiny", "bag.png", "--photo", "never"],
    ):
        result = CliRunner().invoke(main, ["plot", *args])
        assert (result.exit_code, result.output) == (0, f"{args[0]}.png\n"), result.exception
        with Image.open(f"{args[0]}.png") as picture:
            assert picture.width == 800


def test_the_steps_of_a_photo_are_framed_and_the_answer_is_told(model):
    photo = ImageOps.expand(ImageOps.invert(garments()["Bag"].resize((112, 112))), 20, fill=255)
    figure = plots.answer(model, photo)
    *steps, answers = [axes for part in figure.subfigs for axes in part.axes]
    assert len(steps) == 4
    assert all(spine.get_visible() for axes in steps for spine in axes.spines.values())
    assert answers.get_title() == f"Answer: {cnnzoo.predict(model, photo)[0][0]}"


@pytest.mark.data
def test_the_command_draws_confusion_and_mistakes_of_the_test_set(tmp_path, fashion_mnist_dir):
    for kind in ("confusion", "mistakes"):
        out = str(tmp_path / f"{kind}.png")
        result = CliRunner().invoke(main, ["plot", kind, "lenet_tiny", "--out", out, "--data-dir", str(fashion_mnist_dir)])
        assert (result.exit_code, result.output) == (0, f"{out}\n"), result.exception


def test_without_matplotlib_the_extra_is_named():
    code = """
import sys
sys.modules["matplotlib"] = None
from cnnzoo.cli import main
main(["plot", "filters", "lenet_tiny"])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert 'pip install "cnnzoo[plot]"' in run.stderr
    assert "Traceback" not in run.stderr


# -- results -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows():
    sizes = dict(lenet_tiny=(80_000, 93.0, None), vgg_tiny=(90_000, 94.0, 0.1), vgg_small=(280_000, 95.0, 0.2))
    usual = dict(tag="mine", recipe=dict(dataset="mine"))
    return [
        dict(usual, checkpoint=f"{m}.mine", model=m, family=m.split("_")[0], params=p, top1_mean=t, top1_std=s)
        for m, (p, t, s) in sizes.items()
    ]


def points(container) -> list:
    return container.lines[0].get_xydata().tolist()


def test_results_draw_every_checkpoint_twice_by_parameters_and_by_family(rows):
    left, right = plots.results(rows).axes
    assert sorted(drawn(left)["cnnzoo"]) == [[80_000, 93.0], [90_000, 94.0], [280_000, 95.0]]
    assert drawn(left)["best of cnnzoo"] == [[80_000, 93.0], [90_000, 94.0], [280_000, 95.0]]
    assert left.get_xscale() == "log"
    assert [t.get_text() for t in right.get_yticklabels()] == ["lenet", "vgg"]  # the best on top
    assert {c.get_label(): points(c) for c in right.containers} == {"tiny": [[93.0, 0], [94.0, 1]], "small": [[95.0, 1]]}
    assert (
        len({c.lines[0].get_marker() for c in right.containers})
        == len({c.lines[0].get_color() for c in right.containers})
        == 2
    )


def test_a_model_that_a_smaller_one_equals_is_off_the_line_of_the_best(rows):
    rows[1]["top1_mean"] = 92.0
    line = drawn(plots.results(rows).axes[0])["best of cnnzoo"]
    assert line == [[80_000, 93.0], [280_000, 95.0]]


def test_the_textbooks_networks_have_rows_of_their_own_and_variants_are_left_out(rows):
    book = dict(rows[0], model="lenet_d2l", params=60_000, top1_mean=90.0)
    variant = dict(book, tag="textbook_mine", checkpoint="lenet_d2l.textbook_mine", top1_mean=75.0)
    left, right = plots.results([*rows, book, variant]).axes
    assert [t.get_text() for t in right.get_yticklabels()] == ["lenet_d2l", "lenet", "vgg"]
    assert {c.get_label(): points(c) for c in right.containers}["textbook"] == [[90.0, 0]]
    assert len(drawn(left)["cnnzoo"]) == 4
    assert plots.results_note([*rows, variant]) == plots.results_note(rows)
    with pytest.raises(InputError):
        plots.results([variant])


def test_results_draw_every_published_number_by_how_it_came_about(rows):
    axes = plots.results(rows).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for protocol, name in published.PROTOCOLS.items():
        theirs = [(p.params, p.top1) for p in published.PUBLISHED if p.protocol == protocol]
        assert theirs and list(zip(*lines[name].get_data(), strict=True)) == theirs
    assert len({lines[name].get_marker() for name in published.PROTOCOLS.values()}) == 3
    assert "leaky" in published.PROTOCOLS[published.LEAKY]


def test_the_best_of_each_size_is_named_theirs_and_ours(rows):
    names = [t.get_text() for t in plots.results(rows).axes[0].texts]
    theirs = ["pre-act ResNet-20", "pre-act ResNet-50", "shake-shake-26 2x32d", "shake-shake-26 2x96d"]
    assert names == [*theirs, "vgg_tiny", "vgg_small"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="cnnzoo.results"):
        plots.results([])


def test_the_picture_of_the_readme_is_of_the_results_there_are(request):
    """By a note in the file, not by pixels, which depend on matplotlib's version and on fonts."""
    rows, path = cnnzoo.results(), checkpoints.root() / "results.png"
    if request.config.getoption("--accept"):
        plots.save(plots.results(rows), path, plots.results_note(rows))
    with Image.open(path) as picture:
        assert picture.text["Description"] == plots.results_note(rows), (
            "The picture is stale: cnnzoo plot results --out hub_configs/results.png draws it anew."
        )
    assert path.stat().st_size < 100_000
    changed = [dict(rows[0], top1_mean=rows[0]["top1_mean"] + 0.01), *rows[1:]]
    assert plots.results_note(changed) != plots.results_note(rows)


def test_the_drawings_of_the_readme_are_those_of_the_demo(request):
    """By the pixels of the drawings; the words below them depend on fonts."""
    path = checkpoints.root() / "demo.png"
    if request.config.getoption("--accept"):
        assert CliRunner().invoke(main, ["demo", "--sheet", str(path)]).exit_code == 0
    with Image.open(path) as sheet:
        for i, image in enumerate(garments().values()):
            x, y = drawings.sheet_position(i)
            side = drawings.SIZE * drawings.ZOOM
            large = image.resize((side, side), Image.Resampling.NEAREST)
            assert ImageChops.difference(sheet.convert("L").crop((x, y, x + side, y + side)), large).getbbox() is None


def test_the_command_writes_the_picture_with_its_note(tmp_path):
    out = tmp_path / "results.png"
    result = CliRunner().invoke(main, ["plot", "results", "--out", str(out)])
    assert result.exit_code == 0, result.output
    with Image.open(out) as picture:
        assert picture.text["Description"] == plots.results_note(cnnzoo.results())


def test_a_log_that_is_nested_too_deeply_is_no_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(CheckpointError, match="is not a log of a run"):
        plots.curves(tmp_path)
