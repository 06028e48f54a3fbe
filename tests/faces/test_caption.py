"""Words from a vision-language model: a tiny random LLaVA, and answers as models write them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny
from consistentid.adapter.identity import Identity
from consistentid.cli import main
from consistentid.errors import CheckpointError, InputError
from consistentid.faces.caption import IMAGE_QUESTION, Captioner, clean


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.RandomState(0)
    return [Image.fromarray(random.randint(0, 256, (24, 20, 3), np.uint8)) for _ in range(3)]


@pytest.mark.parametrize("family", ["llava", pytest.param("qwen", marks=pytest.mark.slow)])
def test_each_picture_is_asked_both_questions_alone_as_in_batches(
    family: str, pictures: list[Image.Image], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    captions = Captioner.from_pretrained(folder, batch_size=4).describe(pictures)
    alone = Captioner.from_pretrained(folder, batch_size=1)
    assert [caption.image for caption in captions] == alone.ask(pictures, [IMAGE_QUESTION] * 3)
    assert [caption.face for caption in captions] == alone.describe_faces(pictures)
    assert len({text for caption in captions for text in (caption.image, caption.face)}) > 3


def test_an_answer_holds_nothing_of_the_question(llava: Path, pictures: list[Image.Image]) -> None:
    (answer,) = Captioner.from_pretrained(llava).ask(pictures[:1], ["zyx, who is it?"])
    assert answer
    assert "zyx" not in answer
    assert "assistant" not in answer.lower()
    assert "<image>" not in answer


def test_models_that_cannot_be_asked_are_refused(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"captioner: .*absent cannot be loaded .*; give a vision-language model"):
        Captioner.from_pretrained(tmp_path / "absent")
    captioner = Captioner.from_pretrained(llava)
    with pytest.raises(InputError, match="batch_size=0"):
        Captioner(captioner.model, captioner.processor, batch_size=0)
    captioner.processor.chat_template = None
    with pytest.raises(CheckpointError, match="no chat template"):
        Captioner(captioner.model, captioner.processor)


def test_missing_weights_are_named(llava: Path, tmp_path: Path) -> None:
    for file in llava.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(llava / "model.safetensors")
    lost = next(name for name in weights if "projector" in name)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"captioner: .* lacks the weights .*projector"):
        Captioner.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("She has a round face and green eyes.", "She has a round face and green eyes."),
        ("  Two\n\n lines. \n", "Two lines."),
        ("**Eyes:** brown\n- *Nose*: small\n2. Mouth: wide.", "Eyes: brown, Nose: small, Mouth: wide."),
        ('Sure! Here is the sentence: "A man with a long nose."', "A man with a long nose."),
        ("Certainly, here's a description:\n\nHer face is oval.", "Her face is oval."),
        ("Here, a man sits.", "Here, a man sits."),
        ("I'm sorry, I can't describe people.", ""),
        ("I\u2019m unable to help with that.", ""),
        ("As an AI, I do not see faces.", ""),
        ("", ""),
    ],
)
def test_answers_become_sentences(answer: str, sentence: str) -> None:
    assert clean(answer) == sentence


def test_answers_that_were_cut_end_where_a_sentence_or_clause_does() -> None:
    assert clean("Her face is oval. Her eyes are", complete=False) == "Her face is oval."
    assert clean("She has green eyes, a small nose, and a", complete=False) == "She has green eyes, a small nose"
    assert clean("A woman with a", complete=False) == "A woman with a"


def test_the_command_line_keeps_and_uses_the_words(llava: Path, tmp_path: Path) -> None:
    photo, who, out = tmp_path / "ada.png", tmp_path / "ada.safetensors", tmp_path / "out"
    tiny.portrait().save(photo)
    preset, prompt = ["--preset", str(tiny.preset())], ["--prompt", "a woman", "--num", "1", "--steps", "2"]

    def run(*args: object) -> str:
        result = CliRunner().invoke(main, [str(arg) for arg in args], prog_name="consistentid")
        assert result.exit_code == (2 if "error: " in result.stderr else 0), result.stderr
        return result.stdout or result.stderr

    told = json.loads(run("identify", photo, *preset, "--captioner", llava, "--out", who, "--json"))
    assert told["face_text"]
    assert Identity.load(who).face_text == told["face_text"]
    summary = json.loads(run("generate", who, *preset, *prompt, "--out", out, "--json"))
    assert summary["face_text"] == told["face_text"]
    refused = run("generate", who, *preset, *prompt, "--captioner", llava, "--out", out)
    assert "ada.safetensors holds no photo" in refused
    refused = run("generate", photo, *preset, *prompt, "--captioner", llava, "--part", "eyes=green", "--out", out)
    assert "--captioner writes the facial sentence" in refused
    refused = run("identify", photo, *preset, "--captioner", tmp_path / "absent", "--out", tmp_path / "b.safetensors")
    assert "captioner: " in refused
