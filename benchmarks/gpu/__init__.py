"""The GPU script and its sections; `run_all.py` runs them."""
