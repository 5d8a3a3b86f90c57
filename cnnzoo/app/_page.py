"""The page: what stands where, and what happens when something is touched."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..drawings import garments
from ..errors import CnnzooError
from ._answers import NOTHING, PICTURE, SKETCH, answer, message
from ._models import Models, facts

TITLE = "cnnzoo: which garment is it?"
CSS = Path(__file__).parent / "page.css"
_HEAD = (
    "# Which garment is it?\n"
    "Drop or paste a picture of one garment on a plain background, take a photo, or draw one: a small convolutional network "
    "names it."
)
_PAD = 400  # pixels of the sketch pad along one side
_KEPT = 32  # sketches between a browser and a model
# The pad, which comes a moment after its tab, waits for a tool to be chosen: the brush.
_TAKE_BRUSH = """() => {
  const timer = setInterval(() => {
    const brush = document.querySelector(".pad button[aria-label=Brush]");
    if (!brush) return;
    clearInterval(timer);
    if (document.querySelector(".pad .empty")) brush.click();
  }, 100);
}"""


def page(models: Models) -> Any:
    """The page as a `gradio.Blocks`, not yet served.

    Args:
        models: What it offers.
    """
    gr = gradio()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(_HEAD)
        last = gr.State((PICTURE, None))  # kind and file of what was shown last
        with gr.Row(elem_classes="layout"):
            with gr.Column(elem_classes="inputs"):
                picture, pad = _inputs(gr)
            with gr.Column(elem_classes="outputs"):
                answered = gr.HTML(NOTHING)
                wanted = gr.Checkbox(label="Show the evidence (Grad-CAM)")
                evidence = gr.HTML()
            with gr.Column(elem_classes="model"):
                chosen = gr.Dropdown(models.names, value=models.first, label="Model", filterable=False)
                known = gr.HTML(facts(models.load(models.first)))

        def again(now: tuple[str, str | bytes | None], name: Any, seen: bool) -> tuple[str, str]:
            return answer(models, name, *now, seen)

        def of(kind: str) -> Callable:
            return lambda path, name, seen: ((kind, path), *again((kind, path), name, seen))

        options = dict(show_progress="minimal", api_visibility="private")
        picture.change(of(PICTURE), [picture, chosen, wanted], [last, answered, evidence], **options)
        pad.change(of(SKETCH), [pad, chosen, wanted], [last, answered, evidence], **options)
        chosen.change(lambda name: _facts(models, name), chosen, known, **options)
        gr.on([chosen.change, wanted.change], again, [last, chosen, wanted], [answered, evidence], **options)
    return blocks


def _facts(models: Models, name: Any) -> str:
    """What is known of a model, or why it cannot be used."""
    try:
        return facts(models.load(name))
    except CnnzooError as e:
        return message([str(e)], "error", "alert")


def _inputs(gr: Any) -> tuple[Any, Any]:
    """The places where a picture comes in, and the drawings to try."""
    with gr.Tabs():
        with gr.Tab("Picture"):
            picture = gr.Image(
                label="Picture", sources=["upload", "clipboard", "webcam"], type="filepath", format="png", image_mode=None,
                height=300, buttons=[], alt_text="The picture that was chosen", elem_classes="picture",
            )  # fmt: skip
            gr.Markdown("Or take one of cnnzoo's own drawings:")
            with gr.Row(elem_classes="examples"):
                for label, drawing in garments().items():
                    button = gr.Button(label, size="sm", min_width=80)
                    take = functools.partial(lambda d: d, drawing)
                    button.click(take, None, picture, show_progress="hidden", api_visibility="private")
        with gr.Tab("Draw") as tab:
            pad = gr.Sketchpad(
                label="Sketch pad", type="filepath", format="png", canvas_size=(_PAD, _PAD), fixed_canvas=True, layers=False,
                height=440, transforms=(), buttons=[], elem_classes="pad",
                brush=gr.Brush(default_size=5, colors=["#000000"], color_mode="fixed"),
            )  # fmt: skip
            gr.Markdown("Draw the outline of one garment, and close it: its inside is filled.")
    tab.select(None, js=_TAKE_BRUSH, api_visibility="private")
    _take_as_sent(picture, lambda payload: payload and payload.path)
    _take_as_sent(pad, lambda payload: payload and _sketch(pad, payload))
    pad.blob_storage = _Latest()
    return picture, pad


def _take_as_sent(part: Any, preprocess: Callable) -> None:
    """Makes a component hand on the file that it was sent. Gradio would decode it first, whatever it is, however large."""

    async def not_from_elsewhere(path: Any, move: Callable = part.async_move_resource_to_block_cache) -> Any:
        if str(path).partition(":")[0].lower() in ("http", "https"):  # which Gradio would download
            raise CnnzooError("A web address was given; only a file can be taken. Send the file.")
        return await move(path)

    part.preprocess, part.async_move_resource_to_block_cache = preprocess, not_from_elsewhere


def _sketch(pad: Any, payload: Any) -> str | bytes | None:
    if payload.id is not None:
        kept = pad.blob_storage.pop(payload.id, None)
        return kept and kept.composite
    return payload.composite and payload.composite.path


class _Latest(dict):
    """Keeps the sketches that were sent last: not every one is asked about."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > _KEPT:
            self.pop(next(iter(self)), None)


def gradio() -> Any:
    """The library.

    Raises:
        CnnzooError: It is not installed, or what else the extra brings.
    """
    try:
        import gradio
        import matplotlib  # noqa: F401
    except ImportError as e:
        if not e.name:  # httpx says so of a proxy that needs a package
            raise CnnzooError(f"The page cannot be served: {e} Unset ALL_PROXY, which the page does not need.") from e
        raise CnnzooError(f'The page needs {e.name}, which is not installed. Type: pip install "cnnzoo[app]"') from e
    return gradio
