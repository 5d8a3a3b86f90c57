"""The names of the files in a checkpoint's folder."""

from .. import checkpoints

CONFIG, METRICS = checkpoints.CONFIG, checkpoints.METRICS
RECIPE, CARD, PICTURE = "recipe.json", "README.md", "confusion.png"
ANSWERS = "answers.png"  # to the ten drawings
REQUIRED = (CONFIG, checkpoints.WEIGHTS, CARD, METRICS)
ALLOWED = (*REQUIRED, RECIPE, PICTURE, ANSWERS, ".gitattributes")
