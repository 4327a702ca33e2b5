"""What the service gives of the model's speed: clients on this machine against the Python interface.

    python benchmarks/service.py --clients 8 --seconds 60

First `predict` goes through the images in batches, in a process of its own, as the Python interface is used: from files
to boxes. Then `cora serve` runs with the same model, the same batch size and the same number of threads, and clients in
a third process send the same images, one in a request, each as soon as the last one is answered. Both parts are run
`--rounds` times in turn; the share is of the medians. Everything stays on this machine's loopback.

Memory is read twice a second, after `--warm-up` seconds of the same load: the first batches of every size prepare what
later ones use. Growth is the median of the last third over that of the first; the slope is that of a straight line
through all values. Fails (exit code 1) if a request fails or memory grows by more than `--growth` percent.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ("person", "cat", "dog", "bicycle", "car", "cup", "chair", "bottle")
MIB = 2**20


@dataclass
class Load:
    """What the clients saw."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.answered / self.elapsed

    @property
    def thirds(self) -> tuple[float, float]:
        """MiB, medians of the first and of the last third of the time."""
        third = max(1, len(self.memory_mib) // 3)
        return statistics.median(self.memory_mib[:third]), statistics.median(self.memory_mib[-third:])

    @property
    def growth(self) -> float:
        """From the first third to the last, as a share of the first."""
        first, last = self.thirds
        return last / first - 1

    @property
    def slope(self) -> float:
        """MiB a minute."""
        minutes = [place * self.elapsed / 60 / len(self.memory_mib) for place in range(len(self.memory_mib))]
        return statistics.linear_regression(minutes, self.memory_mib).slope


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=EXAMPLES, help="folder of JPEG files")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=60, help="seconds of load before the measured ones")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--growth", type=float, default=2, help="percent")
    parser.add_argument("--python-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.python_only:
        print(python_rate(arguments))
        return 0
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    photos = sorted(arguments.photos.glob("*.jpg"))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CORA_CACHE"] = cache
        rates, loads = [], []
        for _ in range(arguments.rounds):
            rates.append(python_rate_apart())
            loads.append(serve(arguments, photos))
    return report(arguments, rates, loads)


def python_rate_apart() -> float:
    """`python_rate` in a process that has the machine, and its memory, for itself."""
    command = [sys.executable, __file__, "--python-only", *sys.argv[1:]]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def python_rate(arguments: argparse.Namespace) -> float:
    """Images a second through `predict`, batches of one size as far as the images allow."""
    import cora

    detector = cora.load(arguments.model)
    vocabulary = detector.vocabulary(NAMES)
    photos = sorted(arguments.photos.glob("*.jpg"))
    # Images of one size follow each other, so that batches have no padding: the best case of this interface.
    lists = [[photo] * arguments.max_batch for photo in photos]
    for batch in lists:
        detector.predict(batch, vocabulary, batch_size=arguments.max_batch)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < arguments.seconds / 2:
        for batch in lists:
            done += len(detector.predict(batch, vocabulary, batch_size=arguments.max_batch))
    return done / (time.perf_counter() - start)


def serve(arguments: argparse.Namespace, photos: Sequence[Path]) -> Load:
    """The service under load."""
    command = [sys.executable, "-m", "cora", "serve", "--port", "0", "--model", arguments.model]
    process = subprocess.Popen([*command, "--max-batch", str(arguments.max_batch)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        address = next((word for word in line.split() if word.startswith("http://")), None)
        if address is None:
            raise SystemExit("the service did not start")
        bodies = [form(photo) for photo in photos]
        load_for(address, process.pid, bodies, clients=arguments.clients, seconds=arguments.warm_up)
        return load_for(address, process.pid, bodies, clients=arguments.clients, seconds=arguments.seconds)
    finally:
        process.terminate()
        process.wait(60)


def load_for(address: str, pid: int, bodies: Sequence[bytes], *, clients: int, seconds: float) -> Load:
    """Clients that ask one thing after the other, and the service's memory twice a second."""
    load, lock = Load(), threading.Lock()
    start = time.perf_counter()
    end = start + seconds

    def ask(number: int) -> None:
        place = urlsplit(address)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=120)
        while time.perf_counter() < end:
            # All clients take the images in the same order, as cameras or crawlers of one kind send like images.
            began = time.perf_counter()
            body = bodies[number % len(bodies)]
            number += 1
            connection.request("POST", "/detect", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
            response = connection.getresponse()
            content = response.read()
            with lock:
                load.seconds.append(time.perf_counter() - began)
                if response.status == 200 and len(json.loads(content)["images"]) == 1:
                    load.answered += 1
                else:
                    load.failures.append(f"{response.status} {content[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=ask, args=(0,)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    service = psutil.Process(pid)
    while any(thread.is_alive() for thread in threads):
        load.memory_mib.append(service.memory_info().rss / MIB)
        time.sleep(0.5)
    load.elapsed = time.perf_counter() - start
    return load


BOUNDARY = uuid.uuid4().hex


def form(photo: Path) -> bytes:
    """A multipart form with one image and the names."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    parts = [
        f'{head}classes"\r\n\r\n{",".join(NAMES)}\r\n'.encode(),
        f'{head}images"; filename="{photo.name}"\r\nContent-Type: image/jpeg\r\n\r\n'.encode(),
        photo.read_bytes(),
        f"\r\n--{BOUNDARY}--\r\n".encode(),
    ]
    return b"".join(parts)


def report(arguments: argparse.Namespace, rates: Sequence[float], loads: Sequence[Load]) -> int:
    """Print the table; the exit code."""
    python, service = statistics.median(rates), statistics.median(load.rate for load in loads)
    waits = sorted(second for load in loads for second in load.seconds)
    failures = [failure for load in loads for failure in load.failures]
    worst = max(loads, key=lambda load: load.growth)
    print(
        f"{arguments.model}, {len(NAMES)} classes, {arguments.threads} threads, "
        f"batches of up to {arguments.max_batch}, {arguments.clients} clients for {arguments.seconds:g} s, "
        f"{arguments.warm_up:g} s of warm-up, {arguments.rounds} rounds"
    )
    print(f"| {'what':36} | {'result':>12} |")
    print(f"| {'-' * 36} | {'-' * 11}: |")
    for what, value in (
        ("predict, photos/s", f"{python:.2f}"),
        ("service, photos/s", f"{service:.2f}"),
        ("service / predict", f"{service / python:.0%}"),
        ("requests answered", f"{sum(load.answered for load in loads)}"),
        ("errors", f"{len(failures)}"),
        ("time of a request, median, s", f"{waits[len(waits) // 2]:.2f}"),
        ("time of a request, 99 %, s", f"{waits[int(len(waits) * 0.99)]:.2f}"),
        ("memory, first / last third, MiB", "{:.0f} / {:.0f}".format(*worst.thirds)),
        ("growth of memory", f"{worst.growth:+.1%}"),
        ("slope of memory, MiB a minute", f"{worst.slope:+.0f}"),
        ("most memory, MiB", f"{max(worst.memory_mib):.0f}"),
    ):
        print(f"| {what:36} | {value:>12} |")
    for failure in failures[:5]:
        print(failure, file=sys.stderr)
    return int(bool(failures) or worst.growth > arguments.growth / 100)


if __name__ == "__main__":
    sys.exit(main())
