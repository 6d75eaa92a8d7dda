"""The PEFT tuner model: inserts OWLoRA layers into a network and controls them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from comel.owlora.config import OWLoraConfig
from comel.owlora.layer import OWLoraLayer, OWLoraLinear


class OWLoraModel(BaseTuner):
    """A network whose chosen linear layers carry orthogonal weighted low-rank adapters.

    Several adapters are active at once: ``set_adapter([...])``. PEFT then makes all of them trainable; the caller freezes
    the old ones and builds the optimizer after that.
    """

    prefix: str = "owlora_"
    tuner_layer_cls = OWLoraLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: OWLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        if isinstance(target, OWLoraLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, nn.Linear):
            raise TypeError(f"{current_key} is {type(target).__name__}; OWLoRA adapts torch.nn.Linear only")
        self._replace_module(parent, target_name, OWLoraLinear(target, adapter_name, peft_config), target)

    def adapted_layers(self) -> Iterator[tuple[str, OWLoraLayer]]:
        """Name and layer of every adapted layer, in the network's order."""
        for name, module in self.model.named_modules():
            if isinstance(module, OWLoraLayer):
                yield name, module

    def protect(self, bases: Mapping[str, Tensor], adapter_name: str | None = None) -> None:
        """Set the protected input bases (in, k) by layer name.

        Args:
            bases: one orthonormal basis per layer.
            adapter_name: redraw this adapter outside them.

        Raises:
            CapacityError: a layer has too few free directions left for the adapter.
        """
        for name, layer in self.adapted_layers():
            layer.protected_in = bases[name].double()
            if adapter_name is not None:
                layer.check_room(layer.owlora_r[adapter_name], layer=name, before=adapter_name)
                layer.reset_adapter(adapter_name)

    def retract(self, adapter_name: str) -> None:
        """After an optimizer step: put the adapter's A and B back, orthonormal, into the free space of every layer."""
        for _, layer in self.adapted_layers():
            layer.retract(adapter_name)

    def capacity(self) -> dict[str, dict[str, int]]:
        """Directions per layer: on the input side ``in``, ``protected`` and ``free``, and ``free_out`` on the output side."""
        return {
            name: {
                "in": layer.in_features,
                "protected": int(layer.protected_in.shape[1]),
                "free": layer.in_features - int(layer.taken_in().shape[1]),
                "free_out": layer.out_features - int(layer.taken_out().shape[1]),
            }
            for name, layer in self.adapted_layers()
        }
