"""The words of a model card, as templates that `_card` fills."""

CARD = """---
{header}
---

# {name}

`{m[model]}` of cnnzoo{trained}: {m[params]:,} parameters, {millions:.1f} million multiply-accumulates
for one {input_size} image.{base}
{about}{answers}{variant}
## Use

Install cnnzoo (`pip install .` in its checkout), then:

```python
import cnnzoo  # registers the model with timm
import timm
import torch
{import_image}

model = timm.create_model("hf-hub:{source}", pretrained=True).eval()
image = {image}  # or a path, an array or a tensor
print(cnnzoo.predict(model, image, topk=2))
```

Feature maps, one for each reduction of the image size, and the embedding before the classifier:

```python
x = cnnzoo.create_transform(model)(image)[None]  # (1, C, H, W)
with torch.inference_mode():
    maps = model.forward_intermediates(x, intermediates_only=True)
    embedding = model.forward_head(model.forward_features(x), pre_logits=True)  # (1, number of features)
print([tuple(m.shape) for m in maps], tuple(embedding.shape))
```

Without `import cnnzoo` timm says `Unknown model ({m[model]})`, and transformers says
`The model architecture '{m[model]}' is not supported in your version of timm`; upgrading timm does not help.

`cnnzoo.hub.pull` also checks the hashes, and gives the transform and the labels with the model.{pipeline}

## Accuracy

{accuracy}{note}
{neighbours}{recipe}{data}
## Limits and labels

{use}

{licences} sha256 of the weights: `{m[sha256]}`.

## Citation

```bibtex
@software{{cnnzoo,
  title  = {{cnnzoo: the classic CNNs as timm models for small grayscale images}},
  author = {{{{The cnnzoo authors}}}},
  year   = {{2026}},
  url    = {{https://huggingface.co/{org}}}
}}
{paper}```
"""

# What a reader of one checkpoint's card asks first.
NOTES = {
    "lenet_d2l.textbook_fashion_mnist": """

Why so low: this is the textbook's LeNet, trained as in the textbook for 10 epochs. Its sigmoids pass on only small
gradients, so it stays near chance for the first epochs and is far from finished after 10. The same network with ReLU and max
pooling, `lenet_relu_d2l.textbook_fashion_mnist`, or with a modern recipe, `lenet_d2l.fashion_mnist`, is much better.""",
}

NEIGHBOURS = """
## Compared with checkpoints of similar size

{table}

MACs are multiply-accumulates for one image. The accuracy is that of the weights, in percent of the test images.
"""

BASE = " Training began with the weights of `{}`."

ACCURACY = """| measured on the test set | |
|---|---|
| top-1 accuracy | {m[top1]:.2f} % (these weights, seed {m[seed]}) |
| {mean_name} over {count} | {mean} % |
| top-1 accuracy, averaged over each image and its mirror image | {m[top1_tta]:.2f} % |
| cross-entropy | {m[loss]:.4f} |
| expected calibration error | {m[ece]:.1f} %{calibrated} |
{holdout}{book}
{trained} are the last weights{averaged}.
{choices}
{uncertainty}

{robust}{photos}{picture}\
Trained in {minutes} on {m[hardware]}, torch {m[torch]}, timm {m[timm]}.{halved}"""

HALVED = """
The weights are stored in half precision (float16), and all these numbers were measured with the weights as they are
stored. After loading, the model is in fp32."""

CALIBRATED = "; {m[ece_calibrated]:.1f} % at the temperature {m[temperature]:.2f} of the run on the holdout"
NOT_CALIBRATED = "; the probabilities are not calibrated"

ROBUST = """Accuracy on altered test images, made by `cnnzoo.robustness`:

{table}

"""

PHOTOS = """On photos of garments, each treated as `cnnzoo predict` treats photos, {m[top1]:.1f} % of {m[count]} get the
right label (`cnnzoo eval {name} --dataset folder --photo auto --data-dir DIR`).
The photos are not published. The steps by which cnnzoo treats photos were chosen on a set of 157 photos. If these are the
same photos, expect a lower percentage on others.

"""

TRAINED = "Trained on all {info.num_train:,} training images for a fixed {m[epochs]} epochs{start}; these"

HOLDOUT = "| top-1 accuracy of the run without the holdout, on the holdout | {:.2f} % |\n"
BOOK = "| what the textbook prints, after its own training {} | {} % |\n"

CHOICES = """\
Choices were made on the last {info.holdout:,} training images, by runs that did not train on them; the published run read
the test set after training."""

NO_CHOICES = """\
The run read the test set ({info.num_test:,} images) after training. No run on a holdout belongs to this checkpoint,
so it has no temperature, and this card cannot say on which images choices were made."""

# Of the zoo's own checkpoints for photos: nobody else's.
PHOTO_CHOICES = """\
The run read the test set ({info.num_test:,} images) after training. The training began with weights that had seen
all training images, so there could be no holdout, and the checkpoint has no temperature. Its settings were chosen by the
accuracy on test images and on the photos below, so expect a little less on other images."""

BY_THE_BOOK = """\
Network and recipe are the textbook's, except that images are normalised{amp}.
{choice}
The run read the test set ({info.num_test:,} images) after training."""
IN_BF16 = ",\nand that the training was in mixed precision (bf16); the textbook's is in fp32"
NO_CHOICE = "Nothing was chosen."

UNMEASURED = "Not measured. The folder was made from a model: nothing in it says how that was trained, or how good it is."

RECIPE = """
## Recipe

The weights were made by `{command}`{asked}.
A recipe's name and an option's default may change from version to version; then they meant:

```json
{recipe}
```
"""

DATA = """
## Data

The official {info.title} files ({info.homepage}, licence {info.licence}{hub}), md5:

{md5s}
"""

OTHER_DATA = """
## Data

{info.title}{homepage}, licence {info.licence}: {info.num_train:,} training images, {info.num_test:,} test images.
"""

GARMENTS = "For small grayscale images of single garments, light on black, and as a start for fine-tuning on small images.\n"

CLASSES = """The model knows {count} classes. A picture of anything else gets one of these labels too. By class index:

```json
{labels}
```

Images are {input_size}, scaled to [0, 1]; then the mean {mean} is subtracted, and the result is divided by {std}."""

PIPELINE = """

In transformers, whose pipeline hands every model RGB{branch}:

```python
import cnnzoo
from transformers import pipeline

classify = pipeline("image-classification", model="{repo_id}"{revision})
```"""

VARIANT = """
This is the 3-channel twin of these weights, on the branch `{rgb}`: its first layer is the gray one's, repeated and divided
by three, so that a gray image in RGB gives the gray model's answer. Accuracy is the gray weights'.
"""
