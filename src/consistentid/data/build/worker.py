"""Work on one shard: pictures are annotated and written."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from consistentid.data.build.annotate import Annotator, Portrait, Rejection
from consistentid.data.build.job import Job
from consistentid.data.build.plan import Shard, Source, printable, result_file
from consistentid.data.build.words import text_beside
from consistentid.data.records import Record
from consistentid.faces.caption import Captioner
from consistentid.files.writing import replacing, write_whole


class Worker:
    """Works on shards of a job: loads the networks once, then makes and writes what belongs to each shard."""

    def __init__(self, job: Job) -> None:
        from consistentid.pipeline.pipeline import ConsistentIDPipeline

        self.job = job
        pipeline = ConsistentIDPipeline.from_preset(job.preset, device=job.device)
        captioner = Captioner.from_pretrained(job.captioner, device=pipeline.device) if job.captioner else None
        self.annotate = Annotator(pipeline.analyzer, job.size, captioner, pipeline.preset.same_person)

    def __call__(self, shard: Shard) -> int:
        """Do a shard; return how many pictures it has."""
        job = self.job
        files = [job.photos / source.path for source in shard.sources]
        known = [word or text_beside(file) for word, file in zip(shard.words, files, strict=True)]
        results: list[dict[str, Any]] = []
        for source, outcome in zip(shard.sources, self.annotate(files, known), strict=True):
            if isinstance(outcome, Rejection):
                results.append({"rejected": asdict(outcome)})
            else:
                results.append(_write(job.out, source, outcome))
        write_whole(result_file(job.out, shard.number), json.dumps(results))
        return len(shard.sources)


def files_only(name: str) -> Record:
    """A record of no more than where the files of a picture lie."""
    return Record(image=f"{name}.png", mask=f"{name}.png", embedding=f"{name}.bin")


def _write(out: Path, source: Source, portrait: Portrait) -> dict[str, Any]:
    """Write the files of a picture; return its entry in the shard's result."""
    record = replace(
        files_only(source.name),
        caption=portrait.caption.image,
        face_caption=portrait.caption.face,
        person=source.name.split("/")[0] if "/" in source.name else None,
        extra={
            "source": printable(source.path),
            "landmarks": np.round(portrait.landmarks.astype(float), 2).tolist(),
            "face_size": round(portrait.face_size, 1),
            "quality": round(portrait.quality, 3),
        },
    )
    embedding = io.BytesIO()  # a file's own name would get into its bytes
    torch.save(torch.from_numpy(portrait.embedding)[None].clone(), embedding)
    files = record.files(out)
    with replacing(files["image"]) as temporary:
        portrait.picture.save(temporary, compress_level=2)
    with replacing(files["mask"]) as temporary:
        Image.fromarray(portrait.labels).save(temporary)
    write_whole(files["embedding"], embedding.getvalue())
    return {"record": asdict(record), "parts": list(portrait.parts), "hash": portrait.hash}
