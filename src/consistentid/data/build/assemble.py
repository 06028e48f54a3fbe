"""The results of all shards put together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from consistentid.data.build.annotate import REASONS
from consistentid.data.build.job import REJECTED, REPORT, SUMMARY, Job
from consistentid.data.build.plan import Shard, Source, printable, result_file
from consistentid.data.build.similar import near_duplicates
from consistentid.data.build.summary import Built, histograms, summary_page
from consistentid.data.build.worker import files_only
from consistentid.data.dataset import read_embedding
from consistentid.data.records import Record, write_records
from consistentid.errors import InputError
from consistentid.faces.verification import outliers
from consistentid.files.output import encode_json
from consistentid.files.writing import write_whole
from consistentid.presets.preset import Preset


def assemble(
    job: Job, preset: Preset, shards: Sequence[Shard], there: set[str], unlisted: Mapping[str, str]
) -> dict[str, Any]:
    """Put the results of all shards together; the same whatever order they were made in."""
    latest: dict[str, tuple[Source, dict[str, Any]]] = {}
    for shard in shards:
        results = json.loads(result_file(job.out, shard.number).read_text())
        latest |= {s.path: (s, result) for s, result in zip(shard.sources, results, strict=True) if s.path in there}
    entries = [latest[path] for path in sorted(latest, key=os.fsencode)]
    built = [
        Built(Record(**result["record"]), tuple(result["parts"]), result["hash"])
        for _, result in entries
        if "record" in result
    ]
    rejected = [(source.path, result["rejected"]) for source, result in entries if "rejected" in result]
    rejected += [(path, {"code": "unreadable", "reason": reason}) for path, reason in unlisted.items()]
    rejected.sort(key=lambda item: os.fsencode(item[0]))
    built = _flagged(job.out, built, preset.same_person)
    records = [one.record for one in built]

    kept = {record.key for record in records}
    for source in (source for shard in shards for source in shard.sources if source.name not in kept):
        for file in files_only(source.name).files(job.out).values():  # of a picture that is gone, or no longer usable
            file.unlink(missing_ok=True)

    write_records(job.out, records)
    lines = [{"file": printable(path), **why} for path, why in rejected]
    write_whole(job.out / REJECTED, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    counts = {code: sum(line["code"] == code for line in lines) for code in REASONS}
    report = {
        "pictures": len(entries) + len(unlisted),
        "built": len(built),
        "rejected": {code: count for code, count in counts.items() if count},
        "people": len({record.person for record in records} - {None}),
        "near_duplicates": {r.key: r.extra["near_duplicate_of"] for r in records if "near_duplicate_of" in r.extra},
        "strangers": [record.key for record in records if record.extra.get("stranger")],
        "histograms": histograms(built),
    }
    write_whole(job.out / REPORT, encode_json(report))
    write_whole(job.out / SUMMARY, summary_page(job.photos, job.out, report, built, rejected))
    if not built:
        raise InputError(
            f"{job.photos}: none of {report['pictures']} files became a picture of the data set; "
            f"{job.out / REJECTED} says why"
        )
    return report


def _flagged(out: Path, built: Sequence[Built], same_person: float) -> list[Built]:
    """Marks near-duplicates, and pictures that show another person than the others in their folder."""
    copies = near_duplicates([one.hash for one in built])
    marks: list[dict[str, Any]] = [{} for _ in built]
    for row, first in copies.items():
        marks[row]["near_duplicate_of"] = built[first].record.key
    people: dict[str, list[int]] = {}
    for row, one in enumerate(built):
        if one.record.person is not None:
            people.setdefault(one.record.person, []).append(row)
    for rows in people.values():
        files = [built[row].record.files(out)["embedding"] for row in rows]
        embeddings = np.stack([read_embedding(file.read_bytes(), str(file)) for file in files])
        for odd in outliers(embeddings, same_person):
            marks[rows[odd]]["stranger"] = True
    return [
        replace(one, record=replace(one.record, extra={**one.record.extra, **mark}))
        for one, mark in zip(built, marks, strict=True)
    ]
