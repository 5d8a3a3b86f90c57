"""What teachers say of the images of the first epochs, asked once and kept for any number of students.

An epoch's batches depend on the recipe's seed and the epoch's number alone, mixing included. So a student that repeats those
epochs sees the very images that the teachers saw (arXiv:2106.05237), and need not ask them (as in FKD, arXiv:2112.01528).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .. import checkpoints, data
from ..errors import CheckpointError, CnnzooError
from ..files import atomic, check_writable, parse_json, user_path, write_json
from ..progress import no_bar, say
from ..recipes import Recipe
from ..resolve import name_of
from ._parts import as_pretrained, load_teachers, make_accelerator, read_size, with_batch
from ._saving import environment, fingerprint

_ANSWERS, _FACTS = "answers.safetensors", "answers.json"
_PART = "answers.part.safetensors"  # while teachers are being asked
# What decides which images an epoch has.
_FIELDS = (
    "dataset", "in_chans", "batch_size", "flip", "shift", "cutout", "erase", "mixup", "cutmix", "mix_prob", "randaugment",
    "magnitude", "photo",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answers:
    """What teachers said.

    Attributes:
        log_probabilities: Logarithms of the mean of their probabilities, `(epochs, images, K)`, in half precision.
        seed: Of the recipe whose batches they were asked about.
        teachers: What kinds of model they are.
        command: What was typed to ask them.
        sha256: Of the file that holds their answers.
    """

    log_probabilities: Tensor
    seed: int
    teachers: list[str]
    command: str
    sha256: str

    def epoch(self, epoch: int, seed: int) -> int:
        """Which of the epochs that were asked about an epoch of a student with this seed repeats.

        The seed that the teachers were asked with takes them in their order, each other one in an order of its own.
        """
        count = len(self.log_probabilities)
        if seed == self.seed:
            return epoch % count
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch // count)
        return int(torch.randperm(count, generator=generator)[epoch % count])

    def of(self, asked: int, first: int, count: int) -> Tensor:
        """The answers for `count` images of an epoch that was asked about, from the image `first` on, `(count, K)`."""
        return self.log_probabilities[asked, first : first + count].float()


def augmentation(recipe: Recipe) -> data.Augment:
    """The augmentation that a recipe asks for."""
    names = {f.name for f in dataclasses.fields(data.Augment)} - {"views"}
    return data.Augment(views=2 if recipe.dual else 1, **{name: getattr(recipe, name) for name in names})


def ask(
    recipe: Recipe,
    out: str | Path,
    *,
    epochs: int,
    holdout: bool = False,
    data_dir: str | Path | None = None,
    download: bool = False,
    skip_broken: bool = False,
    resume: bool = False,
) -> Path:
    """Asks `recipe.teacher` about the images of the recipe's first epochs; a student's recipe names the folder as `answers`.

    Args:
        recipe: Its augmentation, batch size, data set, seed and teachers are used.
        out: Folder for what they say; answers that it holds already are replaced.
        epochs: To ask about. The student repeats them.
        holdout: Ask about the training images without the holdout, for a run that measures on that.
        data_dir, download, skip_broken: See `data.load_splits`.
        resume: Go on after the last epoch that they were asked about, if they were stopped.

    Raises:
        CnnzooError: There is no teacher, or no epoch, or the recipe has two views of each image.
        CheckpointError: A teacher does not fit the data, or knows the holdout; or what is to be gone on with is damaged, or
            of other teachers or images.
    """
    if not recipe.teacher or recipe.dual or epochs < 1:
        raise CnnzooError(
            f"teacher={recipe.teacher!r}, dual={recipe.dual} and {epochs} epochs were given; a teacher, dual=0 and "
            "at least one epoch are needed. Name teachers, for example --teacher resnext_small."
        )
    out, recipe = user_path(out), as_pretrained(recipe)
    splits = ("fit", "holdout") if holdout else ("train", "test")
    where = dict(data_dir=data_dir, download=download, skip_broken=skip_broken)
    split, judge = data.load_splits(recipe.dataset, splits, image_size=read_size(recipe), **where)
    accelerator = make_accelerator(recipe, None, None, out)
    recipe = with_batch(recipe, split, accelerator)
    teachers = [teacher.to(accelerator.device) for teacher in load_teachers(recipe, split.info, holdout)]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CnnzooError(f"{out} cannot be made a folder ({e.strerror}). Choose another with --out.") from e
    check_writable(out / _ANSWERS)  # before the minutes that it takes to ask
    facts = dict(
        {name: getattr(recipe, name) for name in _FIELDS}, seed=recipe.seed, data=fingerprint(split, judge)["sha256"],
        teachers=[name_of(teacher) for teacher in teachers], command=environment(accelerator.device)["command"],
    )  # fmt: skip
    part = _Part(out / _PART, facts, _digest(teachers))
    if resume:
        part.take_up()
    (out / _FACTS).unlink(missing_ok=True)
    answers = _asked(recipe, teachers, split.to(accelerator.device), epochs, accelerator.autocast, part)
    with atomic(out / _ANSWERS) as temporary:
        save_file(dict(answers=answers), temporary)
    write_json(out / _FACTS, dict(part.facts, sha256=checkpoints.sha256(out / _ANSWERS)))
    part.path.unlink(missing_ok=True)
    return out


def _digest(teachers: list[nn.Module]) -> str:
    """A sha256 of all their weights."""
    digest = hashlib.sha256()
    for teacher in teachers:
        for tensor in teacher.state_dict().values():
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclasses.dataclass
class _Part:
    """What teachers have said so far, in a file that is written after each epoch."""

    path: Path
    facts: dict[str, Any]  # about the images and the teachers; and the command that began it
    weights: str  # the teachers' digest
    told: list[Tensor] = dataclasses.field(default_factory=list)  # an epoch each, (images, K)

    def add(self, epoch: Tensor) -> None:
        self.told.append(epoch)
        known = dict(facts=json.dumps(self.facts), weights=self.weights)
        with atomic(self.path) as temporary:
            save_file(dict(answers=torch.stack(self.told)), temporary, metadata=known)

    def take_up(self) -> None:
        """Goes on with what the file holds, if there is one.

        Raises:
            CheckpointError: It is damaged, or of other teachers or images.
        """
        if not self.path.is_file():
            return
        try:
            with safe_open(self.path, "pt") as file:
                known, told = file.metadata(), list(file.get_tensor("answers"))
            facts, weights = parse_json(known["facts"]), known["weights"]
        except Exception as e:  # safetensors raises several kinds
            raise CheckpointError(f"{self.path} is damaged ({type(e).__name__}). Ask anew: leave out --resume.") from e
        if (dict(facts, command=""), weights) != (dict(self.facts, command=""), self.weights):
            raise CheckpointError(
                f"{self.path} has answers of other teachers, or about other images. Ask as before, or leave out --resume."
            )
        self.facts, self.told = facts, told


@torch.inference_mode()
def _asked(
    recipe: Recipe,
    teachers: list[nn.Module],
    split: data.Split,
    epochs: int,
    precision: Callable[[], AbstractContextManager],
    part: _Part,
) -> Tensor:
    """Logarithms of what the teachers say on average of the images of the recipe's epochs, `(epochs, images, K)`."""
    size, steps, done = recipe.full_size(split.info.image_size[1:]), len(split) // recipe.batch_size, len(part.told)
    with tqdm(total=epochs * steps, initial=done * steps, desc="asking", unit="batch", disable=no_bar()) as bar:
        for epoch in range(done, epochs):
            told = []
            for images, _ in data.epoch_batches(
                split, recipe.batch_size, augmentation(recipe), seed=recipe.seed, epoch=epoch, image_size=size
            ):
                with precision():
                    logits = [teacher(images).float() for teacher in teachers]
                said = torch.stack(logits).softmax(2).mean(0)
                told.append(said.clamp(min=1e-20).log().half().cpu())
                bar.update()
            part.add(torch.cat(told))  # steps of (B, K) -> (images, K)
            if bar.disable:  # there is no terminal
                say(f"asked about {epoch + 1} of {epochs} epochs of images")
    return torch.stack(part.told[:epochs])


def load_answers(recipe: Recipe, known: dict[str, Any], device: torch.device) -> Answers | None:
    """The answers that a recipe names, None if it names none; `known` is the fingerprint of the data.

    Raises:
        CheckpointError: They are missing, damaged, or about other images than the recipe's.
    """
    if not recipe.answers:
        return None
    folder = user_path(recipe.answers)
    facts = checkpoints.read_json(folder / _FACTS)
    wanted = {name: getattr(recipe, name) for name in _FIELDS} | dict(data=known["sha256"])
    if differ := [name for name, value in wanted.items() if facts.get(name) != value]:
        changed = ", ".join(f"{k}: {json.dumps(facts.get(k))[:20]} there, {json.dumps(wanted[k])[:20]} here" for k in differ)
        raise CheckpointError(
            f"The answers in {folder} are about other images ({changed}). Ask again with this recipe: cnnzoo ask."
        )
    checkpoints.verify(folder / _ANSWERS, str(facts.get("sha256")))
    try:
        content = load((folder / _ANSWERS).read_bytes())["answers"].to(device)
        return Answers(content, int(facts["seed"]), list(facts["teachers"]), str(facts["command"]), facts["sha256"])
    except Exception as e:  # safetensors raises several kinds
        raise CheckpointError(f"{folder} is damaged ({type(e).__name__}). Ask again: cnnzoo ask.") from e
