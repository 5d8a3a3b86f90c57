"""The textbook's networks: counts, shapes, order of layers, biases and start as the book has them.

Shapes are (channels, height, width) after the layers named. Everything about shapes runs on the meta device, so the
128-million-parameter network costs no memory.
"""

import math

import pytest
import timm
import torch
from helpers import MODELS, cost
from torch import nn

import cnnzoo
from cnnzoo.layers import ResNeXtBlock
from cnnzoo.models.convnext import ConvNeXtBlock
from cnnzoo.recipes import get_recipe
from cnnzoo.summary import layer_summary
from cnnzoo.train._optimizer import make_optimizer
from cnnzoo.train._parts import make_model

# Name: input, parameters, {layer: shape}. "" is the whole model; a size alone is that of a flat layer.
BOOK = {
    "lenet_d2l": ((1, 28, 28), 61_706, {
        "stem.0.conv": (6, 28, 28), "stages.0.0": (6, 14, 14), "stages.0.1.conv": (16, 10, 10), "stages.1.0": (16, 5, 5),
        "head.global_pool": (400,), "head.pre_logits.0": (120,), "head.pre_logits.1": (84,), "": (10,),
    }),
    "lenet_relu_d2l": ((1, 28, 28), 61_706, {
        "stem.0.conv": (6, 28, 28), "stages.0.0": (6, 14, 14), "stages.0.1.conv": (16, 10, 10), "stages.1.0": (16, 5, 5),
        "head.global_pool": (400,), "head.pre_logits.0": (120,), "head.pre_logits.1": (84,), "": (10,),
    }),
    "alexnet_d2l": ((1, 224, 224), 46_764_746, {
        "stem": (96, 54, 54), "stages.0.0": (96, 26, 26), "stages.0": (256, 26, 26), "stages.1.0": (256, 12, 12),
        "stages.1.1": (384, 12, 12), "stages.1.2": (384, 12, 12), "stages.1": (256, 12, 12), "stages.2": (256, 5, 5),
        "head.global_pool": (6400,), "head.pre_logits.0": (4096,), "head.pre_logits.1": (4096,), "": (10,),
    }),
    "vgg11_d2l": ((1, 224, 224), 128_806_154, {
        "stem": (64, 112, 112), "stages.0": (128, 56, 56), "stages.1": (256, 28, 28), "stages.2": (512, 14, 14),
        "stages.3": (512, 7, 7), "head.global_pool": (25_088,), "head.pre_logits.0": (4096,),
        "head.pre_logits.1": (4096,), "": (10,),
    }),
    "vgg11_thin_d2l": ((1, 224, 224), 43_093_322, {
        "stem": (16, 112, 112), "stages.0": (32, 56, 56), "stages.1": (64, 28, 28), "stages.2": (128, 14, 14),
        "stages.3": (128, 7, 7), "head.global_pool": (6272,), "head.pre_logits.0": (4096,),
        "head.pre_logits.1": (4096,), "": (10,),
    }),
    "nin_d2l": ((1, 224, 224), 1_992_166, {
        "stem": (96, 54, 54), "stages.0.0": (96, 26, 26), "stages.0": (256, 26, 26), "stages.1.0": (256, 12, 12),
        "stages.1": (384, 12, 12), "stages.2": (384, 5, 5), "head.fc": (10, 5, 5), "": (10,),
    }),
    "googlenet_d2l": ((1, 96, 96), 5_977_530, {
        "stem": (64, 24, 24), "stages.0.0": (64, 24, 24), "stages.0.1": (192, 24, 24), "stages.0": (192, 12, 12),
        "stages.1.0": (256, 12, 12), "stages.1.1": (480, 12, 12), "stages.1": (480, 6, 6), "stages.2.0": (512, 6, 6),
        "stages.2": (832, 3, 3), "stages.3": (1024, 3, 3), "head.global_pool": (1024,), "": (10,),
    }),
    "resnet18_d2l": ((1, 96, 96), 11_178_378, {
        "stem": (64, 24, 24), "stages.0": (64, 24, 24), "stages.1": (128, 12, 12), "stages.2": (256, 6, 6),
        "stages.3": (512, 3, 3), "head.global_pool": (512,), "": (10,),
    }),
    "resnext18_d2l": ((1, 96, 96), 1_697_546, {
        "stem": (64, 24, 24), "stages.0": (64, 24, 24), "stages.1": (128, 12, 12), "stages.2": (256, 6, 6),
        "stages.3": (512, 3, 3), "head.global_pool": (512,), "": (10,),
    }),
    "densenet_d2l": ((1, 96, 96), 758_226, {
        "stem": (64, 24, 24), "stages.0": (192, 24, 24), "stages.1.0": (96, 12, 12), "stages.1": (224, 12, 12),
        "stages.2.0": (112, 6, 6), "stages.2": (240, 6, 6), "stages.3.0": (120, 3, 3), "stages.3": (248, 3, 3),
        "head.global_pool": (248,), "": (10,),
    }),
    "regnetx32_d2l": ((1, 96, 96), 179_290, {
        "stem": (32, 48, 48), "stages.0.0": (32, 24, 24), "stages.0": (32, 24, 24), "stages.1.0": (80, 12, 12),
        "stages.1": (80, 12, 12), "head.global_pool": (80,), "": (10,),
    }),
    "mobilenet_d2l": ((1, 96, 96), 542_474, {
        "stem": (32, 48, 48), "stages.0.0": (64, 48, 48), "stages.1.0": (128, 24, 24), "stages.1": (128, 24, 24),
        "stages.2.0": (256, 12, 12), "stages.2": (256, 12, 12), "stages.3.0.depthwise": (256, 6, 6),
        "stages.3.0": (512, 6, 6), "stages.3": (512, 6, 6), "head.global_pool": (512,), "": (10,),
    }),
    "convnext_d2l": ((1, 96, 96), 3_376_450, {
        "stem.0": (40, 24, 24), "stem": (40, 24, 24), "stages.0": (40, 24, 24), "stages.1.0": (80, 12, 12),
        "stages.1": (80, 12, 12), "stages.2.0": (160, 6, 6), "stages.2.1.mlp.fc1": (640, 6, 6), "stages.2": (160, 6, 6),
        "stages.3.0": (320, 3, 3), "stages.3": (320, 3, 3), "head.global_pool": (320,), "head.pre_logits.0": (320,),
        "": (10,),
    }),
    **{
        f"convnet_{pool}_d2l": ((3, 32, 32), 2_122_186, {
            "stem": (32, 32, 32), "stages.0.0": (32, 16, 16), "stages.0": (64, 16, 16), "stages.1": (64, 8, 8),
            "head.global_pool": (4096,), "head.pre_logits.0": (512,), "": (10,),
        })
        for pool in ("max", "avg")
    },
}  # fmt: skip

names = pytest.mark.parametrize("name", BOOK)


def kinds(model: nn.Module, *types: type) -> list[str]:
    """The kinds of the layers that have no layers inside, in order, of the given types only."""
    return [type(m).__name__ for m in model.modules() if isinstance(m, types)]


def test_all_textbook_networks_are_here():
    assert sorted(BOOK) == [name for name in MODELS if name.endswith("_d2l")]


@names
def test_parameters(name):
    size, params, _ = BOOK[name]
    model = timm.create_model(name, device="meta")
    assert model.default_cfg["input_size"] == size
    assert sum(p.numel() for p in model.parameters()) == params


@names
def test_shapes(name):
    size, _, expected = BOOK[name]
    model = timm.create_model(name, device="meta").eval()
    found = {}
    for layer in expected:
        model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: found.update({layer: tuple(output.shape[1:])})
        )
    model(torch.empty(1, *size, device="meta"))
    assert found == expected


@names
def test_feature_levels_end_where_the_book_has_a_step(name):
    size, _, expected = BOOK[name]
    model = timm.create_model(name, device="meta").eval()
    maps = model.forward_intermediates(torch.empty(1, *size, device="meta"), intermediates_only=True)
    levels = {info["module"]: tuple(x.shape[1:]) for info, x in zip(model.feature_info, maps, strict=True)}
    assert all(levels[layer] == shape for layer, shape in expected.items() if layer in levels)


@names
def test_biases_and_norms(name):
    model = timm.create_model(name, device="meta")
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    convs_have_one = name != "mobilenet_d2l"  # the only one of which the book says so
    assert all((m.bias is not None) == (convs_have_one or isinstance(m, nn.Linear)) for m in layers)
    with_norm = name.startswith(("resnet18", "resnext18", "densenet", "regnetx32", "mobilenet"))
    assert bool(kinds(model, nn.BatchNorm2d)) == with_norm
    assert bool(kinds(model, nn.LayerNorm)) == name.startswith("convnext")


@pytest.mark.parametrize("name", [name for name in BOOK if name not in ("vgg11_d2l", "vgg11_thin_d2l", "alexnet_d2l")])
def test_weights_start_xavier_uniform(name):
    check_xavier(timm.create_model(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11_d2l", "vgg11_thin_d2l", "alexnet_d2l"])
def test_weights_of_the_largest_start_xavier_uniform(name):
    check_xavier(timm.create_model(name))


def check_xavier(model: nn.Module) -> None:
    """Every weight lies within Xavier's bound, and large ones fill it evenly."""
    for name, m in model.named_modules():
        if not isinstance(m, (nn.Conv2d, nn.Linear)):
            continue
        fan_in, fan_out = m.weight[0].numel(), m.weight.shape[0] * m.weight[0, 0].numel()
        bound = math.sqrt(6 / (fan_in + fan_out))
        low, high = m.weight.aminmax()
        assert -bound <= low and high <= bound, name
        if m.weight.numel() >= 1000:
            assert high > 0.98 * bound and low < -0.98 * bound, name
            assert m.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name


@pytest.mark.parametrize(
    "name, acts, pools",
    [
        ("lenet_d2l", ["Sigmoid"] * 4, ["AvgPool2d"] * 2),
        ("lenet_relu_d2l", ["ReLU"] * 4, ["MaxPool2d"] * 2),
        ("convnet_max_d2l", ["ReLU"] * 3, ["MaxPool2d"] * 2),
        ("convnet_avg_d2l", ["ReLU"] * 3, ["AvgPool2d"] * 2),
        ("alexnet_d2l", ["ReLU"] * 7, ["MaxPool2d"] * 3),
        ("vgg11_d2l", ["ReLU"] * 10, ["MaxPool2d"] * 5),
        ("vgg11_thin_d2l", ["ReLU"] * 10, ["MaxPool2d"] * 5),
        ("nin_d2l", ["ReLU"] * 12, ["MaxPool2d"] * 3),
        ("googlenet_d2l", ["ReLU"] * (3 + 9 * 6), ["MaxPool2d"] * (4 + 9)),
        ("densenet_d2l", ["ReLU"] * (1 + 16 + 3 + 1), ["MaxPool2d"] + ["AvgPool2d"] * 3),
        ("resnet18_d2l", ["ReLU"] * (1 + 16), ["MaxPool2d"]),
        ("regnetx32_d2l", ["ReLU"] * (1 + 30), []),
        ("mobilenet_d2l", ["ReLU"] * (1 + 14), []),
        ("convnext_d2l", ["GELU"] * 12, []),
    ],
)
def test_activations_and_poolings(name, acts, pools):
    model = timm.create_model(name, device="meta")
    assert kinds(model, nn.ReLU, nn.Sigmoid, nn.GELU) == acts
    assert kinds(model, nn.MaxPool2d, nn.AvgPool2d) == pools


@pytest.mark.parametrize("name, times", [("alexnet_d2l", 2), ("vgg11_thin_d2l", 2), ("nin_d2l", 1), ("lenet_d2l", 0)])
def test_dropout_of_a_half_after_each_hidden_layer_or_before_the_last_block(name, times):
    model = timm.create_model(name, device="meta").train()
    drops = []
    for m in model.modules():
        if isinstance(m, nn.Dropout) and m.p > 0:
            assert m.p == 0.5
            m.register_forward_hook(lambda module, inputs, output: drops.append(output.shape))
    model(torch.empty(1, *model.default_cfg["input_size"], device="meta"))
    assert len(drops) == times


def test_a_resnext_block_of_the_book():
    block = ResNeXtBlock(32, 32, group_width=16, bias=True)
    assert sum(p.numel() for p in block.parameters()) == 6944
    assert block.conv2.conv.groups == 2
    assert block(torch.zeros(4, 32, 96, 96)).shape == (4, 32, 96, 96)


def test_the_shortcut_of_a_resnet_stage_is_a_convolution_without_norm_at_its_first_block():
    model = timm.create_model("resnet18_d2l", device="meta")
    for i, stage in enumerate(model.stages):
        first, second = stage
        assert isinstance(first.shortcut, nn.Identity if i == 0 else nn.Conv2d)
        assert isinstance(second.shortcut, nn.Identity)


def test_the_regnet_of_the_book_follows_from_the_rule_of_the_paper():
    model = timm.create_model("regnetx32_d2l", device="meta")
    assert [(stage.num_chs, len(stage)) for stage in model.stages] == [(32, 4), (80, 6)]
    assert {m.in_channels // m.groups for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1} == {16}


def test_the_mobilenet_of_the_book_has_seven_blocks_of_a_depthwise_and_a_pointwise_convolution():
    model = timm.create_model("mobilenet_d2l", device="meta")
    convs = [m for m in model.stages.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size[0], m.groups == m.in_channels) for m in convs] == [(3, True), (1, False)] * 7
    strides = [(m.out_channels, d.stride[0]) for d, m in zip(convs[::2], convs[1::2], strict=True)]
    assert strides == [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
    assert cost("mobilenet_d2l").macs == pytest.approx(50.3e6, rel=1e-3)


def test_the_convnext_of_the_book_starts_as_its_shortcuts_and_drops_more_blocks_the_deeper_they_are():
    model = timm.create_model("convnext_d2l")
    blocks = [m for m in model.stages.modules() if isinstance(m, ConvNeXtBlock)]
    assert [len(stage) - (i > 0) for i, stage in enumerate(model.stages)] == [2, 2, 6, 2]
    assert {v for m in blocks for v in m.scale.gamma.tolist()} == {torch.tensor(1e-6).item()}
    assert {m.depthwise.kernel_size for m in blocks} == {(7, 7)}
    rates = [getattr(m.drop_path, "drop_prob", 0.0) for m in blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize(
    "name, kind, groups",
    [
        ("mobilenet_d2l", torch.optim.SGD, dict(lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.0)),
        *(
            (name, torch.optim.SGD, dict(lr=lr, momentum=0.0, nesterov=False, weight_decay=0.0))
            for name, lr in dict(resnet18_d2l=0.01, densenet_d2l=0.01, googlenet_d2l=0.1, regnetx32_d2l=0.05).items()
        ),
    ],
)
def test_the_textbook_recipe_has_the_books_optimiser(name, kind, groups):
    recipe = get_recipe("textbook", name)
    assert (recipe.epochs, recipe.batch_size, recipe.image_size, recipe.sched) == (10, 128, 96, "constant")
    optimizer = make_optimizer(recipe, timm.create_model(name, device="meta"))
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert {field: group[field] for field in groups} == groups


def test_the_books_convnext_is_trained_by_the_recipe_that_the_book_calls_modern(tiny_split):
    recipe = get_recipe("textbook", "convnext_d2l")
    assert (recipe.epochs, recipe.batch_size, recipe.image_size) == (30, 128, 96)
    assert (recipe.sched, recipe.warmup_epochs, recipe.label_smoothing, recipe.mixup) == ("cosine", 3, 0.1, 0.2)
    model = make_model(recipe, tiny_split)
    assert model.drop_path_rate == 0 and not [m for m in model.modules() if getattr(m, "drop_prob", 0)]
    optimizer = make_optimizer(recipe, model)
    assert type(optimizer) is torch.optim.AdamW
    assert {(g["lr"], g["betas"]) for g in optimizer.param_groups} == {(2e-3, (0.9, 0.999))}
    assert max(g["weight_decay"] for g in optimizer.param_groups) == 0.05


@pytest.mark.parametrize("name", cnnzoo.list_models("*_d2l"))
def test_the_textbook_recipe_has_the_dropout_of_the_books_network(name):
    assert get_recipe("textbook", name).drop_rate == timm.create_model(name, device="meta").drop_rate


# -- the textbook's lines -------------------------------------------------------------------------------------------------

LENET = [
    ("Conv2d", (6, 28, 28)),
    ("Sigmoid", (6, 28, 28)),
    ("AvgPool2d", (6, 14, 14)),
    ("Conv2d", (16, 10, 10)),
    ("Sigmoid", (16, 10, 10)),
    ("AvgPool2d", (16, 5, 5)),
    ("Flatten", (400,)),
    ("Linear", (120,)),
    ("Sigmoid", (120,)),
    ("Linear", (84,)),
    ("Sigmoid", (84,)),
    ("Linear", (10,)),
]
VGG_BLOCKS = [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
VGG_HEAD = (
    [("Flatten", (25088,))]
    + [(kind, (4096,)) for kind in ("Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout")]
    + [("Linear", (10,))]
)


def vgg_block(convs: int, in_chs: int, out_chs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(convs):
        layers += [nn.Conv2d(out_chs if i else in_chs, out_chs, 3, padding=1), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)]


VGG11 = ((1, 1, 64), (1, 64, 128), (2, 128, 256), (2, 256, 512), (2, 512, 512))


def test_the_lines_of_lenet_are_the_textbooks_for_the_zoos_and_for_a_plain_one():
    plain = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    )  # fmt: skip
    assert layer_summary(plain, (1, 28, 28)) == LENET
    assert layer_summary(cnnzoo.create_model("lenet_d2l"), (1, 28, 28)) == LENET


def test_the_lines_of_vgg11_are_the_textbooks_for_the_zoos_form_and_for_a_plain_one():
    with torch.device("meta"):
        blocks = [nn.Sequential(*vgg_block(*row)) for row in VGG11]
        hidden = [nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
        plain = nn.Sequential(*blocks, nn.Flatten(), *hidden, nn.Linear(4096, 10))
    zoo = cnnzoo.create_model("vgg11_d2l", device="meta")
    wrapped = nn.Module()  # as the textbook's classes hold their `net`
    wrapped.net = plain
    wrapped.forward = plain.__call__
    for model, block in ((plain, "Sequential"), (wrapped, "Sequential"), (zoo, "Stage")):
        assert layer_summary(model, (1, 224, 224)) == [(block, shape) for shape in VGG_BLOCKS] + VGG_HEAD


def test_the_lines_of_resnet18_are_its_stages_and_its_head():
    assert layer_summary(cnnzoo.create_model("resnet18_d2l", device="meta").eval(), (1, 96, 96)) == [
        ("Stage", (64, 24, 24)),
        ("Stage", (64, 24, 24)),
        ("Stage", (128, 12, 12)),
        ("Stage", (256, 6, 6)),
        ("Stage", (512, 3, 3)),
        ("AdaptiveAvgPool2d", (512, 1, 1)),
        ("Flatten", (512,)),
        ("Linear", (10,)),
    ]
