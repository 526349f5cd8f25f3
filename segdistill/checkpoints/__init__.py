"""Files of weights: the model to ship, the state of a training, the names in published files."""
