"""The protocol `people`: lists of pictures, their scores, and pairs that a preset draws."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import tiny
from consistentid.adapter.identity import Identity
from consistentid.cli import main
from consistentid.errors import ArgumentError, InputError, NoFaceError
from consistentid.evaluation.groups import (
    ALONE,
    LIST,
    METHODS,
    REAL,
    Group,
    make_pairs,
    read_list,
    report,
    score_groups,
    write_list,
)
from consistentid.evaluation.people import TEST, VALIDATION
from consistentid.files.images import load_image
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Group]:
    """Two faces in their places, one face where two were asked for, and a picture that was never made."""
    ada, tom = tmp_path / "ada.png", tmp_path / "tom.png"
    tiny.portrait().save(ada)
    tiny.portrait(9).save(tom)
    tiny.draw((34, 50), (94, 60), mouth=9)[0].save(tmp_path / "two.png")
    tiny.draw((34, 50))[0].save(tmp_path / "one.png")
    groups = [
        Group(tmp_path / "two.png", (ada, tom), (LEFT, RIGHT), "two friends", "ours"),
        Group(tmp_path / "one.png", (ada, tom), (LEFT, RIGHT), "two friends", "ours"),
        Group(None, (ada, tom), (), "two friends", "theirs"),
    ]
    write_list(tmp_path / LIST, groups)
    return groups


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="consistentid")


def test_lists_are_read_as_written(pictures: list[Group], tmp_path: Path) -> None:
    assert read_list(tmp_path / LIST) == pictures
    assert "ada.png;tom.png" in (tmp_path / LIST).read_text(), "paths are relative"


def test_scores_and_failures(pictures: list[Group]) -> None:
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    (two, one, none), threshold = score_groups(pictures, studio.analyzer)
    assert math.isnan(threshold), "two people are no hundred pairs of impostors"
    assert [x.right_number for x in (two, one, none)] == [1, 0, 0]
    assert two.similarity > one.similarity > none.similarity == 0
    assert one.least == 0
    assert two.swapped in (0, 1)
    assert math.isnan(none.swapped), "it was asked for no places"
    picture = pictures[0].picture
    assert picture is not None
    blank = picture.with_name("blank.png")
    tiny.Image.new("RGB", (64, 64), "white").save(blank)
    with pytest.raises(NoFaceError, match=r"blank\.png: shows no face"):
        score_groups([Group(picture, (blank,))], studio.analyzer)


def test_any_tool_s_pictures_by_the_command(pictures: list[Group], tmp_path: Path) -> None:
    judge = ["--judge", tiny.preset() / "recogniser.onnx"]
    line = ["evaluate", "--protocol", "people", "--preset", tiny.preset(), *judge, "--conditioned-judge"]
    refused = run(*line[:-1], "--manifest", tmp_path / LIST, "--out", tmp_path / "report")
    assert refused.exit_code == 2
    assert "is the recogniser that conditioned the model" in refused.stderr
    done = run(*line, "--manifest", tmp_path / LIST, "--out", tmp_path / "report", "--json")
    assert done.exit_code == 0, done.output
    methods = json.loads(done.stdout)["methods"]
    assert methods["ours"]["right_number"]["value"] == 0.5
    assert methods["theirs"]["similarity"]["value"] == 0
    assert "| ours | 2 |" in (tmp_path / "report" / "people.md").read_text()


def test_copies_and_bystanders_of_pictures(tmp_path: Path) -> None:
    """A bystander who stays, one whose face is another's, and a face that is the very picture that was given."""
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    ada, other = tmp_path / "ada.png", tmp_path / "other.png"
    tiny.portrait().save(ada)
    tiny.portrait(9).save(other)
    two = tiny.draw((34, 50), (94, 60))[0]
    two.save(tmp_path / "before.png")
    changed = two.copy()
    changed.paste(tiny.draw((34, 50), (94, 60), mouth=20)[0].crop((64, 0, 128, 128)), (64, 0))
    changed.save(tmp_path / "changed.png")
    tiny.portrait().save(tmp_path / "copied.png")
    person = {"people": (ada,), "regions": (LEFT,), "method": "m"}
    groups = [
        Group(tmp_path / "before.png", **person, before=tmp_path / "before.png"),
        Group(tmp_path / "changed.png", **person, before=tmp_path / "before.png"),
        Group(None, **person, before=tmp_path / "before.png"),
        Group(tmp_path / "copied.png", (ada,), method="m", others=((other,),)),
        Group(tmp_path / "copied.png", (ada,), method="m", others=((ada,),)),
        Group(tmp_path / "copied.png", (ada,), method="m"),
    ]
    write_list(tmp_path / LIST, groups)
    assert read_list(tmp_path / LIST) == groups
    stays, changes, none, copied, same, unknown = score_groups(groups, studio.analyzer)[0]
    assert abs(stays.bystander_change) < 1e-6
    assert changes.bystander_change > 1e-3
    assert math.isnan(none.bystander_change), "what was never made changes nobody"
    assert math.isnan(copied.bystander_change)
    assert copied.copy_paste > 1e-3
    assert abs(same.copy_paste) < 1e-6
    assert math.isnan(unknown.copy_paste)
    table = report(groups, [stays, changes, none, copied, same, unknown], math.nan, "judge", tmp_path)
    assert table["methods"]["m"]["bystander_change"]["pictures"] == 2
    assert " - |" in (tmp_path / "people.md").read_text(), "what is not known is no number"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the columns picture, people; see docs/several-people.md"),
        ("picture,people\n", "lists no pictures"),
        ("picture,people,region\n,ada.png,\n", "has unknown columns region; known are picture, people, regions"),
        ("picture,people\n,nobody.png\n", r"line 2: .*nobody\.png does not exist"),
        ("picture,people\n,\n", "0 people and 0 regions do not fit"),
        ("picture,people,regions\n,ada.png,left\n", "regions='left' are no numbers"),
        ('picture,people,regions\n,ada.png,"0,0,1,1;0,0,1,1"\n', "1 people and 2 regions do not fit"),
        ("picture,people,others\n,ada.png,ada.png;tom.png\n", "1 people and others of 2 do not fit"),
        ("picture,people,others\n,ada.png,gone.png\n", r"gone\.png does not exist"),
        ("picture,people,before\n,ada.png,ada.png\n", "before needs regions"),
        ('picture,people,regions,before\n,ada.png,"0,0,1,1",gone.png\n', r"gone\.png does not exist"),
        ('picture,people,regions\n,ada.png,"0,0,nan,1"\n', r"line 2: regions\[0\]"),
        ('picture,people,regions\n,ada.png,"0,0,0,1"\n', r"line 2: regions\[0\]"),
    ],
)
def test_bad_lists_are_named(pictures: list[Group], tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_list(tmp_path / "bad.csv")
    with pytest.raises(InputError, match=r"missing\.csv: no such file"):
        read_list(tmp_path / "missing.csv")


@pytest.mark.slow
def test_pairs_are_drawn_and_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    who = studio.identify(tiny.portrait())
    asked: list[int] = []
    # tiny networks find no face in these drawings
    monkeypatch.setattr(studio, "identify", lambda *_: who)
    generate = studio.generate
    monkeypatch.setattr(studio, "generate", lambda request: asked.append(len(request.people)) or generate(request))
    made = make_pairs(studio, tmp_path, 1, ["two friends"])
    assert [group.method for group in made] == [*METHODS, REAL, ALONE, ALONE]
    assert asked == [2, 2, 2, 1, 1], "nobody draws the real ones"
    assert read_list(tmp_path / LIST) == made
    assert {load_image(group.picture).size for group in made if group.picture} == {(96, 64)}
    assert made[0].picture is not None
    made[0].picture.unlink()
    asked.clear()
    assert make_pairs(studio, tmp_path, 1, ["two friends"]) == made
    assert asked == [2]
    with pytest.raises(ArgumentError, match="repair needs the likeness"):
        studio.sample(Request([who], "somebody", repair=True))
    other = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", scale=0.5)
    with pytest.raises(InputError, match="settings"):
        make_pairs(other, tmp_path, 1, ["two friends"])
    with pytest.raises(InputError, match="drawings"):
        make_pairs(studio, tmp_path, 1, ["two friends"], split=VALIDATION)


def test_people_to_choose_by_are_others_than_those_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    who = studio.identify(tiny.portrait())
    made = studio.generate(Request([who], "somebody"))
    monkeypatch.setattr(studio, "identify", lambda *_: who)
    monkeypatch.setattr(studio, "generate", lambda _: made)  # what is drawn of them is no matter here
    test, other = (make_pairs(studio, tmp_path / x, 1, ["two friends"], split=x) for x in (TEST, VALIDATION))
    assert {path.parent.name for group in other for path in group.people} == {"validation-00000", "validation-00001"}
    assert [group.method for group in test] == [group.method for group in other]
    for one, another in zip(test, other, strict=True):
        assert all(a.read_bytes() != b.read_bytes() for a, b in zip(one.people, another.people, strict=True))
        assert one.picture
        assert another.picture
        assert (one.picture.read_bytes() != another.picture.read_bytes()) == (one.method == REAL)


def test_pairs_with_somebody_who_is_refused_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    who = studio.identify(tiny.portrait())

    def identify(reference: Path) -> Identity:
        if reference.parent.name == "test-00000":
            raise NoFaceError(f"{reference}: shows no face")
        return who

    monkeypatch.setattr(studio, "identify", identify)
    made = make_pairs(studio, tmp_path, 1, ["two friends"])
    assert [group.method for group in made if group.picture] == [ALONE], "of the other person"
    assert read_list(tmp_path / LIST) == made
    with pytest.raises(InputError, match="none of the pictures exists"):
        score_groups(made[:-1], studio.analyzer)
    face, ada = tmp_path / "face.png", tmp_path / "ada.png"
    for file in (face, ada):
        tiny.portrait().save(file)
    (whole, *refused), _ = score_groups([Group(face, (ada,)), *made[:-1]], studio.analyzer)
    assert whole.similarity == pytest.approx(1, abs=1e-5)
    assert {(x.similarity, x.right_number) for x in refused} == {(0, 0)}


def test_what_the_protocol_does_not_have_is_refused(tmp_path: Path) -> None:
    for option in (["--variant", "full"], ["--ablate", "scale"], ["--seeds", "2"], ["--dino", "x"]):
        done = run("evaluate", "--protocol", "people", *option, "--out", tmp_path)
        assert (done.exit_code, f"{option[0]}: the protocol 'people' has no such thing" in done.stderr) == (2, True)
