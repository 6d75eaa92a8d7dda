"""Nystrom attention: exact with as many landmarks as tokens, by hand with fewer, and its first row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from comel.nn.nystrom import Landmarks, NystromAttention, pseudo_inverse, segment_means
from tests.comel.models.zoo import array, linear, softmax


def tokens(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_exact_with_as_many_landmarks_as_tokens() -> None:
    q, k, v = (tokens(2, 3, 10, 8, seed=seed, scale=2.0) for seed in range(3))
    exact = softmax(array(q) @ array(k).swapaxes(-1, -2) / np.sqrt(8))
    landmarks = Landmarks.of(q, k, 10, iterations=60)
    np.testing.assert_allclose(array(landmarks.attend(q, k, v)), exact @ array(v), atol=1e-8)
    np.testing.assert_allclose(array(landmarks.weights(q, k)), exact, atol=1e-8)


def by_hand(q: np.ndarray, k: np.ndarray, count: int) -> np.ndarray:
    """S of one head, (n, n), with numpy's own pseudo-inverse."""
    segment = [i * count // len(q) for i in range(len(q))]
    q_means = np.stack([q[[i for i, s in enumerate(segment) if s == j]].mean(axis=0) for j in range(count)])
    k_means = np.stack([k[[i for i, s in enumerate(segment) if s == j]].mean(axis=0) for j in range(count)])
    scale = np.sqrt(q.shape[1])
    middle = np.linalg.pinv(softmax(q_means @ k_means.T / scale))
    result: np.ndarray = softmax(q @ k_means.T / scale) @ middle @ softmax(q_means @ k.T / scale)
    return result


@pytest.mark.parametrize("count", [1, 3, 5])
def test_fewer_landmarks_by_hand(count: int) -> None:
    q, k, v = (tokens(1, 2, 13, 8, seed=seed, scale=2.0) for seed in range(3))
    landmarks = Landmarks.of(q, k, count, iterations=40)
    for h in range(2):
        expected = by_hand(array(q[0, h]), array(k[0, h]), count)
        np.testing.assert_allclose(array(landmarks.attend(q, k, v))[0, h], expected @ array(v[0, h]), atol=1e-8)
        np.testing.assert_allclose(array(landmarks.weights(q[:, :, :2], k))[0, h], expected[:2], atol=1e-8)


def test_six_iterations_come_close_where_landmarks_differ() -> None:
    q, v = torch.repeat_interleave(tokens(1, 1, 5, 8), 6, dim=2), tokens(1, 1, 30, 8, seed=1)
    expected = by_hand(array(q[0, 0]), array(q[0, 0]), 5) @ array(v[0, 0])
    six, two = (Landmarks.of(q, q, 5, **chosen).attend(q, q, v) for chosen in ({}, {"iterations": 2}))
    assert np.abs(array(six)[0, 0] - expected).max() < 1e-3
    assert np.abs(array(two)[0, 0] - expected).max() > 1e-2


@pytest.mark.parametrize("landmarks", [4, 20])
def test_module_by_hand(landmarks: int) -> None:
    torch.manual_seed(0)
    layer, x = NystromAttention(12, num_heads=3, landmarks=landmarks).double().eval(), tokens(1, 9, 12, scale=3.0)
    out, row = layer(x, weigh=True)
    q, k, v = (linear(part, array(x[0])).reshape(9, 3, 4) for part in (layer.q, layer.k, layer.v))
    kernels, heads, rows = array(layer.residual.kernels.weight), [], []
    for h in range(3):
        if landmarks >= 9:
            weights = softmax(q[:, h] @ k[:, h].T / 2)
        else:
            one = Landmarks.of(torch.tensor(q[:, h])[None, None], torch.tensor(k[:, h])[None, None], landmarks)
            weights = array(one.weights(torch.tensor(q[:, h])[None, None], torch.tensor(k[:, h])[None, None]))[0, 0]
        convolved = np.zeros((9, 4))
        for i in range(9):
            for offset in range(-16, 17):
                if 0 <= i + offset < 9:
                    convolved[i] += kernels[h, 0, offset + 16, 0] * v[i + offset, h]
        heads.append(weights @ v[:, h] + convolved)
        rows.append(weights[0])
    np.testing.assert_allclose(array(out)[0], linear(layer.proj, np.concatenate(heads, axis=1)), atol=1e-10)
    np.testing.assert_allclose(array(row)[0], np.mean(rows, axis=0), atol=1e-10)
    assert layer(x)[1] is None


def test_pseudo_inverse() -> None:
    a = torch.softmax(tokens(2, 3, 6, 6, scale=3.0), dim=-1)
    z = pseudo_inverse(a, iterations=60)
    np.testing.assert_allclose(array(a @ z @ a), array(a), atol=1e-8)
    np.testing.assert_allclose(array(z), np.linalg.pinv(array(a)), atol=1e-6)
    # one iteration, as it is written
    b, identity = array(a[1, 2]), np.eye(6)
    start = b.T / (np.abs(b).sum(axis=0).max() * np.abs(b).sum(axis=1).max())
    bz = b @ start
    step = start @ (13 * identity - bz @ (15 * identity - bz @ (7 * identity - bz))) / 4
    np.testing.assert_allclose(array(pseudo_inverse(a, iterations=1))[1, 2], step, atol=1e-12)


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_segments_are_even_and_hold_every_token(count: int, data: st.DataObject) -> None:
    segments = data.draw(st.integers(1, count))
    sizes = 1 / segment_means(torch.eye(count, dtype=torch.float64), segments).amax(dim=1)
    assert sizes.sum().item() == pytest.approx(count)
    assert sizes.max() - sizes.min() <= 1 + 1e-9
    x = tokens(2, count, 3, seed=count)
    expected = np.stack([part.mean(axis=1) for part in _split(array(x), segments)], axis=1)
    np.testing.assert_allclose(array(segment_means(x, segments)), expected, atol=1e-12)


def _split(x: np.ndarray, segments: int) -> list[np.ndarray]:
    ends = [-(-j * x.shape[1] // segments) for j in range(segments + 1)]
    return [x[:, start:end] for start, end in pairwise(ends)]
