"""From a folder of raw pictures to a data set: planned, shared out, resumed, put together.

```
DATASET/
├── JSON_all.json, resize_IMG/, parsing_mask_IMG/, all_faceID/    the data set, see `consistentid.data.records`
├── rejected.jsonl      a line for each picture that was not taken: file, code, reason
├── report.json         counts, near-duplicates, strangers, histograms
├── summary.html        the same to look at
└── build/              how far the work is: job.json, plan.jsonl, and a result for each finished shard
```

The plan divides the pictures, by their paths, into shards that never change. A shard is worked on as a whole: its files
are written first and its result last, each under its final name only when complete. So a run that is killed loses no
more than the shards it was at, and what they leave is written again byte for byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from consistentid.data.build.annotate import REASONS, Annotator, Portrait, Rejection
from consistentid.data.build.similar import near_duplicates
from consistentid.data.build.summary import Built, histograms, summary_page
from consistentid.data.dataset import read_embedding
from consistentid.data.records import RECORDS, Record, read_records, write_records
from consistentid.errors import ConsistentIDError, DatasetError, InputError
from consistentid.faces.caption import Caption, Captioner
from consistentid.faces.verification import outliers
from consistentid.files.claims import claimed
from consistentid.files.devices import resolve_device
from consistentid.files.output import encode_json
from consistentid.files.weights import fingerprint
from consistentid.files.workers import quiet_libraries, run_in_processes
from consistentid.files.writing import check_folder, replacing, write_whole
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset

REJECTED: Final = "rejected.jsonl"
REPORT: Final = "report.json"
SUMMARY: Final = "summary.html"
ENGINES: Final = ("local", "ray")

_STATE: Final = "build"
_PLAN: Final = "plan.jsonl"
_JOB: Final = "job.json"
_LONGEST_NAME: Final = 120  # bytes; file systems allow 255, and a temporary name is longer than the final one
_LONGEST_LINE: Final = 2000  # characters of a text beside a picture
_SHARING: Final = 4  # workers that find their faces on one GPU: the networks are small, and reading takes as long
_NO_PICTURES: Final = (".txt", ".json")


@dataclass(frozen=True)
class Job:
    """What is to be built.

    Attributes:
        photos: folder of raw pictures: one folder a person in it, or all pictures in it.
        out: folder of the data set.
        preset: its face networks are used; a name, YAML file or folder.
        size: side of the pictures, pixels; 0 = 128 where the preset is for drawings, else 512.
        batch: pictures that go through the networks together, and a shard of the work.
        captioner: hub id or folder of a vision-language model; None = the words that the pictures come with: a text
            file beside the picture (first line the picture, second the face), or the records of a data set in the
            folder of the pictures or the one above.
        device: where all networks compute; the best there is by default.

    Raises:
        InputError: a value that is not allowed.
    """

    photos: Path
    out: Path
    preset: str = "drawn"
    size: int = 0
    batch: int = 16
    captioner: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("size", 32, 2048), ("batch", 1, 1024)):
            value = getattr(self, name)
            if not low <= value <= high and not (name == "size" and value == 0):
                raise InputError(f"{name}={value} is not allowed; give {low} to {high}")


@dataclass(frozen=True)
class Source:
    """A raw picture of the plan: its path in the folder, the name of its files without suffix, size and time."""

    path: str
    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Shard:
    """Pictures that are worked on together; `words` are those that their folder has for them."""

    number: int
    sources: tuple[Source, ...]
    words: tuple[Caption | None, ...] = ()


def build_dataset(
    job: Job,
    *,
    engine: str = "local",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Make a data set of raw pictures, or go on where a run was stopped; a finished one is left as it is.

    Pictures that came since the last run are added, those that are gone are taken out.

    Args:
        job: what to build.
        engine: "local", or "ray": the same on the Ray cluster that `RAY_ADDRESS` names, or a local one; all its
            machines must reach both folders by the same paths.
        workers: processes; by default one a core, with a captioner one in all, or with Ray one a GPU.
        progress: called with (pictures done, pictures in all).

    Returns:
        What report.json holds, with "folder", and "done_now": how many pictures were worked on.

    Raises:
        InputError: nothing to build from, a folder that holds something else, or one that cannot be written.
        CheckpointError: networks are missing or broken.
    """
    if engine not in ENGINES:
        raise InputError(f"engine={engine!r} is unknown; the engines are {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} is not allowed; give at least 1")
    preset = load_preset(job.preset)
    job = replace(
        job,
        photos=job.photos.absolute(),
        out=job.out.absolute(),
        preset=job.preset if job.preset == preset.name else str(Path(job.preset).absolute()),
        size=job.size or (128 if preset.drawings_only else 512),
    )
    _check_folders(job)
    found, unlisted = scan(job.photos)
    if not found:
        raise InputError(f"{job.photos}: holds no files; name the folder with the pictures")
    check_folder(job.out)
    with claimed(job.out, "data set that was built", _about(job, preset), note=f"{_STATE}/{_JOB}"):
        return _build_into(job, preset, found, unlisted, engine, workers, progress)


def _build_into(
    job: Job,
    preset: Preset,
    found: Sequence[tuple[str, int, int]],
    unlisted: Mapping[str, str],
    engine: str,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    shards = _plan(job, found)
    waiting = [shard for shard in shards if not _result(job.out, shard.number).exists()]
    total, now = (sum(len(shard.sources) for shard in some) for some in (shards, waiting))
    check_folder(job.out, megabytes=16 + now * job.size**2 * 2 // 2**20)
    words = _folder_words(job.photos) if waiting and not job.captioner else {}
    tasks = [replace(shard, words=tuple(words.get(_stem(s.path)) for s in shard.sources)) for shard in waiting]
    finished = total - now

    def tell(count: int) -> None:
        nonlocal finished
        finished += count
        if progress:
            progress(finished, total)

    tell(0)
    (_by_ray if engine == "ray" else _locally)(job, tasks, workers, tell)
    report = _assemble(job, preset, shards, {path for path, *_ in found}, unlisted)
    return {"folder": str(job.out), "done_now": now, **report}


def scan(photos: Path) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
    """All files of a folder that may be pictures.

    Hidden files are passed over, and texts that belong to pictures. Linked folders are entered, each folder once.

    Returns:
        (path in the folder, size, time of change) sorted by path; and path -> reason of what cannot be listed.

    Raises:
        InputError: there is no such folder.
    """
    files: list[tuple[str, int, int]] = []
    unlisted: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()

    def enter(folder: Path, path: str) -> None:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            unlisted[path] = "a folder that was entered already: a link to it, or one that leads back"
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
        stems = {Path(entry.name).stem for entry in entries if not entry.name.lower().endswith(_NO_PICTURES)}
        for entry in entries:
            within = f"{path}/{entry.name}" if path else entry.name
            if entry.name.startswith(".") or entry.name == RECORDS:
                continue
            try:
                if entry.is_dir():
                    enter(Path(entry.path), within)
                    continue
                status = entry.stat()
                files.append((within, status.st_size, status.st_mtime_ns))
            except OSError as error:
                unlisted[within] = f"cannot be reached ({error.strerror}); correct the link or its permissions"
                continue
            if entry.name.lower().endswith(".txt") and Path(entry.name).stem in stems:
                files.pop()

    if not photos.is_dir():
        raise InputError(f"{photos}: is no folder; name the one that holds the pictures")
    try:
        enter(photos, "")
    except OSError as error:
        raise InputError(f"{photos}: cannot be listed ({error.strerror}); change its permissions") from None
    return files, unlisted


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
        known = [word or _text_beside(file) for word, file in zip(shard.words, files, strict=True)]
        results: list[dict[str, Any]] = []
        for source, outcome in zip(shard.sources, self.annotate(files, known), strict=True):
            if isinstance(outcome, Rejection):
                results.append({"rejected": asdict(outcome)})
            else:
                results.append(_write(job.out, source, outcome))
        write_whole(_result(job.out, shard.number), json.dumps(results))
        return len(shard.sources)


def _placed(name: str) -> Record:
    """A record of no more than where the files of a picture lie."""
    return Record(image=f"{name}.png", mask=f"{name}.png", embedding=f"{name}.bin")


def _write(out: Path, source: Source, portrait: Portrait) -> dict[str, Any]:
    """Write the files of a picture; return its entry in the shard's result."""
    record = replace(
        _placed(source.name),
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


# ---------------------------------------------------------------------------------------------------------- engines


def _locally(job: Job, shards: Sequence[Shard], workers: int | None, done: Callable[[int], None]) -> None:
    """Work on shards with processes of this machine, and tell how many pictures have just been done."""
    run_in_processes(
        partial(_worker, job),
        _run,
        shards,
        workers or _default_workers(job),
        lambda _, count: done(count),
        remedy="give fewer --workers or a smaller --batch: the same line goes on where it was",
    )


def _default_workers(job: Job) -> int:
    if job.captioner:
        return 1
    cores = os.cpu_count() or 1
    return cores if resolve_device(job.device).type == "cpu" else min(cores, _SHARING)


def _worker(job: Job, _number: int) -> Worker:
    if multiprocessing.parent_process():  # its bars would stand beside that of the whole
        quiet_libraries()
    return Worker(job)


def _run(worker: Worker, shard: Shard) -> int:
    return worker(shard)


class _RayWorker:
    """A `Worker` as Ray Data calls it."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        quiet_libraries()
        self.worker: Worker | None = None
        self.job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self.worker = self.worker or Worker(self.job)
            return {"count": self.worker(row["shard"]), "error": ""}
        except ConsistentIDError as error:  # as a value: Ray would wrap it in a report of its own
            return {"count": 0, "error": str(error)}


def _by_ray(job: Job, shards: Sequence[Shard], workers: int | None, done: Callable[[int], None]) -> None:
    """The same as `_locally` by Ray Data, on as many machines as the cluster has."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("engine='ray' needs Ray; install it with: pip install 'consistentid[ray]'") from None
    if not shards:
        return
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    # Of a GPU that is not asked for, Ray shows its workers nothing.
    share = 0.0 if job.device == "cpu" else 1.0 if job.captioner else 1 / _SHARING
    gpus = resources.get("GPU", 0.0) if share else 0.0
    most = min(workers or int(gpus / share if gpus else resources.get("CPU", 1)), len(shards))
    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    mapped = rows.map(
        _RayWorker,
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=1,
        num_gpus=share if gpus else 0,
    )
    for row in mapped.iter_rows():
        if row["error"]:
            raise ConsistentIDError(row["error"])
        done(row["count"])


# ------------------------------------------------------------------------------------------------------------- plan


def _check_folders(job: Job) -> None:
    photos, out = job.photos.resolve(), job.out.resolve()
    if out == photos or photos in out.parents:
        raise InputError(f"{job.out}: lies in the folder of the pictures; name one outside {job.photos}")


def _about(job: Job, preset: Preset) -> dict[str, Any]:
    """What the data set depends on."""
    return {
        "consistentid": version("consistentid"),
        "size": job.size,
        "batch": job.batch,
        "captioner": job.captioner,
        **{role: _named(preset.networks[role]) for role in ("detector", "parser", "recogniser")},
    }


def _named(network: Network) -> str:
    if network.path and network.kind != "insightface":  # that library fetches its files when they are first used
        return fingerprint(network.path)
    return network.path.stem if network.path else f"{network}@{network.revision}" if network.revision else str(network)


def _plan(job: Job, found: Sequence[tuple[str, int, int]]) -> list[Shard]:
    """The shards of former runs as they were, and new ones for pictures that are new or have changed."""
    path = job.out / _STATE / _PLAN
    shards = _read_plan(path)
    planned = {source.path: source for shard in shards for source in shard.sources}
    names = {source.path: source.name for source in planned.values()}
    taken = {name.casefold() for name in names.values()}
    new = []
    for file, size, changed in found:
        before = planned.get(file)
        if before and (before.size, before.changed) == (size, changed):
            continue
        name = names.get(file) or _free_name(file, taken)
        taken.add(name.casefold())
        new.append(Source(file, name, size, changed))
    if new:
        for start in range(0, len(new), job.batch):
            shards.append(Shard(len(shards), tuple(new[start : start + job.batch])))
        lines = [json.dumps([list(vars(source).values()) for source in shard.sources]) for shard in shards]
        write_whole(path, "".join(f"{line}\n" for line in lines))
    return shards


def _read_plan(path: Path) -> list[Shard]:
    if not path.exists():
        return []
    try:
        lines = path.read_text().splitlines()
        return [Shard(number, tuple(Source(*row) for row in json.loads(line))) for number, line in enumerate(lines)]
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path}: cannot be read; delete the data set's folder, or name a new one") from None


def _free_name(path: str, taken: set[str]) -> str:
    """A name for a picture's files that every system allows and that no other has, also where case does not count."""
    parts = [_portable(part) for part in _stem(path).split("/")]
    name = "/".join(parts)
    if name.casefold() not in taken:
        return name
    # a.jpg beside a.png
    suffix = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return f"{name}-{suffix}"


def _portable(part: str) -> str:
    clean = re.sub(r'[\x00-\x1f\x7f<>:"\\|?*]', "_", printable(part)).rstrip(". ")
    clean = re.sub(r"^\.+", "_", clean) or "_"
    if len(clean.encode()) <= _LONGEST_NAME:
        return clean
    cut = clean.encode()[: _LONGEST_NAME - 9].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(clean.encode()).hexdigest()[:8]}"


def printable(path: str) -> str:
    """A file's name as text: bytes in it that are no UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _result(out: Path, number: int) -> Path:
    return out / _STATE / f"{number:06d}.json"


def _folder_words(photos: Path) -> Mapping[str, Caption]:
    """Captions by the picture's path without suffix, from the records of the data set that the pictures belong to."""
    for folder in (photos, photos.parent):
        try:
            return {record.key: Caption(record.caption, record.face_caption) for record in read_records(folder)}
        except DatasetError:
            continue
    return {}


def _text_beside(file: Path) -> Caption | None:
    """The words in NAME.txt beside NAME.jpg: first line the picture, second the face."""
    beside = file.with_suffix(".txt")
    if not beside.is_file():  # a pipe of that name would be waited for
        return None
    try:
        with beside.open(encoding="utf-8") as text:
            image, face = (" ".join(text.readline(_LONGEST_LINE).split()) for _ in range(2))
    except (OSError, ValueError):
        return None
    return Caption(image, face)


# --------------------------------------------------------------------------------------------------------- assembly


def _assemble(
    job: Job, preset: Preset, shards: Sequence[Shard], there: set[str], unlisted: Mapping[str, str]
) -> dict[str, Any]:
    """Put the results of all shards together; the same whatever order they were made in."""
    latest: dict[str, tuple[Source, dict[str, Any]]] = {}
    for shard in shards:
        results = json.loads(_result(job.out, shard.number).read_text())
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
        for file in _placed(source.name).files(job.out).values():  # of a picture that is gone, or no longer usable
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
