"""Distil heavy semantic-segmentation networks into students that run in real time, and prove that they do."""

__version__ = "0.1.0"
