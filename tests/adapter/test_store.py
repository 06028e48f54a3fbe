"""Weights on disk: every released layout, training dumps and our own; and clear words about anything else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from consistentid.adapter import layouts, store
from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import CheckpointError, InputError, PipelineError
from vectors import GOLDEN

SMALL = AdapterSpec(
    id_dim=8, clip_dim=6, text_dim=16, dim_head=8, id_hidden=10, id_depth=1, id_heads=2, facial_dim=8, facial_depth=1,
    facial_heads=1, lora_rank=2,
)  # fmt: skip


def small_state(spec: AdapterSpec = SMALL) -> dict[str, torch.Tensor]:
    """A whole adapter with one self- and one cross-attention layer, in our layout."""
    modules = {
        "image_projection": layouts.build_image_projection(spec),
        "facial_encoder": layouts.build_facial_encoder(spec),
    }
    state = {f"{m}.{name}": tensor for m, module in modules.items() for name, tensor in module.state_dict().items()}
    for index in range(2):
        for name in layouts.layer_names(index):
            shape = {"down": (2, 16), "up": (16, 2)}.get(name.split(".")[1], (16, 16))
            state[f"attention.{index}.{name}"] = torch.randn(shape)
    return state


def released(state: dict[str, torch.Tensor], projection: str = "image_proj") -> dict[str, dict[str, torch.Tensor]]:
    """The same in the nesting and the names of the published files."""
    names = {"image_projection": projection, "facial_encoder": "FacialEncoder", "attention": "adapter_modules"}
    nested: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names.values()}
    for key, tensor in state.items():
        module, _, name = key.partition(".")
        nested[names[module]][name] = tensor
    return nested


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("projection", ["image_proj", "image_proj_model"])
def test_released_layout_in_both_spellings(tmp_path: Path, projection: str) -> None:
    state = small_state(replace(SMALL, dim_head=64))
    loaded = store.read(save(tmp_path / "weights.bin", released(state, projection)))
    assert same(loaded.tensors, state)
    assert loaded.guessed
    assert loaded.spec.fuse_negative
    assert (loaded.spec.shortcut, loaded.spec.marker != "") == (projection == "image_proj_model",) * 2
    sizes = ("id_dim", "clip_dim", "text_dim", "tokens", "id_hidden", "id_depth", "id_heads", "facial_dim")
    for size in (*sizes, "facial_depth", "facial_heads", "lora_rank"):
        assert getattr(loaded.spec, size) == getattr(SMALL, size), size


@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_dump_with_and_without_a_wrapper(tmp_path: Path, prefix: str) -> None:
    state = small_state(replace(SMALL, dim_head=64))
    dump = {f"{prefix}unet.conv_in.weight": torch.zeros(2)}
    for module, tensors in released(state, "image_proj_model").items():
        dump |= {f"{prefix}{module}.{name}": tensor for name, tensor in tensors.items()}
    assert same(store.read(save(tmp_path / "dump.bin", dump)).tensors, state)


@pytest.mark.parametrize(
    ("file", "text_dim", "layers", "id_heads"),
    [("ConsistentID-v1_sd15_rank128", 768, 32, 12), ("ConsistentID_SDXL-v1_rank128", 2048, 140, 32)],
)
def test_full_size_checkpoints_fit_by_name_and_shape(file: str, text_dim: int, layers: int, id_heads: int) -> None:
    inventory = json.loads((GOLDEN / "inventory" / f"{file}.json").read_text())["state_dict"]
    nested = {m: {k: torch.empty(shape, device="meta") for k, shape in keys.items()} for m, keys in inventory.items()}
    tensors, _ = layouts.to_ours(nested, file)
    spec = layouts.released_spec(tensors, "sd15", file)
    layouts.check(spec, tensors, file)
    expected = AdapterSpec.released(
        "sdxl" if text_dim == 2048 else "sd15", text_dim=text_dim, id_heads=id_heads, clip_dim=1280, lora_rank=128
    )
    assert spec == expected
    assert len({name.split(".")[1] for name in tensors if name.startswith("attention.")}) == layers


def test_the_golden_checkpoints_load_as_released(golden: Path) -> None:
    for variant, base in (("micro15", "sd15"), ("microxl", "sdxl")):
        cid = ConsistentID.from_pretrained(golden / variant, weight_name="ConsistentID-v1.bin")
        assert cid.spec == AdapterSpec.released(
            base, clip_dim=64, text_dim=128, id_heads=2, facial_dim=128, facial_depth=2, facial_heads=2, lora_rank=4
        )  # type: ignore[arg-type]
        assert cid.image_projection.shortcut == (base == "sdxl")


def test_missing_unexpected_and_misshapen_entries_are_listed_by_name(tmp_path: Path) -> None:
    state = small_state()
    del state["facial_encoder.fuse_module.mlp1.fc1.bias"], state["attention.1.to_k_ip.weight"]
    state["image_projection.proj.7.weight"] = torch.zeros(2)
    state["image_projection.norm.bias"] = torch.zeros(5)
    store.write(tmp_path / "w.safetensors", SMALL, state)
    with pytest.raises(CheckpointError) as error:
        store.read(tmp_path / "w.safetensors")
    message = str(error.value)
    assert str(tmp_path / "w.safetensors") in message
    assert "missing: attention.1.to_k_ip.weight, facial_encoder.fuse_module.mlp1.fc1.bias;" in message
    assert "unexpected: image_projection.proj.7.weight;" in message
    assert "of another shape: image_projection.norm.bias (5,) instead of (16,)" in message


def test_a_whole_module_missing_is_named(tmp_path: Path) -> None:
    nested = released(small_state())
    del nested["image_proj"], nested["adapter_modules"]
    with pytest.raises(CheckpointError, match=r"lacks image_projection\.proj\.0\.weight.*attention\.0\.to_q_lora"):
        store.read(save(tmp_path / "w.bin", nested))
    own = {name: x for name, x in small_state().items() if not name.startswith("attention.")}
    store.write(tmp_path / "w.safetensors", SMALL, own)
    with pytest.raises(CheckpointError, match=r"missing: attention\.\*"):
        store.read(tmp_path / "w.safetensors")


def test_other_weights_are_not_taken_for_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"w\.bin is not a ConsistentID .*: unexpected entries conv\.weight"):
        store.read(save(tmp_path / "w.bin", {"conv.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match="it is empty"):
        store.read(save(tmp_path / "e.bin", {}))
    with pytest.raises(CheckpointError, match="holds a list"):
        store.read(save(tmp_path / "l.bin", [torch.zeros(2)]))
    with pytest.raises(CheckpointError, match="unexpected entries step"):
        store.read(save(tmp_path / "s.bin", {"step": 3}))


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 1000, -10])
def test_truncated_files_are_named_with_a_remedy(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / name
    if name.endswith(".bin"):
        save(path, released(small_state()))
    else:
        store.write(path, SMALL, small_state())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=rf"{name}.*download it again"):
        store.read(path)


def test_files_that_are_no_weights_at_all(tmp_path: Path) -> None:
    for name in ("w.bin", "w.safetensors"):
        (tmp_path / name).write_text("<html>404: not found</html>")
        with pytest.raises(CheckpointError, match=name):
            store.read(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"absent\.bin: no such file"):
        store.read(tmp_path / "absent.bin")


class _Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def test_a_pickle_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "w.bin", {"image_proj": {"x": _Payload()}})
    with pytest.raises(CheckpointError, match=r"w\.bin"):
        store.read(tmp_path / "w.bin")
    assert not Path("executed").exists()


def own_adapter(spec: AdapterSpec = SMALL) -> ConsistentID:
    cid = ConsistentID(spec)
    state = small_state(spec)
    cid._layers = {
        name.removeprefix("attention."): torch.nn.Parameter(x) for name, x in state.items() if name.startswith("att")
    }
    return cid


def test_save_pretrained_comes_back_bit_by_bit(tmp_path: Path) -> None:
    spec = replace(SMALL, swapped_parts=("nose", "mouth"), networks={"recogniser": "r@0123456789ab"}, separator=" | ")
    cid = own_adapter(spec)
    cid.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(x.name for x in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]
    again = ConsistentID.from_pretrained(tmp_path / "new" / "folder")
    assert again.spec == spec
    assert same(again.state_dict(), cid.state_dict())


def test_one_file_explains_itself_without_a_config(tmp_path: Path) -> None:
    cid = own_adapter()
    cid.save_pretrained(tmp_path, dtype=torch.float16)
    (tmp_path / "config.json").unlink()
    again = ConsistentID.from_pretrained(tmp_path / "model.safetensors")
    assert again.spec == SMALL
    assert {x.dtype for x in again.state_dict().values()} == {torch.float32}
    assert same(again.state_dict(), {name: x.half().float() for name, x in cid.state_dict().items()})
    half = ConsistentID.from_pretrained(tmp_path / "model.safetensors", dtype=torch.float16)
    assert {x.dtype for x in half.state_dict().values()} == {torch.float16}


def test_our_names_without_a_spec_are_not_guessed_at(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"does not say what it is, and there is no config\.json"):
        store.read(tmp_path / "w.safetensors")
    assert store.read(tmp_path / "w.safetensors", SMALL).spec is SMALL


def test_released_weights_convert_to_a_safetensors_file(tmp_path: Path) -> None:
    state = small_state(replace(SMALL, dim_head=64))
    loaded = store.read(save(tmp_path / "w.bin", released(state)))
    store.write(tmp_path / "w.safetensors", loaded.spec, loaded.tensors)
    again = store.read(tmp_path / "w.safetensors")
    assert not again.guessed
    assert again.spec == loaded.spec
    assert same(again.tensors, state)


def test_safetensors_in_the_released_names_are_read_too(tmp_path: Path) -> None:
    state = small_state(replace(SMALL, dim_head=64))
    flat = {f"{module}.{name}": x for module, tensors in released(state).items() for name, x in tensors.items()}
    save_file(flat, tmp_path / "w.safetensors")
    assert same(store.read(tmp_path / "w.safetensors").tensors, state)


def test_a_given_spec_wins_and_must_fit(tmp_path: Path) -> None:
    path = save(tmp_path / "w.bin", released(small_state()))
    assert store.read(path, SMALL).spec is SMALL
    with pytest.raises(CheckpointError, match="of another shape"):
        store.read(path, replace(SMALL, text_dim=32))


def test_configs_that_are_not_ours(tmp_path: Path) -> None:
    own_adapter().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"colour": "red"}))
    with pytest.raises(CheckpointError, match=r"unknown options colour; known are id_dim"):
        ConsistentID.from_pretrained(tmp_path)
    wrong: list[dict[str, Any]] = [{"id_dim": "many"}, {"phrases": {"face": "one face"}}, {"swapped_parts": ["nose"]}]
    wrong += [{"part_layout": "round"}, {"id_dim": 0}, {"facial_depth": 10**9}, {"tokens": True}, {"shortcut": 1}]
    for broken in ("{", "[1]", *(json.dumps(values | entry) for entry in wrong)):
        config.write_text(broken)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            ConsistentID.from_pretrained(tmp_path)


def test_which_file_is_meant(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a file, nor a folder, nor a hub id"):
        ConsistentID.from_pretrained(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds nothing; say which"):
        ConsistentID.from_pretrained(tmp_path)
    save(tmp_path / "a.bin", released(small_state(replace(SMALL, dim_head=64))))
    assert ConsistentID.from_pretrained(tmp_path).spec.text_dim == 16
    save(tmp_path / "b.bin", {})
    with pytest.raises(CheckpointError, match=r"holds a\.bin, b\.bin; say which"):
        ConsistentID.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no file c\.bin in .*; there are a\.bin, b\.bin"):
        ConsistentID.from_pretrained(tmp_path, weight_name="c.bin")
    assert ConsistentID.from_pretrained(tmp_path, weight_name="a.bin").spec.text_dim == 16


def test_hub_ids_are_read_from_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="Some/Where is not in the local cache"):
        ConsistentID.from_pretrained("Some/Where", weight_name="w.bin")
    snapshot = tmp_path / "models--Some--Where" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--Some--Where" / "refs").mkdir()
    (tmp_path / "models--Some--Where" / "refs" / "main").write_text("a" * 40)
    save(snapshot / "w.bin", released(small_state(replace(SMALL, dim_head=64))))
    assert ConsistentID.from_pretrained("Some/Where", weight_name="w.bin").spec.text_dim == 16
    own_adapter().save_pretrained(snapshot)
    assert ConsistentID.from_pretrained("Some/Where").spec == SMALL


def test_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"call it first"):
        ConsistentID(SMALL).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        own_adapter().save_pretrained(tmp_path / "file")
    own_adapter().save_pretrained(tmp_path / "out")
    own_adapter().save_pretrained(tmp_path / "out")
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
