"""How a finished model is carried out at inference; the method itself knows none of it."""
