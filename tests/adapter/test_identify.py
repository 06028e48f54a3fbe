from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_drawn import Told, colour_parser, face_labels, picture
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from consistentid.adapter.identify import IdentityEncoder
from consistentid.errors import FaceError, InputError, NoFaceError, SeveralFacesError
from consistentid.faces.analyzer import FaceAnalyzer, surroundings
from consistentid.faces.caption import Captioner
from consistentid.faces.parts import PARTS, PartLayout, part_pictures
from consistentid.faces.portrait import portrait
from consistentid.faces.verification import outliers

ONE = face_labels(256, 240, (120, 110, 120))
PROVENANCE = {"recogniser": "r@1", "image_encoder": "i@2", "parser": "p@3"}
Make = Callable[..., IdentityEncoder]


@pytest.fixture
def make(analyzer: FaceAnalyzer) -> Make:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    network = CLIPVisionModelWithProjection(config).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    def build(layout: PartLayout = "square", **options: float) -> IdentityEncoder:
        return IdentityEncoder(analyzer, network, processor, layout, provenance=PROVENANCE, **options)

    return build


def penultimate(encoder: IdentityEncoder, image: Image.Image | None) -> torch.Tensor:
    pixels = torch.zeros(1, 3, 32, 32)
    if image is not None:
        pixels = encoder.processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return encoder.image_encoder(pixels, output_hidden_states=True).hidden_states[2][0]


@pytest.mark.parametrize("layout", ["square", "canvas"])
def test_one_photo(make: Make, layout: PartLayout) -> None:
    encoder, photo = make(layout), picture(ONE)
    (face,) = encoder.analyzer.analyze(photo)
    who = encoder.encode(photo)
    np.testing.assert_allclose(who.embedding, face.embedding, atol=1e-6)
    photo, face = portrait(photo, face)
    torch.testing.assert_close(who.face_features, penultimate(encoder, photo))
    torch.testing.assert_close(who.blank_features, penultimate(encoder, None))
    for index, cut in enumerate(part_pictures(photo, face.parsing, layout).values()):
        torch.testing.assert_close(who.part_features[index], penultimate(encoder, cut))
    assert who.visible_parts == PARTS
    assert dict(who.provenance) == PROVENANCE | {"part_layout": layout}


def test_features_can_be_differentiated_through(make: Make) -> None:
    who = make().encode(picture(ONE))
    scale = torch.ones(1, requires_grad=True)
    (who.face_features * scale).sum().backward()
    assert scale.grad is not None


def test_hidden_parts_are_blank_and_masked(make: Make) -> None:
    hidden = np.where(np.isin(ONE, (7, 8)), 17, ONE).astype(np.uint8)
    who = make().encode(picture(hidden))
    assert who.visible_parts == ("face", "eyes", "nose", "mouth")
    torch.testing.assert_close(who.part_features[PARTS.index("ears")], who.blank_features)


@pytest.mark.parametrize("layout", ["square", "canvas"])
def test_a_distant_face_is_seen_as_in_a_portrait(make: Make, layout: PartLayout) -> None:
    """A face of 40 pixels in a photo of 4,000: all that is asked of it comes from the pixels round it."""
    labels = np.zeros((3000, 4000), np.uint8)
    labels[1340:1500, 2920:3080] = face_labels(160, 160, (80, 80, 40))
    photo = picture(labels)
    encoder = make(layout)
    encoder.analyzer = FaceAnalyzer(Told((3000, 1420, 40)), encoder.analyzer.recogniser, colour_parser(80))
    far = encoder.encode(photo)
    assert far.visible_parts == PARTS
    encoder.analyzer.detector = Told((80, 67, 40))
    near = encoder.encode(photo.crop((2920, 1353, 3080, 1513)))
    for name in ("embedding", "face_features", "part_features"):
        torch.testing.assert_close(getattr(far, name), getattr(near, name), msg=name)


def test_the_best_picture_is_put_into_words(make: Make, llava: Path) -> None:
    encoder, captioner = make(), Captioner.from_pretrained(llava)
    large, small = picture(ONE), picture(face_labels(256, 256, (130, 120, 60)))
    (face,) = encoder.analyzer.analyze(large)
    expected = captioner.describe_faces([large.crop(surroundings(face, large.size))])
    assert [encoder.encode(small, large, captioner=captioner).face_text] == expected
    assert captioner.describe_faces([small]) != expected
    assert encoder.encode(large).face_text == ""


def test_several_photos_are_weighted_by_quality_and_give_each_its_best_part(make: Make) -> None:
    encoder = make()
    large = picture(np.where(np.isin(ONE, (4, 5)), 1, ONE).astype(np.uint8))
    small = picture(face_labels(256, 256, (130, 120, 60)))
    faces = [encoder.analyzer.analyze(photo)[0] for photo in (large, small)]
    assert faces[0].quality > faces[1].quality
    both = encoder.encode(small, large)
    mean = faces[0].quality * faces[0].embedding + faces[1].quality * faces[1].embedding
    np.testing.assert_allclose(both.embedding, mean / np.linalg.norm(mean), atol=1e-5)
    alone = [encoder.encode(photo) for photo in (large, small)]
    torch.testing.assert_close(both.face_features, alone[0].face_features)
    assert "eyes" not in alone[0].visible_parts
    torch.testing.assert_close(both.part_features[1], alone[1].part_features[1])
    torch.testing.assert_close(both.part_features[3], alone[0].part_features[3])
    assert both.visible_parts == PARTS


def test_another_person_among_the_photos_is_named(make: Make) -> None:
    encoder = make()
    bearded = ONE.copy()
    bearded[115:][ONE[115:] == 1] = 17
    photos = [picture(labels) for labels in (ONE, bearded, face_labels(256, 256, (126, 118, 120)))]
    ada, bob, ada_again = (encoder.analyzer.analyze(photo)[0].embedding for photo in photos)
    assert ada @ ada_again > max(ada @ bob, ada_again @ bob) + 0.01
    encoder.same_person = float(ada @ ada_again + max(ada @ bob, ada_again @ bob)) / 2
    with pytest.raises(FaceError, match=r"^bob\.png: not of the person on the other pictures; leave out.*same_person"):
        encoder.encode(*photos, names=["a.png", "bob.png", "c.png"])
    with pytest.raises(FaceError, match=r"^a\.png and bob\.png: show different people"):
        encoder.encode(*photos[:2], names=["a.png", "bob.png"])
    assert encoder.encode(photos[0], photos[2]).visible_parts == PARTS


def at(*angles: float) -> np.ndarray:
    return np.array([(np.cos(angle), np.sin(angle)) for angle in angles], np.float32)


def test_outliers() -> None:
    assert outliers(at(0), 0.2) == []
    assert outliers(at(0, 0.5), 0.2) == []
    assert outliers(at(0, 0.5, 1.0), 0.2) == []
    assert outliers(at(0, 3.1, 0.2), 0.2) == [1]
    assert outliers(at(0, 0.1, 0.2, 0.3, 1.4, 0.4), 0.5) == [4]  # like the last by chance, unlike the others
    assert outliers(at(0, 1.6), 0.2) == [0, 1]  # of two, neither is the odd one
    assert outliers(at(0, 2.1, 4.2), 0.2) == [0, 1, 2]
    assert outliers(at(0, 1.2, 2.4), 0.2) == []  # each like half of the others


def test_outliers_are_those_who_count_less() -> None:
    pairs = at(0, 0.1, 3.0, 3.1)
    assert outliers(pairs, 0.2, np.array([0.9, 0.9, 0.1, 0.1], np.float32)) == [2, 3]
    assert outliers(pairs, 0.2, np.array([0.1, 0.1, 0.9, 0.9], np.float32)) == [0, 1]


def test_outliers_among_faces() -> None:
    random = np.random.default_rng(1)

    def near(middle: np.ndarray) -> np.ndarray:
        face = middle + 0.4 * random.standard_normal(512) / 512**0.5
        return face / np.linalg.norm(face)

    ada, bob = (v / np.linalg.norm(v) for v in random.standard_normal((2, 512)))
    faces = np.stack([near(ada), near(bob), near(ada), near(ada), near(bob), near(ada)]).astype(np.float32)
    assert outliers(faces, 0.5) == [1, 4]
    assert outliers(faces[[0, 2, 3]], 0.5) == []


def test_unclear_photos_are_named(make: Make) -> None:
    encoder = make()
    pair = picture(face_labels(256, 256, (65, 100, 100), (188, 100, 110)))
    with pytest.raises(NoFaceError, match="picture 2"):
        encoder.encode(picture(ONE), Image.new("RGB", (64, 64)))
    with pytest.raises(SeveralFacesError, match=r"pair\.png"):
        encoder.encode(pair, names=["pair.png"])
    assert encoder.encode(pair, face_index=0).visible_parts == PARTS
    assert encoder.encode(picture(ONE), pair, face_index=[None, 0]).visible_parts == PARTS
    with pytest.raises(InputError, match="at least one"):
        encoder.encode()
    with pytest.raises(InputError, match="1 pictures, 2 names"):
        encoder.encode(pair, names=["a", "b"])
