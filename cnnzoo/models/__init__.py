"""The families. Importing this module registers every model with timm."""

from . import (
    alexnet as alexnet,
    convnext as convnext,
    densenet as densenet,
    googlenet as googlenet,
    lenet as lenet,
    mobilenet as mobilenet,
    nin as nin,
    preact_resnet as preact_resnet,
    regnet as regnet,
    repvgg as repvgg,
    resnet as resnet,
    resnext as resnext,
    vgg as vgg,
    wide_resnet as wide_resnet,
)
from ._convnet import ConvNet as ConvNet
from ._entrypoints import entrypoints as entrypoints
from ._input import describe_input as describe_input
