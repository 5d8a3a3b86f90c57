"""The families. Importing this module registers every model with timm."""

from . import alexnet as alexnet
from . import densenet as densenet
from . import googlenet as googlenet
from . import lenet as lenet
from . import nin as nin
from . import preact_resnet as preact_resnet
from . import regnet as regnet
from . import resnet as resnet
from . import resnext as resnext
from . import vgg as vgg
from . import wide_resnet as wide_resnet
from ._convnet import ConvNet as ConvNet
