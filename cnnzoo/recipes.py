"""Recipes: everything that decides how a model is trained, as a frozen record."""

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Any

from .errors import CnnzooError, unknown

TIMM = "timm:"  # before the name of a model of timm's own


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. Two runs of the same recipe on the same machine do the same.

    Take a recipe from `get_recipe`, and change it by `override`: the defaults here only complete recipes that were saved.
    The texts below are also those of `cnnzoo train --help`.

    Attributes:
        model: The model's name: of the zoo, or `timm:NAME` for any model of timm, which starts from random weights.
        dataset: `fashion_mnist`, one of torchvision's (`mnist`, `kmnist`, `emnist`, `cifar10`, ...), `hfds/ORG/NAME` of the
            Hugging Face Hub, or `folder` for a folder of pictures per class.
        in_chans: Channels to make of the images, 1 or 3. 0 keeps those of the data set; pictures without a fixed size then
            get 1, or as many as the pretrained weights take.
        epochs: Passes over the training images.
        batch_size: Images per update, over all processes.
        opt: An optimiser of `timm.optim.create_optimizer_v2`, such as `sgd` (with Nesterov momentum) or `adamw`.
        lr: Peak learning rate.
        momentum: Of SGD and similar optimisers, or the first of the two betas of Adam and similar ones. Other optimisers
            keep their own.
        weight_decay: On weights; biases and norms have none.
        sched: `cosine`, `onecycle` (torch's, up and down in straight lines), or `constant`.
        warmup_epochs: Linear warm-up from `lr / 100`, with `onecycle` from `lr / 25`; at most half of the epochs.
        label_smoothing: Probability mass spread over all classes.
        ema_decay: Share of the average of the weights that stays at each update; it grows to this value. The average is
            what is published; 0 publishes the weights themselves.
        flip: Mirror left and right, each image with probability 1/2.
        shift: Move each image by up to so many pixels along both axes; black comes in.
        cutout: Side in pixels of a square that is blanked at a random place (arXiv:1708.04552); 0 for none.
        image_size: Height and width that images are scaled to, in training and when measuring; 0 for their own, or what
            pretrained weights know. The recipe `textbook` has what the model is made for.
        start_size: Height of the images in the first epoch, scaled down; it grows (progressive resizing, arXiv:2104.00298).
            0 for whole images throughout, which all recipes have for models of one image size.
        size_step: Pixels by which the size grows each time; every size lasts equally long. Multiples of 4 can be halved
            twice. 0 lets it grow a little in every epoch.
        grown_at: Share of the epochs after which the images are whole.
        drop_rate: Dropout in the head, 0 to 1.
        drop_path_rate: Stochastic depth of the last residual block, growing linearly from 0 (arXiv:1603.09382).
        mixup: Parameter of the Beta distribution of torchvision's MixUp (arXiv:1710.09412); 0 for none.
        cutmix: The same for CutMix (arXiv:1905.04899); with both, each batch gets one of them.
        mix_prob: Probability that a batch gets mixup or cutmix.
        dual: Weight of the mean squared difference between the logits of two views of each image, which differ in where they
            are blanked (dual cutout, hysts/pytorch_image_classification); 0 for one view. Twice the cost.
        randaugment: Operations of RandAugment per image (arXiv:1909.13719), of those that change gray images; 0 for none.
        magnitude: Strength of these operations, 0 to 1.
        photo: Strength, 0 to 1, of changes such as photos have: small rotation, scale and shear, a background, blur, gamma,
            contrast, brightness, noise.
        erase: Probability that a random rectangle of an image is blanked (arXiv:1708.04896).
        clip_grad: Largest norm of the gradient; 0 for none.
        accumulate: Parts that a batch goes through the model in, for less memory. The gradient is that of the whole batch,
            except that batch norm sees the parts.
        teacher: Models to learn from, separated by commas: pretrained models of the zoo, or run folders. They see each image
            as the model does, but always at full size.
        distill: Weight of the teachers in the loss, 0 to 1; the rest is the labels' (arXiv:1503.02531).
        distill_temperature: Number by which the logits of teachers and model are divided in that loss.
        answers: Folder with the answers of teachers to the images of the first epochs, made by `cnnzoo ask`. The run repeats
            the images of these epochs and learns from the answers; it needs no teacher. Another seed takes the epochs in
            another order. Of several teachers the mean of their probabilities is kept, which `distill_temperature` softens.
        whiten: Give the first convolution fixed filters that whiten patches of the training images (arXiv:2404.00498).
        dirac: Start the other convolutions as identities, as far as their channels go (arXiv:2404.00498).
        pretrained: Start from the model's pretrained weights. A head for other classes starts anew; where the classes are
            the same in another order, it is put in that order.
        wise_ft: Share of the pretrained weights in the published ones: at the end these are averaged with the trained ones
            (WiSE-FT, arXiv:2109.01903). It keeps what fine-tuning on altered images would forget. 0 for none.
        freeze: Train the classifier only.
        layer_decay: Factor on the learning rate from each layer to the one below it, by the model's `group_matcher`.
        seed: Seed of initial weights, order and augmentation.
        amp: `bf16` for mixed precision where the device has it, `no` for fp32.
        compile: Run the model through torch.compile.
        deterministic: Have torch refuse operations that are not reproducible on this device. On a CPU every run is.
    """

    model: str
    dataset: str = "fashion_mnist"
    in_chans: int = 0
    epochs: int = 30
    batch_size: int = 128
    opt: str = "sgd"
    lr: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    sched: str = "cosine"
    warmup_epochs: float = 2.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.998
    flip: bool = True
    shift: int = 1
    cutout: int = 8
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    dual: float = 0.0
    randaugment: int = 0
    magnitude: float = 0.3
    photo: float = 0.0
    image_size: int = 0
    start_size: int = 0
    size_step: int = 0
    grown_at: float = 0.6
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    clip_grad: float = 0.0
    accumulate: int = 1
    teacher: str = ""
    distill: float = 0.5
    distill_temperature: float = 2.0
    answers: str = ""
    whiten: bool = False
    dirac: bool = False
    pretrained: bool = False
    wise_ft: float = 0.0
    freeze: bool = False
    layer_decay: float = 1.0
    seed: int = 0
    amp: str = "bf16"
    compile: bool = False
    deterministic: bool = False

    @classmethod
    def field_texts(cls) -> dict[str, str]:
        """What the docstring says of each field, in one line each; nothing where Python was told to drop docstrings."""
        entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", cls.__doc__ or "", re.MULTILINE)
        return {field: " ".join(text.split()) for field, text in entries}

    @property
    def teachers(self) -> list[str]:
        """What `teacher` names."""
        return [part.strip() for part in self.teacher.split(",") if part.strip()]

    def full_size(self, own: tuple[int, int]) -> tuple[int, int]:
        """Height and width that images of size `own` are measured at, and trained on in the last epochs."""
        return (self.image_size, self.image_size) if self.image_size else own

    def size_at(self, epoch: int, own: tuple[int, int]) -> tuple[int, int]:
        """Height and width that images of size `own` have in `epoch`, counted from 0."""
        full = self.full_size(own)
        if not self.start_size or self.start_size >= full[0] or epoch >= self.epochs - 1:
            return full  # the last epoch, at least, is as what is measured
        grown = min(1.0, epoch / (self.grown_at * self.epochs))
        growth = grown * (full[0] - self.start_size)
        if self.size_step and grown < 1:
            growth = growth // self.size_step * self.size_step
        height = round(self.start_size + growth)
        return height, round(full[1] * height / full[0])

    def __post_init__(self) -> None:
        for field, kind in typing.get_type_hints(Recipe).items():
            object.__setattr__(self, field, _checked(field, getattr(self, field), kind))
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise unknown(f"value of {field}", str(getattr(self, field)), map(str, allowed))
        for field, low, high in _RANGES:
            if not low <= getattr(self, field) <= high:
                raise CnnzooError(
                    f"{field}={getattr(self, field)} was given; allowed is {low} to {high}. Choose a value in between."
                )
        for field in ("whiten", "dirac"):
            if self.pretrained and getattr(self, field):
                raise CnnzooError(
                    f"{field} and pretrained were given; only one is allowed, since both set the first weights. Set "
                    f"{field}=False (--no-{field}) to start from the pretrained weights."
                )
        if self.teacher and not self.teachers:
            raise CnnzooError(
                f"teacher={self.teacher!r} was given, which names no model. Name one, such as resnext_small, or leave it "
                "out."
            )
        for field, what in dict(
            wise_ft="is the share of the pretrained weights", freeze="keeps the backbone's weights as they are"
        ).items():
            if getattr(self, field) and not self.pretrained:
                raise CnnzooError(
                    f"{field}={getattr(self, field)} was given without pretrained; it {what}. Set pretrained=True "
                    f"(--pretrained), or leave {field} out."
                )
        if self.answers and (self.teacher or self.dual):
            raise CnnzooError(
                f"answers={self.answers!r} was given together with {'teacher' if self.teacher else 'dual'}; only one is "
                "allowed. Leave one of them out."
            )
        if self.dual and not (self.cutout or self.erase):
            raise CnnzooError(
                f"dual={self.dual} was given without cutout and erase, by which the two views differ. Set cutout=8 "
                "(--cutout 8), or leave dual out."
            )


_CHOICES = dict(sched=("cosine", "onecycle", "constant"), amp=("bf16", "no"), in_chans=(0, 1, 3))
_MANY = 1_000_000
_RANGES = (
    ("epochs", 1, _MANY), ("batch_size", 1, _MANY), ("lr", 0, 1_000), ("momentum", 0, 1),
    ("weight_decay", 0, 10),
    ("warmup_epochs", 0, _MANY), ("label_smoothing", 0, 1), ("ema_decay", 0, 1), ("shift", 0, 1_000),
    ("cutout", 0, 1_000), ("start_size", 0, 1_000), ("size_step", 0, 1_000), ("grown_at", 0.01, 1),
    ("image_size", 0, 1_000), ("drop_rate", 0, 1), ("drop_path_rate", 0, 1),
    ("erase", 0, 1), ("mixup", 0, 100), ("cutmix", 0, 100), ("mix_prob", 0, 1), ("dual", 0, 1_000),
    ("randaugment", 0, 10), ("magnitude", 0, 1), ("photo", 0, 1), ("accumulate", 1, _MANY), ("distill", 0, 1),
    ("wise_ft", 0, 1), ("distill_temperature", 0.01, 1_000), ("layer_decay", 0.01, 1), ("clip_grad", 0, _MANY),
    ("seed", 0, 2**31),
)  # fmt: skip


def _checked(field: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CnnzooError(
            f"{field}={value!r} was given; {_KINDS[kind]} is needed. For example, write {field}={_EXAMPLES[kind]}."
        )
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_EXAMPLES = {int: "10", float: "0.1", bool: "true", str: "'cosine'"}


def override(recipe: Recipe, **fields: Any) -> Recipe:
    """A copy of `recipe` with some fields changed.

    Raises:
        UnknownNameError: A field does not exist.
        CnnzooError: A value has the wrong type or is out of range.
    """
    names = [f.name for f in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in names:
            raise unknown("recipe field", name, names)
    return dataclasses.replace(recipe, **fields)


def completed(saved: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that was saved, by an older version maybe: fields that came since have their defaults, which
    were chosen to be what was done before.
    """
    return {f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not dataclasses.MISSING} | saved


def by_the_book(saved: dict[str, Any]) -> bool:
    """Whether a recipe that was saved is what `textbook` gives for its model, but for seed, precision and speed."""
    free, model = {"seed", "amp", "compile", "deterministic"}, saved.get("model", "")
    own = dataclasses.asdict(textbook(model)) if model.endswith("_d2l") else {}
    return bool(own) and all(own.get(k) == v for k, v in completed(saved).items() if k not in free)


def standard(model: str) -> Recipe:
    """Muon with Nesterov momentum, one cycle, flip, shift, cutout, EMA, 30 epochs, of which the first 18 see smaller images.

    From random weights or from pretrained ones. Checkpoints whose cards name SGD are from before this recipe, which was more
    accurate on the holdout.

    Command: `cnnzoo train densenet_small --out runs/densenet_small`. Expect 94.73 % of the test images (94.81 with flip TTA)
    after 49 minutes on AMD EPYC, 1 thread; README's table has the other models.
    """
    return Recipe(
        model=model, batch_size=256, opt="nmuon", lr=0.01, weight_decay=0.2, sched="onecycle", start_size=_start_size(model),
        size_step=4,
    )  # fmt: skip


def best(model: str) -> Recipe:
    """`standard` for 60 epochs, with the filters and the start of `fast`: what made `nin_tiny`, and with teachers
    `mobilenet_tiny`, `mobilenet_small` and `resnext_small`, the last two in 120 epochs.

    Command: `cnnzoo train nin_tiny --recipe best --out runs/nin_tiny`. Expect 94.60 % of the test images (94.81 with flip
    TTA) after 34 minutes on AMD EPYC, 1 thread.
    """
    return override(standard(model), epochs=60, whiten=True, dirac=True)


def fast(model: str) -> Recipe:
    """Minutes on two cores: `standard` cut short, with little augmentation, fixed whitening filters, and other convolutions
    that start as identities.

    Command: `cnnzoo train vgg_small --recipe fast --out runs/fast`. Expect 93.78 % of the test images (94.01 with flip TTA)
    after 4 minutes on AMD EPYC, 2 threads, by `cnnzoo bench train`.
    """
    return override(
        standard(model), epochs=8, cutout=0, label_smoothing=0.05, ema_decay=0.98, grown_at=0.5, whiten=True, dirac=True
    )


def _start_size(model: str) -> int:
    """Where images begin to grow, except for models that are built for one size."""
    cfg = _cfg(model)
    return 0 if cfg and cfg.fixed_input_size else 16


def _cfg(model: str) -> Any:
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(model.removeprefix(TIMM))


def textbook(model: str) -> Recipe:
    """As *Dive into Deep Learning* trains: plain SGD, batch 128, 10 epochs, fp32, no augmentation, no decay, the images
    scaled to the size that the model is made for. The learning rate is 0.1, or what the book's section on the network has,
    and dropout is the network's own. `mobilenet_d2l` has momentum 0.9. `convnext_d2l` has what the book calls the modern
    recipe: AdamW with warm-up and cosine decay, label smoothing and mixup for 30 epochs, without stochastic depth.

    These are the settings of the English edition, and of the next one. Three things differ: images are normalised with the
    mean and std of the data set; where the book sets the learning rate once in each epoch, it is set before each update; and
    `googlenet_d2l` has the Chinese edition's learning rate, 0.1, from which the accuracy comes that the book prints.

    Command: `cnnzoo train lenet_relu_d2l --recipe textbook --out runs/textbook`. Expect 89.21 % of the test images (84.42
    with flip TTA, which it is not trained for) after 2 minutes on AMD EPYC, 1 thread.
    """
    cfg = _cfg(model)
    size = cfg.input_size[1] if cfg and cfg.input_size[1] != 28 else 0
    plain = Recipe(
        model=model, image_size=size, epochs=10, batch_size=128, lr=0.1, momentum=0.0, weight_decay=0.0, sched="constant",
        warmup_epochs=0.0, label_smoothing=0.0, ema_decay=0.0, flip=False, shift=0, cutout=0, amp="no",
    )  # fmt: skip
    return override(plain, **_BOOKS_OWN.get(model.split(".")[0], {}))


_BOOKS_OWN = dict(  # chapters 8.1 to 8.8, and the next edition's for the last two
    alexnet_d2l=dict(lr=0.01, drop_rate=0.5),
    vgg11_d2l=dict(lr=0.01, drop_rate=0.5),
    vgg11_thin_d2l=dict(lr=0.01, drop_rate=0.5),
    nin_d2l=dict(lr=0.05, drop_rate=0.5),
    googlenet_d2l=dict(lr=0.1),  # the Chinese edition's; at the English one's 0.01 it reached 83.63 %
    resnet18_d2l=dict(lr=0.01),
    resnext18_d2l=dict(lr=0.01),  # the book has no training of it; ResNet-18's
    densenet_d2l=dict(lr=0.01),
    regnetx32_d2l=dict(lr=0.05),
    mobilenet_d2l=dict(opt="momentum", lr=0.05, momentum=0.9),  # timm's "sgd" would add Nesterov's correction
    convnext_d2l=dict(
        opt="adamw",
        lr=2e-3,
        momentum=0.9,
        weight_decay=0.05,
        epochs=30,
        sched="cosine",
        warmup_epochs=3.0,
        label_smoothing=0.1,
        mixup=0.2,
    ),
)
BY_SECTION = frozenset(field for own in _BOOKS_OWN.values() for field in own)  # what `textbook` has by the model


RECIPES = {f.__name__: f for f in (standard, best, fast, textbook)}


def training_command(model: str) -> str:
    """What to type to train a model of the zoo: the textbook's networks by its recipe, the others by the usual one."""
    recipe = " --recipe textbook" if model.endswith("_d2l") else ""
    colour = " --dataset cifar10" if _cfg(model).input_size[0] == 3 else ""
    return f"cnnzoo train {model}{recipe}{colour} --out runs/{model}"


def get_recipe(name: str, model: str, **fields: Any) -> Recipe:
    """The recipe called `name` for `model`, with `fields` changed.

    Args:
        name: A key of `RECIPES`.
        model: A model's name, of the zoo or `timm:NAME`.
        fields: Fields of `Recipe`, such as `epochs=10`.

    Returns:
        The recipe, which can no longer be changed.

    Raises:
        UnknownNameError: There is no such recipe or field.
        CnnzooError: A value has the wrong type or is out of range.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return override(RECIPES[name](model), **fields)
