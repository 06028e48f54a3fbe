"""Measures of several people: each says what it is to say on a picture whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from consistentid.evaluation.together import bystander_change, measure, summary

RIGHT = np.array([[0.9, 0.1], [0.2, 0.7]])  # two people, two faces in their order


def test_both_people_in_place() -> None:
    seen = measure(RIGHT, 2, 0.5, [0, 1])
    assert seen.right_number == 1
    assert seen.similarity == pytest.approx(0.8)
    assert seen.least == pytest.approx(0.7)
    assert seen.elsewhere == pytest.approx(0.15)
    assert seen.swapped == 0
    assert seen.confused == 0
    assert seen.verified == 1
    assert measure(RIGHT, 2, 0.8, [0, 1]).verified == 0, "both must be accepted"


def test_exchanged_people_are_a_swap_and_still_matched() -> None:
    seen = measure(RIGHT[:, ::-1], 2, 0.5, [0, 1])
    assert seen.swapped == 1
    assert seen.similarity == pytest.approx(0.8)
    assert math.isnan(measure(RIGHT, 2, 0.5).swapped), "without places nobody can be in the wrong one"


def test_a_missing_face_counts_against_the_picture() -> None:
    seen = measure(RIGHT[:, :1], 1, 0.5, [0, None])
    assert seen.right_number == 0
    assert seen.similarity == pytest.approx(0.45)
    assert seen.least == 0
    assert seen.verified == 0
    assert seen.confused == 0.5
    assert seen.swapped == 0
    nobody = measure(np.zeros((2, 0)), 0, 0.5, [None, None])
    assert (nobody.similarity, nobody.verified, nobody.confused) == (0, 0, 1)
    assert math.isnan(nobody.elsewhere)


def test_one_face_for_two_people_is_confusion() -> None:
    blended = np.array([[0.6, 0.6], [0.7, 0.65]])
    assert measure(blended, 2, 0.5, [0, 1]).confused == 0.5, "the first person's face is more like the second"


def test_more_faces_than_people() -> None:
    seen = measure(np.array([[0.1, 0.9, 0.2], [0.8, 0.1, 0.0]]), 3, 0.5)
    assert seen.right_number == 0
    assert seen.verified == 1
    assert seen.similarity == pytest.approx(0.85)


def test_an_unknown_threshold_verifies_nothing() -> None:
    assert math.isnan(measure(RIGHT, 2, float("nan")).verified)


def test_bystanders() -> None:
    one, other = np.eye(2)
    assert bystander_change(np.array([one]), np.array([other, one])) == 0
    assert bystander_change(np.array([one, other]), np.array([one])) == pytest.approx(0.5)
    assert bystander_change(np.array([one]), np.zeros((0, 2))) == 1
    assert math.isnan(bystander_change(np.zeros((0, 2)), np.array([one])))


def test_bystanders_and_copies_of_a_picture() -> None:
    assert math.isnan(measure(RIGHT, 2, 0.5).copy_paste)
    assert math.isnan(measure(RIGHT, 2, 0.5).bystander_change)
    others = np.array([[0.7, 0.1], [0.2, 0.6]])
    assert measure(RIGHT, 2, 0.5, others=others).copy_paste == pytest.approx((0.2 + 0.1) / 2)
    assert measure(RIGHT[:, ::-1], 2, 0.5, others=others[:, ::-1]).copy_paste == pytest.approx(0.15), "own faces count"
    one_known = np.array([[0.7, 0.1], [np.nan, np.nan]])
    assert measure(RIGHT, 2, 0.5, others=one_known).copy_paste == pytest.approx(0.2)
    assert math.isnan(measure(np.zeros((2, 0)), 0, 0.5, others=np.zeros((2, 0))).copy_paste)

    ada, tom, bystander = np.eye(3)
    before = np.array([bystander])
    alike = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    kept = measure(alike, 3, 0.5, bystanders=(before, np.array([ada, bystander, tom])))
    assert kept.bystander_change == 0
    changed = np.array([0.0, 0.6, 0.8])
    assert measure(alike, 3, 0.5, bystanders=(before, np.array([ada, changed, tom]))).bystander_change == (
        pytest.approx(0.2)
    )
    # a person's own face is no bystander, however much it is like one
    gone = measure(np.array([[1.0, 0.0], [0.0, 1.0]]), 2, 0.5, bystanders=(before, np.array([ada, bystander])))
    assert gone.bystander_change == 1


def test_intervals_are_over_pairs() -> None:
    good, bad = measure(RIGHT, 2, 0.5, [0, 1]), measure(RIGHT[:, ::-1], 2, 0.5, [0, 1])
    found = summary([good, good, bad, bad], np.array(["ada+tom"] * 2 + ["bea+cem"] * 2))
    assert found["swapped"].value == 0.5
    assert (found["swapped"].low, found["swapped"].high) == (0, 1)
    assert found["swapped"].people == 2
    assert found["similarity"].value == pytest.approx(0.8)
