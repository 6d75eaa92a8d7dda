"""Pure tensors: the layers and losses that models are made of. Nothing here knows a bag file."""
