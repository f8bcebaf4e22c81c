"""Runs of several workers, and their launcher; a run of one process imports nothing of this."""
