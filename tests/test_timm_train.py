"""What timm's train.py is made of, on our models. (The script itself is not on the package index.)"""

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

import cnnzoo  # noqa: F401  --device-modules cnnzoo


@pytest.fixture
def image_folder(tmp_path):
    """Two classes of ten gray images, dark and light."""
    for label, low in (("dark", 0), ("light", 128)):
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(10):
            pixels = torch.randint(low, low + 128, (30, 34), generator=torch.Generator().manual_seed(i)).byte().numpy()
            Image.fromarray(pixels).save(tmp_path / "train" / label / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("name", ["resnext_small", "lenet_tiny", "densenet_tiny"])
def test_timms_data_optimiser_and_scheduler_factories_train_our_models(name, image_folder):
    torch.manual_seed(0)
    model = timm.create_model(name, in_chans=1, num_classes=2, drop_path_rate=None)
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == (1, 28, 28)
    dataset = create_dataset("", root=image_folder, split="train", is_training=True, input_img_mode="L", batch_size=5)
    loader = create_loader(
        dataset, input_size=config["input_size"], batch_size=5, is_training=True, mean=config["mean"], std=config["std"],
        interpolation=config["interpolation"], num_workers=0, use_prefetcher=False, device=torch.device("cpu"),
        scale=(0.8, 1.0), color_jitter=None, re_prob=0.25,
    )  # fmt: skip
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-3, layer_decay=0.9)
    scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=4, warmup_epochs=1, updates_per_epoch=len(loader))
    criterion, ema = LabelSmoothingCrossEntropy(0.1), ModelEmaV3(model, decay=0.9)
    means = []
    for epoch in range(epochs):
        model.train()
        losses = []
        for images, labels in loader:
            assert images.shape == (5, 1, 28, 28)
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            losses.append(loss.item())
        scheduler.step(epoch + 1)
        means.append(sum(losses) / len(losses))
    assert min(means[1:]) < means[0]
