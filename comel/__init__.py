"""CoMEL: continual multiple instance learning on whole-slide images."""
