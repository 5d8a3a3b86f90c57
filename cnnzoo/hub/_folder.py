"""The names of the files in a checkpoint's folder."""

from .. import checkpoints

CONFIG, METRICS, RECIPE, CARD, PICTURE = checkpoints.CONFIG, "metrics.json", "recipe.json", "README.md", "confusion.png"
REQUIRED = (CONFIG, checkpoints.WEIGHTS, CARD, METRICS)
ALLOWED = (*REQUIRED, RECIPE, PICTURE, ".gitattributes")
