"""Four drawn portraits beside other busy processes, with one thread and with several.

    python benchmarks/busy_machine.py --busy 1 --threads 1 2

Prints seconds for each number of threads, and how much longer each takes than the first. Small networks wait for one
another by spinning; a thread whose core another process holds keeps all of them waiting.
"""

from __future__ import annotations

import multiprocessing
import time

import click
from PIL import Image

from consistentid import ConsistentIDPipeline
from consistentid.drawn.portraits import draw, sample_people, sample_scenes


def _busy() -> None:
    while True:
        pass


@click.command()
@click.option("--busy", default=1, show_default=True, help="Processes that keep a core busy meanwhile.")
@click.option("--threads", default=(1, 2), multiple=True, help="Numbers of threads to compare.")
@click.option("--repeats", default=3, show_default=True, help="Of each; the shortest counts.")
def main(busy: int, threads: tuple[int, ...], repeats: int) -> None:
    """Measure."""
    drawn = draw(sample_people([3], split="test"), sample_scenes([(3, 0)], split="test"), 128)
    portrait = Image.fromarray(drawn.pixels()[0])
    others = [multiprocessing.get_context("spawn").Process(target=_busy, daemon=True) for _ in range(busy)]
    studios = {n: ConsistentIDPipeline.from_preset("drawn", device="cpu", threads=n) for n in threads}
    people = {n: studio.identify(portrait) for n, studio in studios.items()}
    for other in others:
        other.start()
    seconds = dict.fromkeys(threads, float("inf"))
    for repeat in range(repeats):
        for n, studio in studios.items():
            began = time.perf_counter()
            studio(people[n], "a person in a red hat", seed=repeat, num_images_per_prompt=4)
            seconds[n] = min(seconds[n], time.perf_counter() - began)
    for n, taken in seconds.items():
        print(f"{n} threads beside {busy} busy processes: {taken:.1f} s, x{taken / seconds[threads[0]]:.1f}")
    for other in others:
        other.terminate()


if __name__ == "__main__":
    main()
