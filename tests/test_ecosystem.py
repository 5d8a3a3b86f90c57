"""Other people's packages on the zoo's models, each as its own users call it. README's table "Works with" is made of these.

The packages are the extra `ecosystem`; what is not installed is skipped by its name.
`pytest -m slow --accept tests/test_ecosystem.py` notes the versions that were run.
"""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import cnnzoo
from cnnzoo.drawings import garments
from cnnzoo.files import write_json

pytestmark = pytest.mark.slow  # the imports alone take seconds

NAME = "resnet_tiny"
SMP = ("segmentation-models-pytorch", "segmentation_models_pytorch")
VERSIONS = Path(__file__).parent / "ecosystem.json"


def works_with(distribution: str, module: str, what: str):
    """Marks what runs a package: a row of README's table."""

    def mark(test):
        test.package_row = (distribution, what)
        test.module = module
        return test

    return mark


@pytest.fixture(autouse=True)
def package(request):
    """The package of a test, whose version is noted with --accept; the test is skipped where it is not installed."""
    distribution, _ = request.function.package_row
    found = pytest.importorskip(request.function.module, reason=f"{distribution} is not installed")
    yield found
    if request.config.getoption("--accept"):
        noted = json.loads(VERSIONS.read_text()) if VERSIONS.exists() else {}
        write_json(VERSIONS, dict(sorted({**noted, distribution: version(distribution)}.items())))


def prepared(model: nn.Module) -> torch.Tensor:
    """The ten garments as the model takes them, `(10, C, H, W)`."""
    transform = cnnzoo.create_transform(model)
    return torch.stack([transform(image) for image in garments().values()])


@works_with(*SMP, "`Unet` on a model of each kind of levels, gray, pretrained")
def test_a_unet_is_built_on_our_models_and_learns(package):
    for name, depth, side in [("resnet_small", 2, 28), ("vgg_tiny", 2, 28), ("nin_d2l", 5, 224), ("resnet18_d2l", 5, 96)]:
        torch.manual_seed(0)
        weights = True if timm.is_model_pretrained(name) else None
        options = dict(in_channels=1, encoder_weights=weights, encoder_depth=depth, decoder_channels=(16,) * depth)
        model = package.Unet(f"tu-{name}", **options)
        if weights:
            first = timm.create_model(name, pretrained=True).state_dict()["stem.0.conv.weight"]
            assert any(torch.equal(first, tensor) for tensor in model.encoder.state_dict().values())
        x = torch.rand(2, 1, side, side)
        mask = model(x)
        assert mask.shape == x.shape
        nn.functional.binary_cross_entropy_with_logits(mask, (x > 0.5).float()).backward()
        assert all(p.grad is not None for p in model.parameters())


@works_with(*SMP, "`DeepLabV3Plus` is refused with what to use instead")
def test_a_decoder_that_needs_dilation_is_refused(package):
    with pytest.raises(ValueError, match="output_stride=16.*Unet"):
        package.DeepLabV3Plus("tu-resnet18_d2l", in_channels=1, encoder_weights=None)


@works_with("captum", "captum.attr", "`IntegratedGradients` adds up to the difference of the logits")
def test_integrated_gradients_add_up(package):
    model = cnnzoo.create_model(NAME, pretrained=True).eval()
    x = prepared(model)[:2]
    shares = package.IntegratedGradients(model).attribute(x, target=0, n_steps=100)
    with torch.no_grad():
        difference = (model(x) - model(torch.zeros_like(x)))[:, 0]
    torch.testing.assert_close(shares.sum((1, 2, 3)).float(), difference, atol=0.3, rtol=0.1)


@works_with("grad-cam", "pytorch_grad_cam", "`GradCAM` on the last feature level")
def test_grad_cam_shows_where_the_evidence_is(package):
    model = cnnzoo.create_model(NAME, pretrained=True).eval()
    layer = model.get_submodule(model.feature_info[-1]["module"])
    with package.GradCAM(model=model, target_layers=[layer]) as cam:
        heat = cam(input_tensor=prepared(model)[:2], targets=None)
    assert heat.shape == (2, 28, 28) and heat.max() == pytest.approx(1, abs=1e-3) and heat.std() > 0


@works_with("torchinfo", "torchinfo", "`summary` counts as many parameters and multiply-accumulates")
def test_torchinfo_counts_what_we_count(package):
    facts = cnnzoo.info(NAME)
    found = package.summary(cnnzoo.create_model(NAME), (1, *facts["input_size"]), verbose=0)
    assert found.total_params == facts["params"]
    assert found.total_mult_adds == pytest.approx(facts["macs"], rel=0.02)  # it counts norms too


@works_with("fvcore", "fvcore.nn", "`FlopCountAnalysis` counts as many multiply-accumulates")
def test_fvcore_counts_what_we_count(package):
    facts = cnnzoo.info(NAME)
    analysis = package.FlopCountAnalysis(cnnzoo.create_model(NAME).eval(), torch.zeros(1, *facts["input_size"]))
    analysis.unsupported_ops_warnings(False)
    counted = analysis.by_operator()
    assert counted["conv"] + counted["linear"] == facts["macs"]


@works_with("skorch", "skorch", "`NeuralNetClassifier` fits, and scikit-learn's `cross_val_score` takes it")
def test_skorch_fits(package):
    from sklearn.model_selection import cross_val_score

    torch.manual_seed(0)
    model = timm.create_model(NAME, pretrained=True, num_classes=2)
    images = prepared(model).repeat(4, 1, 1, 1)
    labels = torch.tensor([name in ("Sandal", "Sneaker", "Ankle boot") for name in garments()]).long().repeat(4)
    options = dict(criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=1e-3, max_epochs=8, verbose=0)
    net = package.NeuralNetClassifier(model, train_split=None, **options)
    assert cross_val_score(net, images.numpy(), labels.numpy(), cv=2).mean() > 0.9


@works_with("fastai", "fastai.vision.all", "`vision_learner` normalises as the weights want it, gray and RGB, and learns")
@pytest.mark.parametrize("in_chans", [1, 3])
def test_fastai_normalises_and_learns(package, in_chans, tmp_path):
    torch.manual_seed(0)
    for name, image in garments().items():
        for part in ("train", "test"):
            folder = tmp_path / part / ("shoe" if name in ("Sandal", "Sneaker", "Ankle boot") else "garment")
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{name.replace('/', ' ')}.png")
    image = package.ImageBlock(cls=package.PILImageBW if in_chans == 1 else package.PILImage)
    options = dict(get_items=package.get_image_files, get_y=package.parent_label)
    splitter = package.GrandparentSplitter(train_name="train", valid_name="test")
    block = package.DataBlock(blocks=(image, package.CategoryBlock), splitter=splitter, **options)
    loaders = block.dataloaders(tmp_path, bs=10, num_workers=0, device=torch.device("cpu"))
    learner = package.vision_learner(loaders, NAME, n_in=in_chans, metrics=package.accuracy)

    model = timm.create_model(NAME, pretrained=True, in_chans=in_chans)
    files = loaders.valid_ds.items
    ours = torch.stack([cnnzoo.create_transform(model)(package.PILImage.create(path)) for path in files])
    torch.testing.assert_close(torch.Tensor(loaders.valid.one_batch()[0]), ours)
    with learner.no_bar(), learner.no_logging():
        learner.fit(25, 1e-2)
        assert learner.validate()[1] > 0.9
