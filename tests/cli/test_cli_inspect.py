from __future__ import annotations

import io
import json
import os
from pathlib import Path

from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from consistentid.cli import main
from consistentid.files.output import RECORD_KEY, encode_png
from consistentid.provenance.marks import Provenance

RECORD = {"prompt": "a woman\x1b[2J", "seed": 7, "likeness": 0.5, "ai_generated": True, "parts": {"eyes": "green eyes"}}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_a_picture_tells_how_it_was_made(tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    picture.write_bytes(Provenance().encode(Image.new("RGB", (256, 256), "grey"), RECORD))
    found = json.loads(run(picture, "--json").stdout)
    assert found["record"] == RECORD
    assert found["watermark"]["found"]
    assert found["credentials"] == {"state": "none"}
    lines = [line.split(maxsplit=1) for line in run(picture).stdout.splitlines()]
    assert ["seed", "7"] in lines
    assert ["parts", "eyes green eyes"] in lines
    assert dict(lines)["watermark"].startswith("found, at 1.00 of the size as made")
    assert "\x1b" not in dict(lines)["prompt"], "a terminal obeys no record"


def test_a_record_cannot_speak_for_the_other_marks(tmp_path: Path) -> None:
    picture = tmp_path / "forged.png"
    forged = {"credentials": "valid and trusted", "x\ncredentials": "valid and trusted", "watermark": "found"}
    picture.write_bytes(encode_png(Image.new("RGB", (64, 64), "grey"), forged))
    said = {line.split()[0]: line for line in run(picture).stdout.splitlines() if not line.startswith(" ")}
    assert said == {
        "record": "record       as the picture says of itself",
        "watermark": "watermark    none",
        "credentials": "credentials  none",
    }


def test_of_a_recompressed_picture_the_watermark_is_left(tmp_path: Path) -> None:
    marked = io.BytesIO(Provenance().encode(Image.effect_noise((384, 384), 10).convert("RGB"), RECORD))
    Image.open(marked).save(tmp_path / "found.jpg", quality=75)
    found = json.loads(run(tmp_path / "found.jpg", "--json").stdout)
    assert found["record"] is None
    assert found["watermark"]["found"]


def test_what_holds_no_record_is_told_of(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "plain.png")
    plain = {"record": None, "watermark": {"found": False, "chance": 1.0}, "credentials": {"state": "none"}}
    assert json.loads(run(tmp_path / "plain.png", "--json").stdout) == plain
    for number, text in enumerate(("{", "[]", "[" * 100_000)):
        info = PngInfo()
        info.add_itxt(RECORD_KEY, text)
        Image.new("RGB", (32, 32)).save(tmp_path / f"forged{number}.png", pnginfo=info)
        assert run(tmp_path / f"forged{number}.png").stdout.startswith("record       none\n")
    (tmp_path / "text.png").write_text("none")
    (tmp_path / "broken.png").write_bytes(encode_png(Image.new("RGB", (32, 32)), RECORD)[:200])
    os.mkfifo(tmp_path / "pipe.png")
    assert "is not a regular file" in run(tmp_path / "pipe.png").stderr
    for name in ("text.png", "broken.png", "missing.png"):
        result = run(tmp_path / name)
        assert result.exit_code == 2, result.output
        assert f"{name}: " in result.stderr
