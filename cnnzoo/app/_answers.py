"""What the page shows of one picture, as HTML; all of it comes from `data`, `inference`, `predict` and `plots`."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image
from torch import nn

from .. import data
from ..errors import CnnzooError
from ..inference import class_count, reader
from ..predict import predict
from ._models import Loaded, Models

LIMITS = data.Limits(pixels=50_000_000, formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))
PICTURE, SKETCH = "picture", "sketch"
NOTHING = "<section class='answer' aria-label='Answer'><p class='nothing'>The answer will stand here.</p></section>"
_SHOWN = 5  # labels
_SIDE = 320  # pixels of a picture as it is shown
_COARSE = 64  # pixels of a picture's longer side; below, each is shown as a square


def answer(models: Models, name: Any, kind: str, source: str | bytes | None, evidence: bool = False) -> tuple[str, str]:
    """What a model says of a picture: the answer with the picture's way to the model, and where the evidence for it lies.

    What is wrong with the picture or the model stands in the answer's place, as one line.

    Args:
        models: The page's models.
        name: One of their names.
        kind: `PICTURE`, or `SKETCH` for what was drawn on the page.
        source: The picture's file, by its path or as bytes, which may be a stranger's; None if there is none yet.
        evidence: Whether to show where the evidence lies (Grad-CAM); else the second text is empty.
    """
    if source is None:
        return NOTHING, ""
    try:
        loaded = models.load(name)
        image = _opened(source, kind, loaded)
        read = reader(loaded.model)(image)
        topk = min(_SHOWN, class_count(loaded.model))
        best = predict(loaded.model, image, topk, photo_model=loaded.photo_model)
        answering = loaded.photo_model if read.photo and loaded.photo_model else loaded.model
        seen = _evidence(answering, image, best[0][0]) if evidence else ""
    except CnnzooError as e:
        return f"<section class='answer' aria-label='Answer'>{message([str(e)], 'error', 'alert')}</section>", ""
    bars = "".join(_bar(label, share) for label, share in best)
    said = f"What the model sees: the picture{', made into its format' if read.photo else ' as it is'}"
    figures = "".join(_figure(picture, step) for step, picture in read.steps.items())
    return (
        f"<section class='answer' aria-label='Answer'><h2 role='status'>{escape(best[0][0])}</h2><ol>{bars}</ol>"
        f"{message(best.warnings, 'warning', 'status')}<h3>{said}</h3><div class='steps'>{figures}</div></section>"
    ), seen


def _opened(source: str | bytes, kind: str, loaded: Loaded) -> Image.Image:
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
    except OSError as e:
        raise CnnzooError("The picture is no longer stored. Choose it again.") from e
    with file:  # and not its path, which belongs in no message
        image = data.open_image(file, 3, LIMITS)
    if kind == SKETCH:
        image = data.on_paper(image)
        image = data.filled(image) if loaded.knows_garments else image
    return image


def _evidence(model: nn.Module, image: Image.Image, label: str) -> str:
    from .. import plots  # needs matplotlib, which the extra brings

    figure, file = plots.grad_cam(model, image), io.BytesIO()
    figure.set_size_inches(4.6, 1.9)  # so that its words can be read on a phone too
    figure.savefig(file, format="png", dpi=230)
    return f"<section class='evidence' aria-label='Evidence'>{_img(file, f'Where the evidence for {label} lies')}</section>"


def _bar(label: str, share: float) -> str:
    return (
        f"<li><span>{escape(label)}</span> <span>{share:.1%}</span>"
        f"<div class='bar' aria-hidden='true'><div style='width: {share:.1%}'></div></div></li>"
    )


def message(sentences: Sequence[str], kind: str, role: str) -> str:
    """Sentences in a box; with its role, a screen reader reads it out when it comes."""
    lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f"<div class='message {kind}' role='{role}'>{lines}</div>" if lines else ""


def _figure(picture: Image.Image, step: str) -> str:
    size = f"{picture.width}x{picture.height}"
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    small.save(file := io.BytesIO(), format="PNG")
    shown = _img(file, f"{step}, {size} pixels", "coarse" if max(picture.size) <= _COARSE else "")
    return f"<figure>{shown}<figcaption>{escape(step)}<br><small>{size}</small></figcaption></figure>"


def _img(png: io.BytesIO, alt: str, kind: str = "") -> str:
    source = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return f"<img src='{source}' alt='{escape(alt)}' class='{kind}'>"
