"""MLPerf Tiny's ResNet-8, which is none of the zoo's models: it is there to be trained and timed beside them.

Importing this module registers it with timm, so `timm:resnet8_mlperf` names it wherever timm's own models can be named.
"""

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from .datasets import FASHION_MNIST

__all__ = ["ResNet8"]

default_cfgs = generate_default_cfgs(
    {
        "resnet8_mlperf": dict(
            input_size=FASHION_MNIST.image_size, mean=FASHION_MNIST.mean, std=FASHION_MNIST.std,
            num_classes=len(FASHION_MNIST.labels), pool_size=None, first_conv="stem", classifier="fc",
        )
    }
)  # fmt: skip


class ResNet8(nn.Module):
    """The network of MLPerf Tiny's image classification (Banbury et al., 2021, arXiv:2106.07597), layer by layer.

    As in its reference, `keras_model.py`, convolutions have biases, and the shortcuts have no norm. For CIFAR-10's
    3x32x32 it has the reference's 77,706 weights and biases, and 480 of batch norms.

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs.
        drop_rate: Dropout before the last layer, 0 to 1; the reference has none.
        dd: `device` and `dtype` of the parameters.

    Shape: `(B, in_chans, H, W)` to `(B, num_classes)`.
    """

    def __init__(self, in_chans: int = 1, num_classes: int = 10, drop_rate: float = 0.0, **dd) -> None:
        super().__init__()
        self.in_chans, self.num_classes = in_chans, num_classes
        self.stem, self.stem_norm = nn.Conv2d(in_chans, 16, 3, padding=1, **dd), nn.BatchNorm2d(16, **dd)
        self.stacks = nn.Sequential(_Stack(16, 16, 1, **dd), _Stack(16, 32, 2, **dd), _Stack(32, 64, 2, **dd))
        self.drop, self.fc = nn.Dropout(drop_rate), nn.Linear(64, num_classes, **dd)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.stacks(self.stem_norm(self.stem(x)).relu())  # (B, 64, H / 4, W / 4)
        return self.fc(self.drop(x.mean((2, 3))))


class _Stack(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the stride is not 1."""

    def __init__(self, before: int, width: int, stride: int, **dd) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(before, width, 3, stride, padding=1, **dd), nn.BatchNorm2d(width, **dd)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, padding=1, **dd), nn.BatchNorm2d(width, **dd)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, width, 1, stride, **dd)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first_norm(self.first(x)).relu()
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


@register_model
def resnet8_mlperf(pretrained: bool = False, **kwargs) -> ResNet8:
    """MLPerf Tiny's ResNet-8, without weights."""
    return build_model_with_cfg(ResNet8, "resnet8_mlperf", pretrained, **kwargs)
