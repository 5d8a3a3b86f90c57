"""The contract of a timm model, continued from test_contract.py: feature maps, training, tracing, bad input."""

import copy
import re
import warnings

import pytest
import timm
import torch
from contract_models import batch_for, create, need_numbers
from helpers import assert_same, images, native_size
from timm.models import FeatureDictNet, FeatureHookNet, FeatureListNet, group_parameters
from torch import nn

from cnnzoo.errors import CnnzooError, InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


# -- feature maps --------------------------------------------------------------------------------------------------------


def level_indices(model: nn.Module) -> list[list[int]]:
    last = len(model.feature_info) - 1
    return [[0], [last], [-1], [-2, -1], [0, -1], list(range(last + 1))]


def test_there_are_three_levels_or_more_and_each_has_half_the_side_of_the_one_before(model):
    assert len(model.feature_info) >= 3
    reductions = [level["reduction"] for level in model.feature_info]
    assert reductions == [reductions[0] * 2**i for i in range(len(reductions))]
    assert model.feature_info[-1]["num_chs"] == model.num_features
    for level in model.feature_info:
        model.get_submodule(level["module"])


def test_forward_intermediates_gives_what_feature_info_promises(model, name):
    x = batch_for(model, name)
    final, maps = model.forward_intermediates(x)
    assert_same(final, model.forward_features(x))
    assert len(maps) == len(model.feature_info)
    for level, out in zip(model.feature_info, maps, strict=True):
        assert out.shape[:2] == (2, level["num_chs"])
        for pixels, given_pixels in zip(out.shape[2:], x.shape[2:], strict=True):
            assert given_pixels / (2 * level["reduction"]) < pixels <= -(-given_pixels // level["reduction"]) + 1
    assert_same(maps[-1], final)


def test_forward_intermediates_takes_positive_and_negative_levels(model, name):
    x = batch_for(model, name)
    every = model.forward_intermediates(x, intermediates_only=True)
    for indices in level_indices(model):
        for early in (False, True):
            maps = model.forward_intermediates(x, indices, stop_early=early, intermediates_only=True)
            assert len(maps) == len(indices)
            for i, out in zip(indices, maps, strict=True):
                assert_same(out, every[i])


def test_an_int_asks_for_that_many_last_levels(model, name):
    x = batch_for(model, name)
    every = model.forward_intermediates(x, intermediates_only=True)
    maps = model.forward_intermediates(x, 2, intermediates_only=True)
    assert len(maps) == 2
    assert_same(maps[0], every[-2])
    assert_same(maps[1], every[-1])


def test_stop_early_does_not_compute_what_comes_after(model, name):
    ran = []
    model.stages[-1][0].register_forward_hook(lambda *_: ran.append(True))  # the stage may be run in two steps
    x = batch_for(model, name)
    model.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
    assert not ran
    model.forward_intermediates(x, [0], stop_early=False, intermediates_only=True)
    assert ran


@pytest.mark.parametrize("outside", [99, -99])
def test_a_level_that_does_not_exist_is_a_value_error_that_lists_the_levels(model, name, outside):
    last = len(model.feature_info) - 1
    with pytest.raises(ValueError, match=rf"{outside}.*levels 0 \(the finest\) to {last}.*from the end"):
        model.forward_intermediates(batch_for(model, name), [outside])
    with pytest.raises(ValueError, match=str(outside)):
        model.prune_intermediate_layers([outside])


def test_another_output_format_is_a_value_error_that_names_the_one(model, name):
    with pytest.raises(ValueError, match="NLC.*NCHW.*Leave it out"):
        model.forward_intermediates(batch_for(model, name), output_fmt="NLC")


def test_features_only_gives_the_levels_asked_for(shared, name):
    x = images(name, device="meta")
    every = timm.create_model(name, device="meta").forward_intermediates(x, intermediates_only=True)
    for indices in (None, (0, 2), (-2, -1)):
        options = {} if indices is None else dict(out_indices=indices)
        backbone = timm.create_model(name, device="meta", features_only=True, **options)
        levels = range(len(every)) if indices is None else [i % len(every) for i in indices]
        assert backbone.feature_info.channels() == [shared.feature_info[i]["num_chs"] for i in levels]
        assert backbone.feature_info.reduction() == [shared.feature_info[i]["reduction"] for i in levels]
        maps = backbone(x)
        assert len(maps) == len(levels)
        for i, out in zip(levels, maps, strict=True):
            assert out.shape == every[i].shape


@pytest.mark.parametrize("kind", ["getter", "list", "dict", "fx", "hook", FeatureListNet, FeatureDictNet, FeatureHookNet])
@pytest.mark.parametrize(
    "name", ["lenet_tiny", "vgg_tiny", "resnet_small", "googlenet_tiny", "repvgg_tiny", "convnext28_tiny"]
)
def test_every_kind_of_feature_extractor_gives_the_same_maps(name, kind):
    torch.manual_seed(0)  # so that both have the same weights
    model = timm.create_model(name).eval()
    x = batch_for(model, name)
    every = model.forward_intermediates(x, intermediates_only=True)
    for indices in (None, (0, 2), (-2,), 1):
        options = {} if indices is None else dict(out_indices=indices)
        torch.manual_seed(0)
        backbone = timm.create_model(name, features_only=True, feature_cls=kind, **options).eval()
        levels = {None: [0, 1, 2], (0, 2): [0, 2], (-2,): [1], 1: [2]}[indices]
        assert backbone.feature_info.reduction() == [model.feature_info[i]["reduction"] for i in levels]
        assert backbone.pretrained_cfg["input_size"] == (1, 28, 28)
        maps = backbone(x)
        if isinstance(maps, dict):
            assert list(maps) == [str(i) for i in levels]
            maps = list(maps.values())
        for i, out in zip(levels, maps, strict=True):
            assert_same(out, every[i])


def test_a_kind_of_feature_extractor_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="feature_cls.*'getters'.*getter"):
        timm.create_model("lenet_tiny", features_only=True, feature_cls="getters")


def test_an_output_stride_is_refused_with_what_to_do(name):
    with pytest.raises(ValueError, match=f"output_stride=16.*{name} cannot replace its strides.*Leave it out.*Unet"):
        timm.create_model(name, features_only=True, output_stride=16, device="meta")


def test_each_level_is_the_last_map_of_its_reduction(shared, name):
    seen = {}

    def note(path):
        return lambda module, args, out: seen.update({path: out.shape[2:]})

    hooks = [m.register_forward_hook(note(path)) for path, m in shared.named_modules()]
    try:
        with torch.no_grad():
            shared.forward_features(batch_for(shared, name))
    finally:
        for hook in hooks:
            hook.remove()
    steps = [path for path in seen if re.fullmatch(r"(stem|stages\.\d+)(\.\d+)?", path)]
    for level in shared.feature_info:
        after = steps[steps.index(level["module"]) + 1 :]  # a stage comes after its layers
        assert all(seen[path][0] < seen[level["module"]][0] for path in after), level


def test_features_only_computes_what_the_model_computes(shared, name):
    need_numbers(name)
    backbone = timm.create_model(name, features_only=True)
    own = {k: v for k, v in shared.state_dict().items() if not k.startswith("head.")}
    missing = backbone.load_state_dict({f"model.{k}": v for k, v in own.items()}, strict=False).missing_keys
    assert not missing
    x = batch_for(shared, name)
    with torch.no_grad():
        for out, expected in zip(backbone.eval()(x), shared.forward_intermediates(x, intermediates_only=True), strict=True):
            assert_same(out, expected)


def test_pruning_keeps_the_levels_and_leaves_nothing_unused(shared, name):
    x = batch_for(shared, name)
    with torch.no_grad():
        every = shared.forward_intermediates(x, intermediates_only=True)
    for i in range(len(every)):
        pruned = copy.deepcopy(shared)
        assert pruned.prune_intermediate_layers([i]) == [i]
        assert_same(pruned.forward_features(x), every[i])
        assert_same(pruned(x), every[i])
        assert pruned.num_features == pruned.head_hidden_size == every[i].shape[1]
        assert pruned.num_classes == 0
        pruned.train().forward_features(x).sum().backward()
        assert not [n for n, p in pruned.named_parameters() if p.grad is None]


def test_pruning_nothing_away_with_the_head_kept_changes_nothing(model, name):
    x = batch_for(model, name)
    expected = model(x)
    model.prune_intermediate_layers([-1], prune_head=False)
    assert_same(model(x), expected)


def test_a_pruned_model_can_get_a_classifier_again(model, name):
    model.prune_intermediate_layers([1])
    model.reset_classifier(7)
    assert model.global_pool == "avg"
    assert model(batch_for(model, name)).shape == (2, 7)


# -- training, tracing ---------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_changes_neither_output_nor_gradients(name):
    results = []
    for checkpointing in (False, True):
        model = create(name)
        model.set_grad_checkpointing(checkpointing)
        assert model.grad_checkpointing is checkpointing
        out = model(batch_for(model, name))
        out.sum().backward()
        results.append((out, [p.grad for p in model.parameters()]))
    assert_same(results[1][0], results[0][0])
    for with_it, without in zip(results[1][1], results[0][1], strict=True):
        assert_same(with_it, without)


@pytest.mark.parametrize("feature_cls", ["list", "dict"])
def test_a_feature_extractor_saves_memory_as_its_model_can(feature_cls):
    plain = timm.create_model("resnet_tiny", features_only=True, feature_cls=feature_cls)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    assert saving.model.grad_checkpointing and not plain.model.grad_checkpointing
    x = torch.rand(2, 1, 28, 28)
    for model in (plain, saving):
        maps = model(x)
        sum(level.sum() for level in (maps.values() if feature_cls == "dict" else maps)).backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("pooling", [("max", "avg"), ("", "avg"), ("avgmax", "", "avg")])
def test_another_pooling_and_back_leaves_trained_hidden_layers_as_they_are(pooling):
    for name in ("convnext28_tiny", "lenet_tiny"):
        model = timm.create_model(name, pretrained=True).eval()
        first = model.global_pool
        features = model.forward_features(torch.rand(3, 1, 28, 28))
        before = model.forward_head(features, pre_logits=True)
        for pool in (*pooling[:-1], first):
            model.reset_classifier(0 if pool == "" else 5, pool)
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), before)


@pytest.mark.parametrize("coarse", [False, True])
def test_the_group_matcher_orders_the_parameters_from_stem_to_head(model, coarse):
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(groups) == {n for n, _ in model.named_parameters()}
    assert len(set(groups.values())) > 1
    depth = {part: [g for n, g in groups.items() if n.startswith(part)] for part in ("stem", "stages", "head")}
    assert all(g == 0 for g in depth["stem"])
    assert min(depth["stages"], default=1) >= 1
    assert min(depth["head"]) > max(depth["stages"], default=0)


def test_layer_decay_gives_the_head_the_full_learning_rate_and_the_stem_the_least(model):
    from timm.optim import param_groups_layer_decay

    scales = {}
    named = {id(p): n for n, p in model.named_parameters()}
    for group in param_groups_layer_decay(model, layer_decay=0.5):
        for p in group["params"]:
            scales[named[id(p)]] = group["lr_scale"]
    assert max(v for k, v in scales.items() if k.startswith("stem")) == min(scales.values()) < 1
    assert {v for k, v in scales.items() if k.startswith("head.fc")} == {1}
    assert max((v for k, v in scales.items() if k.startswith("stages")), default=0.5) == 0.5  # as in timm's models


def test_torchscript_gives_what_eager_gives(model, name):
    del model.zoo_name
    x = batch_for(model, name)
    with torch.no_grad():
        assert_same(torch.jit.script(model)(x), model(x))


def test_a_symbolic_trace_gives_what_eager_gives(model, name):
    x = batch_for(model, name)
    assert_same(torch.fx.symbolic_trace(model)(x), model(x))


def test_tracing_warns_of_nothing(model, name):
    """Neither TorchScript's tracer nor the older ONNX exporter, which uses it, sees a condition on a tensor."""
    need_numbers(name)  # the tracer makes tensors of sizes, which torch's own code for the meta device does not take
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, batch_for(model, name))
    x = batch_for(model, name, 3)
    assert_same(traced(x), model(x))


@pytest.mark.parametrize(
    "name",
    ["lenet_tiny", *(pytest.param(f"{f}_tiny", marks=pytest.mark.slow) for f in ("mobilenet", "repvgg", "convnext28"))],
)
def test_the_older_onnx_exporter_warns_of_nothing_and_is_right(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = create(name)
    path, x = tmp_path / "model.onnx", batch_for(model, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    x = batch_for(model, name, 3)
    out = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0]
    assert_same(torch.from_numpy(out), model(x).detach())


# -- bad input -----------------------------------------------------------------------------------------------------------

# What is wrong, a batch that has it, and the three things the message must say: given, allowed, what to type.
BAD = {
    "wrong_channels": (lambda m, c, h, w: (2, c + 1, h, w), "{c1} channels", "takes {c}", "in_chans={c1}"),
    "too_small": (lambda m, c, h, w: (2, c, *(s - 1 for s in m.min_size)), "{s1}x{s1}", "{s}x{s}", "create_transform"),
    "too_small_along_one_axis": (lambda m, c, h, w: (2, c, m.min_size[0], 1), "{s}x1 ", "{s}x{s}", "create_transform"),
    "empty_batch": (lambda m, c, h, w: (0, c, h, w), "empty batch", "at least one", "Skip"),
    "three_dimensions": (lambda m, c, h, w: (c, h, w), "3 dimensions", r"\(B, C, H, W\)", r"x\[None\]"),
    "two_dimensions": (lambda m, c, h, w: (h, w), "2 dimensions", r"\(B, C, H, W\)", r"x\[None\]"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("method", ["forward", "forward_features", "forward_intermediates"])
def test_bad_input_is_refused_with_what_was_given_what_is_allowed_and_what_to_do(model, name, kind, method):
    shape_of, *says = BAD[kind]
    c, h, w = native_size(name)
    bad = torch.zeros(shape_of(model, c, h, w), device=next(model.parameters()).device)
    with pytest.raises(InputError) as e:
        getattr(model, method)(bad)
    for part in says:
        pattern = part.format(c=c, c1=c + 1, s=model.min_size[0], s1=model.min_size[0] - 1)
        assert re.search(pattern, str(e.value)), f"{pattern!r} is not in: {e.value}"


@pytest.mark.parametrize("number", [0, -1, 99])
def test_a_number_of_levels_that_is_none_is_explained(number):
    with pytest.raises(CnnzooError, match="how many of the last.*write it as a list"):
        timm.create_model("resnet_tiny", features_only=True, out_indices=number)
