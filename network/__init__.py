"""Symbols and parameters: cutting, building, saving and running networks."""
