"""What a run is made of: processes, model, loss, teachers, and checks before it starts."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.nn import functional as F

from .. import data, models, registry
from ..datasets import DatasetInfo
from ..errors import CheckpointError, CnnzooError, unknown
from ..evaluate import class_index
from ..holdout import has_seen_holdout
from ..inference import fast_copy
from ..progress import say
from ..recipes import Recipe, override
from ..resolve import read_run, resolve
from ._precision import fast_bf16

TRACKERS = ("tensorboard", "trackio", "wandb")
_LEAST = 8  # images of a batch that is made smaller, if there are so many
_WHITEN_PIXELS = 1000 * 28 * 28  # that `whiten` looks at: each becomes a patch in memory


def make_accelerator(recipe: Recipe, device: str | None, track: str | None, out: Path) -> Accelerator:
    """accelerate's entry point: device, processes, mixed precision, trackers.

    Raises:
        CnnzooError: The device or tracker is unknown, or the tracker's package is not installed.
    """
    if device not in (None, "cpu"):
        raise CnnzooError(f"device={device!r} was given; allowed is 'cpu'. Leave it out to use this machine's accelerator.")
    if track is not None and track not in TRACKERS:
        raise unknown("tracker", track, TRACKERS)
    # accelerate keeps the first run's precision for the whole process; a second run may want another.
    AcceleratorState._reset_state()
    kind = "cpu" if device == "cpu" or not torch.accelerator.is_available() else "accelerator"
    precision = "bf16" if recipe.amp == "bf16" and fast_bf16(kind) else "no"
    try:
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision, log_with=track, project_dir=out)
    except ImportError as e:
        raise CnnzooError(f"track={track!r} was given, and {track} is not installed. Type: pip install {track}") from e
    if track and not accelerator.log_with:  # accelerate only logs that it dropped it
        raise CnnzooError(f"track={track!r} was given, and {track} is not installed. Type: pip install {track}")
    return accelerator


def read_size(recipe: Recipe) -> tuple[int, int, int] | None:
    """Channels, height and width to read images at; None for their own. Data sets of one size are scaled batch by batch."""
    own = data.size_of(recipe.dataset)
    if own is None:
        side = recipe.image_size or 28
        return (recipe.in_chans or 1, side, side)
    return (recipe.in_chans, *own[1:]) if recipe.in_chans else None


def as_pretrained(recipe: Recipe) -> Recipe:
    """The recipe, in which the size of the images, and where they have none of their own the channels, are those that its
    pretrained weights know, unless it names others.
    """
    if not recipe.pretrained:
        return recipe
    chans, height, width = registry.create_model(recipe.model, device="meta").pretrained_cfg["input_size"]
    own = data.size_of(recipe.dataset)
    usual, known = own or (1, 28, 28), {}
    if not recipe.image_size and height == width and (height, width) != usual[1:]:
        known.update(image_size=height)
    if not recipe.in_chans and own is None and chans == 3:
        known.update(in_chans=chans)
    return override(recipe, **known)


def with_batch(recipe: Recipe, split: data.Split, accelerator: Accelerator) -> Recipe:
    """The recipe, with a batch that goes into the data: the recipes' own are made for thousands of images.

    A batch of more images than there are becomes about a quarter of them, and at least 8 if there are so many. A line says
    so. The holdout never counts, so that runs with and without one have the same batch.

    Raises:
        CnnzooError: It does not go evenly into processes and parts.
    """
    parts, size = accelerator.num_processes * recipe.accumulate, recipe.batch_size
    images = min(len(split), split.info.num_train - split.info.holdout)
    if size > images >= parts:
        most = max(images // 4, min(images, _LEAST))
        size = max(1, 2 ** (most.bit_length() - 1) // parts) * parts
        if accelerator.is_main_process:
            say(f"Batches have {size} images, not {recipe.batch_size}: without the holdout there are {images} to train on.")
    if size > images or size % parts:
        raise CnnzooError(
            f"batch_size={size} was given for {images} images, {accelerator.num_processes} processes and "
            f"accumulate={recipe.accumulate}. Choose a multiple of {parts}, at most {images}."
        )
    return override(recipe, batch_size=size)


def _is_timms(model: str) -> bool:
    """Whether a model is of timm's own, or a run's that trained one."""
    source = resolve(model)
    return source.kind == "timm" or (source.kind == "run" and read_run(source.name).is_timms)


def make_model(recipe: Recipe, split: data.Split, processes: int = 1) -> nn.Module:
    """The model with the data set's channels and classes, started and frozen as the recipe says.

    Raises:
        CnnzooError: The model cannot take the data set's images, or what the recipe asks of it.
    """
    info = split.info
    try:
        model = registry.create_model(
            recipe.model,
            pretrained=recipe.pretrained,
            in_chans=info.image_size[0],
            num_classes=len(info.labels),
            drop_rate=recipe.drop_rate,
            # A 0 must reach the zoo's models, of which one drops paths if not told otherwise; not all of timm's know it.
            drop_path_rate=recipe.drop_path_rate or (None if _is_timms(recipe.model) else 0.0),
        )
    except TypeError as e:  # a model of timm's own need not have them
        drops = f"drop_rate={recipe.drop_rate} and drop_path_rate={recipe.drop_path_rate}"
        raise CnnzooError(f"{recipe.model} cannot be built with {drops} ({e}). Leave out what it does not have.") from e
    count = recipe.batch_size // (processes * recipe.accumulate)
    if isinstance(model, models.ConvNet):
        _check_sizes(recipe, model, info)
    if not isinstance(model, models.ConvNet) or count == 1:  # batch norm may need more than one image
        _try_sizes(recipe, model, info, count)
    kept = not recipe.pretrained or _fit_classifier(model, info)
    if recipe.wise_ft and not kept:
        raise CnnzooError(
            f"wise_ft={recipe.wise_ft} was given, but the pretrained weights are for other classes than the data's "
            f"({', '.join(info.labels[:3])}, ...), so the head starts anew and has nothing to be averaged with. Leave "
            "wise_ft out."
        )
    if recipe.dirac:
        identities(model)
    if recipe.whiten:
        whiten(model, split, recipe.full_size(info.image_size[1:]))
    if recipe.freeze:
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)
    return model


def check_start(recipe: Recipe, info: DatasetInfo) -> None:
    """Refuses to measure on a holdout that the first weights were trained on.

    Raises:
        CheckpointError: They were.
    """
    if recipe.pretrained and has_seen_holdout(recipe.model, info):
        known = "pictures of these classes, maybe the same" if info.name == "folder" else "these images"
        raise CheckpointError(
            f"pretrained was given with a holdout, and the weights of {recipe.model} have been trained on {known}, so "
            "measuring on them would flatter. Leave --holdout out, or start from a run that was trained with --holdout."
        )


def _fit_classifier(model: nn.Module, info: DatasetInfo) -> bool:
    """Makes the classifier of a pretrained model fit the classes of the data; says whether it could keep its weights.

    Args:
        model: Its `labels` are those that its weights know.
        info: The data.
    """
    if model.pretrained_cfg["num_classes"] != len(info.labels):
        return False  # it was built with a new one
    if not (known := tuple(getattr(model, "labels", ()))):
        return True  # nobody knows what they are
    places = [class_index(name, known) for name in info.labels]
    if None in places or len(set(places)) < len(places):
        model.reset_classifier(len(info.labels))
        return False
    if known != info.labels:
        last = [m for m in model.get_classifier().modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
        with torch.no_grad():
            for p in last.parameters():  # weight (K, ...) and bias (K,)
                p.copy_(p[places])
        model.labels = info.labels
    return True


def _check_sizes(recipe: Recipe, model: nn.Module, info: DatasetInfo) -> None:
    """Refuses images that the model cannot take, at the start of the run or at its end."""
    own, least = info.image_size[1:], model.min_size
    wanted = {f"Use image_size={least[0]}": recipe.full_size(own), "Use start_size=0": recipe.size_at(0, own)}
    for advice, (height, width) in wanted.items():
        if height < least[0] or width < least[1] or (model.fixed_size and (height, width) != least):
            raise CnnzooError(
                f"{recipe.model} would get images of {height}x{width} pixels, but it takes {least[0]}x{least[1]} "
                f"{'only' if model.fixed_size else 'or more'}. {advice}."
            )


def _try_sizes(recipe: Recipe, model: nn.Module, info: DatasetInfo, count: int) -> None:
    """The same for a model of timm's own, which does not say what it takes: it is given such images, as in training."""
    own, theirs = info.image_size[1:], get_pretrained_cfg(model.pretrained_cfg["architecture"])
    larger = f"Use image_size={theirs.input_size[1] if theirs else 224}" + ", or a larger batch_size" * (count == 1)
    wanted = {larger: recipe.full_size(own), "Use start_size=0": recipe.size_at(0, own)}
    for advice, (height, width) in wanted.items():
        images = torch.zeros(min(count, 2), info.image_size[0], height, width)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                answers = copy.deepcopy(model).train()(images)  # a copy, since batch norms keep what they see
            if not isinstance(answers, Tensor) or answers.shape != (len(images), len(info.labels)):
                raise ValueError("it gives no logits")
        except Exception as e:  # models raise whatever they like
            reason = (str(e).strip() or type(e).__name__).splitlines()[0].rstrip(".")
            raise CnnzooError(
                f"{recipe.model} cannot be trained on {height}x{width} pixels, {len(images)} image"
                f"{'s' if len(images) > 1 else ''} at a time ({reason}). {advice}."
            ) from e


def whiten(model: nn.Module, split: data.Split, size: tuple[int, int] | None = None) -> None:
    """Gives the first convolution filters that whiten patches of the images, for good (Jordan, 2024, arXiv:2404.00498).

    The filters are the principal directions of the patches, scaled so that each answers with variance 1; then the same with
    the sign turned, as a ReLU keeps one half of each. A convolution with fewer gets the directions of most variance; with
    more, the rest stays as it is. Neither they nor the norm that follows are trained: what works on whole images is spared
    its backward pass.

    Args:
        model: Its first convolution must have one group.
        split: Its first images are looked at: a thousand of 28x28, fewer of larger ones.
        size: Height and width that the model gets them at; their own if None.

    Raises:
        CnnzooError: There is no such convolution.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.groups != 1:
        raise CnnzooError(
            f"whiten was given for {type(model).__name__}, whose first layer cannot be whitened. Leave it out."
        )
    height, width = size or split.images.shape[2:]
    few = split.images[: max(1, _WHITEN_PIXELS // (height * width))].cpu()
    images = data.resize(data.normalize(few, split.info.mean, split.info.std), size)
    # (B, C k k, L) -> (B L, C k k)
    patches = F.unfold(images, first.kernel_size).transpose(1, 2).flatten(0, 1)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / variances.clamp(min=1e-2).sqrt()).T  # a filter per row, that of most variance last
    filters = filters[-first.out_channels :]
    filters = torch.cat([filters, -filters])[: first.out_channels]
    with torch.no_grad():
        first.weight[: len(filters)] = filters.view(-1, *first.weight.shape[1:]).to(first.weight)
    norm = next((m for m in model.modules() if isinstance(m, nn.BatchNorm2d)), first)
    for layer in (first, norm):
        layer.requires_grad_(False)


def identities(model: nn.Module) -> None:
    """Starts each convolution but the first as an identity (Jordan, 2024, arXiv:2404.00498).

    Its first outputs are its inputs, as they came. Outputs beyond the inputs stay as they are; convolutions in groups and
    those with an even kernel, which has no centre, too.
    """
    for conv in [m for m in model.modules() if isinstance(m, nn.Conv2d)][1:]:
        if conv.groups == 1 and all(k % 2 for k in conv.kernel_size):
            nn.init.dirac_(conv.weight[: conv.in_channels])


def seed_device(seed: int, device: torch.device) -> None:
    """Seeds the generator that dropout on `device` draws from.

    `torch.manual_seed` would also note the call for every kind of accelerator that has not been started, with a traceback
    each: too slow for every step, and memory that is never given back.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Loss(nn.Module):
    """Cross-entropy with label smoothing, and, where there are teachers, with the mean of what they say.

    With teachers it is `(1 - distill) * cross-entropy + distill * T^2 * KL(teachers || student)`, both at temperature T
    (Hinton et al., 2015, arXiv:1503.02531), on the very images that the student sees (arXiv:2106.05237), at their full size
    where the student sees them smaller.

    Args:
        recipe: `label_smoothing`, `distill`, `distill_temperature` and `dual` are used: with `dual`, images come in pairs,
            and `dual` times the mean squared difference of the logits in a pair is added.
        teachers: Models in evaluation mode.
    """

    def __init__(self, recipe: Recipe, teachers: list[nn.Module]) -> None:
        super().__init__()
        self.smoothing, self.dual = recipe.label_smoothing, recipe.dual
        self.share, self.temperature = recipe.distill, recipe.distill_temperature
        self.teachers = nn.ModuleList(teachers).eval().requires_grad_(False)

    def forward(self, logits: Tensor, labels: Tensor, images: Tensor, answers: Tensor | None = None) -> Tensor:
        """Mean over the batch, of logits `(B, K)` against class indices `(B,)` or probabilities `(B, K)`.

        `answers` `(B, K)` are logarithms of the probabilities that teachers gave, where they were asked before.
        """
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if self.teachers or answers is not None:
            loss = self._taught(loss, logits, images, answers)
        if self.dual:
            loss = loss + self.dual * F.mse_loss(logits[0::2].float(), logits[1::2].float())
        return loss

    def _taught(self, loss: Tensor, logits: Tensor, images: Tensor, answers: Tensor | None) -> Tensor:
        t = self.temperature
        if answers is not None:
            said = answers.div(t).softmax(1)
        else:
            said = self._asked(images)
        distance = F.kl_div(logits.float().div(t).log_softmax(1), said, reduction="batchmean")
        return (1 - self.share) * loss + self.share * t * t * distance

    @torch.no_grad()
    def _asked(self, images: Tensor) -> Tensor:
        t = self.temperature
        return torch.stack([teacher(images).float().div(t).softmax(1) for teacher in self.teachers]).mean(0)


def load_teachers(recipe: Recipe, info: DatasetInfo, holdout: bool) -> list[nn.Module]:
    """The models that `recipe.teacher` names, each as `resolve` takes it, in the form in which they answer fastest.

    Raises:
        CheckpointError: A teacher has other classes, takes images of another size only, or has been trained on the holdout
            of a run that measures on it.
    """
    teachers = []
    for name in recipe.teachers:
        model = registry.create_model(name, pretrained=True)
        if holdout and has_seen_holdout(name, info):
            raise CheckpointError(
                f"{name} was given as a teacher; it has been trained on the holdout, which this run measures on. "
                "Give the run folder of a teacher trained with --holdout."
            )
        labels = tuple(model.pretrained_cfg.get("label_names") or info.labels)
        if (model.in_chans, model.num_classes) != (info.image_size[0], len(info.labels)) or labels != info.labels:
            raise CheckpointError(
                f"{name} was given as a teacher; it takes {model.in_chans} channels to {model.num_classes} classes "
                f"({', '.join(labels[:3])}, ...), the data have {info.image_size[0]} and {len(info.labels)} "
                f"({', '.join(info.labels[:3])}, ...). Give one that was trained on the same data."
            )
        own = info.image_size[1:]
        full, only = recipe.full_size(own), tuple(model.pretrained_cfg["input_size"][1:])
        if model.pretrained_cfg.get("fixed_input_size") and full != only:
            raise CheckpointError(
                f"{name} was given as a teacher; it takes images of {only[0]}x{only[1]} pixels only, and this training has "
                f"{full[0]}x{full[1]}. Add --image-size {only[0]}, or choose another teacher."
            )
        fast = fast_copy(model, torch.zeros(1, model.in_chans, *full))
        cfg = model.pretrained_cfg
        same = (tuple(cfg["mean"]), tuple(cfg["std"])) == (info.mean, info.std)
        teachers.append(fast if same else nn.Sequential(_AsTheTeacherSees(info, cfg["mean"], cfg["std"]), fast))
    return teachers


class _AsTheTeacherSees(nn.Module):
    """Images `(B, C, H, W)` that were normalised for the student, normalised for a teacher with another mean and std."""

    def __init__(self, info: DatasetInfo, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        own_mean, own_std, mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (info.mean, info.std, mean, std))
        self.register_buffer("scale", own_std / std)
        self.register_buffer("shift", (own_mean - mean) / std)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside the block, where `wanted`, torch refuses what is not reproducible on the device."""
    former = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or former)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(former)
