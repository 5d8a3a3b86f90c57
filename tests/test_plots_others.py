"""Pictures of models and data that are not the zoo's usual ones: names with signs, other layouts, weights for photos."""

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image, ImageOps

import cnnzoo
from cnnzoo import inference, plots
from cnnzoo.cli import main
from cnnzoo.drawings import garments
from cnnzoo.errors import InputError


@pytest.mark.parametrize("kind", ["gradcam", "features"])
def test_the_command_shows_the_weights_that_answer_for_a_photo(tmp_path, kind, monkeypatch):
    photo, shown = tmp_path / "photo.png", []
    ImageOps.expand(Image.new("L", (30, 30), 60), 15, fill=255).save(photo)
    drawn = dict(gradcam="grad_cam", features="feature_maps")[kind]
    monkeypatch.setattr(plots, drawn, lambda model, *_: shown.append(model.pretrained_cfg["tag"]) or plots.filters(model))
    for photo_option in ("auto", "never"):
        out = str(tmp_path / "made.png")
        result = CliRunner().invoke(main, ["plot", kind, "nin_tiny", str(photo), "--photo", photo_option, "--out", out])
        assert result.exit_code == 0, result.output
    assert shown == ["photo_fashion_mnist", "fashion_mnist"]


def test_class_names_are_drawn_as_they_are(tmp_path):
    labels = ("$0_to_$50", "$x$", r"\frac")
    figure = plots.confusion_matrix([[3, 1, 0], [0, 4, 0], [0, 0, 4]], labels, title="$50_$")
    plots.save(figure, tmp_path / "made.svg")  # which mathematics would make impossible
    from matplotlib.cbook import is_math_text

    texts = [text.get_text() for text in figure.axes[0].get_xticklabels()] + [figure.axes[0].get_title()]
    assert [text.replace(r"\$", "$") for text in texts] == [*labels, "$50_$"]
    assert not any(is_math_text(text) for text in texts)


def test_grad_cam_takes_maps_whose_channels_come_last():
    model = timm.create_model("test_mambaout", in_chans=1, num_classes=10).eval()
    x = torch.randn(1, 1, 64, 64)
    cam, _ = inference.class_activation(model, x, level=-1)
    maps = []
    model.get_submodule(model.feature_info[-1]["module"]).register_forward_hook(lambda m, a, out: maps.append(out))
    score = model(x)[0].max()
    (slope,) = torch.autograd.grad(score, maps[0])
    wanted = (slope.mean((1, 2), keepdim=True) * maps[0]).sum(3).relu()[:, None]
    wanted = torch.nn.functional.interpolate(wanted, (64, 64), mode="bilinear")[0, 0]
    torch.testing.assert_close(cam, (wanted / wanted.max().clamp(min=1e-12)).detach(), rtol=1e-3, atol=1e-4)


def test_grad_cam_refuses_what_has_no_maps_and_no_such_class():
    image = garments()["Bag"]
    with pytest.raises(InputError, match="gives no feature maps"):
        plots.grad_cam(timm.create_model("test_vit", in_chans=1, num_classes=10), image)
    with pytest.raises(InputError, match="label='Bag' was given"):
        plots.grad_cam(cnnzoo.create_model("lenet_tiny", pretrained=True), image, label="Bag")
    assert plots.grad_cam(cnnzoo.create_model("lenet_tiny", pretrained=True).bfloat16(), image)
