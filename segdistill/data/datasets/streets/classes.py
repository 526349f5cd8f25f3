"""Classes of the streets, with their indices and their colors."""

CLASSES = ("road", "sidewalk", "building", "pole", "vegetation", "sky", "person", "car")
"""A pole may carry a sign or lamps, and vegetation is trees and grass."""
ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, SKY, PERSON, CAR = range(8)
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (153, 153, 153),
    (107, 142, 35), (70, 130, 180), (220, 20, 60), (0, 0, 142),
)  # fmt: skip
"""Cityscapes' colors."""
