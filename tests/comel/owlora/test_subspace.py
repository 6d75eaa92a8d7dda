"""The mathematics of subspaces: projectors, energies, and what retraction must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from comel.owlora import subspace

sizes = st.tuples(st.integers(2, 12), st.integers(0, 12), st.integers(1, 12), st.integers(0, 10**6)).filter(
    lambda s: s[1] + s[2] <= s[0]
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def basis_of(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


def assert_orthonormal(columns: Tensor, tolerance: float = 1e-10) -> None:
    distance = (columns.T @ columns - torch.eye(columns.shape[1], dtype=columns.dtype)).abs().max() if columns.numel() else 0
    assert distance < tolerance


@settings(max_examples=50, deadline=None)
@given(sizes)
def test_complement_is_a_projection(size: tuple[int, int, int, int]) -> None:
    n, k, r, seed = size
    basis, columns = basis_of(noise(n, k, seed=seed)), noise(n, r, seed=seed + 1)
    outside = subspace.complement(columns, basis)
    projector = np.eye(n) - basis.numpy() @ np.linalg.pinv(basis.numpy()) if k else np.eye(n)
    np.testing.assert_allclose(outside, projector @ columns.numpy(), atol=1e-10)
    torch.testing.assert_close(subspace.complement(outside, basis), outside, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("energy", "count"), [(0.01, 1), (0.5, 1), (0.5001, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.99, 4), (1.0, 4)]
)
def test_count_for_energy_by_hand(energy: float, count: int) -> None:
    assert subspace.count_for_energy(torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64), energy) == count


def test_count_for_energy_at_the_edges() -> None:
    assert subspace.count_for_energy(torch.zeros(3), 0.9) == 0
    assert subspace.count_for_energy(torch.tensor([3.0, 0.0, 0.0]), 1.0) == 1
    assert subspace.count_for_energy(torch.ones(5, dtype=torch.float64) / 3, 1.0) == 5


@settings(max_examples=50, deadline=None)
@given(sizes, st.integers(0, 3))
def test_extend_spans_both_and_stays_orthonormal(size: tuple[int, int, int, int], repeated: int) -> None:
    n, k, r, seed = size
    basis, columns = basis_of(noise(n, k, seed=seed)), noise(n, r, seed=seed + 1)
    inside = basis @ noise(k, repeated, seed=seed + 2)  # adds nothing
    wider = subspace.extend(basis, torch.cat([columns, inside], dim=1))
    assert wider.shape == (n, k + r)
    assert_orthonormal(wider)
    assert torch.equal(wider[:, :k], basis)
    torch.testing.assert_close(wider @ (wider.T @ columns), columns, rtol=0, atol=1e-9)


def test_extend_of_a_full_basis_adds_nothing() -> None:
    whole = basis_of(noise(6, 6))
    assert torch.equal(subspace.extend(whole, noise(6, 3, seed=1)), whole)
    assert subspace.extend(whole[:, :2], subspace.empty_basis(6)).shape == (6, 2)


def test_extend_takes_float32_columns() -> None:
    basis = basis_of(noise(64, 20))
    rows = subspace.free_rows(basis, 8).float()
    wider = subspace.extend(basis, rows.T)
    assert wider.shape == (64, 28)
    assert_orthonormal(wider)
    assert subspace.extend(wider, rows.T).shape == (64, 28)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 8), st.integers(1, 20), st.floats(0.05, 1), st.integers(0, 10**6))
def test_gram_basis_reaches_the_energy_with_the_fewest(n: int, k: int, samples: int, energy: float, seed: int) -> None:
    k = min(k, n - 1)
    inputs = noise(samples, n, seed=seed) * torch.logspace(0, -3, n, dtype=torch.float64)
    gram, protected = inputs.T @ inputs, basis_of(noise(n, k, seed=seed + 1))

    def held(basis: Tensor) -> float:
        return (torch.trace(basis.T @ gram @ basis) / torch.trace(gram)).item()

    new = subspace.gram_basis(gram, protected, energy, n)
    both = torch.cat([protected, new], dim=1)
    assert_orthonormal(both)
    assert held(both) >= energy - 1e-9
    if new.shape[1]:
        assert held(both[:, :-1]) < energy
    limited = subspace.gram_basis(gram, protected, energy, 2)
    assert limited.shape[1] == min(2, new.shape[1])
    torch.testing.assert_close(limited, new[:, :2], rtol=0, atol=1e-12)


def test_gram_basis_at_the_edges() -> None:
    empty = subspace.empty_basis(4)
    assert subspace.gram_basis(torch.zeros(4, 4), empty, 0.9, 4).shape == (4, 0)
    assert subspace.gram_basis(torch.eye(4), empty, 0.9, 0).shape == (4, 0)
    assert subspace.gram_basis(torch.eye(4), empty, 0.9, -3).shape == (4, 0)
    one = torch.diag(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert subspace.gram_basis(one, empty, 1.0, 4).abs().T.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert subspace.gram_basis(one, torch.eye(4, dtype=torch.float64)[:, :1], 1.0, 4).shape == (4, 0)


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_retraction_stays_outside_orthonormal_and_is_idempotent(size: tuple[int, int, int, int]) -> None:
    n, k, r, seed = size
    basis, rows = basis_of(noise(n, k, seed=seed)), noise(r, n, seed=seed + 1)
    once = subspace.retract_rows(rows, basis)
    assert once.shape == (r, n)
    assert_orthonormal(once.T)
    assert (once @ basis).abs().max() < 1e-10 if k else True
    torch.testing.assert_close(subspace.retract_rows(once, basis), once, rtol=0, atol=1e-10)
    # the rows' own span, seen from outside the basis, is kept
    outside = subspace.complement(rows.T, basis)
    torch.testing.assert_close(once.T @ (once @ outside), outside, rtol=0, atol=1e-9 * float(outside.abs().max() + 1))


def test_retraction_keeps_the_type() -> None:
    assert subspace.retract_rows(noise(2, 5).float(), subspace.empty_basis(5)).dtype == torch.float32


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_free_rows_are_free(size: tuple[int, int, int, int]) -> None:
    n, k, r, seed = size
    basis = basis_of(noise(n, k, seed=seed))
    rows = subspace.free_rows(basis, r, torch.Generator().manual_seed(seed))
    assert_orthonormal(torch.cat([basis, rows.T], dim=1))
    assert torch.equal(rows, subspace.free_rows(basis, r, torch.Generator().manual_seed(seed)))


def test_weight_bases_are_the_leading_singular_directions() -> None:
    left, right = basis_of(noise(6, 4)), basis_of(noise(8, 4, seed=1))
    weight = left @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)) @ right.T
    for energy, count in ((0.75, 1), (0.9, 2), (0.99, 4), (1.0, 4)):  # squares 64, 16, 4, 1 of 85
        inputs, outputs = subspace.weight_bases(weight, energy, 8, 6)
        torch.testing.assert_close(inputs @ inputs.T, right[:, :count] @ right[:, :count].T, rtol=0, atol=1e-10)
        torch.testing.assert_close(outputs @ outputs.T, left[:, :count] @ left[:, :count].T, rtol=0, atol=1e-10)


def test_weight_bases_are_cut_at_their_limits() -> None:
    weight = noise(6, 8)
    inputs, outputs = subspace.weight_bases(weight, 1.0, 3, 1)
    assert (inputs.shape, outputs.shape) == ((8, 3), (6, 1))
    for beyond in (0, -1, -20):
        inputs, outputs = subspace.weight_bases(weight, 1.0, beyond, beyond)
        assert (inputs.shape, outputs.shape) == ((8, 0), (6, 0))
