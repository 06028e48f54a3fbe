import dataclasses
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consistentid.adapter.identity import Identity
from consistentid.errors import CheckpointError, IncompatibleIdentityError, InputError
from consistentid.faces.parts import PARTS

PROVENANCE = {
    "recogniser": "w600k_r50@aaaaaaaaaaaa",
    "image_encoder": "clip@bbbbbbbbbbbb",
    "parser": "bisenet@cccccccccccc",
    "part_layout": "square",
}


def someone(seed: int, hidden: tuple[str, ...] = (), **provenance: str) -> Identity:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([part not in hidden for part in PARTS])
    blank = torch.linspace(-1, 1, 7 * 12).view(7, 12)
    parts = torch.randn(len(PARTS), 7, 12, generator=generator)
    return Identity(
        embedding=torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0),
        face_features=torch.randn(7, 12, generator=generator),
        part_features=torch.where(mask[:, None, None], parts, blank),
        part_mask=mask,
        blank_features=blank,
        provenance=PROVENANCE | provenance,
    )


def tensors(who: Identity) -> dict[str, torch.Tensor]:
    return {f.name: getattr(who, f.name) for f in dataclasses.fields(who) if f.name not in ("provenance", "face_text")}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    ada = dataclasses.replace(someone(0, hidden=("ears",)), face_text="Her eyes are green: \u00fcber.")
    ada.save(tmp_path / "ada.safetensors")
    loaded = Identity.load(tmp_path / "ada.safetensors")
    torch.testing.assert_close(loaded.embedding, ada.embedding, atol=0, rtol=0)
    torch.testing.assert_close(tensors(loaded), tensors(ada), atol=1e-5, rtol=1e-3)
    assert all(value.dtype in (torch.float32, torch.bool) for value in tensors(loaded).values())
    assert loaded.provenance == PROVENANCE
    assert loaded.face_text == ada.face_text
    assert loaded.visible_parts == ("face", "eyes", "nose", "mouth")
    assert load_file(tmp_path / "ada.safetensors")["part_features"].dtype == torch.float16


def test_the_order_of_networks_does_not_depend_on_the_file() -> None:
    ada = someone(0)
    assert list(ada.provenance) == sorted(PROVENANCE) != list(PROVENANCE)
    orders = {tuple(Identity.from_bytes(ada.to_bytes()).provenance) for _ in range(20)}
    assert orders == {tuple(ada.provenance)}, "a safetensors file keeps its names in an order of chance"


def test_features_beyond_float16_survive(tmp_path: Path) -> None:
    ada = dataclasses.replace(someone(0), face_features=torch.full((7, 12), 1e5))
    ada.save(tmp_path / "ada.safetensors")
    torch.testing.assert_close(Identity.load(tmp_path / "ada.safetensors").face_features, ada.face_features)


def test_saving_replaces_the_whole_file_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "ada.safetensors"
    someone(0).save(target)
    someone(1).save(target)
    assert [file.name for file in tmp_path.iterdir()] == ["ada.safetensors"]
    torch.testing.assert_close(Identity.load(target).embedding, someone(1).embedding)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "full").touch()
    with pytest.raises(InputError, match=r"blocked: cannot be written \(is a directory\)"):
        someone(0).save(blocked)
    with pytest.raises(InputError, match="cannot be written"):
        someone(0).save(target / "ada.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ada.safetensors", "blocked"]


@pytest.mark.skipif(os.name == "nt", reason="rights as POSIX has them")
def test_an_identity_is_its_owner_s_alone(tmp_path: Path) -> None:
    someone(0).save(tmp_path / "ada.safetensors")
    assert stat.S_IMODE((tmp_path / "ada.safetensors").stat().st_mode) == 0o600


def test_files_that_are_no_identity_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such file.*consistentid identify"):
        Identity.load(tmp_path / "absent.safetensors")
    someone(0).save(tmp_path / "whole.safetensors")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"truncated\.safetensors is not a readable safetensors file"):
        Identity.load(truncated)
    picture = tmp_path / "photo.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" * 20)
    with pytest.raises(CheckpointError, match=r"photo\.png is not a readable"):
        Identity.load(picture)
    foreign = tmp_path / "lora.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors is not an identity \(format None"):
        Identity.load(foreign)
    metadata = {"format": "consistentid-identity-1"}
    save_file({"embedding": torch.zeros(3)}, foreign, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors holds \['embedding'\] instead of"):
        Identity.load(foreign)
    whole = load_file(tmp_path / "whole.safetensors")
    save_file(whole | {"part_mask": torch.ones(3, dtype=torch.bool)}, foreign, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: tensors of an identity do not fit"):
        Identity.load(foreign)
    save_file(whole | {"embedding": torch.full((16,), torch.nan)}, foreign, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors holds values that are not finite in \['embedding'\]"):
        Identity.load(foreign)


def test_shapes_must_fit() -> None:
    with pytest.raises(InputError, match=r"part_features.*\(5, 7, 12\)"):
        dataclasses.replace(someone(0), part_features=torch.zeros(4, 7, 12))
    with pytest.raises(InputError, match=r"embedding \(1, 16\) must be \(id_dim,\)"):
        dataclasses.replace(someone(0), embedding=torch.zeros(1, 16))


def test_a_zero_embedding_can_be_built_by_hand() -> None:
    assert dataclasses.replace(someone(0), embedding=torch.zeros(16)).embedding.abs().sum() == 0


def test_blend_is_the_weighted_mean() -> None:
    ada, bob = someone(0), someone(1)
    both = Identity.blend([ada, bob], weights=[7, 3])
    mean = 0.7 * ada.embedding + 0.3 * bob.embedding
    torch.testing.assert_close(both.embedding, mean / mean.norm())
    torch.testing.assert_close(both.face_features, 0.7 * ada.face_features + 0.3 * bob.face_features)
    torch.testing.assert_close(both.part_features, 0.7 * ada.part_features + 0.3 * bob.part_features)
    torch.testing.assert_close(tensors(Identity.blend([ada, ada])), tensors(ada))
    torch.testing.assert_close(tensors(Identity.blend([ada, bob], [1, 0])), tensors(ada))


def test_blend_takes_hidden_parts_from_those_who_show_them() -> None:
    ada, bob = someone(0, hidden=("eyes", "ears")), someone(1, hidden=("eyes",))
    both = Identity.blend([ada, bob], [0.9, 0.1])
    assert both.visible_parts == ("face", "ears", "nose", "mouth")
    torch.testing.assert_close(both.part_features[2], bob.part_features[2])
    torch.testing.assert_close(both.part_features[1], both.blank_features)
    assert Identity.blend([ada, bob], [1, 0]).visible_parts == ada.visible_parts


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.5], [0.0, 0.0], [1.0, float("nan")], [1, 2, 3]])
def test_blend_refuses_other_weights(weights: list[float]) -> None:
    with pytest.raises(InputError, match="do not fit 2 identities"):
        Identity.blend([someone(0), someone(1)], weights)


def test_blend_needs_somebody() -> None:
    with pytest.raises(InputError, match="at least one"):
        Identity.blend([])


def test_parts_of_another() -> None:
    ada, bob = someone(0, hidden=("eyes",)), someone(1, hidden=("nose",))
    mixed = ada.with_parts(eyes=bob, mouth=bob)
    torch.testing.assert_close(mixed.part_features[[1, 4]], bob.part_features[[1, 4]])
    torch.testing.assert_close(mixed.part_features[[0, 2, 3]], ada.part_features[[0, 2, 3]])
    torch.testing.assert_close(mixed.embedding, ada.embedding)
    assert mixed.visible_parts == PARTS
    assert ada.visible_parts == ("face", "ears", "nose", "mouth")  # unchanged
    described = dataclasses.replace(ada, face_text="Her eyes are green.")
    assert described.with_parts(eyes=bob).face_text == Identity.blend([described, bob]).face_text == ""
    with pytest.raises(InputError, match="unknown part 'chin'; known parts are face, eyes, ears, nose, mouth"):
        ada.with_parts(chin=bob)
    with pytest.raises(InputError, match="does not show its nose; it shows face, eyes"):
        ada.with_parts(nose=bob)


def test_people_of_different_networks_do_not_mix() -> None:
    ada, bob = someone(0), someone(1, recogniser="drawn@dddddddddddd")
    for mix in (lambda: Identity.blend([ada, bob]), lambda: ada.with_parts(eyes=bob)):
        with pytest.raises(IncompatibleIdentityError, match=r"recogniser: .*w600k_r50@aaaaaaaaaaaa, expected drawn@d"):
            mix()


def test_expected_networks() -> None:
    ada = someone(0)
    ada.check_networks({})
    ada.check_networks(PROVENANCE)
    ada.check_networks({"recogniser": "w600k_r50", "parser": "", "part_layout": "square"})
    with pytest.raises(IncompatibleIdentityError, match=r"part_layout: this identity has square, expected canvas"):
        ada.check_networks({"part_layout": "canvas"})
    with pytest.raises(IncompatibleIdentityError, match=r"recogniser: .*expected w600k_r50@ffffffffffff"):
        ada.check_networks({"recogniser": "w600k_r50@ffffffffffff"})
    ada.check_networks({"recogniser": PROVENANCE["recogniser"].replace("w600k_r50", "renamed")})
    with pytest.raises(IncompatibleIdentityError, match="judge: this identity has none"):
        ada.check_networks({"judge": "x@ffffffffffff"})
    with pytest.warns(UserWarning, match="made by other networks .*judge: this identity has none, expected x"):
        ada.check_networks({"judge": "x"})


def test_a_file_of_holes_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "sparse.safetensors").open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(CheckpointError, match=r"sparse\.safetensors: has .* identity at most"):
        Identity.load(tmp_path / "sparse.safetensors")
