"""Which key head each query head uses, where there are fewer key heads (Khan et al. 2024, arXiv 2408.08454).

Grouped-query attention gives every key head as many query heads. Key-driven allocation gives them by how large a head's keys
are: n_g = |K_g| over the instances of the bag, brought to [0, 1], and H u_g / sum u query heads, rounded. The smallest
therefore gets none. The dynamic form takes an average of the norms over the training bags, so that the allocation stays as
it is once training ends.

The published code sums the norms over the bags of a batch, so that a bag's result depends on its neighbours; here each bag
has its own. Equal norms give an even allocation, where the published code divides 0 by 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["allocate", "by_norm", "key_of_query"]


def allocate(shares: Tensor, heads: int) -> Tensor:
    """Whole numbers of query heads near ``heads * shares / sum(shares)`` that sum to ``heads``.

    Rounded half to even; then one at a time is taken from the largest, or given to the smallest, the first of equals.

    Args:
        shares: (G,), none below 0; all 0 is an even share.
        heads: H.

    Returns:
        (G,) int64.
    """
    total = shares.sum()
    if not torch.isfinite(total) or total <= 0:
        shares, total = torch.ones_like(shares), shares.new_tensor(float(len(shares)))
    found = (shares / total * heads).round().long()
    while int(found.sum()) > heads:
        found[int(found.argmax())] -= 1
    while int(found.sum()) < heads:
        found[int(found.argmin())] += 1
    return found


def by_norm(norms: Tensor, heads: int) -> Tensor:
    """Key-driven allocation from the norms of the keys of each head (G,); see the module."""
    low, high = norms.min(), norms.max()
    if not bool(high > low):
        return allocate(torch.ones_like(norms), heads)
    return allocate((norms - low) / (high - low), heads)


def key_of_query(allocation: Tensor) -> Tensor:
    """The key head of each query head, runs of them, (H,): of (0, 4, 2) that is (1, 1, 1, 1, 2, 2)."""
    return torch.repeat_interleave(torch.arange(len(allocation), device=allocation.device), allocation)
