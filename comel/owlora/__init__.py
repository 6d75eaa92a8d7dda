"""OWLoRA: orthogonal weighted low-rank adapters, as a PEFT tuner.

Importing this package registers the tuner, so that plain ``PeftModel.from_pretrained`` opens its adapters. PEFT's list of
methods is a closed enumeration; a tuner from outside adds its own member before it registers.
"""

from peft.utils import PeftType, register_peft_method


def _add_peft_type(name: str) -> None:
    """Add a member to PEFT's closed enumeration of methods."""
    if name in PeftType._member_map_:
        return
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    setattr(PeftType, name, member)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)


_add_peft_type("OWLORA")

from comel.owlora.config import OWLoraConfig  # noqa: E402
from comel.owlora.layer import OWLoraLayer, OWLoraLinear  # noqa: E402
from comel.owlora.model import OWLoraModel  # noqa: E402

register_peft_method(name="owlora", config_cls=OWLoraConfig, model_cls=OWLoraModel)

__all__ = ["OWLoraConfig", "OWLoraLayer", "OWLoraLinear", "OWLoraModel"]
