"""Convolution, pooling and the merging of branches from first principles: plain loops that follow the definitions, checked
against torch.

Meant to be read, and to be held against. For real work use `torch.nn`.

Shapes: `h` and `w` are height and width of an image, `kh` and `kw` of a kernel, `ci` and `co` the channels in and out. There
is no batch axis. `padding` is per side, as torch has it: (1, 2) adds a row above and below, two columns left and right.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import InputError, unknown

Pair = int | tuple[int, int]


def output_size(n: int, k: int, p: int = 0, s: int = 1) -> int:
    """Positions of a window along one axis: `floor((n - k + p + s) / s)`.

    Args:
        n: Pixels.
        k: Pixels of the window.
        p: Padding in total, both sides together.
        s: Stride.

    Raises:
        InputError: The window is larger than the padded image, or a number is out of range.
    """
    if k < 1 or s < 1 or p < 0:
        raise InputError(
            f"k={k}, p={p}, s={s} were given; k and s are 1 or more, p is 0 or more. Pass k=3, p=2, s=1, for example."
        )
    if k > n + p:
        raise InputError(
            f"A window of {k} was given on {n} pixels with {p} of padding; at most {n + p} is allowed. "
            f"Pass k={n + p} or less, or p={k - n} or more."
        )
    return (n - k + p + s) // s


def corr2d(X: Tensor, K: Tensor, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Cross-correlation, what deep learning calls convolution: the kernel slides, multiplies and sums.

    Args:
        X: Image, `(h, w)`.
        K: Kernel, `(kh, kw)`.
        stride: Rows and columns per step.
        padding: Rows and columns of zeros on each side.

    Shape: `(output_size(h, kh, 2 * ph, sh), output_size(w, kw, 2 * pw, sw))`.

    Raises:
        InputError: X or K has not two axes, or K is larger than the padded X.
    """
    _check_axes("X", X, "(h, w)")
    _check_axes("K", K, "(kh, kw)")
    (sh, sw), (ph, pw) = _pair("stride", stride), _pair("padding", padding)
    h, w = K.shape
    rows, columns = output_size(X.shape[0], h, 2 * ph, sh), output_size(X.shape[1], w, 2 * pw, sw)
    # The sum of products of bytes is larger than a byte.
    X, K = (T if T.is_floating_point() or T.is_complex() else T.long() for T in (X, K))
    X = pad(X, (pw, pw, ph, ph))
    Y = torch.zeros(rows, columns, dtype=torch.result_type(X, K), device=X.device)
    for i in range(rows):
        for j in range(columns):
            Y[i, j] = (X[i * sh : i * sh + h, j * sw : j * sw + w] * K).sum()
    return Y


def conv2d_strict(X: Tensor, K: Tensor, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Convolution as mathematics defines it: cross-correlation with the kernel flipped both ways.

    Arguments, shape and errors are those of `corr2d`.
    """
    _check_axes("K", K, "(kh, kw)")
    return corr2d(X, K.flip(0, 1), stride, padding)


def corr2d_multi_in(X: Tensor, K: Tensor, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Cross-correlation of several input channels: one kernel each, the results added.

    Args:
        X: Image, `(ci, h, w)`.
        K: Kernels, `(ci, kh, kw)`.
        stride, padding: As in `corr2d`.

    Shape: that of `corr2d`, without a channel axis.

    Raises:
        InputError: The channels differ, or as in `corr2d`.
    """
    _check_axes("X", X, "(ci, h, w)")
    _check_axes("K", K, "(ci, kh, kw)")
    _check_channels(X, K, K.shape[0])
    return sum(corr2d(x, k, stride, padding) for x, k in zip(X, K, strict=True))


def corr2d_multi_in_out(X: Tensor, K: Tensor, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Cross-correlation from several channels to several: one stack of kernels per output channel.

    Args:
        X: Image, `(ci, h, w)`.
        K: Kernels, `(co, ci, kh, kw)`.
        stride, padding: As in `corr2d`.

    Shape: `(co, ...)`, then that of `corr2d`.

    Raises:
        InputError: The input channels differ, or as in `corr2d`.
    """
    _check_axes("K", K, "(co, ci, kh, kw)")
    return torch.stack([corr2d_multi_in(X, k, stride, padding) for k in K])


def corr2d_1x1(X: Tensor, K: Tensor) -> Tensor:
    """A 1x1 cross-correlation, computed as a matrix product over the channels at every pixel.

    Args:
        X: Image, `(ci, h, w)`.
        K: Kernels, `(co, ci, 1, 1)`.

    Shape: `(co, h, w)`.

    Raises:
        InputError: The kernels are not 1x1, or the input channels differ.
    """
    _check_axes("X", X, "(ci, h, w)")
    _check_axes("K", K, "(co, ci, 1, 1)")
    if K.shape[2:] != (1, 1):
        raise InputError(
            f"Kernels of {K.shape[2]}x{K.shape[3]} were given; a matrix product takes 1x1. "
            "Pass them to corr2d_multi_in_out(X, K)."
        )
    _check_channels(X, K, K.shape[1])
    ci, h, w = X.shape
    co = K.shape[0]
    return (K.reshape(co, ci) @ X.reshape(ci, h * w)).reshape(co, h, w)


def pool2d(X: Tensor, size: Pair, mode: str = "max", stride: Pair | None = None, padding: Pair = 0) -> Tensor:
    """Pooling: the maximum or the mean of each window, channel by channel.

    Args:
        X: Image, `(h, w)` or `(c, h, w)`, of floats.
        size: Height and width of the window.
        mode: `"max"` or `"avg"`.
        stride: Rows and columns per step; None means 1, so that windows overlap. (torch's layers take `size` for None.)
        padding: Rows and columns on each side, half the window at most. They never win a maximum; a mean counts them as 0.

    Shape: as in `corr2d`, after the same channels.

    Raises:
        UnknownNameError: `mode` is another.
        InputError: X has other axes or no floats, or the window does not fit.
    """
    if mode not in ("max", "avg"):
        raise unknown("pooling mode", mode, ("max", "avg"))
    if X.dim() == 3:
        return torch.stack([pool2d(x, size, mode, stride, padding) for x in X])
    _check_axes("X", X, "(h, w) or (c, h, w)")
    if not X.is_floating_point():
        raise InputError(f"X of {X.dtype} was given; pooling takes floats. Pass X.float().")
    (h, w), (ph, pw) = _pair("size", size), _pair("padding", padding)
    sh, sw = (1, 1) if stride is None else _pair("stride", stride)
    rows, columns = output_size(X.shape[0], h, 2 * ph, sh), output_size(X.shape[1], w, 2 * pw, sw)
    if 2 * ph > h or 2 * pw > w:
        raise InputError(
            f"padding={(ph, pw)} was given for a window of {h}x{w}; at most half the window is allowed. "
            f"Pass padding={(min(ph, h // 2), min(pw, w // 2))}."
        )
    X = pad(X, (pw, pw, ph, ph), value=-torch.inf if mode == "max" else 0.0)
    Y = torch.zeros(rows, columns, dtype=X.dtype, device=X.device)
    for i in range(rows):
        for j in range(columns):
            window = X[i * sh : i * sh + h, j * sw : j * sw + w]
            Y[i, j] = window.max() if mode == "max" else window.mean()
    return Y


class Norm(NamedTuple):
    """What a batch norm knows when training is over: four numbers per channel, each `(c,)`.

    Attributes:
        mean, variance: Of what it saw in training.
        scale, shift: What it learned.
        eps: Added to the variance.
    """

    mean: Tensor
    variance: Tensor
    scale: Tensor
    shift: Tensor
    eps: float = 1e-5


def batch_norm(X: Tensor, norm: Norm) -> Tensor:
    """Batch norm when training is over: `(X - mean) / sqrt(variance + eps) * scale + shift`, channel by channel.

    Args:
        X: Image, `(c, h, w)`.
        norm: Of as many channels.

    Shape: that of X.

    Raises:
        InputError: The channels differ, or X has other axes.
    """
    _check_axes("X", X, "(c, h, w)")
    _check_norm(norm, X.shape[0])
    mean, variance, scale, shift = (v[:, None, None] for v in norm[:4])  # (c,) -> (c, 1, 1)
    return (X - mean) / (variance + norm.eps).sqrt() * scale + shift


def merge_norm(K: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """A convolution and the batch norm after it are one convolution with a bias, since both are linear.

    The norm multiplies channel i by `scale / sqrt(variance + eps)`, and so may the kernels of channel i be multiplied; what
    it adds does not depend on the image.

    Args:
        K: Kernels, `(co, ci, kh, kw)`.
        norm: Of the `co` channels.

    Returns:
        Kernels `(co, ci, kh, kw)` and bias `(co,)`.

    Raises:
        InputError: The channels differ, or K has other axes.
    """
    _check_axes("K", K, "(co, ci, kh, kw)")
    _check_norm(norm, K.shape[0])
    factor = norm.scale / (norm.variance + norm.eps).sqrt()
    return K * factor[:, None, None, None], norm.shift - norm.mean * factor


def repvgg_branches(X: Tensor, K3: Tensor, K1: Tensor, norms: tuple[Norm, ...], stride: Pair = 1) -> Tensor:
    """The RepVGG block as it is trained, up to its ReLU: three branches, a batch norm in each, added up.

    Source: Ding et al. (2021), https://arxiv.org/abs/2101.03697, section 3.3.

    Args:
        X: Image, `(ci, h, w)`.
        K3: Kernels of the first branch, `(co, ci, 3, 3)`, with padding 1.
        K1: Kernels of the second, `(co, ci, 1, 1)`, without padding.
        norms: Of these two branches, and of the third, which is X itself. Two where there is no third: it needs
            `co == ci` and a stride of 1.
        stride: Rows and columns per step.

    Shape: `(co, output_size(h, 3, 2, sh), output_size(w, 3, 2, sw))`.

    Raises:
        InputError: The shapes do not fit together, or as in `corr2d`.
    """
    _check_branches(K3, K1, norms)
    if len(norms) == 3 and _pair("stride", stride) != (1, 1):
        raise InputError(
            f"stride={stride} and three norms were given; with a stride there are two branches. Pass norms[:2]."
        )
    Y = batch_norm(corr2d_multi_in_out(X, K3, stride, padding=1), norms[0])
    Y = Y + batch_norm(corr2d_multi_in_out(X, K1, stride), norms[1])
    if len(norms) == 3:
        Y = Y + batch_norm(X, norms[2])
    return Y


def repvgg_kernel(K3: Tensor, K1: Tensor, norms: tuple[Norm, ...]) -> tuple[Tensor, Tensor]:
    """The one 3x3 convolution that gives what `repvgg_branches` gives.

    A 1x1 kernel is a 3x3 kernel with zeros around it, and the image itself is what a 1x1 kernel gives that is the identity
    matrix. So each branch is a 3x3 convolution and a norm, hence a 3x3 convolution with a bias (`merge_norm`); and the sum
    of convolutions of the same image is the convolution with the sum of the kernels.

    Args:
        K3, K1, norms: As in `repvgg_branches`.

    Returns:
        Kernels `(co, ci, 3, 3)` and bias `(co,)`, for `corr2d_multi_in_out(X, kernels, stride, padding=1)`.

    Raises:
        InputError: As in `repvgg_branches`.
    """
    _check_branches(K3, K1, norms)
    identity = torch.eye(len(K3), dtype=K3.dtype, device=K3.device)[:, :, None, None]  # (co, ci, 1, 1), where co == ci
    kernels = [K3, pad(K1, (1, 1, 1, 1)), pad(identity, (1, 1, 1, 1))]
    merged = [merge_norm(kernel, norm) for kernel, norm in zip(kernels, norms)]  # as many as there are norms
    return sum(kernel for kernel, _ in merged), sum(bias for _, bias in merged)


def conv_cost(height: int, width: int, kernel_size: Pair, in_channels: int, out_channels: int) -> int:
    """Operations of a convolution, a multiplication and an addition counting one each: `2 * h * w * kh * kw * ci * co`.

    Args:
        height, width: Of the *output*; that of the input too where padding keeps the size.
        kernel_size: Height and width of the kernel.
        in_channels, out_channels: Channels in and out.

    Raises:
        InputError: One of them is no whole number from 1 up.
    """
    kh, kw = _pair("kernel_size", kernel_size)
    counts = dict(height=height, width=width, in_channels=in_channels, out_channels=out_channels)
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} was given; a whole number from 1 up is allowed. Pass {name}=1, for example.")
    return 2 * height * width * kh * kw * in_channels * out_channels


def learn_kernel(X: Tensor, Y: Tensor, kernel_size: Pair, steps: int = 10, lr: float = 0.03) -> Tensor:
    """Finds the kernel that turns X into Y, by gradient descent on the sum of squared errors, from a kernel of zeros.

    Args:
        X: Image, `(h, w)`.
        Y: What `corr2d(X, K)` should give, `(h - kh + 1, w - kw + 1)`.
        kernel_size: Height and width of K.
        steps: Gradient steps.
        lr: Learning rate; above a value that depends on X the steps diverge.

    Shape: K is `(kh, kw)`.

    Raises:
        InputError: Y has not the shape that X and the kernel give, or X has whole numbers.
    """
    if not X.is_floating_point():
        raise InputError(f"X of type {X.dtype} was given; gradients need real numbers. Pass X.float().")
    K = torch.zeros(_pair("kernel_size", kernel_size), dtype=X.dtype, device=X.device, requires_grad=True)
    shape = corr2d(X, K).shape
    if shape != Y.shape:
        raise InputError(
            f"Y of shape {tuple(Y.shape)} was given, X and the kernel give {tuple(shape)}. "
            f"Pass Y of that shape, or another kernel_size than {kernel_size}."
        )
    for _ in range(steps):
        Y_hat = corr2d(X, K)
        (gradient,) = torch.autograd.grad(((Y_hat - Y) ** 2).sum(), K)
        K = (K - lr * gradient).detach().requires_grad_()
    return K.detach()


def _pair(name: str, value: Pair) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    least = 0 if name == "padding" else 1
    if len(pair) != 2 or any(not isinstance(v, int) or v < least for v in pair):
        raise InputError(
            f"{name}={value!r} was given; one or two whole numbers from {least} up are allowed. "
            f"Pass {name}={least}, or {name}=({least}, {least}) for rows and columns."
        )
    return pair


def _check_axes(name: str, tensor: Tensor, wanted: str) -> None:
    shape = tuple(tensor.shape)
    if len(shape) != wanted.partition(")")[0].count(",") + 1:
        raise InputError(
            f"{name} of shape {shape} was given; {wanted} is needed. "
            f"Pass {name}[None] to add an axis in front, {name}[0] to take one away."
        )
    if tensor.numel() == 0:
        raise InputError(f"{name} of shape {shape} is empty; every axis needs 1 or more. Pass another {name}.")


def _check_channels(X: Tensor, K: Tensor, channels: int) -> None:
    if X.shape[0] != channels:
        right = (*K.shape[:-3], X.shape[0], *K.shape[-2:])
        raise InputError(
            f"X with {X.shape[0]} channels and kernels for {channels} were given; they must agree. Pass K of shape {right}."
        )


def _check_norm(norm: Norm, channels: int) -> None:
    for field, value in zip(norm._fields[:4], norm):
        if tuple(value.shape) != (channels,):
            raise InputError(
                f"A norm with {field} of shape {tuple(value.shape)} was given for {channels} channels. "
                f"Pass {field} of shape ({channels},)."
            )


def _check_branches(K3: Tensor, K1: Tensor, norms: tuple[Norm, ...]) -> None:
    _check_axes("K3", K3, "(co, ci, 3, 3)")
    co, ci = K3.shape[:2]
    if K3.shape[2:] != (3, 3) or K1.shape != (co, ci, 1, 1):
        raise InputError(
            f"K3 of shape {tuple(K3.shape)} and K1 of shape {tuple(K1.shape)} were given, (co, ci, 3, 3) and (co, ci, 1, 1) "
            f"are needed. Pass K3 of shape ({co}, {ci}, 3, 3) and K1 of shape ({co}, {ci}, 1, 1)."
        )
    if len(norms) not in ((2, 3) if co == ci else (2,)):
        allowed = "2 or 3" if co == ci else "2, since the image itself has other channels than the result,"
        raise InputError(f"{len(norms)} norms were given for {ci} to {co} channels; allowed are {allowed}. Pass norms[:2].")
