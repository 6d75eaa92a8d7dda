"""What follows the mixer in a block, by name: ``gelu`` is the block's own; the others are one file each."""
