"""Drawn portraits: people, scenes, and the pictures, parsing labels, landmarks and captions of them.

A *person* is a row of traits that never change (shape of the face, eyes, hair, ...); a *scene* is everything else
(pose, expression, clothes, hat, background, light, drawing style). The same person in other scenes, with the truth
known for every pixel, is what training and measuring identity preservation need.
"""

from consistentid.drawn.portraits.captions import describe
from consistentid.drawn.portraits.draw import Portraits, draw, locate
from consistentid.drawn.portraits.people import SPLITS, People, sample_people
from consistentid.drawn.portraits.scenes import Scenes, sample_scenes
from consistentid.faces.caption import Caption

__all__ = [
    "SPLITS",
    "Caption",
    "People",
    "Portraits",
    "Scenes",
    "describe",
    "draw",
    "locate",
    "sample_people",
    "sample_scenes",
]
