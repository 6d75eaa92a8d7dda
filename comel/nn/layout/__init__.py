"""Where the instances of a batch of bags lie to each other, and the operations that mixers build on this."""
