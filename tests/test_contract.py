"""The contract of a timm model, one sentence per clause, over every model of the zoo.

Weights are closed-form (`helpers.fill`), because at the default start residual branches are zero and hide mistakes. Large
models live on the meta device here: everything but their numbers is checked (see `helpers.MAX_PARAMS`).
"""

import copy
import re
import subprocess
import sys

import pytest
import timm
import torch
from helpers import MODELS, assert_same, cost, fill, images, is_large, native_size
from hypothesis import given, settings, strategies as st
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn

from cnnzoo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


def create(name: str, **kwargs) -> nn.Module:
    """The model in evaluation mode with closed-form weights; on the meta device if it is large."""
    device = "meta" if is_large(name) else "cpu"
    return fill(timm.create_model(name, device=device, **kwargs)).eval()


@pytest.fixture(scope="module", params=MODELS)
def shared(request: pytest.FixtureRequest) -> nn.Module:
    model = create(request.param)
    model.zoo_name = request.param
    return model


@pytest.fixture(scope="module")
def name(shared: nn.Module) -> str:
    return shared.zoo_name


@pytest.fixture
def model(shared: nn.Module) -> nn.Module:
    """A copy that the test may change."""
    return copy.deepcopy(shared)


def batch_for(model: nn.Module, name: str, size: int = 2) -> Tensor:
    return images(name, size, device=next(model.parameters()).device)


def need_numbers(name: str) -> None:
    if is_large(name):
        size = f"{cost(name).params:,} parameters, {cost(name).macs:,} multiply-accumulates"
        pytest.skip(f"{name} has {size}: on the meta device here, which holds no numbers")


# -- what comes out ------------------------------------------------------------------------------------------------------


def test_the_output_is_finite_logits_one_per_class(model, name):
    out = model(batch_for(model, name))
    assert out.shape == (2, timm.get_pretrained_cfg(name).num_classes) == (2, 10)
    assert out.device.type == "meta" or torch.isfinite(out).all()


def test_images_that_differ_get_logits_that_differ(model, name):
    need_numbers(name)
    x = batch_for(model, name)
    out = model(torch.cat([x[:1], x[:1] * 2]))
    assert not torch.allclose(out[0], out[1], rtol=1e-4)


def test_a_batch_of_one_works_in_evaluation_mode(model, name):
    assert model(batch_for(model, name, 1)).shape == (1, 10)


def test_every_parameter_gets_a_gradient(name):
    model = create(name).train()
    model(batch_for(model, name)).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without
    if not is_large(name):
        assert not [n for n, p in model.named_parameters() if not torch.isfinite(p.grad).all()]


def test_the_image_gets_a_gradient_at_every_pixel(model, name):
    need_numbers(name)
    x = batch_for(model, name).requires_grad_()
    model(x)[:, 0].sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).float().mean() > 0.5


def test_forward_is_forward_head_of_forward_features(model, name):
    x = batch_for(model, name)
    assert_same(model.forward_head(model.forward_features(x)), model(x))


def test_the_classifier_is_what_follows_the_pre_logits(model, name):
    x = batch_for(model, name)
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    classified = model.get_classifier()
    if isinstance(classified, nn.Linear):
        assert_same(classified(hidden), model(x))


def test_the_feature_map_is_num_features_by_pool_size(model, name):
    features = model.forward_features(batch_for(model, name))
    assert features.shape == (2, model.num_features, *timm.get_pretrained_cfg(name).pool_size)


def test_the_layers_that_the_cfg_names_exist(model, name):
    cfg = timm.get_pretrained_cfg(name)
    state = model.state_dict()
    assert state[f"{cfg.first_conv}.weight"].shape[1] == cfg.input_size[0] == model.in_chans
    for classifier in [cfg.classifier] if isinstance(cfg.classifier, str) else cfg.classifier:
        assert state[f"{classifier}.weight"].shape[0] == cfg.num_classes == model.num_classes


def test_the_cfg_says_how_images_are_prepared(name):
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.crop_pct == 1.0
    assert len(cfg.mean) == len(cfg.std) == cfg.input_size[0]
    assert cfg.num_classes == 10


def test_evaluation_does_not_change_the_model(model, name):
    need_numbers(name)
    before = copy.deepcopy(model.state_dict())
    model(batch_for(model, name))
    assert not [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]


def test_training_mode_and_evaluation_mode_reach_every_layer(model):
    for mode in (True, False):
        model.train(mode)
        assert all(m.training is mode for m in model.modules())


@given(seed=st.integers(0, 2**31), count=st.integers(2, 4))
@settings(max_examples=4)
def test_each_image_is_judged_on_its_own_in_evaluation_mode(shared, name, seed, count):
    need_numbers(name)
    x = torch.randn(count, *native_size(name), generator=torch.Generator().manual_seed(seed))
    x = x * torch.arange(1, count + 1).view(-1, 1, 1, 1)
    with torch.inference_mode():
        together = shared(x)
        alone = torch.cat([shared(x[i : i + 1]) for i in range(count)])
    assert_same(alone, together)


@given(order=st.permutations(range(4)))
@settings(max_examples=4)
def test_permuting_the_batch_permutes_the_logits(shared, name, order):
    need_numbers(name)
    x = images(name, 4) * torch.arange(1, 5).view(-1, 1, 1, 1)
    with torch.inference_mode():
        assert_same(shared(x[order]), shared(x)[order])


@given(height=st.integers(28, 44), width=st.integers(28, 44))
@settings(max_examples=4)
def test_any_size_from_28_up_works_where_the_head_pools(shared, name, height, width):
    if shared.fixed_size:
        pytest.skip(f"{name} flattens its feature map, so it is built for one size")
    height, width = max(height, shared.min_size[0]), max(width, shared.min_size[1])
    if native_size(name)[1] == 28:
        assert max(shared.min_size) <= 28
    x = torch.zeros(1, shared.in_chans, height, width, device=next(shared.parameters()).device)
    with torch.no_grad():
        assert shared(x).shape == (1, 10)


def test_the_smallest_allowed_image_works(model):
    x = torch.zeros(1, model.in_chans, *model.min_size, device=next(model.parameters()).device)
    assert model(x).shape == (1, 10)


# -- options of the constructor ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chans", [1, 2, 3, 4])
def test_another_number_of_channels_is_honoured(name, chans):
    model = timm.create_model(name, in_chans=chans, device="meta")
    assert model.in_chans == chans
    assert model(torch.zeros(2, chans, *native_size(name)[1:], device="meta")).shape == (2, 10)


@pytest.mark.parametrize("classes", [1, 2, 42])
def test_another_number_of_classes_is_honoured(name, classes):
    model = timm.create_model(name, num_classes=classes, device="meta")
    assert model.num_classes == classes
    assert model(batch_for(model, name)).shape == (2, classes)


def test_no_classes_give_the_pre_logits(name):
    model = timm.create_model(name, num_classes=0, device="meta")
    assert model(batch_for(model, name)).shape == (2, model.head_hidden_size)
    assert isinstance(model.get_classifier(), nn.Identity)


def test_an_unknown_keyword_is_a_type_error(name):
    with pytest.raises(TypeError, match="no_such_option"):
        timm.create_model(name, device="meta", no_such_option=1)


def test_the_device_is_where_every_tensor_is_created(name):
    model = timm.create_model(name, device="meta", dtype=torch.float64)
    for key, tensor in model.state_dict().items():
        assert tensor.device.type == "meta", key
        assert tensor.dtype == torch.float64 or not tensor.is_floating_point(), key


def test_bfloat16_stays_bfloat16(name):
    model = timm.create_model(name, device="meta", dtype=torch.bfloat16)
    assert model(batch_for(model, name).bfloat16()).dtype == torch.bfloat16


def test_drop_rate_drops_in_training_and_not_in_evaluation(name):
    model = create(name, drop_rate=0.5)
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in model.modules())
    need_numbers(name)
    features = model.forward_features(batch_for(model, name)).detach()
    assert_same(model.forward_head(features), model.forward_head(features))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model.forward_head(features), model.forward_head(features))


def test_drop_path_rate_is_honoured_or_refused_with_what_to_use_instead(name):
    try:
        model = create(name, drop_path_rate=0.5)
    except ValueError as e:
        text = str(e)
        assert "drop_path_rate=0.5" in text  # what was given
        assert "no residual blocks" in text  # what is allowed
        assert "drop_rate" in text.replace("drop_path_rate", "")  # what to type instead
        timm.create_model(name, drop_path_rate=0.0, device="meta")
        return
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.5)
    assert rates == sorted(rates)
    if is_large(name):
        return
    x = batch_for(model, name, 1).expand(16, -1, -1, -1)
    torch.manual_seed(0)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # leaves drop path as the only thing that can tell the copies apart
    assert len({round(v, 4) for v in model(x)[:, 0].tolist()}) > 1


# -- changing the classifier ---------------------------------------------------------------------------------------------


def test_reset_classifier_to_none_gives_the_pre_logits(model, name):
    x = batch_for(model, name)
    expected = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert isinstance(model.get_classifier(), nn.Identity)
    assert_same(model(x), expected)


def test_reset_classifier_without_pooling_gives_the_feature_map(model, name):
    x = batch_for(model, name)
    expected = model.forward_features(x)
    model.reset_classifier(0, "")
    assert_same(model(x), expected)
    assert model.head_hidden_size == model.num_features


def test_reset_classifier_and_back_keeps_the_pooling_and_the_rest(model, name):
    x = batch_for(model, name)
    pooling = model.global_pool
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    model.reset_classifier(0)
    model.reset_classifier(10)
    assert model.global_pool == pooling
    assert model.num_classes == 10
    assert {k: v.shape for k, v in model.state_dict().items()} == shapes
    assert_same(model.forward_head(model.forward_features(x), pre_logits=True), hidden)
    assert model(x).shape == (2, 10)
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "catavgmax"])
def test_reset_classifier_can_take_another_pooling(model, name, pooling):
    x = batch_for(model, name)
    if name == "nin_d2l" and pooling == "catavgmax":  # its classifier comes before the pooling
        with pytest.raises(ValueError, match="catavgmax.*pools the class scores.*'avgmax'"):
            model.reset_classifier(5, pooling)
        assert (model(x).shape, model.global_pool) == ((2, 10), "avg")
        return
    model.reset_classifier(5, pooling)
    assert model.global_pool == pooling
    assert model(x).shape == (2, 5)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.head_hidden_size)
    built = timm.create_model(name, num_classes=5, global_pool=pooling, device="meta")
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_a_classifier_on_an_unpooled_map_is_refused(model):
    with pytest.raises(ValueError, match="num_classes=3.*num_classes=0.*global_pool='avg'"):
        model.reset_classifier(3, "")


def test_a_classifier_after_the_bare_feature_map_brings_a_pooling_along(model, name):
    x = batch_for(model, name)
    model.reset_classifier(0, "")
    model.reset_classifier(3)
    assert model.global_pool != ""
    assert model(x).shape == (2, 3)
    assert not any(m.training for m in model.modules())
    bare = timm.create_model(name, num_classes=0, global_pool="", device="meta")
    bare.reset_classifier(3)
    assert bare(x.to("meta")).shape == (2, 3)


def test_the_new_classifier_is_where_the_model_is(name):
    model = timm.create_model(name, device="meta", dtype=torch.float64)
    model.reset_classifier(0)
    model.reset_classifier(3)
    assert all(p.device.type == "meta" and p.dtype == torch.float64 for p in model.parameters())


def test_the_state_dict_makes_a_copy_that_agrees(model, name):
    other = timm.create_model(name, device=next(model.parameters()).device)
    other.load_state_dict(model.state_dict(), strict=True)
    x = batch_for(model, name)
    assert_same(other.eval()(x), model(x))


# -- feature maps --------------------------------------------------------------------------------------------------------


def level_indices(model: nn.Module) -> list[list[int]]:
    last = len(model.feature_info) - 1
    return [[0], [last], [-1], [-2, -1], [0, -1], list(range(last + 1))]


def test_there_are_three_levels_or_more_and_they_only_shrink(model):
    assert len(model.feature_info) >= 3
    reductions = [level["reduction"] for level in model.feature_info]
    assert reductions == sorted(reductions)
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
    model.stages[-1].register_forward_hook(lambda *_: ran.append(True))
    x = batch_for(model, name)
    model.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
    assert not ran
    model.forward_intermediates(x, [0], stop_early=False, intermediates_only=True)
    assert ran


@pytest.mark.parametrize("outside", [99, -99])
def test_a_level_that_does_not_exist_is_a_value_error_that_lists_the_levels(model, name, outside):
    with pytest.raises(ValueError, match=rf"{outside}.*levels 0 \(stem\) to {len(model.feature_info) - 1}.*from the end"):
        model.forward_intermediates(batch_for(model, name), [outside])
    with pytest.raises(ValueError, match=str(outside)):
        model.prune_intermediate_layers([outside])


def test_another_output_format_is_a_value_error_that_names_the_one(model, name):
    with pytest.raises(ValueError, match="NLC.*NCHW.*Leave it out"):
        model.forward_intermediates(batch_for(model, name), output_fmt="NLC")


def test_features_only_gives_the_levels_asked_for(shared, name):
    x = images(name, device="meta")
    every = timm.create_model(name, device="meta").forward_intermediates(x, intermediates_only=True)
    for indices in (None, (0, 2), (-1,), (0, -1), (-2, -1)):
        options = {} if indices is None else dict(out_indices=indices)
        backbone = timm.create_model(name, device="meta", features_only=True, **options)
        levels = range(len(every)) if indices is None else [i % len(every) for i in indices]
        assert backbone.feature_info.channels() == [shared.feature_info[i]["num_chs"] for i in levels]
        assert backbone.feature_info.reduction() == [shared.feature_info[i]["reduction"] for i in levels]
        maps = backbone(x)
        assert len(maps) == len(levels)
        for i, out in zip(levels, maps, strict=True):
            assert out.shape == every[i].shape


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


@pytest.mark.parametrize("coarse", [False, True])
def test_the_group_matcher_orders_the_parameters_from_stem_to_head(model, coarse):
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(groups) == {n for n, _ in model.named_parameters()}
    assert len(set(groups.values())) > 1
    depth = {part: [g for n, g in groups.items() if n.startswith(part)] for part in ("stem", "stages", "head")}
    assert all(g == 0 for g in depth["stem"])
    assert min(depth["stages"], default=1) >= 1
    assert min(depth["head"]) >= max(depth["stages"], default=0)


def test_layer_decay_gives_the_head_the_full_learning_rate_and_the_stem_the_least(model):
    from timm.optim import param_groups_layer_decay

    scales = {}
    named = {id(p): n for n, p in model.named_parameters()}
    for group in param_groups_layer_decay(model, layer_decay=0.5):
        for p in group["params"]:
            scales[named[id(p)]] = group["lr_scale"]
    assert max(v for k, v in scales.items() if k.startswith("stem")) == min(scales.values()) < 1
    assert {v for k, v in scales.items() if k.startswith("head.fc")} == {1}


def test_torchscript_gives_what_eager_gives(model, name):
    del model.zoo_name
    x = batch_for(model, name)
    with torch.no_grad():
        assert_same(torch.jit.script(model)(x), model(x))


def test_a_symbolic_trace_gives_what_eager_gives(model, name):
    x = batch_for(model, name)
    assert_same(torch.fx.symbolic_trace(model)(x), model(x))


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


# -- the names -----------------------------------------------------------------------------------------------------------

_TAKES_NOTHING = """
import warnings
import timm
from timm.models import _registry as r
before = {n: (f.__module__, r._model_to_module[n]) for n, f in r._model_entrypoints.items()}
tagged = set(timm.list_models(include_tags=True)) | set(timm.list_pretrained())
with warnings.catch_warnings():
    warnings.simplefilter("error")
    import cnnzoo
after = {n: (f.__module__, r._model_to_module[n]) for n, f in r._model_entrypoints.items()}
assert all(after.get(n) == v for n, v in before.items()), [n for n, v in before.items() if after.get(n) != v]
assert tagged <= set(timm.list_models(include_tags=True)) | set(timm.list_pretrained())
new = sorted(set(after) - set(before))
assert new == cnnzoo.list_models(), set(new) ^ set(cnnzoo.list_models())
assert not [n for n in new if n in r._deprecated_models]
print(len(new))
"""


def test_registering_the_zoo_takes_no_name_from_timm():
    run = subprocess.run([sys.executable, "-c", _TAKES_NOTHING], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) == len(MODELS) > 0


def test_importing_warns_of_nothing():
    run = subprocess.run([sys.executable, "-W", "error", "-c", "import timm, cnnzoo"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
