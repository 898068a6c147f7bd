"""A policy for a finished model, learned from the model's own label maps of unlabelled images."""
