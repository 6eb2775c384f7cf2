"""``tltf launch``: several local workers of one training, for trying out what a cluster runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from absl import flags

from tltf.cli.app import Program
from tltf.errors import ArgumentError, InterruptedRun, WorkerLostError

LAST_WORDS_SECONDS = 60.0

FLAGS = flags.FlagValues()
flags.DEFINE_integer("workers", 2, "Processes.", lower_bound=1, upper_bound=64, flag_values=FLAGS)
flags.DEFINE_list("command", [], "What each runs; the same as giving it behind --.",
                  flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    command = list(values["command"].value)
    if not command or command[0] != "train":
        raise ArgumentError(
            f"the command is {' '.join(command) or 'missing'}, expected train",
            where="tltf launch",
            next_action="tltf launch --workers=2 -- train --data=PHOTOS --backbone=MobileNetV2"
            " --workdir=RUN",
        )
    if not any(part.startswith("--strategy") for part in command):
        command.append("--strategy=multiworker")
    workers = started(command, workers=values["workers"].value)
    try:
        codes = ended(workers)
    except KeyboardInterrupt as error:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        ended(workers)
        raise InterruptedRun("interrupted", signal_number=signal.SIGINT, where="tltf launch",
                             next_action="the same command goes on") from error  # fmt: skip
    failed = {i: code for i, code in enumerate(codes) if code}
    if failed:
        told = ", ".join(f"worker {i} with {code}" for i, code in failed.items())
        raise WorkerLostError(
            f"ended: {told}",
            where="tltf launch",
            kept="the state that worker 0 saved last",
            next_action="see what they said above; the same command goes on",
        )


def started(command: Sequence[str], *, workers: int) -> list[subprocess.Popen[bytes]]:
    """The processes, each with its TF_CONFIG; what they say is passed on with their number."""
    addresses = _free_addresses(workers)
    processes = []
    for index in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        process = subprocess.Popen(
            [sys.executable, "-c", "from tltf.cli.app import main; main()", *command],
            env={**os.environ, "TF_CONFIG": json.dumps(config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if source is not None:
                arguments = (source, target, f"[{index}] ")
                threading.Thread(target=_passed_on, args=arguments, daemon=True).start()
        processes.append(process)
    return processes


def ended(workers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Their exit codes. After the first failure the others have a minute for their last words."""
    until = None
    while any(worker.poll() is None for worker in workers):
        if until is None and any(worker.poll() for worker in workers):
            until = time.monotonic() + LAST_WORDS_SECONDS
        if until is not None and time.monotonic() > until:
            for worker in workers:
                worker.kill()
        time.sleep(0.1)
    return [int(worker.wait()) for worker in workers]


def _free_addresses(count: int) -> list[str]:
    """Ports that are free now on the loopback interface."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in held]
    for server in held:
        server.close()
    return addresses


def _passed_on(source: IO[bytes], target: IO[str], mark: str) -> None:
    for line in source:
        target.write(mark + line.decode("utf-8", "replace"))
        target.flush()


PROGRAM = Program(
    name="tltf launch",
    about="""runs one training in several local processes, as a cluster would.

  tltf launch --workers=2 -- train --data=PHOTOS --backbone=MobileNetV2 --workdir=RUN

On real hosts set TF_CONFIG on each and start tltf train --strategy=multiworker there.""",
    flag_values=FLAGS,
    run=run,
    positional="command",
)
