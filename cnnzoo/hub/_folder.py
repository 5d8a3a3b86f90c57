"""The names of the files in a checkpoint's folder."""

from .. import checkpoints

CONFIG, METRICS, RECIPE, CARD = checkpoints.CONFIG, checkpoints.METRICS, checkpoints.RECIPE, checkpoints.CARD
PICTURE = "confusion.png"
ANSWERS = "answers.png"  # to the ten drawings
REQUIRED = (CONFIG, checkpoints.WEIGHTS, CARD, METRICS)
ALLOWED = (*REQUIRED, RECIPE, PICTURE, ANSWERS, ".gitattributes")
