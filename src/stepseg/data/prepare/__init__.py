"""Obtaining data sets: download, unpack, convert, verify."""

from stepseg.data.prepare.recipes import RECIPES, Options, PrepareError, prepare

__all__ = ["RECIPES", "Options", "PrepareError", "prepare"]
