"""Whether weights know the images that choices are made on; if they do, measuring on these flatters."""

import os

from timm.models import get_pretrained_cfg

from . import registry
from .datasets import DatasetInfo, trained_on
from .errors import CnnzooError
from .resolve import read_run, resolve


def has_seen_holdout(model: str | os.PathLike, info: DatasetInfo) -> bool:
    """Whether a model's weights were trained on the holdout of a data set.

    A run with a holdout has not seen it, unless it began with weights that had. Weights for other data, which have another
    name or other classes, have not either. A model that is gone may have.

    Args:
        model: As `resolve` takes it.
        info: The data set.
    """
    try:
        source = resolve(model)
        if source.kind == "run":
            run = read_run(source.name)
            name, labels = run.info.name, run.info.labels
        else:
            run = None
            if source.kind == "name":
                cfg = get_pretrained_cfg(source.name).to_dict()
            else:
                cfg = registry.create_model(model, device="meta").pretrained_cfg
            name, labels = trained_on(cfg.get("tag") or ""), tuple(cfg.get("label_names") or info.labels)
        if (name or info.name, labels) != (info.name, info.labels):
            return False
        if run is None or not run.recipe.get("holdout"):
            return True
        return bool(run.recipe.get("pretrained")) and has_seen_holdout(run.recipe["model"], info)
    except CnnzooError:
        return True
