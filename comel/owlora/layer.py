"""A linear layer with orthogonal weighted low-rank adapters."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from comel.errors import CapacityError
from comel.owlora import subspace
from comel.owlora.config import OWLoraConfig


class OWLoraLayer(BaseTunerLayer):
    """Adapter state of one layer: A (r, in), B (out, r), s (r) per adapter, and the protected bases.

    ``protected_in`` (in, k) and ``protected_out`` (out, k') hold the directions that no adapter may use, those of earlier
    adapters not included. They are derived from the base weight (basis ``weights``) or provided (basis ``features``),
    and are not part of an adapter's file: inference needs only A, B and s.
    """

    adapter_layer_names = ("owlora_A", "owlora_B", "owlora_s")
    other_param_names = ("owlora_r",)

    def __init__(self, base_layer: nn.Linear) -> None:
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.owlora_r: dict[str, int] = {}
        self.owlora_A = nn.ParameterDict({})
        self.owlora_B = nn.ParameterDict({})
        self.owlora_s = nn.ParameterDict({})
        self.protected_in = subspace.empty_basis(self.in_features)
        self.protected_out = subspace.empty_basis(self.out_features)
        self._taken: dict[str, tuple[Tensor, Tensor]] = {}
        self._both_sides = False
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, config: OWLoraConfig, inference_mode: bool = False) -> None:
        """Create an adapter whose A and B are orthonormal and outside everything protected; s starts at zero."""
        self._both_sides = config.basis == "weights"
        if self._both_sides and not self.owlora_r:
            reserve = config.tasks * config.r
            self.protected_in, self.protected_out = subspace.weight_bases(
                self.base_layer.weight.cpu(), config.energy, self.in_features - reserve, self.out_features - reserve
            )
        self.check_room(config.r, layer=f"a layer {self.in_features} -> {self.out_features}")
        self.owlora_r[adapter_name] = config.r
        shapes = {"A": (config.r, self.in_features), "B": (self.out_features, config.r), "s": (config.r,)}
        for name, shape in shapes.items():
            getattr(self, f"owlora_{name}")[adapter_name] = nn.Parameter(torch.zeros(shape))
        self.reset_adapter(adapter_name)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def reset_adapter(self, adapter_name: str) -> None:
        """Redraw A and B inside the free space, with s = 0: the layer computes the same as without this adapter."""
        rank = self.owlora_r[adapter_name]
        self._taken.pop(adapter_name, None)
        with torch.no_grad():
            self.owlora_A[adapter_name].copy_(subspace.free_rows(self.taken_in(adapter_name), rank))
            self.owlora_B[adapter_name].copy_(subspace.free_rows(self.taken_out(adapter_name), rank).T)
            self.owlora_s[adapter_name].zero_()

    @torch.no_grad()
    def retract(self, adapter_name: str) -> None:
        """After an optimizer step: put A and B back, orthonormal, into the free space."""
        a, b = self.owlora_A[adapter_name], self.owlora_B[adapter_name]
        if adapter_name not in self._taken:
            self._taken[adapter_name] = (self.taken_in(adapter_name).to(a.device), self.taken_out(adapter_name).to(b.device))
        taken_in, taken_out = self._taken[adapter_name]
        a.copy_(subspace.retract_rows(a, taken_in))
        b.copy_(subspace.retract_rows(b.T, taken_out).T)

    def taken_in(self, before: str | None = None) -> Tensor:
        """Basis (in, k) of the protected input directions and of the adapters made before ``before`` (default: all)."""
        return _with_earlier(self.protected_in, [self.owlora_A[name].detach().T for name in self._earlier(before)])

    def taken_out(self, before: str | None = None) -> Tensor:
        """Basis (out, k) of the protected output directions and, under ``weights``, of the earlier adapters' B."""
        if not self._both_sides:
            return self.protected_out
        return _with_earlier(self.protected_out, [self.owlora_B[name].detach() for name in self._earlier(before)])

    def check_room(self, rank: int, *, layer: str, before: str | None = None) -> None:
        """Raise :class:`CapacityError` unless ``rank`` free directions are left on both sides."""
        left_in = self.in_features - self.taken_in(before).shape[1]
        left_out = self.out_features - self.taken_out(before).shape[1]
        if min(left_in, left_out) < rank:
            raise CapacityError(
                f"{layer}: {min(left_in, left_out)} free directions are left for an adapter of rank {rank}",
                "lower strategy.rank or strategy.energy, or declare more strategy.tasks in a new run",
            )

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """B diag(s) A (out, in)."""
        change: Tensor = (self.owlora_B[adapter_name] * self.owlora_s[adapter_name]) @ self.owlora_A[adapter_name]
        return change

    def _earlier(self, before: str | None) -> list[str]:
        names = list(self.owlora_r)
        return names[: names.index(before)] if before in names else names


class OWLoraLinear(nn.Module, OWLoraLayer):
    """``y = W0 x + b + sum_t B_t (s_t * (A_t x))`` over the active adapters."""

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: OWLoraConfig) -> None:
        super().__init__()
        OWLoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (..., in) -> (..., out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        names = [name for name in self.active_adapters if name in self.owlora_r]
        if not names:
            return result
        down = torch.cat([self.owlora_A[name] for name in names])
        up = torch.cat([self.owlora_B[name] * self.owlora_s[name] for name in names], dim=1)
        return result + (x @ down.T.to(x.dtype)) @ up.T.to(x.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters to the base weight; ``safe_merge`` refuses a result that is not finite."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.owlora_r:
                continue
            merged = self.base_layer.weight.data + self.get_delta_weight(name).to(self.base_layer.weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"adapter '{name}' holds values that are not finite; it was not merged")
            self.base_layer.weight.data = merged
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Subtract the merged adapters from the base weight again."""
        if not self.merged:
            warnings.warn("no adapter is merged", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            self.base_layer.weight.data -= self.get_delta_weight(name).to(self.base_layer.weight.dtype)

    def __repr__(self) -> str:
        return f"owlora.{super().__repr__()}"


def _with_earlier(basis: Tensor, earlier: list[Tensor]) -> Tensor:
    for columns in earlier:
        basis = subspace.extend(basis, columns.to(basis.device))
    return basis
