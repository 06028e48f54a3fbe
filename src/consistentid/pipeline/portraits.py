"""`Portraits`: the pictures of a call, what is known of each, and the one way in which they leave as files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from PIL import Image

from consistentid.files.images import contact_sheet
from consistentid.files.output import encode_json
from consistentid.files.writing import check_folder, save_new
from consistentid.provenance.marks import Provenance


@dataclass(frozen=True)
class Portraits:
    """Pictures of one call, prompt by prompt.

    Attributes:
        images: RGB pictures, as they were made: the invisible mark is put in when they are encoded or saved.
        scores: likeness of each to the identity, cosine of the recogniser's embeddings, -1 to 1; NaN = no face found,
            or not measured. Of several people the least; NaN if one was not found.
        seeds: of each; a picture can be made again alone with its prompt and seed.
        withheld: whether the base's safety checker blacked it out.
        prompts: of each.
        record: how all of them were made, as plain values: settings, networks by name and fingerprint, versions; no
            path of this machine.
        scored: whether `scores` were measured.
        people: of each picture of several people what is known of each of them: "likeness" and "region".
        placements: of each picture of several people without given regions how they were put where they are: "by"
            "words", with the "likeness" of each person's words to each face, or "order", with the "reason".
        repairs: of each picture the faces that were drawn anew.
        provenance: which marks they get when they are encoded or saved.
        kept: a given picture, of which they hold what was not drawn anew; those pixels stay as they are.
    """

    images: list[Image.Image]
    scores: list[float]
    seeds: list[int]
    withheld: list[bool]
    prompts: list[str]
    record: Mapping[str, Any] = field(default_factory=dict)
    scored: bool = True
    people: list[list[dict[str, Any]]] = field(default_factory=list)
    placements: list[dict[str, Any]] = field(default_factory=list)
    repairs: list[list[dict[str, Any]]] = field(default_factory=list)
    provenance: Provenance = field(default_factory=Provenance)
    kept: Image.Image | None = None

    def __len__(self) -> int:
        return len(self.images)

    def chosen(self, numbers: Sequence[int]) -> Portraits:
        """Those of the pictures, in that order."""
        return replace(
            self,
            images=[self.images[i] for i in numbers],
            scores=[self.scores[i] for i in numbers],
            seeds=[self.seeds[i] for i in numbers],
            withheld=[self.withheld[i] for i in numbers],
            prompts=[self.prompts[i] for i in numbers],
            people=[self.people[i] for i in numbers] if self.people else [],
            placements=[self.placements[i] for i in numbers] if self.placements else [],
            repairs=[self.repairs[i] for i in numbers] if self.repairs else [],
        )

    @classmethod
    def together(cls, parts: Sequence[Portraits]) -> Portraits:
        """The pictures of several calls that differ in nothing that `record` tells."""
        names = ("images", "scores", "seeds", "withheld", "prompts", "people", "placements", "repairs")
        lists: dict[str, Any] = {name: [item for part in parts for item in getattr(part, name)] for name in names}
        return replace(parts[0], **lists)

    def picture_record(self, number: int) -> dict[str, Any]:
        """How one picture was made: `record` with its own prompt, seed, likeness and size."""
        image = self.images[number]
        return {
            **self.record,
            "prompt": self.prompts[number],
            "width": image.width,
            "height": image.height,
            "seed": self.seeds[number],
            "likeness": self.scores[number],
            **self._details(number),
        }

    def _details(self, number: int) -> dict[str, Any]:
        found: dict[str, list[Any]] = {"people": self.people, "placement": self.placements, "repairs": self.repairs}
        return {name: items[number] for name, items in found.items() if items}

    def to_png(self, number: int, more: Mapping[str, Any] | None = None, provenance: Provenance | None = None) -> bytes:
        """One picture as a PNG that carries its record, and `more`, and the marks of an AI-generated picture.

        Args:
            number: of the picture.
            more: for its record.
            provenance: takes the place of its own.
        """
        record = {**self.picture_record(number), **(more or {})}
        return (provenance or self.provenance).encode(self.images[number], record, self.kept)

    def save(
        self,
        folder: str | PathLike[str],
        *,
        sheet: bool = True,
        references: Sequence[Image.Image] = (),
        about: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Writes a PNG for each picture, results.json and a contact sheet; nothing is overwritten.

        Args:
            folder: made if it is not there.
            sheet: also one picture with all of them.
            references: shown on it beside the pictures.
            about: more about the call for results.json alone, such as paths, which never go into a picture.

        Returns:
            What results.json holds: `record`, `about`, and "pictures" with the file, prompt, seed, likeness, withheld,
            width and height of each; "sheet" is the contact sheet's file.

        Raises:
            InputError: the folder cannot be written to.
        """
        home = check_folder(folder)
        listed = []
        for number in range(len(self)):
            file = save_new(home / f"portrait-{self.seeds[number]}.png", self.to_png(number))
            own = {key: self.picture_record(number)[key] for key in ("prompt", "seed", "likeness", "width", "height")}
            listed.append({"file": str(file), **own, "withheld": self.withheld[number], **self._details(number)})
        results: dict[str, Any] = {**self.record, **(about or {}), "pictures": listed}
        if sheet:
            captions = [f"seed {seed}  {self.likeness(i)}" for i, seed in enumerate(self.seeds)]
            data = self.provenance.encode(contact_sheet(references, self.images, captions), self.record)
            results["sheet"] = str(save_new(home / "sheet.png", data))
        save_new(home / "results.json", encode_json(results))
        return results

    def placement(self, number: int) -> str:
        """How the people of a picture were put where they are, in words; empty where that was given."""
        if not self.placements:
            return ""
        found = self.placements[number]
        return "placed by their words" if found["by"] == "words" else f"placed from left to right: {found['reason']}"

    def likeness(self, number: int) -> str:
        """A picture's likeness in words."""
        if self.withheld[number]:
            return "withheld by the safety checker"
        if self.people and self.scored:
            each = [person["likeness"] for person in self.people[number]]
            return f"likeness {' '.join('-' if math.isnan(x) else f'{x:.2f}' for x in each)}"
        if math.isnan(self.scores[number]):
            return "no face found" if self.scored else "likeness unknown"
        return f"likeness {self.scores[number]:.2f}"
