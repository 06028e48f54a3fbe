from __future__ import annotations

import json
import os
from pathlib import Path

from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from consistentid.cli import main
from consistentid.files.output import RECORD_KEY, encode_png

RECORD = {"prompt": "a woman\x1b[2J", "seed": 7, "likeness": 0.5, "ai_generated": True, "parts": {"eyes": "green eyes"}}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_a_picture_tells_how_it_was_made(tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    picture.write_bytes(encode_png(Image.new("RGB", (32, 32)), RECORD))
    assert json.loads(run(picture, "--json").stdout) == RECORD
    lines = dict(line.split(maxsplit=1) for line in run(picture).stdout.splitlines())
    assert lines["seed"] == "7"
    assert lines["parts"] == "eyes green eyes"
    assert "\x1b" not in lines["prompt"], "a terminal obeys no record"


def test_what_holds_no_record_is_told_of(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("none")
    (tmp_path / "broken.png").write_bytes(encode_png(Image.new("RGB", (32, 32)), RECORD)[:200])
    for number, text in enumerate(("{", "[]", "[" * 100_000)):
        info = PngInfo()
        info.add_itxt(RECORD_KEY, text)
        Image.new("RGB", (32, 32)).save(tmp_path / f"forged{number}.png", pnginfo=info)
        assert "holds no record" in run(tmp_path / f"forged{number}.png").stderr
    os.mkfifo(tmp_path / "pipe.png")
    assert "is not a regular file" in run(tmp_path / "pipe.png").stderr
    for name in ("plain.png", "text.png", "broken.png", "missing.png"):
        result = run(tmp_path / name)
        assert result.exit_code == 2, result.output
        assert f"{name}: " in result.stderr
