"""Malformed command lines, files and arguments over all commands: counts what breaks the promises made to a user.

    python benchmarks/fuzz.py --seed 0 --cases 1000
    python benchmarks/fuzz.py --seed 0 --only 17 --show        # one case again, with what it prints

Each case is a command line that works (see `SEEDS`), spoiled in one to three places: an option's value, a path, a file
that the command reads, or the line itself. Number and seed determine a case. A fault is a traceback, an exit code other
than 0 and 2, a failure without a line that begins with "error: ", more than 60 seconds, or more than 1.5 GB.

Cases run in children that are forked from a process in which all libraries are imported, which spares a second or ten
each: these have their own memory, clock and exit code, and go through the command line's own `main`. Every tenth is a
new `python -m consistentid`. The limit of time is one of processor time, as other programs on the machine take turns;
as much on the clock is a fault, too, where a case neither computes nor stands in line for a processor, but waits for
something else. The hub is off.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import psutil
import yaml

SECONDS, MEGABYTES = 60, 1500
FRESH = 10
"""Every so many cases is a new process."""

SEEDS: dict[str, list[str]] = {
    "generate": ["generate photo.png --prompt A --num 1 --steps 1 --seed 1 --preset preset --out out"],
    "generate-identity": ["generate ada.safetensors --prompt A --num 1 --steps 1 --preset preset --out out --json"],
    "generate-picture": [
        "generate photo.png --prompt A --num 1 --steps 1 --preset preset.yaml --image tom.jpg --mask mask.png --out out"
    ],
    "generate-people": [
        "generate --person photo.png@0,0,0.5,1 --person tom.jpg@0.5,0,1,1 --prompt A --num 1 --steps 1 --preset preset"
        " --person-prompt B --person-prompt C --out out"
    ],
    "identify": ["identify photo.png tom.jpg --skip-bad --preset preset --out new.safetensors --show seen.png"],
    "repair": ["repair tom.jpg --person photo.png --below 0.5 --steps 1 --preset preset --out out"],
    "draw": ["dataset draw --people 2 --scenes 1 --size 32 --photos --out drawn"],
    "draw-on": ["dataset draw --people 3 --scenes 1 --size 64 --out people"],
    "build": ["dataset build photos --preset preset --size 64 --batch 2 --workers 1 --out built"],
    "check": ["dataset check people", "dataset check shards --json"],
    "pack": ["dataset pack people --samples 2 --out packed", "dataset pack people --samples 2 --out shards"],
    "train": ["train recipe.yaml --data people --device cpu --out run", "train recipe.yaml --data shards --out run"],
    "train-on": ["train recipe.yaml --data people --set adapter.schedule.steps=2 --device cpu --out begun"],
    "train-init": ["train recipe.yaml --data people --init preset/adapter --out run --json"],
    "evaluate": [
        "evaluate --preset preset --people 1 --prompts 1 --steps 1 --protocol protocol.yaml --out report",
        "evaluate --preset preset --people 1 --photos photos --prompts 1 --steps 1 --protocol protocol.yaml --out new",
        "evaluate --preset preset --pictures . --manifest manifest.csv --protocol protocol.yaml --out report",
    ],
    "inspect": ["inspect made.png", "inspect made.png --json"],
    "doctor": ["doctor --preset preset", "doctor --preset preset.yaml --json"],
    "serve": ["serve --preset preset --host 203.0.113.1 --port 0 --allow-anyone"],
}
"""Command lines that work in the folder that `prepare` makes; a service at an address that no machine has, so that it
ends."""

KEPT = {"host": "serve"}
"""Options that are left as they are."""

NUMBERS = (
    "nan", "inf", "-inf", "1e309", "-1", "-0.0", "0", "1e-320", "999999999999", "-99999999999999999999999", "1e38",
    "0x10", "1_000", "٣", "1,5", "", " ", "true", "None", "9" * 5000, "2147483648", "18446744073709551616", "0.1.2",
)  # fmt: skip
TEXTS = (
    "", " ", "\n", "a" * 300, "a" * 100_000, "\udcff\udcfe", "\u202e", "😀" * 90, "{}", "{prompt}", "%s%n",
    "[", "*", "-", "--", "@", "=", ":", "#1", "a=b=c", "../" * 40, "a\tb", "<lora:x:1>", "(a:1.4)", "山", "null",
)  # fmt: skip
PATHS = (
    "missing", "missing.png", "missing/dir/file.yaml", "n" * 300, "n" * 300 + ".safetensors", "folder", "fifo",
    "fifo.png", "fifo.yaml", "fifo.safetensors", "/dev/zero", "/dev/null", "/dev/full", "zero.png", "zero.yaml",
    "sparse", "sparse.png", "sparse.yaml", "sparse.json", "sparse.safetensors", "sparse.csv", "loop.png", "empty.png",
    "photo.png/x", "/", ".", "..", "", " ", "/proc/self/mem", "/proc/self", "~nobody/x", "b\udce9.png", "d/" * 2000,
    "owner/name", "owner/name/file.safetensors", "file:///etc", "http://127.0.0.1:9/x.png", "-", "#1", "photo.png#99",
    "photo.png#" + "9" * 5000, "@", "locked/x/y", "deep.json", "deep.yaml", "random.bin", "text.png", "nul",
)  # fmt: skip
SETTINGS = (
    "adaptor.schedule.steps=1", "adapter.schedul.steps=1", "schedule.lr=1", "lr", "=", ".=1", "adapter=1", "adapter.=1",
    "adapter.schedule=null", "size=nan", "size=-1", "size=1e9", "adapter.schedule.lr=nan", "adapter.schedule.lr=.inf",
    "adapter.schedule.steps=1e400", "adapter.schedule.batch=0", "adapter.views=-3", "adapter.cache=[x]", "pictures=[]",
    "adapter.trained=[]", "adapter.trained=nothing", "adapter.validation={every: 0}", "adapter.checkpoints={every: x}",
    "adapter.preset=/dev/zero", "adapter.preset=fifo.yaml", "adapter.spec={lora_rank: -1}", "adapter.init=fifo",
    "precision=x", "precision=[]", "adapter.schedule.seed=99999999999999999999999", "size=" + "[" * 10_000,
    "adapter.fixed_sentence=.nan", "adapter.identity_weight=.inf", "adapter.schedule={<<: 1}", "a.b.c.d=1",
    "size=2020-01-01",
)  # fmt: skip
VALUES = (
    None, True, -1, 0, 1e308, float("nan"), float("inf"), -(10**30), 10**15, "", "x" * 300, "fifo", "/dev/zero",
    "../..", [], {}, [[]], {"": None}, ["a", 1, None], {"a": {"b": {"c": 1}}}, "nan", b"x", "missing/x",
)  # fmt: skip
"""What takes the place of something in a JSON or YAML file."""


@dataclass
class Case:
    """One command line in a folder of its own; `spoiled` says which files were changed, and how."""

    number: int
    seed: str
    arguments: list[str]
    spoiled: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        line = shlex.join(["consistentid", *(short(argument) for argument in self.arguments)])
        return "  # ".join([line.encode("utf-8", "backslashreplace").decode(), *self.spoiled])


def short(text: str) -> str:
    """A text to be printed, however long it is."""
    return text if len(text) <= 120 else f"{text[:50]}...({len(text)} characters)"


# -------------------------------------------------------------------------------------------------- what cases start as


def prepare(folder: Path) -> None:
    """Fill a folder with all that the command lines of `SEEDS` name.

    Raises:
        RuntimeError: one of the commands that make it fails.
    """
    import consistentid
    from consistentid.files.output import encode_png

    package = Path(consistentid.__file__).parent
    folder.mkdir(parents=True)
    shutil.copytree(package / "weights/drawn", folder / "preset")
    content = yaml.safe_load((package / "presets/drawn.yaml").read_text())
    for where, root in ((folder / "preset.yaml", "preset"), (folder / "preset/preset.yaml", ".")):
        where.write_text(json.dumps(content).replace("../weights/drawn", root))
    done(folder, "dataset draw --people 2 --scenes 2 --size 64 --photos --out people")
    (folder / "people/photos").rename(folder / "photos")
    ada, tom = (sorted(person.iterdir())[0] for person in sorted((folder / "photos").iterdir()))
    from PIL import Image

    Image.open(ada).save(folder / "photo.png")
    Image.new("L", (64, 64), 255).save(folder / "mask.png")
    shutil.copy(tom, folder / "tom.jpg")
    (folder / "made.png").write_bytes(encode_png(Image.open(ada).convert("RGB"), {"prompt": "A", "seed": 1}))
    recipe = {
        "size": 64,
        "adapter": {
            "preset": "preset",
            "init": "preset",
            "schedule": {"steps": 1, "batch": 2, "lr": 1e-4, "warmup": 1},
            "views": 2,
            "fixed_sentence": 0.5,
            "cache": ["latents", "references", "text"],
            "checkpoints": {"every": 1},
            "log": {"every": 1},
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    asked = {"text": "a person in a red hat", "group": "clothing", "asks": {"hat": "hat", "hat_color": "red"}}
    (folder / "protocol.yaml").write_text(yaml.safe_dump({"about": "one", "prompts": [asked]}))
    (folder / "manifest.csv").write_text("picture,identity,reference,prompt\ntom.jpg,ada,photo.png,a person in a hat\n")
    done(folder, "identify photo.png --preset preset --out ada.safetensors")
    done(folder, "generate photo.png --prompt A --num 1 --steps 1 --seed 1 --preset preset --out made")
    done(folder, "dataset pack people --samples 2 --out shards")
    done(folder, "train recipe.yaml --data people --device cpu --out begun")
    for empty in ("folder", "locked"):
        (folder / empty).mkdir()
    traps(folder)


def traps(folder: Path) -> None:
    """The files of `PATHS`."""
    for name in ("fifo", "fifo.png", "fifo.yaml", "fifo.safetensors"):
        os.mkfifo(folder / name)
    for name in ("zero.png", "zero.yaml"):
        (folder / name).symlink_to("/dev/zero")
    for name in ("sparse", "sparse.png", "sparse.yaml", "sparse.json", "sparse.safetensors", "sparse.csv"):
        with (folder / name).open("wb") as file:
            file.truncate(1 << 36)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("Dear Ada,\n" * 20)
    (folder / "random.bin").write_bytes(random.Random(0).randbytes(5000))
    (folder / "nul").write_bytes(bytes(5000))
    for name in ("deep.json", "deep.yaml"):
        (folder / name).write_text("[" * 10_000 + "]" * 10_000)


def done(folder: Path, line: str) -> None:
    """Run a command that must work."""
    code = Running(Case(-1, "", line.split()), folder, folder.parent / "prepare.txt", fresh=False).wait()
    if code:
        raise RuntimeError(f"consistentid {line}: {(folder.parent / 'prepare.txt').read_text()[-2000:]}")


def copy(source: Path, target: Path) -> None:
    """A folder for one case. Files are links to those of `source`, so nothing here may write into one as it stands."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        new = target / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            new.mkdir(parents=True, exist_ok=True)
        elif path.is_file() and not path.is_symlink() and path.stat().st_size < 100_000:
            shutil.copy(path, new)
        else:
            os.link(path, new, follow_symlinks=False)


# ------------------------------------------------------------------------------------------------------ how files spoil


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(max(len(data), 1))]


def _zeroed(data: bytes, _rng: random.Random) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 8, 64]) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says something else; other files get 16 other bytes in front."""
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
    except (ValueError, struct.error):
        return rng.randbytes(16) + data[16:]
    names = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(6)
    if kind == 0:
        return struct.pack("<Q", rng.choice([2**63, 2**40, size * 2, 0])) + data[8:]
    name = rng.choice(names)
    if kind == 1:
        header[name]["shape"] = rng.choice([[2**40], [-1], [], [1] * 5000, "x", [0, 7]])
    elif kind == 2:
        header[name]["dtype"] = rng.choice(["F64", "BOOL", "X", None, "I8"])
    elif kind == 3:
        header["x" * 300] = header.pop(name)
    elif kind == 4:
        header["__metadata__"] = rng.choice([{}, {"": "1"}, {"format": "pt", "version": "999"}, {"spec": "{"}])
    else:  # not a number, in every place
        body = struct.pack("<f", float("nan")) * ((len(data) - 8 - size) // 4)
        return data[: 8 + size] + body + data[8 + size + len(body) :]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _document(data: bytes, rng: random.Random) -> bytes:
    """JSON or YAML with one or more things in it replaced, removed or added."""
    try:
        value = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        return _flipped(data, rng)
    for _ in range(rng.choice([1, 1, 2])):
        value = _other(value, rng)
    try:
        return json.dumps(value).encode()  # NaN and Infinity as Python writes them
    except TypeError:
        return yaml.safe_dump(value).encode()


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, kind = rng.choice(keys), rng.randrange(8)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[rng.choice(["unknown", "", "x" * 300, "__class__", "extends", "path", "kind"])] = rng.choice(VALUES)
        elif kind == 2 and isinstance(value, list):
            value += [value[key]] * rng.choice([1, 100])
        else:
            value[key] = _other(value[key], rng)
        return value
    return rng.choice(VALUES)


def _nested(_data: bytes, rng: random.Random) -> bytes:
    start = rng.choice([b"[", b'{"a":', b"- ", b"{a: "])
    return start * 10_000 + (b"]" * 10_000 if start == b"[" else b"")


def _expanding(_data: bytes, rng: random.Random) -> bytes:
    """YAML whose aliases stand for 9**20 items, or for themselves."""
    if rng.random() < 0.5:
        return b"&a [*a, *a]\n"
    letters = "abcdefghijklmnopqrst"
    lines = [f"{to}: &{to} [{','.join(['*' + of] * 9)}]" for of, to in pairwise(letters)]
    return "\n".join(["a: &a [x]", *lines, ""]).encode()


CONTENTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut,
    _zeroed,
    _flipped,
    _header,
    _nested,
    _expanding,
    lambda data, rng: rng.randbytes(len(data) or 100),
    lambda data, rng: data + rng.randbytes(1000),
    lambda data, _rng: data[:0],
    lambda data, _rng: bytes(len(data)),
)
"""What a file's content becomes."""


def spoil(path: Path, rng: random.Random, files: list[Path]) -> str:
    """Do something to a file; returns what."""
    kind = rng.randrange(20)
    data = path.read_bytes()
    path.unlink()
    if kind == 0:
        os.mkfifo(path)
        return "is a FIFO"
    if kind == 1:
        path.symlink_to("/dev/zero")
        return "is /dev/zero"
    if kind == 2:
        path.mkdir()
        return "is a folder"
    if kind == 3:
        with path.open("wb") as file:
            file.truncate(1 << 36)
        return "is sparse"
    if kind == 4:
        return "is gone"
    if kind == 5:
        other = rng.choice(files)
        if other != path:
            shutil.copy(other, path)
            return f"is a copy of {other.name}"
    if kind < 12 and path.suffix in {".json", ".yaml"}:
        path.write_bytes(_document(data, rng))
        return "has other values"
    if kind < 12 and path.suffix == ".safetensors":
        path.write_bytes(_header(data, rng))
        return "has another header"
    path.write_bytes(changed := rng.choice(CONTENTS)(data, rng))
    return f"is spoiled: {changed[:20]!r}"


# --------------------------------------------------------------------------------------------------- how a case is made


def commands() -> dict[str, click.Command]:
    """All commands of the program by the words that call them."""
    from consistentid.cli import main

    found: dict[str, click.Command] = {}

    def add(group: click.Group, before: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                add(command, f"{before}{name} ")
            else:
                found[f"{before}{name}"] = command

    add(main, "")
    return found


def make(seed: int, number: int, prepared: Path, folder: Path) -> Case:
    """The case of that number, and its folder."""
    rng = random.Random(f"{seed}-{number}")
    copy(prepared, folder)
    known = commands()
    # Every command gets its share, however many lines of SEEDS it has.
    word = list(known)[number % len(known)]
    lines = [line for all_of_one in SEEDS.values() for line in all_of_one if line.startswith(f"{word} ")]
    line = rng.choice(lines or [f"{word} photo.png"]).split()
    split = len(word.split())
    case = Case(number, word, line)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.random()
        if kind < 0.35:
            _spoil_option(case, known[word], split, rng)
        elif kind < 0.5:
            _spoil_path(case, split, rng, folder)
        elif kind < 0.62 and word not in KEPT.values():
            _spoil_line(case, split, rng)
        else:
            _spoil_file(case, rng, folder)
    return case


def _value(option: click.Parameter, rng: random.Random) -> str:
    if option.name == "changes" and rng.random() < 0.9:
        return rng.choice(SETTINGS)
    if isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)):
        return rng.choice(NUMBERS if rng.random() < 0.85 else TEXTS)
    if option.name == "persons":
        return f"photo.png@{rng.choice([','.join(rng.choices(NUMBERS[:11], k=4)), *PATHS])}"
    choices = PATHS if rng.random() < 0.6 else TEXTS if rng.random() < 0.7 else NUMBERS
    return rng.choice(choices)


def _spoil_option(case: Case, command: click.Command, split: int, rng: random.Random) -> None:
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and option.name not in {"as_json", "help", *KEPT}
    ]
    option = rng.choice(options)
    name = option.opts[-1]
    if option.is_flag:
        case.arguments.append(name)
        return
    value = _value(option, rng)
    if name in case.arguments[split:] and rng.random() < 0.8:
        where = case.arguments.index(name) + 1
        case.arguments[where : where + 1] = [value]
    else:
        case.arguments += [name, value]


def _spoil_path(case: Case, split: int, rng: random.Random, folder: Path) -> None:
    there = [
        index
        for index, argument in enumerate(case.arguments)
        if index >= split and argument and len(argument) < 200 and (folder / argument).exists()
    ]
    if there:
        case.arguments[rng.choice(there)] = rng.choice(PATHS)


def _spoil_line(case: Case, split: int, rng: random.Random) -> None:
    kind, arguments = rng.randrange(5), case.arguments
    where = rng.randrange(split, len(arguments) + 1)
    if kind == 0:
        arguments.insert(where, rng.choice(["--unknown", "--unknown=1", "-x", "--", "-", "--out", "extra"]))
    elif kind == 1 and len(arguments) > split:
        del arguments[min(where, len(arguments) - 1)]
    elif kind == 2:
        arguments[split:] = rng.sample(arguments[split:], len(arguments) - split)
    elif kind == 3:
        arguments[split:] += arguments[split:]
    else:
        arguments[split - 1] = rng.choice(["generat", "", "datasets", "GENERATE", "-h"])


def _spoil_file(case: Case, rng: random.Random, folder: Path) -> None:
    """Of the files under what the line names, the smaller folders first: weights are many, and recipes few."""
    parts = {part for argument in case.arguments for part in argument.split("@") if part}
    named = {folder / part for part in parts if len(part.encode("utf-8", "surrogatepass")) < 200}  # as names may be
    # resolved: `../` leads out of the folder, and nothing there is the fuzzer's to spoil
    holders = sorted(path for path in named if path.exists() and folder.resolve() in path.resolve().parents)
    if not holders:
        return
    holder = rng.choice(holders)
    files = [holder] if holder.is_file() else sorted(path for path in holder.rglob("*") if path.is_file())
    files = [path for path in files if path.stat().st_size < 1 << 30 and not path.is_symlink()]
    files = [
        path for path in files if not any(what.startswith(f"{path.relative_to(folder)} ") for what in case.spoiled)
    ]
    if files:
        file = rng.choice(files)
        small = sorted(path for path in folder.iterdir() if path.suffix and path.is_file() and not path.is_symlink())
        small = [path for path in small if path.stat().st_size < 1 << 20]
        case.spoiled.append(f"{file.relative_to(folder)} {spoil(file, rng, small)}")


# ------------------------------------------------------------------------------------------------------ how a case runs


class Running:
    """A case that runs, and what it used.

    Args:
        case: of it.
        folder: where it runs.
        output: file for all that it prints.
        fresh: in a new interpreter, else in a fork of this one.
    """

    def __init__(self, case: Case, folder: Path, output: Path, *, fresh: bool) -> None:
        self.case, self.output, self.fresh = case, output, fresh
        self.began = time.monotonic()
        self.code: int | None = None
        self.megabytes = self.seconds = self.queued = 0.0
        self.killed = ""
        # Until it has its own pages, and in what the kernel tells of it afterwards, a child counts for as much as this
        # process: readings below that tell nothing of it.
        self.inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        output.touch()  # a child that is ended at once has not opened it
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _child(case.arguments, folder, output, fresh)

    def poll(self) -> bool:
        """Whether it has ended; it is ended when it is far beyond a limit."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
            self._uses(usage.ru_maxrss / 1024)
            self.seconds = max(self.seconds, usage.ru_utime + usage.ru_stime)
            self._kill()  # what it may have left
            return True
        try:
            process = psutil.Process(self.pid)
            everyone = [process, *process.children(recursive=True)]
            memory = [one.memory_info().rss / 2**20 for one in everyone]
            times = process.cpu_times()
            # of processes that have ended it is lost, so it only grows
            self.queued = max(self.queued, sum(queued(one.pid) for one in everyone))
        except psutil.Error:
            return False
        self._uses(max(memory))
        self.seconds = times.user + times.system + times.children_user + times.children_system
        if not self.killed:
            waited = time.monotonic() - self.began - self.seconds - self.queued
            late = self.seconds > SECONDS or waited > SECONDS
            self.killed = "time" if late else "memory" if self.megabytes > 1.5 * MEGABYTES else ""
        if self.killed:
            self._kill()  # again each time: a child that has just begun has no session to be ended yet
        return False

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        while not self.poll():
            time.sleep(0.02)
        assert self.code is not None
        return self.code

    def _uses(self, megabytes: float) -> None:
        if megabytes > self.inherited:
            self.megabytes = max(self.megabytes, megabytes)

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def faults(self) -> list[str]:
        """Names of its faults."""
        text = self.output.read_bytes().decode(errors="replace")
        found = [self.killed] if self.killed else []
        if "Traceback (most recent call last)" in text and "--debug" not in self.case.arguments:
            found.append("traceback")
        if not self.killed and self.code not in (0, 2):
            found.append(f"exit code {self.code}")
        if self.megabytes > MEGABYTES and "memory" not in found:
            found.append("memory")
        errors = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("error: ")]
        helped = "Usage: " in text
        if self.code == 2 and not helped and len(errors) != 1:
            found.append(f"{len(errors)} error lines")
        return found


def queued(pid: int) -> float:
    """Seconds that a process's threads were ready to compute and had no processor, where the system tells."""
    total = 0.0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, IndexError):  # a thread that has ended meanwhile
            total += int(file.read_text().split()[1]) / 1e9
    return total


def _child(arguments: list[str], folder: Path, output: Path, fresh: bool) -> None:
    """Be the command line: own session, files and folder. Does not return."""
    code = 1
    try:
        os.setsid()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, file), (2, file)):
            os.dup2(source, target)
        os.chdir(folder)
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", "consistentid", *arguments])
        # As the interpreter makes them where there is no terminal.
        sys.stdout = os.fdopen(1, "w", errors="surrogateescape", closefd=False)
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)
        sys.argv = ["consistentid", *arguments]
        from consistentid.cli import main

        main()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1 if leave.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def warm() -> None:
    """Import all that cases need, so that forks have it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import accelerate  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection, SegformerForSemanticSegmentation  # noqa: F401

    import consistentid.data.build.job
    import consistentid.evaluation.encoders
    import consistentid.evaluation.run
    import consistentid.pipeline.pipeline
    import consistentid.training.trainer  # noqa: F401

    torch.set_num_threads(1)


@contextmanager
def _home(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield Path(folder)


def fuzz(seed: int, numbers: list[int], workers: int, home: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run cases, a line of `tell` for each fault.

    Returns:
        counts, the largest figures, and seconds.
    """
    began = time.monotonic()
    prepared = home / "prepared"
    if not prepared.exists():
        prepare(prepared)
    counts: dict[str, int] = {}
    commands_run: dict[str, int] = {}
    codes: dict[str, int] = {}
    most = {"seconds": 0.0, "megabytes": 0.0}
    running: list[tuple[Running, Path]] = []
    waiting = list(reversed(numbers))
    while waiting or running:
        while waiting and len(running) < workers:
            number = waiting.pop()
            folder = home / f"case-{seed}-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            case = make(seed, number, prepared, folder)
            running.append((Running(case, folder, folder.with_suffix(".txt"), fresh=number % FRESH == 0), folder))
        for one in [one for one in running if one[0].poll()]:
            running.remove(one)
            result, folder = one
            faults = result.faults()
            for name in faults:
                counts[name] = counts.get(name, 0) + 1
            commands_run[result.case.seed] = commands_run.get(result.case.seed, 0) + 1
            codes[str(result.code)] = codes.get(str(result.code), 0) + 1
            most["seconds"] = max(most["seconds"], round(result.seconds, 1))
            most["megabytes"] = max(most["megabytes"], round(result.megabytes))
            if faults:
                tell(
                    f"{', '.join(faults)}: {result.case}  [python benchmarks/fuzz.py --seed {seed} --only"
                    f" {result.case.number} --show; {result.seconds:.0f} s, {result.megabytes:.0f} MB]"
                )
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)
    return {
        "seed": seed,
        "cases": len(numbers),
        "faults": counts,
        "exit_codes": codes,
        "commands": commands_run,
        "most": most,
        "wall_seconds": round(time.monotonic() - began),
    }


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--cases", default=200, show_default=True, type=click.IntRange(min=1))
@click.option("--first", default=0, show_default=True, help="Number of the first case.")
@click.option("--only", multiple=True, type=int, help="Number of a case to run again. Repeatable.")
@click.option("--show", is_flag=True, help="Print what the cases of --only print.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True, help="Cases that run at once.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the prepared files, to be used again.")
def main(seed: int, cases: int, first: int, only: tuple[int, ...], show: bool, workers: int, keep: Path | None) -> None:
    """Run malformed command lines; exits with 1 if there are faults."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    warm()
    numbers = list(only) or list(range(first, first + cases))
    with _home(keep.absolute() if keep else None) as home:
        figures = fuzz(seed, numbers, workers, home, lambda line: print(line, flush=True))
        if show:
            for number in only:
                print((home / f"case-{seed}-{number}.txt").read_text(errors="replace"))
    print(json.dumps(figures))
    sys.exit(1 if figures["faults"] else 0)


if __name__ == "__main__":
    main()
