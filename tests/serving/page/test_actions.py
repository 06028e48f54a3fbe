"""What the page asks of the service, without a browser."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from served import ADA

from consistentid.adapter.identity import Identity
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request
from consistentid.presets.doctor import examine
from consistentid.presets.network import Network
from consistentid.presets.read import load_preset, preset_names
from consistentid.serving.page.actions import Actions
from consistentid.serving.page.words import DRAWN_EXAMPLES, drawn_words, with_words
from consistentid.serving.service import Service

TOM = ADA.with_name("tom.png")
FEW = {"prompt": "a woman in a red hat", "num_inference_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def actions(client: TestClient, service: Service) -> Actions:
    return Actions(service, load_preset("drawn"))


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def photo(path: Any = ADA) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def generated(actions: Actions, people: Any, settings: Any, picture: Any = None) -> list[dict[str, Any]]:
    async def all_told() -> list[dict[str, Any]]:
        return [told async for told in actions.generate("address me", people, picture, settings)]

    return list(run(all_told()))


@pytest.fixture(scope="module")
def ada(actions: Actions) -> dict[str, Any]:
    found = run(actions.identify("address me", {"photos": [photo()], "face_index": None}))
    assert "error" not in found
    return dict(found)


def test_the_page_and_python_give_the_same_bytes(
    actions: Actions, ada: dict[str, Any], studio: ConsistentIDPipeline
) -> None:
    # as the widgets send it: numbers as text, and whole numbers for what may be a fraction
    settings = {
        **FEW,
        "seed": " 3",
        "scale": 1,
        "merge_at": 0,
        "num_images_per_prompt": 2,
        "negative_prompt": "",
        "face_text": None,
    }
    person = {"name": "Ada", "identity": ada["identity"], "parts": {"eyes": "green eyes", "nose": ""}, "scale": 1}
    *before, last = generated(actions, {"people": [person]}, settings)
    assert last["state"] == "done"
    assert {told["state"] for told in before} <= {"waiting", "running"}
    saved = Identity.from_bytes(studio.identify(ADA).to_bytes())
    python = studio(saved, **FEW, merge_at=0.0, num_images_per_prompt=2, parts={"eyes": "green eyes"})
    assert [base64.b64decode(picture["b64_json"]) for picture in last["pictures"]] == [
        python.to_png(number) for number in range(2)
    ]
    again = Request.from_dict(last["request"])
    assert (again.seed, again.prompt, again.parts) == (3, FEW["prompt"], {"eyes": "green eyes"})


def test_a_saved_identity_is_read_and_a_broken_one_is_one_line(actions: Actions, ada: dict[str, Any]) -> None:
    read = run(actions.read("address me", {"identity": ada["identity"]}))
    first, second = (Identity.from_bytes(base64.b64decode(x["identity"])) for x in (read, ada))
    assert first.embedding.equal(second.embedding)
    assert first.part_features.equal(second.part_features)
    assert read["parts"] == ada["parts"]
    for broken in (None, "", "AAAA", ada["identity"][:1000], {"a": 1}):
        error = run(actions.read("address me", {"identity": broken}))["error"]
        assert error
        assert "\n" not in error


@pytest.mark.parametrize(
    ("people", "settings", "picture", "words"),
    [
        (None, FEW, None, "nobody to be drawn"),
        ({"people": []}, FEW, None, "nobody to be drawn"),
        ({"people": [{"name": "Ben", "identity": ""}]}, FEW, None, "Ben is not known yet"),
        ("ada", {**FEW, "prompt": ""}, None, "Prompt="),
        ("ada", {**FEW, "seed": -1}, None, "Seed=-1"),
        ("ada", {**FEW, "seed": "seven"}, None, "Seed='seven' is no number"),
        ("ada", {**FEW, "best_of": "1e5"}, None, "Best of='1e5' is no number"),
        ("ada", {**FEW, "repair": True, "repair_below": "nan"}, None, "Repair below likeness=nan"),
        ("ada", {**FEW, "repair": True, "repair_tries": "11"}, None, "Repair tries=11"),
        ("ada", {**FEW, "scale": 99}, None, "ID strength=99"),
        ("ada", {**FEW, "num_images_per_prompt": 99}, None, "pictures"),
        ("ada", FEW, {"image": "AAAA"}, "image"),
        ("ada", FEW, {"boxes": [[0.5, 0, 0.5, 1]]}, "Boxes[0]"),
        ("ada", FEW, {"boxes": [["x"]]}, "Boxes[0]"),
        ("ada", FEW, "no mapping", "not of the form"),
        ({"people": ["no mapping"]}, FEW, None, "not of the form"),
        ({"people": "no list"}, FEW, None, "nobody to be drawn"),
        ("ada", {**FEW, "no_such": 1}, None, "unknown argument"),
    ],
)
def test_what_cannot_be_done_is_one_line_in_the_words_of_the_page(
    actions: Actions, ada: dict[str, Any], people: Any, settings: Any, picture: Any, words: str
) -> None:
    if people == "ada":
        people = {"people": [{"name": "Ada", "identity": ada["identity"]}]}
    last = generated(actions, people, settings, picture)[-1]
    assert last["state"] == "failed"
    assert words in last["message"]
    assert "\n" not in last["message"]


@pytest.mark.parametrize(
    "sent",
    [
        None, [], {}, {"photos": "x"}, {"photos": []}, {"photos": ["AAAA"]}, {"photos": [1]},
        {"photos": [photo()], "face_index": -1}, {"photos": [photo()], "face_index": 7},
    ],
)  # fmt: skip
def test_photos_that_cannot_be_used_are_one_line(actions: Actions, sent: Any) -> None:
    error = run(actions.identify("address me", sent))["error"]
    assert error
    assert "not expected" not in error
    assert "\n" not in error


def test_several_people_in_boxes_with_words_strengths_and_borrowed_parts(
    actions: Actions, ada: dict[str, Any], studio: ConsistentIDPipeline
) -> None:
    tom = run(actions.identify("address me", {"photos": [photo(TOM)]}))["identity"]
    boxes = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    people = [
        {
            "name": "Ada",
            "identity": ada["identity"],
            "words": "a woman in a red dress",
            "scale": 1.5,
            "part_scales": {"eyes": 0.5},
        },
        {"name": "Tom", "identity": tom, "borrow": {"eyes": 0}, "parts": {"mouth": "a wide mouth"}},
    ]
    last = generated(actions, {"people": people}, {**FEW, "prompt": "a woman and a man"}, {"boxes": boxes})[-1]
    assert last["state"] == "done", last
    a, b = (Identity.from_bytes(base64.b64decode(text)) for text in (ada["identity"], tom))
    asked = {
        "regions": boxes, "person_prompts": ["a woman in a red dress", ""], "person_scales": [1.5, 1.0],
        "parts": [{}, {"mouth": "a wide mouth"}], "part_scales": [{"eyes": 0.5}, {}],
    }  # fmt: skip
    python = studio([a, b.with_parts(eyes=a)], **{**FEW, "prompt": "a woman and a man"}, **asked)
    assert base64.b64decode(last["pictures"][0]["b64_json"]) == python.to_png(0)
    for wrong in ({"eyes": 5}, {"eyes": "Ada"}, {"chin": 0}):
        people[1]["borrow"] = wrong
        assert generated(actions, {"people": people}, FEW)[-1]["state"] == "failed"
    half = generated(actions, {"people": people[:1] * 2}, FEW, {"boxes": boxes[:1]})[-1]
    assert "Ada has no box" in half["message"]


def test_a_painted_picture_is_changed_where_it_is_painted_alone(actions: Actions, ada: dict[str, Any]) -> None:
    def encoded(image: Image.Image) -> str:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return base64.b64encode(stream.getvalue()).decode()

    picture = Image.open(TOM).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (60, 60, 200, 200))
    person = {"name": "Ada", "identity": ada["identity"]}
    given = {"image": encoded(picture), "mask": encoded(mask), "boxes": [None]}
    last = generated(actions, {"people": [person]}, {**FEW, "num_inference_steps": 4, "strength": 0.9}, given)[-1]
    assert last["state"] == "done", last
    made = Image.open(io.BytesIO(base64.b64decode(last["pictures"][0]["b64_json"])))
    assert made.size == picture.size
    assert made.crop((0, 0, 256, 60)).tobytes() == picture.crop((0, 0, 256, 60)).tobytes()
    assert made.crop((60, 60, 200, 200)).tobytes() != picture.crop((60, 60, 200, 200)).tobytes()
    assert not {"image", "mask"} & last["request"].keys()


def test_who_stops_listening_frees_the_place(actions: Actions, ada: dict[str, Any]) -> None:
    async def leave() -> None:
        settings = {**FEW, "num_inference_steps": 50, "num_images_per_prompt": 4}
        telling = actions.generate("address me", {"people": [{"identity": ada["identity"]}]}, None, settings)
        async for told in telling:
            if told["state"] == "running":
                break
        await telling.aclose()  # type: ignore[attr-defined]
        while actions.service.queue.running:
            await asyncio.sleep(0.05)

    run(asyncio.wait_for(leave(), 120))


def test_somebody_is_invented_whom_the_preset_can_see(actions: Actions) -> None:
    first, second = (run(actions.invent())["photo"] for _ in range(2))
    assert first != second
    assert "error" not in run(actions.identify("address me", {"photos": [first]}))


def test_words_become_prompts_that_the_preset_can_read() -> None:
    prompt = ""
    for words in (words for group in drawn_words().values() for words in group[:1]):
        prompt = with_words(prompt, words)
    assert Request(prompt=prompt).prompt == prompt
    assert with_words("a woman", "on a beach") == "a woman, on a beach"
    assert with_words("a woman", "an ink drawing of") == "an ink drawing of a woman"
    assert with_words("a woman", "a suit") == "a woman, wearing a suit"
    assert with_words("", "smiling") == "a person, smiling"
    assert all(DRAWN_EXAMPLES)


def test_what_other_presets_lack_is_said_with_its_size_and_the_lines_to_type(actions: Actions) -> None:
    drawn, *others = actions.presets()
    assert (drawn["name"], drawn["served"], drawn["missing"], drawn["lines"]) == ("drawn", True, [], [])
    assert [preset["name"] for preset in others] == [name for name in preset_names() if name != "drawn"]
    for preset in others:
        assert preset["lines"][-1] == f"consistentid serve --preset {preset['name']}"
        if preset["missing"]:
            assert preset["to_fetch_mb"] > 1000
            assert preset["lines"][0] == f"consistentid fetch --preset {preset['name']}"


def test_a_repair_alone_is_that_of_python_and_says_what_became_of_each_face(
    actions: Actions, ada: dict[str, Any], studio: ConsistentIDPipeline
) -> None:
    person = {"people": [{"name": "Ada", "identity": ada["identity"]}]}
    # the page's sliders always say something, also of what a repair is not
    settings = {**FEW, "only_repair": True, "num_images_per_prompt": 4, "strength": 0.5, "scale": 1.5}
    tom = {"image": photo(TOM), "boxes": None}
    large = generated(actions, person, settings, tom)[-1]
    assert large["state"] == "done", large["message"]
    assert large["pictures"][0]["repairs"] == []
    assert large["warnings"][-1].startswith("no face is small enough")
    done = generated(actions, person, {**settings, "prompt": " ", "repair_below": "1", "repair_tries": "2"}, tom)[-1]
    assert done["state"] == "done", done["message"]
    [picture] = done["pictures"]
    saved = Identity.from_bytes(base64.b64decode(ada["identity"]))
    python = studio.repair(TOM, saved, seed=3, num_inference_steps=2, below=1.0, tries=2)
    assert base64.b64decode(picture["b64_json"]) == python.to_png(0)
    assert (done["request"]["only_repair"], done["changed"]) == (True, True)
    [repaired] = picture["repairs"]
    assert repaired["tries"] == 2
    said = f"Ada: likeness {repaired['likeness_before']:.2f} before, {repaired['likeness_after']:.2f} after"
    assert done["warnings"][-1].startswith(said)
    nothing = generated(actions, person, settings)[-1]
    assert (nothing["state"], "no picture: add the one" in nothing["message"]) == ("failed", True)


def test_a_visit_reads_no_weights(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of hundreds of megabytes take seconds of a processor that samples for others."""
    weights = tmp_path / "models/buffalo_l/w600k_r50.onnx"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"damaged")
    network = Network(kind="insightface", path=weights, sha256="0" * 64)
    preset = replace(load_preset("drawn"), recogniser=network)
    page = Actions(service, preset)
    page.presets()  # of the first visit the names of all weights are remembered
    read: list[Path] = []

    def sha256(file: Path) -> str:
        read.append(file)
        return "1" * 64

    monkeypatch.setattr("consistentid.presets.download.sha256", sha256)
    monkeypatch.setattr("consistentid.files.weights.sha256", sha256)
    assert page.presets()[0]["missing"] == []
    assert read == []
    assert any("is damaged" in problem for problem in examine(preset)["problems"]), "`doctor` reads them"
    assert read == [weights]
