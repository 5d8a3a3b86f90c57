"""What others have published on Fashion-MNIST: a table of facts, with sources. No torch.

On 31 August 2017 the data set's authors replaced all four files, since training and test images overlapped
(github.com/zalandoresearch/fashion-mnist, issue 44). Numbers on the older files are too high by about 0.4 points
(github.com/zhunzhong07/Random-Erasing, issue 9), and several famous ones are; here they are marked.
"""

from typing import NamedTuple

LAST, BEST, LEAKY = "last", "best", "leaky"
PROTOCOLS = {
    LAST: "published: last epoch",
    BEST: "published: best epoch on the test set, or not said",
    LEAKY: "published: on the leaky data of before 31 August 2017",
}


class Published(NamedTuple):
    """One published number.

    Attributes:
        name: The model, and what tells it apart.
        params: Parameters, as the source gives them or as counted from its description, rounded.
        top1: Percent of the test images.
        protocol: A key of `PROTOCOLS`.
        source: Repository and place, or paper.
    """

    name: str
    params: int
    top1: float
    protocol: str
    source: str


_HYSTS = "hysts/pytorch_image_classification, README, Results on FashionMNIST"
_FASTAI = "fastai/course22p2, nbs/14_augment"
_ERASING = "zhunzhong07/Random-Erasing"
_ZALANDO = "zalandoresearch/fashion-mnist"

PUBLISHED = (
    Published("shake-shake-26 2x96d, cutout", 26_200_000, 96.40, LAST, _HYSTS),
    Published("shake-shake-26 2x32d, cutout", 2_920_000, 95.95, LAST, _HYSTS),
    Published("pre-act ResNet-50 w4, cutout", 12_000_000, 95.93, LAST, _HYSTS),
    Published("pre-act ResNet-20 w4, cutout", 4_300_000, 95.89, LAST, _HYSTS),
    Published("pre-act ResNet-50, cutout", 760_000, 95.62, LAST, _HYSTS),
    Published("pre-act ResNet-20, cutout", 270_000, 95.51, LAST, _HYSTS),
    Published("pre-act ResNet-20", 270_000, 94.96, LAST, _HYSTS),
    Published("WRN-28-10, random erasing", 36_480_000, 95.70, LAST, f"{_ERASING}, issue 9"),
    Published("ResNet, 5 epochs", 1_220_000, 92.8, LAST, "fastai/course22p2, nbs/13"),
    Published("ResNet, 50 epochs, random erasing", 4_900_000, 94.9, LAST, _FASTAI),
    Published("ResNet-20, random erasing", 270_000, 95.55, BEST, f"{_ERASING}, issue 10"),
    Published("CoolNameNet, random erasing", 295_968, 94.7, BEST, f"{_ZALANDO}, issue 93"),
    Published("3 convolutions, 2 linear", 1_000_000, 94.03, BEST, f"{_ZALANDO}, issue 148"),
    Published("2 convolutions, 2 linear", 600_000, 93.6, BEST, f"{_ZALANDO}, issue 149"),
    Published("VGG-like", 26_600_000, 93.5, BEST, f"{_ZALANDO}, issue 48"),
    Published("small CNN", 143_617, 90.6, BEST, f"{_ZALANDO}, issue 121"),
    Published("small CNN", 14_862, 89.0, BEST, "arXiv:2501.15547"),
    Published("WRN-28-10, random erasing", 36_480_000, 96.35, LEAKY, f"{_ERASING}, README; its issue 9 on the data"),
    Published("WRN-40-4", 8_900_000, 96.07, LEAKY, f"{_ERASING}, issue 10"),
    Published("ResNet-20, random erasing", 270_000, 95.98, LEAKY, f"{_ERASING}, README"),
    Published("DenseNet-BC, k = 12, depth 100", 768_000, 95.36, LEAKY, f"{_ERASING}, issue 10"),
)


class Section(NamedTuple):
    """What *Dive into Deep Learning* prints for one of its networks.

    Attributes:
        place: Edition or number, and name of the section.
        printed: Percent of the test images that the page prints (PyTorch) after the book's own training; None: not found.
            The present English edition prints none, so these are the Chinese edition's, zh.d2l.ai, where it has the network.
        training: What that training has otherwise than the recipe `textbook`, whose settings are the English edition's.
        choice: What in the recipe `textbook` is not of this section of that edition, as sentences.
    """

    place: str
    printed: str | None = None
    training: str = ""
    choice: str = ""


TEXTBOOK = {
    "convnet_max_d2l": Section("7.5 Pooling"),
    "lenet_d2l": Section("7.6 LeNet", "77.9", "learning rate 0.9, batch size 256"),
    "lenet_relu_d2l": Section("7.6 LeNet, exercise"),
    "alexnet_d2l": Section("8.1 AlexNet", "87.8 to 88.5"),
    "vgg11_thin_d2l": Section("8.2 VGG", "92.0", "learning rate 0.05"),
    "nin_d2l": Section("8.3 NiN"),
    "googlenet_d2l": Section(
        "8.4 GoogLeNet",
        "88.6",
        choice="The learning rate was chosen between the textbook's editions: 0.1 is the Chinese one's.\n"
        "At the English one's 0.01, the same training reached 83.63 % of the test images.",
    ),
    "resnet18_d2l": Section("8.6 ResNet", "89.3", "learning rate 0.05, batch size 256"),
    "resnext18_d2l": Section(
        "8.6 ResNeXt", choice="The textbook has the block but no training of such a network, so it has ResNet-18's."
    ),
    "densenet_d2l": Section("8.7 DenseNet", "88.5", "learning rate 0.1, batch size 256"),
    "regnetx32_d2l": Section("8.8 RegNet"),
    "mobilenet_d2l": Section("next edition, MobileNet", "91.8"),
    "convnext_d2l": Section("next edition, ConvNeXt", "about 92"),
}
