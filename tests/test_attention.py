"""Attention within each packed text equals torch's own, one text at a time."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from pipeline.bert.linear import Workspace
from pipeline.bert.packed import attend_runs, has_varlen
from pipeline.bert.pooling import TokenBatch

HEADS, SIZE = 4, 8


def packed(lengths, scale=1.0, seed=0):
    """Random query, key and value of packed texts."""
    batch = TokenBatch([np.zeros(n, dtype=np.int64) for n in lengths])
    generator = torch.Generator().manual_seed(seed)
    return batch, scale * torch.randn(sum(lengths), 3, HEADS, SIZE, generator=generator)


def slow(batch, qkv):
    """One text at a time by torch's own attention."""
    out = []
    for start, stop in zip(batch.starts[:-1], batch.starts[1:], strict=True):
        q, k, v = qkv[start:stop].permute(1, 2, 0, 3)  # (n_heads, n_tokens, head_size)
        mixed = scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0)[0]
        out.append(mixed.transpose(0, 1).flatten(1))
    return torch.cat(out)


def run(batch, qkv, *, cls_only=False, workspace=None):
    space = workspace or Workspace(torch.device("cpu"))
    return attend_runs(qkv, batch.runs, space, cls_only=cls_only).clone()


@pytest.mark.parametrize(
    "lengths",
    [[5], [7, 7, 7], [9, 4, 4, 1], [1], [3, 5, 3], [64, 17, 16, 15, 2], [60, 60, 60], [9, 60, 60]],
)
def test_every_text_attends_to_itself_alone(lengths):
    found, expected = run(*packed(lengths)), slow(*packed(lengths))
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], [60, 9, 9]])
def test_in_bfloat16_scores_and_averages_are_float32(lengths):
    batch, qkv = packed(lengths)
    half = qkv.bfloat16()
    found = run(batch, half)
    assert found.dtype == torch.bfloat16
    expected = slow(batch, half.float())
    assert (found.float() - expected).abs().max() <= 2**-8 * expected.abs().max()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 5.0, 30.0])
def test_scores_of_any_size_are_safe(scale):
    arguments = packed([9, 9, 6], scale=scale)
    found, expected = run(*arguments), slow(*arguments)
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, scale)


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_are_all_large_or_all_small_are_safe(sign):
    batch, qkv = packed([9, 9, 6])
    qkv[:, 0] = 5 * qkv[:, 0].abs()
    qkv[:, 1] = sign * (10 + qkv[:, 1].abs())  # scores of 100 and more: exp() is infinite or 0
    found, expected = run(batch, qkv), slow(batch, qkv)
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("lengths", "cls_only", "expected"),
    [
        ([60, 48, 48, 47, 47, 5], False, [(1, 60), (2, 48), (1, 5)]),
        ([47], False, [(1, 47)]),
        ([60, 47, 47], True, [(1, 1), (2, 1)]),
        ([9, 9], False, []),
    ],
)
def test_torchs_own_attention_is_for_single_texts_long_ones_and_cls(
    lengths, cls_only, expected, monkeypatch
):
    """Over several short texts it is slower than two products."""
    seen = []

    def watched(query, *arguments, **options):
        seen.append((query.shape[0], query.shape[2]))
        return scaled_dot_product_attention(query, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    batch, qkv = packed(lengths)
    found = run(batch, qkv, cls_only=cls_only)
    assert seen == expected
    rows = batch.starts[:-1] if cls_only else slice(None)
    assert (found - slow(batch, qkv)[rows]).abs().max() <= 1e-5


def test_a_workspace_used_before_spares_nearly_all_new_memory():
    batch, qkv = packed([9] * 20 + [7] * 30)

    def n_bytes(space):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            attend_runs(qkv, batch.runs, space, cls_only=False)
        sizes = [event.self_cpu_memory_usage for event in profiled.events()]
        return sum(size for size in sizes if size > 0)

    space = Workspace(torch.device("cpu"))
    first, second = n_bytes(space), n_bytes(space)
    assert second < first / 10


def test_not_a_number_stays_one():
    for lengths in ([20, 3], [4, 4]):
        batch, qkv = packed(lengths)
        qkv[0, 0, 0, 0] = torch.nan
        found = run(batch, qkv)
        assert torch.isnan(found[0, :SIZE]).all()
        assert torch.isfinite(found[lengths[0] :]).all()


# ---- CUDA's way, as far as it goes without CUDA


def test_the_varlen_kernel_is_for_half_precision_on_recent_cuda(monkeypatch):
    assert not has_varlen(torch.device("cpu"), torch.float16, 64)
    assert not has_varlen(torch.device("cuda"), torch.float32, 64)
    assert not has_varlen(torch.device("cuda"), torch.float16, 20)
    assert not has_varlen(torch.device("cuda"), torch.float16, 264)
    capabilities = [(9, 0), (8, 0), (7, 5)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: capabilities[gpu.index])
    for number, expected in enumerate([True, True, False]):
        for size in (8, 64, 256):
            assert has_varlen(torch.device("cuda", number), torch.float16, size) is expected
