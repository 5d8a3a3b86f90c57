"""Layer tables, costs and receptive fields, against torch's own counter and against gradients."""

import copy

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import MODELS, each
from hypothesis import given, settings, strategies as st
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import cnnzoo
from cnnzoo.cli import main
from cnnzoo.errors import InputError
from cnnzoo.summary import Count, count, layer_summary, summarize

GRAY = (1, 28, 28)


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name).eval()


def fields(summary) -> dict[str, tuple[int, ...] | None]:
    return {layer.path: layer.receptive_field for layer in summary.layers}


class Residual(nn.Module):
    def __init__(self, chs: int, stride: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(chs, chs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(chs)
        self.conv2 = nn.Conv2d(chs, chs, kernel, 1, kernel // 2, bias=False)
        self.shortcut = nn.Conv2d(chs, chs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.bn(self.conv1(x)))) + self.shortcut(x))


class Inception(nn.Module):
    """Branches of 1, 3, 5, and lopsided ones that join by position, not by size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 1, 1, bias=False)
        self.three = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        self.five = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 5, padding=2, bias=False))
        self.wide = nn.Conv2d(2, 1, (1, 7), padding=(0, 6), bias=False)

    def forward(self, x):
        right = self.wide(x)[..., 5:-1]  # sees 1 pixel to the left and 5 to the right
        left = F.pad(self.one(x), (4, -4, 0, 0))  # sees the pixel 4 to the left
        return torch.cat([self.one(x), self.three(x), self.five(x), right, left], 1)


class Dense(nn.Module):
    """Each convolution sees all maps before it; then a transition with pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 + i, 1, 3, padding=1, bias=False) for i in range(3))
        self.transition = nn.Sequential(nn.Conv2d(5, 2, 1, bias=False), nn.AvgPool2d(2))

    def forward(self, x):
        for conv in self.convs:
            x = torch.cat([x, torch.sigmoid(conv(x))], 1)
        return self.transition(x)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.gate = nn.Conv2d(2, 2, 1)
        self.after = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return self.after(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))


def measured_field(model: nn.Module, chs: int, pixels: int) -> tuple[int, ...]:
    """The receptive field as the extent of the gradient of one output pixel, all weights positive."""
    model = copy.deepcopy(model).double().eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):  # a maximum has a gradient in one pixel only
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, LayerNorm2d):  # reaches over channels only, and has no gradient where all are equal
                setattr(parent, name, nn.Identity())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
    x = torch.ones(1, chs, pixels, pixels, dtype=torch.float64, requires_grad=True)
    y = model(x)
    (grad,) = torch.autograd.grad(y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum(), x)
    touched = grad[0].abs().sum(0).nonzero()
    return tuple((touched.max(0).values - touched.min(0).values + 1).tolist())


# -- cost -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", each(MODELS))
def test_macs_agree_with_torchs_flop_counter_and_params_with_the_model(name):
    model = on_meta(name)
    size = model.pretrained_cfg["input_size"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *size, device="meta"))
    counted = count(model, size)
    assert counted.macs == pytest.approx(counter.get_total_flops() / 2, rel=0.01)
    assert counted.params == sum(p.numel() for p in model.parameters())
    summary = summarize(model, size)
    assert Count(summary.params, summary.macs) == counted


class Functional(nn.Module):
    def forward(self, x):
        return F.linear(F.conv2d(x, torch.ones(3, 2, 2, 2)).flatten(1), torch.ones(5, 27))


class Folded(nn.Module):
    """Sends the channels through one convolution as if they were images."""

    def forward(self, x):
        return F.conv2d(x.transpose(0, 1), torch.ones(2, 1, 3, 3))


@pytest.mark.parametrize(
    "model, size, macs",
    [
        (nn.Conv1d(2, 4, 3, bias=False), (2, 10), 8 * 4 * 2 * 3),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (4, 9, 9), 16 * 8 * 2 * 9),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3), 8 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 25 * 4 * 3 * 9),
        (nn.ConvTranspose1d(2, 3, 4), (2, 5), 5 * 2 * 3 * 4),
        (nn.Linear(12, 7), (12,), 84),
        (nn.Linear(12, 7), (5, 12), 5 * 84),
        (Functional(), (2, 4, 4), 9 * 3 * 8 + 27 * 5),
        (Folded(), (6, 3, 3), 6 * 2 * 9),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8), 5 * 8 * (24 + 8) + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else None,
)
def test_macs_are_those_counted_by_hand(model, size, macs):
    assert count(model, size).macs == macs


def test_a_layer_called_twice_costs_twice_and_its_parameters_count_once():
    layer = nn.Linear(6, 6)
    summary = summarize(nn.Sequential(layer, nn.ReLU(), layer), (6,))
    assert (summary.params, summary.macs) == (42, 72)
    assert [(x.path, x.macs) for x in summary.layers] == [("0", 72), ("1", 0)]


# -- the model stays as it was --------------------------------------------------------------------------------------------


def test_hooks_modes_and_batch_norm_statistics_stay_as_they_were():
    model = cnnzoo.create_model("resnet_tiny").train()
    frozen = model.get_submodule("stem.0.bn").eval()
    calls = []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    hooks = {name: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for name, m in model.named_modules()}
    random = torch.get_rng_state()
    summarize(model, GRAY)
    with pytest.raises(InputError):
        count(model, (1, 2, 2))
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for name, m in model.named_modules()} == hooks
    assert calls
    assert not frozen.training and all(m.training for m in model.stages.modules()) and model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_summary_is_the_same_on_the_meta_device_in_inference_mode_and_in_bfloat16():
    model = cnnzoo.create_model("resnext_tiny")
    expected = summarize(model, GRAY)
    assert summarize(on_meta("resnext_tiny"), GRAY) == expected
    assert summarize(copy.deepcopy(model).bfloat16(), GRAY) == expected
    with torch.inference_mode():
        assert summarize(model, GRAY) == expected


# -- receptive fields -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, expected",
    [
        (nn.Sequential(Residual(2, 1), Residual(2, 2), nn.MaxPool2d(3, 2, 1), Residual(2, 1, 5)), (47, 47)),
        (nn.Sequential(Residual(2, 2, 1), nn.MaxPool2d(2)), (3, 3)),
        (nn.Sequential(Inception(), nn.Conv2d(5, 2, 3, 2, 1), nn.MaxPool2d(2), Inception()), (25, 50)),
        (nn.Sequential(Dense(), Dense()), (22, 22)),
        (nn.Sequential(nn.Conv2d(2, 2, 3, dilation=3), nn.ZeroPad2d((3, 0, 0, 1)), nn.Conv2d(2, 2, (5, 1))), (11, 7)),
    ],
    ids=["residual", "skipping", "inception", "dense", "dilated"],
)
def test_the_receptive_field_is_where_gradients_reach(model, expected):
    found = list(fields(summarize(model, (2, 128, 128), depth=1)).values())[-1]
    assert found == measured_field(model, 2, 128)
    assert found == expected


@pytest.mark.parametrize("name", ["resnet_tiny", "resnext_tiny", "convnext28_tiny"])
def test_the_receptive_field_of_each_stage_is_where_gradients_reach(name):
    model = cnnzoo.create_model(name)
    stages = summarize(model, (1, 160, 160)).stages
    assert [x.path for x in stages] == [level["module"] for level in model.feature_info]
    for stage in stages:
        before = 0 if stage.path == "stem" else int(stage.path.removeprefix("stages.")) + 1
        assert stage.receptive_field == measured_field(nn.Sequential(model.stem, *model.stages[:before]), 1, 160)


_layer = st.tuples(st.sampled_from(["conv", "max", "avg"]), st.integers(1, 5), st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=30, deadline=None)
@given(st.lists(_layer, min_size=1, max_size=3))
def test_the_receptive_field_of_any_chain_is_where_gradients_reach(chain):
    layers: list[nn.Module] = []
    for kind, kernel, stride, dilation in chain:
        if kind == "conv":
            layers.append(nn.Conv2d(1, 1, kernel, stride, kernel // 2, dilation))
        else:
            layers.append((nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(kernel, stride, kernel // 2))
    model = nn.Sequential(*layers)
    assert summarize(model, (1, 150, 150)).layers[-1].receptive_field == measured_field(model, 1, 150)


def test_published_receptive_fields_are_met():
    # Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks" (2019)
    for name, path, pixels in [
        ("vgg16", "features.30", 212),
        ("mobilenetv1_100", "blocks.4", 315),
        ("inception_v3", "Mixed_7c", 1311),
    ]:
        model = on_meta(name)
        stages = summarize(model, model.pretrained_cfg["input_size"]).stages
        assert {x.path: x.receptive_field for x in stages}[path] == (pixels, pixels)


def test_a_gate_pooled_over_the_whole_map_makes_every_position_see_all_of_it():
    seen = fields(summarize(SqueezeExcite(), GRAY))
    assert seen == {"conv": (3, 3), "gate": (30, 30), "after": (30, 30)}  # 28 pixels and the padding


class Written(nn.Module):
    """Writes a convolution into half of a canvas, so the whole has no single field."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.read = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        canvas = torch.zeros(1, 2, *x.shape[2:])
        canvas[:, :1] = self.conv(x)
        return self.read(canvas) + x


class Cropped(nn.Module):
    """A gate that sees the left half, so positions see windows of different sizes."""

    def forward(self, x):
        return x * x[..., :13].mean((2, 3), keepdim=True)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(1, 1, 2, 2),
        nn.AdaptiveAvgPool2d(5),
        nn.BatchNorm2d(1, track_running_stats=False),
        nn.LayerNorm(26),
        nn.Flatten(),
        Written(),
        Cropped(),
    ],
    ids=lambda x: type(x).__name__,
)
def test_where_the_reach_is_not_known_there_is_no_field_rather_than_a_guess(layer):
    assert summarize(nn.Sequential(nn.Conv2d(1, 1, 3), layer), GRAY, depth=1).layers[-1].receptive_field is None


# -- the table ------------------------------------------------------------------------------------------------------------


def test_a_summary_prints_as_an_aligned_table():
    text = str(summarize(cnnzoo.create_model("lenet_d2l"), GRAY, depth=2))
    lines = text.splitlines()
    assert lines[0] == "lenet_d2l, input 1x28x28"
    assert lines[2].split() == ["module", "type", "output", "parameters", "MACs", "field"]
    rows = lines[4:-3]
    assert rows[0].split() == ["stem", "Stage", "6x28x28", "156", "117,600", "5x5"]
    assert rows[-1].split() == ["head.fc", "Linear", "10", "850", "840", "-"]
    assert len({row.index(row.split()[1], len(row.split()[0])) for row in rows}) == 1  # types begin in one column
    end = lines[2].index("MACs") + 4
    assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)  # numbers end in one column
    assert lines[-2].split() == ["total", "61,706", "416,520"]
    assert lines[-1] == "receptive field: stem 5x5, stages.0 14x14, stages.1 16x16"


def test_depth_limits_the_lines_and_none_shows_all():
    model = cnnzoo.create_model("resnet_tiny")
    coarse = [x.path for x in summarize(model, GRAY, depth=1).layers]
    assert coarse == ["stem", "stages", "head"]
    everything = {x.path for x in summarize(model, GRAY, depth=None).layers}
    idle = {p for p, m in model.named_modules() if isinstance(m, (nn.Identity, nn.Dropout))} | {"", "head.pre_logits"}
    assert everything == {path for path, _ in model.named_modules()} - idle


def test_a_small_network_is_shown_whole_and_a_large_one_as_far_as_40_lines_go():
    found = summarize(cnnzoo.create_model("lenet_d2l"), GRAY)
    assert found.layers == summarize(cnnzoo.create_model("lenet_d2l"), GRAY, depth=None).layers
    leaves = [x for x in found.layers if not any(y.path.startswith(f"{x.path}.") for y in found.layers)]
    assert sum(x.params for x in leaves) == found.params == 61_706
    model = on_meta("resnet_small")
    auto, deeper = summarize(model, GRAY), summarize(model, GRAY, depth=4)
    assert auto.layers == summarize(model, GRAY, depth=3).layers
    assert len(auto.layers) <= 40 < len(deeper.layers)
    command = CliRunner().invoke(main, ["summary", "resnet_small"])
    assert command.output == f"{auto}\n"


@pytest.mark.parametrize("name", ["lenet_d2l", "vgg11_thin_d2l", "resnet_tiny"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_lines_of_any_depth_add_up_to_the_whole(name, depth):
    """A container that is never called, as the head's hidden layers are in, hides nothing."""
    model = on_meta(name)
    found = summarize(model, model.pretrained_cfg["input_size"], depth=depth)
    leaves = [x for x in found.layers if not any(y.path.startswith(f"{x.path}.") for y in found.layers)]
    assert (sum(x.params for x in leaves), sum(x.macs for x in leaves)) == (found.params, found.macs)


def test_a_line_holds_all_that_is_inside_the_module():
    summary = summarize(cnnzoo.create_model("resnet_small"), GRAY, depth=None)
    top = [x for x in summary.layers if "." not in x.path]
    assert (sum(x.params for x in top), sum(x.macs for x in top)) == (summary.params, summary.macs)
    stage = next(x for x in summary.layers if x.path == "stages.1")
    blocks = [x for x in summary.layers if x.path.startswith("stages.1.") and x.path.count(".") == 2]
    assert (sum(x.params for x in blocks), sum(x.macs for x in blocks)) == (stage.params, stage.macs)


# -- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [count, summarize, layer_summary])
def test_a_wrong_input_size_is_refused_with_the_size_to_type(ask):
    for model in (cnnzoo.create_model("lenet_d2l"), cnnzoo.create_model("resnet_tiny")):
        with pytest.raises(InputError, match=r"\(3, 28, 28\) was given.*takes 1x28x28.*input_size=\(1, 28, 28\)"):
            ask(model, (3, 28, 28))
    with pytest.raises(InputError, match="A str was given as a model"):
        ask("lenet_tiny", (1, 28, 28))
    with pytest.raises(InputError, match=r"28 was given.*height and width.*Pass \(1, 28, 28\)"):
        ask(cnnzoo.create_model("lenet_d2l"), 28)
    with pytest.raises(InputError, match=r"\(1, 0, 28\) was given"):
        ask(cnnzoo.create_model("lenet_d2l"), (1, 0, 28))


def test_a_model_without_a_known_size_is_refused_with_its_own_channels():
    with pytest.raises(InputError, match=r"pass input_size=\(5, 9, 9\)"):
        count(nn.Sequential(nn.Conv2d(5, 2, 3)), (1, 9, 9))
    with pytest.raises(InputError, match=r"\(5, 9, 9\) was given, Conv2d cannot run.*model\(image\[None\]\) accepts"):
        count(nn.Conv2d(5, 2, 11), (5, 9, 9))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_modules_that_cannot_be_watched_are_refused_with_a_way_out():
    with pytest.raises(InputError, match=r"lazy layers.*Call it once first: model\(torch.zeros\(1, 1, 28, 28\)\)"):
        count(nn.Sequential(nn.LazyConv2d(3, 3)), GRAY)
    with pytest.raises(InputError, match="TorchScript.*Pass the module it was made from"):
        count(torch.jit.trace(nn.ReLU(), torch.zeros(1)), GRAY)


@pytest.mark.parametrize("depth", [0, -1, 1.5, True])
def test_a_depth_below_one_is_refused(depth):
    with pytest.raises(InputError, match=rf"depth={depth} was given; 1 or more.*depth=1"):
        summarize(nn.ReLU(), GRAY, depth=depth)
