"""The page as a Hugging Face Space: three files that are pushed to the Hub as they are."""

import importlib.metadata
import json
import os
from pathlib import Path

from .. import checkpoints, registry
from ..errors import CnnzooError, system_errors
from ..files import atomic, kept_if_used, user_path
from ..resolve import resolve
from ..version import __version__
from ._models import DEFAULT
from ._page import TITLE, gradio

_APP = '''"""The page of cnnzoo. Hugging Face Spaces start this file."""

from cnnzoo import app

app.launch({model}, host="0.0.0.0", port=7860)
'''

_README = """---
{header}
---

# {title}

A page that names garments in photos, pictures and sketches, by the small convolutional networks of cnnzoo, which were
trained on Fashion-MNIST. Written by `{command}`, version {version}. The same page on a machine of your own:

```bash
pip install "cnnzoo[app]"
cnnzoo app
```
"""


@system_errors()
def write_space(folder: str | os.PathLike, model: str | None = None) -> Path:
    """Writes what a Space needs: app.py, requirements.txt and README.md with its header.

    Args:
        folder: New, or empty.
        model: What the page begins with: a name of the zoo, or `hf-hub:ORG/NAME`.

    Returns:
        The folder.

    Raises:
        CnnzooError: The extra is not installed, there is something in the folder, or the model is not on the Hub.
    """
    gradio()
    source = resolve(model or DEFAULT)
    if source.kind not in ("name", "hub"):
        raise CnnzooError(
            f"{model} was given for a Space, which can use a model of the zoo or of the Hub only. Push it first: "
            f"cnnzoo push {model} ORG/NAME, then write --model hf-hub:ORG/NAME."
        )
    folder = user_path(folder)
    folder = folder.resolve() if folder.exists() else folder  # of a link, and of `.`, the folder that is meant
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CnnzooError(f"{folder} already exists; a new or an empty folder is needed. Choose another name.")
    files = _files(model, source.name.partition("@")[0] if source.kind == "hub" else None)
    with kept_if_used(folder):
        for name, content in files.items():
            with atomic(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
    return folder


def _files(model: str | None, repository: str | None) -> dict[str, str]:
    from huggingface_hub import SpaceCardData

    zoo = [f"{checkpoints.HUB_ORG}/{name}" for name in registry.list_pretrained()]
    header = SpaceCardData(
        title=TITLE, sdk="gradio", sdk_version=importlib.metadata.version("gradio"), app_file="app.py", license="apache-2.0",
        models=[repository, *zoo] if repository else zoo, emoji="👟", colorFrom="blue", colorTo="green", pinned=False,
        short_description="Small CNNs name garments in photos and sketches",
    ).to_yaml()  # fmt: skip
    command = "cnnzoo app --space FOLDER" + (f" --model {model}" if model else "")
    return {
        "app.py": _APP.format(model=json.dumps(model or DEFAULT)),
        "requirements.txt": f"cnnzoo[app]=={__version__}\n",
        "README.md": _README.format(header=header, title=TITLE, command=command, version=__version__),
    }
