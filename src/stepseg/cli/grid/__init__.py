"""Grids of evaluations: points, the walk over them, what is kept, the table."""
