"""Plots of a report: each is made when its data are there."""
