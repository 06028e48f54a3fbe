"""Drawn portraits: people, scenes, and the pictures, parsing labels, landmarks and captions of them.

A *person* is a row of traits that never change (shape of the face, eyes, hair, ...); a *scene* is everything else
(pose, expression, clothes, hat, background, light, drawing style). The same person in other scenes, with the truth
known for every pixel, is what training and measuring identity preservation need.
"""

from consistentid.drawn.portraits.captions import GroupCaption, describe, describe_group
from consistentid.drawn.portraits.draw import WORLD, GroupPortraits, Portraits, draw, draw_groups, locate, locate_groups
from consistentid.drawn.portraits.groups import Groups, sample_groups, with_company
from consistentid.drawn.portraits.people import PART_TRAITS, SPLITS, People, sample_people, with_parts_of
from consistentid.drawn.portraits.scenes import Scenes, sample_scenes
from consistentid.faces.caption import Caption

__all__ = [
    "PART_TRAITS",
    "SPLITS",
    "WORLD",
    "Caption",
    "GroupCaption",
    "GroupPortraits",
    "Groups",
    "People",
    "Portraits",
    "Scenes",
    "describe",
    "describe_group",
    "draw",
    "draw_groups",
    "locate",
    "locate_groups",
    "sample_groups",
    "sample_people",
    "sample_scenes",
    "with_company",
    "with_parts_of",
]
