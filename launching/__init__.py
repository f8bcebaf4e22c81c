"""Processes of a distributed run, on one machine or several; used by tools/launch.py."""
