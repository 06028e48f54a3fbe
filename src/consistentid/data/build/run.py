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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from consistentid.data.build.assemble import assemble
from consistentid.data.build.engines import ENGINES, by_ray, locally
from consistentid.data.build.job import NOTE, STATE, Job, check_folders, depends_on
from consistentid.data.build.plan import plan_shards, result_file, scan, stem
from consistentid.data.build.words import folder_words
from consistentid.errors import InputError
from consistentid.files.claims import claimed
from consistentid.files.writing import check_folder
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset


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
    check_folders(job)
    found, unlisted = scan(job.photos)
    if not found:
        raise InputError(f"{job.photos}: holds no files; name the folder with the pictures")
    check_folder(job.out)
    with claimed(job.out, "data set that was built", depends_on(job, preset), note=f"{STATE}/{NOTE}"):
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
    shards = plan_shards(job, found)
    waiting = [shard for shard in shards if not result_file(job.out, shard.number).exists()]
    total, now = (sum(len(shard.sources) for shard in some) for some in (shards, waiting))
    check_folder(job.out, megabytes=16 + now * job.size**2 * 2 // 2**20)
    words = folder_words(job.photos) if waiting and not job.captioner else {}
    tasks = [replace(shard, words=tuple(words.get(stem(s.path)) for s in shard.sources)) for shard in waiting]
    finished = total - now

    def tell(count: int) -> None:
        nonlocal finished
        finished += count
        if progress:
            progress(finished, total)

    tell(0)
    (by_ray if engine == "ray" else locally)(job, tasks, workers, tell)
    report = assemble(job, preset, shards, {path for path, *_ in found}, unlisted)
    return {"folder": str(job.out), "done_now": now, **report}
