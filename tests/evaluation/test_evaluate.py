"""`consistentid evaluate` from end to end, on the preset that ships."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from consistentid.cli import main
from consistentid.evaluation.people import Person
from consistentid.files.output import read_record
from consistentid.presets.keys import model_key
from consistentid.presets.network import Network
from consistentid.presets.read import load_preset

LINE = ["evaluate", "--people", "2", "--prompts", "2", "--steps", "2", "--device", "cpu"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*LINE, *map(str, arguments)])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, two prompts; the whole model, the base alone, and a short curve."""
    out = tmp_path_factory.mktemp("evaluate") / "report"
    result = run("--variant", "full", "--variant", "text_only", "--variant", "overall_only", "--json", "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((out / "report.json").read_text())
    return out


@pytest.fixture(scope="module")
def data(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report / "report.json").read_text())
    return found


def test_every_picture_is_made_and_says_how(report: Path) -> None:
    pictures = sorted((report / "pictures").rglob("*.png"))
    assert len(pictures) == 3 * 2 * 2
    records = [read_record(path) for path in pictures]
    by_place = {(r["variant"], r["identity"], r["prompt"]): r["seed"] for r in records}
    assert len(by_place) == 12
    for variant in ("text_only", "overall_only"):  # the same seeds, so that pictures can be compared side by side
        assert {key[1:]: seed for key, seed in by_place.items() if key[0] == variant} == {
            key[1:]: seed for key, seed in by_place.items() if key[0] == "full"
        }
    assert {r["steps"] for r in records} == {2}
    assert len({path.read_bytes() for path in pictures}) == 12


def test_the_base_alone_draws_the_same_for_everybody_but_for_the_seed(report: Path, data: dict[str, Any]) -> None:
    full, alone = (data["methods"][name]["scores"] for name in ("full", "text_only"))
    assert full["face_sim"]["value"] != alone["face_sim"]["value"]
    assert data["methods"]["full"]["made"] == data["methods"]["full"]["pictures"] == 4


def test_every_score_has_an_interval_and_stands_between_bounds(data: dict[str, Any]) -> None:
    for method in data["methods"].values():
        for key in ("clip_t", "adherence", "clip_i", "face_sim", "sim_gt", "fgis", "fgis_nose"):
            found = method["scores"][key]
            assert found["low"] - 1e-9 <= found["value"] <= found["high"] + 1e-9
            assert (found["pictures"], found["people"]) == (4, 2), key
        assert set(method["between_random_and_real"]) == set(method["scores"])
        assert method["scores"]["seconds"]["value"] > 0
        assert "dino" not in method["scores"]
    assert data["random"]["scores"]["face_sim"]["value"] < data["real"]["scores"]["face_sim"]["value"]
    assert any("CLIP is the pair that conditions" in mark for mark in data["marks"])


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag not in ("meta", "img", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def test_the_page_stands_alone(report: Path) -> None:
    text = (report / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "<script" not in text
    assert not re.search(r"url\(|@import", text)
    for heading in (
        "In one look",
        "Scores",
        "Facial parts",
        "Side by side",
        "Best and worst",
        "Where facial words look",
    ):
        assert heading in page.headings
    for svg in re.findall(r"<svg.*?</svg>", text):
        ElementTree.fromstring(svg)
        assert "nan" not in svg


def test_the_tables_hold_what_the_json_says(report: Path, data: dict[str, Any]) -> None:
    text = (report / "report.md").read_text()
    for name in ("full", "text_only"):
        score = data["methods"][name]["scores"]["face_sim"]
        assert f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]" in text
    with (report / "scores.csv").open() as stream:
        every = list(csv.DictReader(stream))
    assert len(every) == 12
    mean = sum(float(row["face_sim"]) for row in every if row["method"] == "full") / 4
    assert mean == pytest.approx(data["methods"]["full"]["scores"]["face_sim"]["value"], abs=1e-3)


def test_the_same_line_changes_no_picture_and_more_people_are_added(report: Path, tmp_path: Path) -> None:
    copy = tmp_path / "report"
    shutil.copytree(report, copy)
    before = {path: path.stat().st_mtime_ns for path in (copy / "pictures").rglob("*.png")}
    result = run("--people", "3", "--prompts", "1", "--out", copy, "--json")
    assert result.exit_code == 0, result.output
    after = {path: path.stat().st_mtime_ns for path in (copy / "pictures").rglob("*.png")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert json.loads(result.stdout)["methods"]["full"]["pictures"] == 3


def prompts_of(report: Path) -> dict[Path, str]:
    """Picture -> the prompt that the manifest pairs it with."""
    with (report / "manifest.csv").open() as stream:
        return {report / row["picture"]: row["prompt"] for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_an_edited_prompt_never_gets_the_old_picture(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    line = ["--people", "1", "--protocol", file, "--out", out]
    for text in ("a woman in a red hat", "a man with glasses"):
        content = f"prompts: [{{text: a man, group: a}}, {{text: {text}, group: b, asks: {{glasses: round}}}}]"
        file.write_text(content.replace("round", "none" if "hat" in text else "sunglasses"))
        result = run(*line)
        assert result.exit_code == 0, result.output
        paired = prompts_of(out)
        assert sorted(paired.values()) == sorted(["a man", text])
        for picture, prompt in paired.items():
            assert read_record(picture)["prompt"] == prompt
    assert len(list(out.glob("pictures/full/*/*.png"))) == 3, "that of the prompt which stayed was kept"
    assert len(list(out.glob("people/*/real-01-*.png"))) == 2, "what it asks of a real picture has changed"


@pytest.mark.slow
def test_another_photo_of_the_same_name_is_another_person(tmp_path: Path, people: list[Person]) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in (0, 1):
        (photos / "ada").mkdir(parents=True, exist_ok=True)
        shutil.copy(people[number].reference, photos / "ada" / "1.png")
        shutil.copy(people[number].others[0], photos / "ada" / "2.png")
        result = run("--people", "1", "--photos", photos, "--protocol", "drawn", "--prompts", "1", "--out", out)
        assert result.exit_code == 0, result.output
    assert len(list(out.glob("identities/*.safetensors"))) == 2
    pictures = [path.read_bytes() for path in out.glob("pictures/full/ada/*.png")]
    assert len(set(pictures)) == 2


def test_every_network_and_option_counts(tmp_path: Path) -> None:
    preset = load_preset("drawn")
    key = model_key(preset)
    assert model_key(load_preset("drawn")) == key
    base = tmp_path / "base"
    assert preset.base.path is not None
    shutil.copytree(preset.base.path, base)
    assert model_key(preset.override(base=base)) == key, "the place does not count"
    for name in ("vae", "text_encoder"):
        file = min((base / name).glob("*.safetensors"))
        weights = load_file(file)
        changed = {k: x + 1 if k == next(iter(weights)) else x for k, x in weights.items()}
        save_file(changed, file, metadata={"format": "pt"})
        assert model_key(preset.override(base=base)) != key, name
        save_file(weights, file, metadata={"format": "pt"})
        base_key = model_key(preset.override(base=base))
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("{", '{"more": 1,', 1))
    assert model_key(preset.override(base=base)) != base_key
    lora = tmp_path / "style.safetensors"
    save_file({"a": torch.zeros(1)}, lora)
    styled = model_key(preset.override(loras=[str(lora)]))
    save_file({"a": torch.ones(1)}, lora)
    others = [
        styled,
        model_key(preset.override(loras=[str(lora)])),
        model_key(preset.override(loras=[f"{lora}:0.5"])),
        model_key(preset.override(scheduler="euler")),
        model_key(preset.override(scheduler="euler", scheduler_options={"use_karras_sigmas": True})),
        model_key(replace(preset, adapter=Network(path=lora))),
        model_key(replace(preset, base=Network(repo="a/b", revision="c"))),
        model_key(replace(preset, base=Network(repo="a/b", revision="d"))),
        key,
    ]
    assert len({json.dumps(x, sort_keys=True) for x in others}) == len(others)


def test_another_model_does_not_mix_into_a_report(report: Path) -> None:
    result = run("--steps", "3", "--out", report)
    assert result.exit_code == 2
    assert "holds another evaluation, with settings" in result.stderr


def test_pictures_of_any_tool_are_scored_alike(report: Path, data: dict[str, Any], tmp_path: Path) -> None:
    other = report / "peer.csv"
    other.write_text((report / "manifest.csv").read_text().replace("overall_only,", "full@scale=0.5,"))
    result = run("--manifest", report / "manifest.csv", "--manifest", f"peer={other}",
                 "--out", tmp_path / "out", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)
    assert set(again["methods"]) == {"full", "text_only", "overall_only", "peer", "peer@scale=0.5"}
    for key in ("clip_t", "adherence", "face_sim", "fgis", "fid"):
        assert again["methods"]["full"]["scores"][key] == pytest.approx(data["methods"]["full"]["scores"][key])
    assert (again["methods"]["peer"]["pictures"], again["methods"]["peer@scale=0.5"]["pictures"]) == (8, 4)
    gain = again["differences"]["overall_only"]["face_sim"]["value"]
    assert gain == pytest.approx(
        data["methods"]["overall_only"]["scores"]["face_sim"]["value"]
        - data["methods"]["full"]["scores"]["face_sim"]["value"]
    )
    for chart in ("face_sim", "fgis"):  # full, text_only, overall_only, and both of peer on one line
        lines = ElementTree.parse(tmp_path / f"out/charts/{chart}.svg").iter("{http://www.w3.org/2000/svg}polyline")
        assert sorted(len(line.attrib["points"].split()) for line in lines) == [1, 1, 1, 2]


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    [line] = result.stderr.strip().splitlines()
    return line


def test_the_recogniser_that_conditioned_is_refused_as_judge(tmp_path: Path) -> None:
    recogniser = load_preset("drawn").recogniser.path
    assert recogniser is not None
    renamed = tmp_path / "independent.onnx"
    shutil.copy(recogniser, renamed)
    line = refused("--judge", renamed, "--out", tmp_path / "out")
    assert "conditioned the model" in line
    assert "--conditioned-judge" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "46"], "1 to 45"),
        (["--variant", "nothing"], "unknown variant 'nothing'; known are text_only"),
        (["--ablate", "nothing"], "unknown ablation 'nothing'; known are components"),
        (["--preset", "sd15"], "--photos"),
        (["--pictures", "."], "--manifest"),
        (["--photos", ".", "--split", "validation"], "--split is of drawn people"),
        (["--split", "train"], "'train' is not one of 'test', 'validation'"),
        (["--protocol", "nothing"], "unknown protocol"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    assert message in refused(*arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    assert "is not empty, and holds no evaluation" in refused("--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.slow
def test_a_killed_run_goes_on_in_several_processes(report: Path, data: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "report"
    line = [sys.executable, "-m", "consistentid", *LINE, "--variant", "full", "--variant", "text_only",
            "--variant", "overall_only", "--workers", "2", "--out", str(out), "--json"]  # fmt: skip
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not list(out.glob("pictures/*/*/*.png")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made = {path: path.read_bytes() for path in out.glob("pictures/*/*/[0-9]*.png")}
    assert 0 < len(made) < 12
    assert not (out / "report.json").exists()
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    assert all(path.read_bytes() == before for path, before in made.items())
    again = json.loads(result.stdout)
    for name, method in data["methods"].items():
        for key in ("clip_t", "face_sim", "fgis"):
            found = again["methods"][name]["scores"][key]["value"]
            assert math.isclose(found, method["scores"][key]["value"], abs_tol=0.02), (name, key)
