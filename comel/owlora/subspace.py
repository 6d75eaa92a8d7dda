"""Subspaces as orthonormal columns: the mathematics of OWLoRA, on plain tensors.

A basis is a tensor (n, k) with orthonormal columns, so that ``Q Q^T`` is a projector. Decompositions run in float64: they are
small, and keeping float32 weights orthogonal to below 1e-5 needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["complement", "count_for_energy", "empty_basis", "extend", "free_rows", "gram_basis", "retract_rows", "weight_bases"]

_DEPENDENT = 1e-6


def empty_basis(dimension: int) -> Tensor:
    """A basis (n, 0) that protects nothing."""
    return torch.zeros(dimension, 0, dtype=torch.float64)


def count_for_energy(spectrum: Tensor, energy: float) -> int:
    """The number of leading entries of a non-negative, descending spectrum that hold the share ``energy`` of its sum."""
    total = spectrum.sum()
    if total <= 0:
        return 0
    shares = torch.cumsum(spectrum, 0) / total
    return int(min((shares < energy - 1e-12).sum().item() + 1, len(spectrum)))


def gram_basis(gram: Tensor, protected: Tensor, energy: float, limit: int) -> Tensor:
    """Directions of inputs to add to a protected basis.

    Args:
        gram: (n, n) second moment of a layer's inputs, X^T X.
        protected: (n, k) basis protected already.
        energy: share of trace(gram) that the old and the new directions must hold together.
        limit: at most this many new directions.

    Returns:
        (n, j) orthonormal columns orthogonal to ``protected``, the fewest that reach ``energy``, at most ``limit``.
    """
    gram, protected = gram.double(), protected.double()
    total = torch.trace(gram)
    if total <= 0 or limit <= 0:
        return empty_basis(len(gram))
    outside = gram - protected @ (protected.T @ gram)
    outside = outside - (outside @ protected) @ protected.T
    values, vectors = torch.linalg.eigh((outside + outside.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    held = 1 - values.sum() / total
    missing = energy - held + torch.cat([values.new_zeros(1), -torch.cumsum(values, 0) / total])
    wanted = int((missing > 1e-12).sum())
    count = min(wanted, limit, int((values > _DEPENDENT**2 * values[0]).sum()))
    return orthonormal_columns(complement(vectors[:, :count], protected))


def weight_bases(weight: Tensor, energy: float, limit_in: int, limit_out: int) -> tuple[Tensor, Tensor]:
    """Leading right and left singular directions of a weight (out, in) that hold ``energy`` of its squared spectrum.

    Returns:
        input basis (in, k) and output basis (out, k'), each cut at its limit.
    """
    left, spectrum, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    count = count_for_energy(spectrum**2, energy)
    held_in, held_out = (max(0, min(count, limit)) for limit in (limit_in, limit_out))
    return right[:held_in].T.contiguous(), left[:, :held_out].contiguous()


def complement(columns: Tensor, basis: Tensor) -> Tensor:
    """The part of ``columns`` (n, j) that lies outside ``basis`` (n, k); projected twice, against rounding."""
    for _ in range(2):
        columns = columns - basis @ (basis.T @ columns)
    return columns


def orthonormal_columns(columns: Tensor) -> Tensor:
    """QR with a positive diagonal, so that an orthonormal input comes back unchanged."""
    if columns.shape[1] == 0:
        return columns
    q, r = torch.linalg.qr(columns)
    signed: Tensor = q * torch.where(torch.diagonal(r) < 0, -1.0, 1.0)
    return signed


def extend(basis: Tensor, columns: Tensor) -> Tensor:
    """A basis of the span of both; columns inside ``basis`` add nothing."""
    basis = basis.double()
    new = complement(columns.double(), basis)
    if new.shape[1] == 0:
        return basis
    left, spectrum, _ = torch.linalg.svd(new, full_matrices=False)
    new = left[:, spectrum > _DEPENDENT]
    return torch.cat([basis, orthonormal_columns(complement(new, basis))], dim=1)


def free_rows(basis: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """``count`` random orthonormal rows (count, n) outside ``basis`` (n, k), float64."""
    random = torch.randn(len(basis), count, dtype=torch.float64, generator=generator)
    return orthonormal_columns(complement(orthonormal_columns(complement(random, basis)), basis)).T.contiguous()


def retract_rows(rows: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal rows (r, n) outside ``basis`` (n, k), from rows that have drifted slightly from it: project, then retract.

    The retraction is that of QR with a positive diagonal, via the Cholesky factor of the r x r Gram matrix: after an
    optimizer step the rows are close to orthonormal, where both agree and this is several times faster.
    """
    columns = complement(rows.double().T, basis)
    factor, failed = torch.linalg.cholesky_ex(columns.T @ columns)
    if failed:
        return orthonormal_columns(complement(orthonormal_columns(columns), basis)).T.to(rows.dtype)
    solved: Tensor = torch.linalg.solve_triangular(factor, columns.T, upper=False)
    return solved.to(rows.dtype)
