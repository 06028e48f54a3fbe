"""What results say of themselves: PNGs that carry how they were made and the AI-generated mark, JSON beside them."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from consistentid.errors import InputError, first_line
from consistentid.files.images import MAX_BYTES
from consistentid.files.reading import check_file, parse_json

RECORD_KEY = "consistentid"
"""PNG text chunk that holds the record of how a picture was made, as JSON."""

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a trained model: what viewers and platforms read to label a picture AI-generated."""

COMPOSITE_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a picture of which a trained model made a part."""


def source_type(*, composite: bool) -> str:
    """IPTC's term for a picture that a model made, or parts of it."""
    return COMPOSITE_SOURCE_TYPE if composite else DIGITAL_SOURCE_TYPE


def versions() -> dict[str, str]:
    """The versions a result depends on, by name."""
    packages = ("consistentid", "torch", "diffusers", "transformers", "peft", "onnxruntime")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def encode_png(image: Image.Image, record: Mapping[str, Any], *, composite: bool = False) -> bytes:
    """A PNG of `image` that carries `record` and the mark of an AI-generated picture.

    `record` is any JSON data; its "prompt", if there, is also the picture's description for ordinary viewers. A
    `composite` was made by a model in parts.
    """
    info = PngInfo()
    info.add_text("Software", f"consistentid {version('consistentid')}")
    info.add_text("Source", "AI-generated")
    if "prompt" in record:
        info.add_itxt("Description", str(record["prompt"]))
    info.add_itxt(RECORD_KEY, json.dumps(_without_nan(record), ensure_ascii=False))
    info.add_itxt("XML:com.adobe.xmp", _xmp(str(record.get("prompt", "")), source_type(composite=composite)))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_record(path: str | PathLike[str]) -> dict[str, Any]:
    """The record that `encode_png` put into a picture.

    Raises:
        InputError: the file is no PNG of this program.
    """
    file = check_file(path, MAX_BYTES, what="picture")
    try:
        with Image.open(file) as image:
            image.load()
            text = image.info.get(RECORD_KEY)
    except Exception as error:  # broken files make Pillow's plugins raise nearly anything
        raise InputError(f"{path}: cannot be read ({first_line(error)}); name a PNG made by consistentid") from None
    try:
        record = parse_json(text, str(path)) if isinstance(text, str) else None
    except InputError:
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds no record of how it was made; name a PNG made by consistentid")
    return record


def encode_json(data: Mapping[str, Any]) -> bytes:
    """Readable UTF-8 JSON; a likeness that could not be measured becomes null, since JSON knows no NaN."""
    return (json.dumps(_without_nan(data), indent=2, ensure_ascii=False) + "\n").encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _xmp(description: str, source: str) -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(description)}</rdf:li></rdf:Alt>'
        '</dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
