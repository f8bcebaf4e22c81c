"""Runs of several workers: what they share, how they find each other, and their launcher.

A run of one process imports nothing of this; `training.compute.open_compute` is the door.
"""
