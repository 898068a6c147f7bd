"""Files of weights: reading and writing them safely, and whether they fit a model."""
