"""The command line as users and scripts meet it: results, one line for every fault, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import tiny
from consistentid.adapter.identity import Identity
from consistentid.cli import main
from consistentid.files.output import read_record
from consistentid.files.weights import fingerprint

PROGRAM = [sys.executable, "-m", "consistentid"]


@pytest.fixture(scope="module")
def preset() -> Path:
    return tiny.preset()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "ada.png"
    tiny.portrait().save(path)
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="consistentid")


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    """An RGB PNG of that bit depth, from its unfiltered rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------------------- results


def test_generate_writes_marked_pictures_and_tells_their_likeness(preset: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    args = ["generate", photo, "--prompt", "a woman in a red hat", "--preset", preset, "--out", out, "--seed", 7]
    result = run(*args, "--num", 3, "--steps", 3, "--part", "eyes=green eyes", "--negative-prompt", "blurry")
    assert result.exit_code == 0, result.stderr
    names = ["portrait-7.png", "portrait-8.png", "portrait-9.png"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "results.json", "sheet.png"]
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(out / name) for name in [*names, "sheet.png"]]
    assert all("likeness " in line or "no face found" in line for line in lines[:3])
    assert "/9 [" not in result.stderr, "a bar is drawn for who watches, and stderr is no terminal"

    record = read_record(out / names[1])
    expected = {"prompt": "a woman in a red hat", "negative_prompt": "blurry", "seed": 8, "steps": 3, "preset": "tiny"}
    expected |= {"guidance_scale": 5.0, "scale": 1.0, "merge_at": 0.25, "width": 64, "height": 64, "ai_generated": True}
    assert {key: record[key] for key in expected} == expected
    assert record["parts"] == {"eyes": "green eyes"}
    assert record["versions"]["consistentid"]
    results = json.loads((out / "results.json").read_text())
    assert [picture["seed"] for picture in results["pictures"]] == [7, 8, 9]
    assert results["pictures"][1]["likeness"] == record["likeness"]
    assert read_record(out / "sheet.png")["prompt"] == "a woman in a red hat"

    before = {path: path.read_bytes() for path in out.iterdir()}
    again = run(*args, "--num", 1, "--no-sheet", "--json")
    assert again.exit_code == 0, again.stderr
    document = json.loads(again.stdout)
    assert document["pictures"][0]["file"] == str(out / "portrait-7-2.png")
    assert "sheet" not in document
    assert all(path.read_bytes() == content for path, content in before.items()), "something was overwritten"
    assert sorted(path.name for path in set(out.iterdir()) - set(before)) == ["portrait-7-2.png", "results-2.json"]


def test_several_people_each_in_their_place(preset: Path, photo: Path, tmp_path: Path) -> None:
    tiny.portrait(9).save(tmp_path / "tom.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    mask.save(tmp_path / "right.png")
    people = ["--person", f"{photo}@0,0,0.5,1", "--person", f"{tmp_path / 'tom.png'}@{tmp_path / 'right.png'}"]
    words = ["--person-prompt", "a woman", "--person-prompt", "a man", "--part", "2:eyes=green eyes",
             "--part-scale", "2:nose=0.5"]  # fmt: skip
    done = run(
        "generate", *people, *words, "--prompt", "two friends", "--num", 1, "--seed", 3, "--preset", preset,
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert results["person_prompts"] == ["a woman", "a man"]
    assert results["parts"] == [{}, {"eyes": "green eyes"}]
    assert results["part_scales"] == [{}, {"nose": 0.5}]
    (ada, tom) = results["pictures"][0]["people"]
    assert ada["region"] == [0, 0, 0.5, 1]
    assert isinstance(tom["region"], str)
    assert {"likeness"} <= set(ada)


def test_repair_leaves_all_but_the_face_as_it_was(preset: Path, photo: Path, tmp_path: Path) -> None:
    tiny.draw((34, 50))[0].save(tmp_path / "party.png")
    tiny.portrait(9).save(tmp_path / "tom.png")
    line = ["repair", tmp_path / "party.png", "--person", tmp_path / "tom.png", "--preset", preset, "--seed", 3]
    idle = run(*line, "--out", tmp_path / "idle")
    assert idle.exit_code == 0, idle.output
    assert "no face is small enough to be drawn anew" in idle.output
    done = run(*line, "--below", 1, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    (picture,) = json.loads(done.stdout)["pictures"]
    (repaired,) = picture["repairs"]
    before, after = (np.asarray(Image.open(x).convert("RGB")) for x in (tmp_path / "party.png", picture["file"]))
    left, top, right, bottom = repaired["box"]
    reach = 2 * (bottom - top)
    changed = (before != after).any(-1).nonzero()
    assert bool(len(changed[0])) == repaired["kept"]
    assert all(top - reach <= y <= bottom + reach for y in changed[0])
    assert all(left - reach <= x <= right + reach for x in changed[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x"], "give either REFERENCE photos of one person, or --person"),
        (
            ["{photo}", "--person", "{photo}", "--prompt", "x"],
            "give either REFERENCE photos of one person, or --person",
        ),
        (["--person", "{photo}@0,0,0.5", "--prompt", "x"], "is not of the form FILE@LEFT,TOP,RIGHT,BOTTOM"),
        (["--person", "{photo}@0,0,2,1", "--prompt", "x"], "--person[0]=(0, 0, 2, 1) lies outside the picture"),
        (
            ["--person", "{photo}@0,0,1,1", "--person", "{photo}", "--prompt", "x"],
            "has no place and another --person has",
        ),
        (["--person", "{photo}@nowhere.png", "--prompt", "x"], "nowhere.png"),
        (
            ["--person", "{photo}", "--person-prompt", "a", "--person-prompt", "b", "--prompt", "x"],
            "2 --person-prompt for 1",
        ),
        (["--person", "{photo}@0,0,1,1", "--person", "{photo}@0,0,1,1", "--prompt", "x"], "overlapped entirely"),
        (["{photo}", "--prompt", "x", "--repair-below", "0.5"], "--repair-below says which faces --repair draws anew"),
    ],
)
def test_bad_people(preset: Path, photo: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    line = [argument.replace("{photo}", str(photo)) for argument in arguments]
    done = run("generate", *line, "--preset", preset, "--out", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_saved_identity_takes_the_place_of_photos(preset: Path, photo: Path, tmp_path: Path) -> None:
    who, seen = tmp_path / "who.safetensors", tmp_path / "seen.png"
    saved = run("identify", photo, "--out", who, "--show", seen, "--preset", preset, "--json")
    assert saved.exit_code == 0, saved.stderr
    document = json.loads(saved.stdout)
    assert document["file"] == str(who)
    assert document["parts"] == ["face", "eyes", "ears", "nose", "mouth"]
    with Image.open(seen) as shown:
        assert np.abs(np.asarray(shown.crop((0, 0, 128, 128)), int) - np.asarray(tiny.portrait(), int)).max() > 50
    arguments = ["--prompt", "a man", "--preset", preset, "--seed", 1, "--num", 1, "--json", "--no-sheet", "--out"]
    pictures = []
    for reference in (photo, who):
        result = run("generate", reference, *arguments, tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        pictures.append(np.asarray(Image.open(json.loads(result.stdout)["pictures"][0]["file"]), int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 8, "features are stored in half precision"

    content = who.read_bytes()
    refused = run("identify", photo, "--out", who, "--preset", preset)
    assert refused.exit_code == 2
    assert refused.stderr == f"error: {who}: is there already; choose another name or give --force to overwrite it\n"
    assert who.read_bytes() == content
    assert run("identify", photo, "--out", who, "--preset", preset, "--force").exit_code == 0


def test_the_person_is_put_into_a_picture(preset: Path, photo: Path, tmp_path: Path) -> None:
    party, mask = tiny.draw((60, 60), size=(160, 128))[0], Image.new("L", (160, 128), 0)
    mask.paste(255, (30, 20, 90, 100))
    party.save(tmp_path / "party.png")
    mask.save(tmp_path / "mask.png")
    out = tmp_path / "out"
    result = run(
        "generate", photo, "--prompt", "a woman", "--preset", preset, "--num", 1, "--seed", 1, "--json", "--out", out,
        "--image", tmp_path / "party.png", "--mask", tmp_path / "mask.png", "--strength", 1, "--scheduler", "lcm",
        "--steps", 2, "--low-memory",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    picture = np.asarray(Image.open(document["pictures"][0]["file"]))
    outside = np.asarray(mask) == 0
    assert np.array_equal(picture[outside], np.asarray(party)[outside])
    assert not np.array_equal(picture[~outside], np.asarray(party)[~outside])
    assert document["pictures"][0]["likeness"] is None or document["pictures"][0]["likeness"] < 0.9
    expected = {"image": str(tmp_path / "party.png"), "mask": str(tmp_path / "mask.png"), "strength": 1.0}
    expected |= {"scheduler": "lcm", "guidance_scale": 1.0, "steps": 2}
    assert {key: document[key] for key in expected} == expected
    assert "control_scale" not in document
    [made] = document["pictures"]
    assert str(tmp_path).encode() not in Path(made["file"]).read_bytes(), "paths stay out of pictures"
    record = read_record(made["file"])
    assert set(record["given"]) == {"image", "mask"}
    assert record["base"] == fingerprint(preset / "base")
    assert record["adapter"] == fingerprint(preset / "adapter")


def test_unusual_pictures_work(preset: Path, tmp_path: Path) -> None:
    """CMYK, palette, animated, EXIF-rotated, 16-bit and transparent ones: all of one person, who is found in each."""
    picture = tiny.portrait()
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    picture.quantize(64).save(tmp_path / "palette.png")
    picture.save(tmp_path / "moving.png", save_all=True, append_images=[Image.new("RGB", (128, 128))])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    deep = (np.asarray(picture).astype(">u2") * 257).reshape(128, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    (tmp_path / "deep.png").write_bytes(png(128, 128, 16, rows))
    picture.convert("RGBA").save(tmp_path / "alpha.webp", lossless=True)
    names = ["cmyk.tif", "palette.png", "moving.png", "turned.png", "deep.png", "alpha.webp"]
    seen = tmp_path / "seen.png"
    out = tmp_path / "who.safetensors"
    result = run("identify", *(tmp_path / name for name in names), "--out", out, "--preset", preset, "--show", seen)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith(f"{out}  parts seen: face, eyes, ears, nose, mouth\n")
    assert Identity.load(out).visible_parts == ("face", "eyes", "ears", "nose", "mouth")
    assert Image.open(seen).width > 3 * 128


def test_a_sentence_that_does_not_fit_is_said(preset: Path, photo: Path, tmp_path: Path) -> None:
    result = run(
        "generate", photo, "--prompt", "a man", "--face-text", "The person has a nose, " + "very " * 99 + "long",
        "--preset", preset, "--num", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert "cut" in notes[0]


def test_what_is_doubtful_is_said_once(preset: Path, photo: Path, tmp_path: Path) -> None:
    """An identity is compared with the adapter before the base is loaded, and by the adapter again."""
    other = tmp_path / "preset"
    shutil.copytree(preset, other)
    spec = other / "adapter/config.json"
    content = json.loads(spec.read_text())
    content["networks"]["image_encoder"] = "CLIP-of-others"
    spec.write_text(json.dumps(content))
    result = run("generate", photo, "--prompt", "a man", "--preset", other, "--num", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("expected CLIP-of-others") == 1


def test_doctor(preset: Path, tmp_path: Path) -> None:
    result = run("doctor", "--preset", preset)
    assert result.exit_code == 0, result.output
    assert "no problems found" in result.stdout
    assert "recogniser     present" in result.stdout
    document = json.loads(run("doctor", "--preset", preset, "--json").stdout)
    assert document["preset"] == "tiny"
    broken = tmp_path / "broken"
    shutil.copytree(preset, broken)
    shutil.rmtree(broken / "parser")
    result = run("doctor", "--preset", broken)
    assert result.exit_code == 2
    assert f"problem: parser: {broken / 'parser'} is missing" in result.stdout
    assert result.stderr.startswith(f"error: preset {broken}: parser: {broken / 'parser'} is missing; correct")
    shutil.rmtree(broken / "adapter")
    assert " (and 1 more, see above)" in run("doctor", "--preset", broken).stderr
    (broken / "base/model_index.json").write_text("[]")
    result = run("doctor", "--preset", broken)
    assert result.exit_code == 2
    assert "model_index.json: holds a list, and no mapping" in result.stderr


# ------------------------------------------------------------------------------------------------------------- faults


def _write(name: str, content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return make


def _half_jpeg(folder: Path) -> str:
    tiny.portrait().save(folder / "half.jpg")
    content = (folder / "half.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(content[: len(content) // 2])
    return "half.jpg"


def _drawing(name: str, *centres: tuple[int, int]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        tiny.draw(*centres, size=(256, 128))[0].save(folder / name)
        return name

    return make


REFERENCES: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (lambda _folder: "absent.png", "absent.png: no such file; check the path"),
    "folder": (lambda folder: folder.name and ".", ".: is a folder; name the picture inside it"),
    "not an image": (_write("text.png", b"hello"), "text.png: is not a picture that can be read; use JPEG"),
    "truncated": (_half_jpeg, "half.jpg: cannot be decoded"),
    "1x1": (_write("dot.png", png(1, 1, 8, b"")), "dot.png: is 1x1 pixels, too small; use one of at least 32x32"),
    "20,000x20,000": (_write("bomb.png", png(20_000, 20_000, 8, b"")), "bomb.png: has far too many pixels; scale it"),
    "no face": (_drawing("empty.png"), "no face found in empty.png; use a picture"),
    "two faces": (_drawing("two.png", (50, 60), (180, 60)), "2 faces found in two.png; choose one by its index"),
    "absent identity": (lambda _folder: "who.safetensors", "who.safetensors: no such file; check the path"),
    "no identity": (_write("who.safetensors", b"hello"), "who.safetensors is not a readable safetensors file"),
}


@pytest.mark.parametrize(
    ("command", "name"),
    [("generate", name) for name in REFERENCES] + [("identify", name) for name in REFERENCES if "identity" not in name],
)
def test_bad_references(preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = REFERENCES[name]
    reference = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    more = ["--prompt", "a man", "--out", "out"] if command == "generate" else ["--out", "who2.safetensors"]
    check_refused(run(command, reference, "--preset", preset, *more), words)
    assert sorted(tmp_path.iterdir()) == before, "something was left behind"


def check_refused(result: Result, words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {words}"), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--prompt", "  "], "--prompt=' ' is empty; describe the picture"),
        (["--prompt", "very " * 200], "the prompt"),
        ([], "Missing option '--prompt'."),
        (
            ["--prompt", "a", "--preset", "sd16"],
            "unknown preset 'sd16'; known presets are drawn, sd15, sd15-open, sdxl",
        ),
        (["--prompt", "a", "--out", "/proc/results"], "/proc/results: cannot be written"),
        (["--prompt", "a", "--out", "ada.png"], "ada.png: is a file; name a folder"),
        (["--prompt", "a", "--num", "0"], "--num=0 is not allowed; give an integer from 1 to 1000"),
        (["--prompt", "a", "--best-of", "3"], "--best-of=3 is less than --num=4; raise the one or lower the other"),
        (["--prompt", "a", "--part", "eyes"], "Invalid value for '--part': 'eyes' is not of the form PART=TEXT"),
        (["--prompt", "a", "--part", "chin=round"], "--part: unknown part 'chin'; known parts are face, eyes, ears"),
        (["--prompt", "a", "--part", "eyes=x", "--face-text", "y"], "--face-text and --part exclude one another"),
        (
            ["--prompt", "a", "--part-scale", "eyes"],
            "Invalid value for '--part-scale': 'eyes' is not of the form PART=NUMBER",
        ),
        (["--prompt", "a", "--part-scale", "eyes=9"], "--part-scale: eyes=9.0 is not allowed; give a number from 0"),
        (["--prompt", "a", "--seed", "-1"], "--seed=-1 is not allowed; give an integer from 0 to 4294967295"),
        (["--prompt", "a", "--steps", "0"], "--steps=0 is not allowed; give an integer from 1 to 500"),
        (["--prompt", "a", "--merge-at", "2"], "--merge-at=2.0 is not allowed; give a number from 0 to 1"),
        (["--prompt", "a", "--guidance", "nan"], "--guidance=nan is not allowed"),
        (["--prompt", "a", "--width", "65"], "--width=65 is not allowed; give a multiple of 8"),
        (["--prompt", "a", "--device", "cuda:99"], "device='cuda:99' is not there; this machine has cpu"),
        (["--prompt", "a", "--face-index", "3"], "no face 3 in ada.png; its faces are numbered 0 to 0"),
        (["--prompt", "a", "--promt", "b"], "No such option '--promt'"),
        (["--prompt", "a", "--mask", "ada.png"], "--mask says what of --image is drawn anew; give --image, too"),
        (["--prompt", "a", "--strength", "1"], "--strength says how --image is used; give --image, too, or leave"),
        (["--prompt", "a", "--control-model", "a/b"], "--control-model says how --control is used; give --control"),
        (["--prompt", "a", "--image", "absent.png"], "absent.png: no such file"),
        (["--prompt", "a", "--image", "ada.png", "--strength", "2"], "--strength=2.0 is not allowed; give a number"),
        (["--prompt", "a", "--control", "ada.png"], "--control is a picture for a ControlNet, and none is chosen"),
        (["--prompt", "a", "--scheduler", "magic"], "scheduler='magic' is not known; give one of ddim, euler, euler-a"),
        (["--prompt", "a", "--lora", "absent.safetensors:0.5"], "lora=absent.safetensors:0.5: no such file or folder"),
        (["--prompt", "a", "--base", "absent.safetensors"], "base=absent.safetensors: no such file or folder"),
        (["--prompt", "a", "who.safetensors"], "who.safetensors: a saved identity stands alone"),
    ],
)
def test_bad_arguments_of_generate(
    preset: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
) -> None:
    monkeypatch.chdir(photo.parent)
    before = sorted(photo.parent.iterdir())
    chosen = [] if "--preset" in args else ["--preset", preset]
    check_refused(run("generate", photo.name, *chosen, *args), words)
    assert sorted(photo.parent.iterdir()) == before, "something was left behind"


def test_bad_arguments_of_identify(preset: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    for args, words in (
        (["--out", "who.png"], "--out who.png: an identity file ends in .safetensors; name it who.safetensors"),
        (["--out", "/proc/who.safetensors"], "/proc: cannot be written"),
        (["--out", "a.safetensors", "--show", "seen.txt"], "--show seen.txt: cannot be told to be a picture"),
        (["--out", "a.safetensors", "--show", "ada.png"], "ada.png: is there already; choose another name"),
        (["--out", "ada.png/a.safetensors"], "ada.png: is a file"),
    ):
        check_refused(run("identify", "ada.png", "--preset", preset, *args), words)
    assert [path.name for path in photo.parent.iterdir()] == ["ada.png"]


def test_bad_weights_and_foreign_identities(preset: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(preset, folder)
    weights = folder / "adapter" / "model.safetensors"
    content = weights.read_bytes()
    arguments = ["--prompt", "a man", "--out", tmp_path / "out", "--preset", folder]
    weights.write_bytes(content[: len(content) // 2])
    result = run("generate", photo, *arguments)
    assert str(weights) in result.stderr
    check_refused(result, "")
    shutil.copy(folder / "parser" / "model.safetensors", weights)
    result = run("generate", photo, *arguments)
    assert str(weights.parent) in result.stderr
    check_refused(result, "")
    weights.write_bytes(content)

    who = tmp_path / "who.safetensors"
    assert run("identify", photo, "--out", who, "--preset", folder).exit_code == 0
    identity = Identity.load(who)
    replace(identity, provenance={**identity.provenance, "recogniser": "w600k_r50@0123456789ab"}).save(who)
    result = run("generate", who, *arguments)
    assert "w600k_r50@0123456789ab" in result.stderr
    check_refused(result, "the identity was made by other networks")
    assert not (tmp_path / "out").exists()


def _too_much_of_python() -> object:
    return bytearray(1 << 60)


def _too_much_of_torch() -> object:
    return torch.empty(1 << 60)


@pytest.mark.parametrize("ask", [_too_much_of_python, _too_much_of_torch])
def test_too_little_memory_is_said_in_words(ask: Callable[[], object]) -> None:
    @click.command()
    def swell() -> None:
        ask()

    main.add_command(swell)
    try:
        result = run("swell")
    finally:
        del main.commands["swell"]
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is not enough memory for this; ask for fewer or smaller pictures")
    assert result.stderr.count("\n") == 1


def test_unexpected_errors_end_with_a_hint_and_with_debug_a_traceback() -> None:
    @click.command()
    @click.option("--debug", is_flag=True)
    def fail(debug: bool) -> None:
        if debug:
            import logging

            logging.getLogger("consistentid").setLevel("DEBUG")
        raise ZeroDivisionError("so it goes")

    main.add_command(fail)
    try:
        result = run("fail")
        assert result.exit_code == 1
        assert result.stderr.startswith(
            "error: ZeroDivisionError: so it goes. This is unexpected; run again with --debug"
        )
        assert result.stderr.count("\n") == 1
        assert isinstance(run("fail", "--debug").exception, ZeroDivisionError)
    finally:
        del main.commands["fail"]


# --------------------------------------------------------------------------------------------- as a program of its own


def _leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        leaf
        for name, command in group.commands.items()
        for leaf in (_leaves(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)])
    ]


def test_every_command_has_help_with_examples() -> None:
    for name in _leaves(main):
        result = run(*name, "--help")
        assert result.exit_code == 0
        assert "Examples:" in result.stdout, name
        assert f"  consistentid {' '.join(name)}" in result.stdout, name
        assert "--debug" in result.stdout, name
    assert run("--version").stdout.startswith("consistentid, version ")
    assert "generate" in run().stderr


def test_help_and_import_are_light() -> None:
    """Measured in processor time, which other programs on the machine do not lengthen."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*PROGRAM, "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    code = "import sys, consistentid, consistentid.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "numpy", "PIL", "onnxruntime"} & set(modules)


def test_faults_of_a_real_process_are_one_line(tmp_path: Path) -> None:
    args = ["generate", "absent.png", "--prompt", "a man", "--out", str(tmp_path / "out")]
    result = subprocess.run([*PROGRAM, *args], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: absent.png: no such file; check the path\n"
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_stopping_leaves_nothing_behind(preset: Path, photo: Path, tmp_path: Path) -> None:
    args = ["generate", str(photo), "--prompt", "a man", "--preset", str(preset), "--steps", "500", "--out", "out"]
    options: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "PYTHONUNBUFFERED": "1"}}
    # Shells have it ignored by what runs in the background.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with (
        os.fdopen(ours, "rb", buffering=0) as screen,
        subprocess.Popen([*PROGRAM, *args], stderr=theirs, preexec_fn=heed, **options) as process,
    ):
        os.close(theirs)
        seen, rest = b"", b""
        while seen.count(b"\r") < 2:  # the bar is drawn a second time: sampling is under way
            seen += screen.read(1) or b""
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # nobody writes to this terminal any more
            while piece := screen.read(1000):
                rest += piece
    assert process.returncode == 130
    assert re.fullmatch(rb"[ \r\n]*error: stopped\r\n", rest[rest.rindex(b"|") :].partition(b"\r")[2]), (
        "a line of its own"
    )
    assert b"Traceback" not in rest
    assert [path.name for path in tmp_path.iterdir()] == ["ada.png"]
