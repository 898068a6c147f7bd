"""Accuracy over a whole data set, and where the tokens went."""
