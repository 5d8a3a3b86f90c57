"""RepVGG after training: one 3x3 convolution per block that gives what the three branches gave."""

import copy

import pytest
import torch
from helpers import fill
from hypothesis import given, settings, strategies as st
from timm.models import reparameterize_model
from torch import nn

import cnnzoo
from cnnzoo import primitives
from cnnzoo.exporting import make_pipeline
from cnnzoo.layers import ConvAct
from cnnzoo.models.repvgg import RepVGGBlock


def trained(name: str = "repvgg_tiny") -> nn.Module:
    """A model whose norms have seen images, so that its logits are of a trained model's size."""
    model = fill(cnnzoo.create_model(name)).train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    return model.eval()


@given(
    in_chs=st.integers(1, 6), out_chs=st.integers(1, 6), stride=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_a_fused_block_gives_what_its_branches_gave_and_is_the_kernel_of_the_lesson(in_chs, out_chs, stride, size, seed):
    generator = torch.Generator().manual_seed(seed)
    block = fill(RepVGGBlock(in_chs, out_chs, stride)).eval()
    assert (block.identity is not None) == (in_chs == out_chs and stride == 1)
    fused = block.fuse()
    x = torch.randn(2, in_chs, *size, generator=generator)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), block(x), rtol=1e-5, atol=1e-5)
    norms = [m for m in (block.conv3.bn, block.conv1.bn, block.identity) if m is not None]
    lesson = tuple(primitives.Norm(n.running_mean, n.running_var, n.weight, n.bias, n.eps) for n in norms)
    kernels, bias = primitives.repvgg_kernel(block.conv3.conv.weight, block.conv1.conv.weight, lesson)
    torch.testing.assert_close(fused.conv.weight, kernels)
    torch.testing.assert_close(fused.conv.bias, bias)


@settings(max_examples=5)
@given(height=st.integers(4, 40), width=st.integers(4, 40), seed=st.integers(0, 2**31))
def test_a_model_gives_the_same_logits_after_timms_reparameterize_model(height, width, seed):
    model = trained()
    merged = reparameterize_model(model)
    x = torch.randn(3, 1, height, width, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        assert (merged(x) - model(x)).abs().max() < 1e-5 * max(1.0, model(x).abs().max())


def test_after_merging_a_stage_is_a_plain_stack_of_3x3_convolutions():
    model = trained()
    merged = reparameterize_model(model)
    blocks = [block for stage in merged.stages for block in stage]
    assert all(isinstance(block, ConvAct) and block.conv.kernel_size == (3, 3) for block in blocks)
    assert not [m for m in merged.stages.modules() if isinstance(m, nn.BatchNorm2d)]
    assert any(isinstance(m, RepVGGBlock) for m in model.modules())  # the model itself stays as it was
    assert sum(p.numel() for p in merged.parameters()) < 0.92 * sum(p.numel() for p in model.parameters())
    assert torch.jit.script(merged)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_merging_keeps_type_mode_and_whether_weights_are_trained():
    block = RepVGGBlock(4, 4, dtype=torch.float64).requires_grad_(False)
    for mode in (True, False):
        fused = block.train(mode).fuse()
        assert {p.dtype for p in fused.parameters()} == {torch.float64}
        assert not any(p.requires_grad for p in fused.parameters())
        assert all(m.training is mode for m in fused.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_exported_is_the_merged_model(dtype):
    model = trained()
    before = copy.deepcopy(model.state_dict())
    pipeline = make_pipeline(model, dtype, False)
    assert not [m for m in pipeline.modules() if isinstance(m, (RepVGGBlock, nn.BatchNorm2d))]
    assert {p.dtype for p in pipeline.parameters()} == {dtype}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
