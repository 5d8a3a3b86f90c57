"""The contract of a timm model, one sentence per clause, over every model of the zoo.

Weights are closed-form (`helpers.fill`), because at the default start residual branches are zero and hide mistakes. Large
models live on the meta device here: everything but their numbers is checked (see `helpers.MAX_PARAMS`).
"""

import copy
import subprocess
import sys

import pytest
import timm
import torch
from contract_models import batch_for, create, need_numbers
from helpers import MODELS, assert_same, images, is_large, native_size
from hypothesis import given, settings, strategies as st
from PIL import Image
from timm.layers import DropPath
from torch import nn

import cnnzoo

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


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
@settings(max_examples=2)
def test_each_image_is_judged_on_its_own_in_evaluation_mode(shared, name, seed, count):
    need_numbers(name)
    x = torch.randn(count, *native_size(name), generator=torch.Generator().manual_seed(seed))
    x = x * torch.arange(1, count + 1).view(-1, 1, 1, 1)
    with torch.inference_mode():
        together = shared(x)
        alone = torch.cat([shared(x[i : i + 1]) for i in range(count)])
    assert_same(alone, together)


@given(order=st.permutations(range(4)))
@settings(max_examples=2)
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


@pytest.mark.parametrize("chans", [1, 3])
def test_another_number_of_channels_is_honoured(name, chans):
    model = timm.create_model(name, in_chans=chans, device="meta")
    assert model.in_chans == chans
    assert model(torch.zeros(2, chans, *native_size(name)[1:], device="meta")).shape == (2, 10)


@pytest.mark.parametrize("chans", [1, 2, 3])
@pytest.mark.parametrize("features", [False, True])
def test_the_cfg_of_a_model_says_what_this_model_takes(name, chans, features):
    before = copy.deepcopy(timm.get_pretrained_cfg(name))
    model = timm.create_model(name, in_chans=chans, features_only=features, device="meta")
    size = (chans, *before.input_size[1:])
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == size and model.default_cfg is cfg
    assert len(cfg["mean"]) == len(cfg["std"]) == chans
    assert sum(cfg["mean"]) / chans == pytest.approx(sum(before.mean) / len(before.mean))
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["mean"], config["std"]) == (size, cfg["mean"], cfg["std"])
    assert timm.data.resolve_data_config(dict(in_chans=chans), model=model) == config  # as timm's scripts ask
    assert timm.get_pretrained_cfg(name) == before
    assert timm.create_model(name, device="meta").pretrained_cfg["input_size"] == before.input_size


@pytest.mark.parametrize("size", [64, (40, 48)])
def test_the_cfg_of_a_model_of_another_size_says_so(size):
    model = timm.create_model("lenet_tiny", img_size=size, in_chans=3, device="meta")
    expected = (3, *((size, size) if isinstance(size, int) else size))
    assert timm.data.resolve_model_data_config(model)["input_size"] == model.pretrained_cfg["input_size"] == expected
    assert model.pretrained_cfg["pool_size"] is None
    assert cnnzoo.create_transform(model)(Image.new("L", (9, 9))).shape == expected


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
new = set(after) - set(before) - {"resnet8_mlperf"}  # which is there to be compared with
assert new == set(cnnzoo.list_models()), new ^ set(cnnzoo.list_models())
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
