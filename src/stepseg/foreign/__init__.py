"""Finished models of other projects, as configuration and weights of this one."""
