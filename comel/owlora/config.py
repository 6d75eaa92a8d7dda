"""The configuration of an OWLoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft.config import PeftConfig
from peft.utils import PeftType


@dataclass
class OWLoraConfig(PeftConfig):
    """Configuration of an orthogonal weighted low-rank adapter: ``W = W0 + sum_t B_t diag(s_t) A_t``.

    Args:
        r: rank, the number of new directions a task takes in each layer.
        target_modules: names of the linear layers to adapt, or a regular expression.
        basis: what is protected. ``weights``: leading singular directions of W0 on both sides. ``features``: leading
            directions of each layer's inputs over the old tasks, provided by
            :meth:`comel.owlora.OWLoraModel.protect`; only the input side is constrained.
        energy: share of the squared spectrum that the protected directions must hold.
        tasks: declared number of adapters; the protected subspace is cut so that this many of rank ``r`` fit.
    """

    r: int = field(default=16, metadata={"help": "Rank: new directions a task takes in each layer."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names of the linear layers to adapt, or a regular expression."}
    )
    basis: str = field(default="weights", metadata={"help": "What is protected: 'weights' or 'features'."})
    energy: float = field(default=0.95, metadata={"help": "Share of the squared spectrum that is protected, 0 to 1."})
    tasks: int = field(default=8, metadata={"help": "Declared number of adapters for which room is kept."})

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]  # peft leaves it without types
        self.peft_type = PeftType.OWLORA  # type: ignore[attr-defined]
        if self.basis not in ("weights", "features"):
            raise ValueError(f"basis is '{self.basis}'; choose 'weights' or 'features'")
        if self.r < 1 or self.tasks < 1:
            raise ValueError(f"r is {self.r} and tasks is {self.tasks}; both must be at least 1")
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy is {self.energy}; give a share above 0 and up to 1")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
