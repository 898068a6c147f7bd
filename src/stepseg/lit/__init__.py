"""Lightning modules: thin shells around the core."""
