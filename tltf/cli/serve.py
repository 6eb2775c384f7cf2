"""``tltf serve``: try a servable on this machine, by TF Serving's REST interface and a page."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from absl import flags

from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.errors import ArgumentError, InputMissingError

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", None, "A folder of versions, one version, or a run folder.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("name", None, "Of the model in the addresses; the folder's by default.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("port", 8501, "0 takes a free one.", lower_bound=0, upper_bound=65535,
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; loopback by default.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_float("max_request_mb", 32.0, "A larger request is refused.", lower_bound=0.001,
                   flag_values=FLAGS)  # fmt: skip
flags.DEFINE_float("poll_seconds", 1.0, "Between two looks for a newer version.",
                   lower_bound=0.01, flag_values=FLAGS)  # fmt: skip

LOOPBACK = ("127.", "::1", "localhost")
BANNER = "this server is for trying a model; production belongs to TF Serving (docs/serving.md)"


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "model")
    given = Path(values["model"].value)
    if not given.is_dir():
        raise InputMissingError(
            "there is no such folder", where=given, next_action="pass --model=SERVABLE or a run"
        )
    folder = given / "export" if (given / "spec.json").is_file() else given
    name = values["name"].value or _name(given, folder)
    host = values["host"].value
    _check_installed()
    import_tensorflow()
    from tltf.serving import server
    from tltf.serving.versions import Versions

    listening = server.bound(host, values["port"].value)
    versions = Versions(folder, seconds=values["poll_seconds"].value)
    app = server.application(
        versions, name=name, max_request_bytes=int(values["max_request_mb"].value * 1e6)
    )
    run_flags.say(BANNER)
    if not host.startswith(LOOPBACK):
        run_flags.say(f"{host} can be reached from other machines, without any access control")
    port = listening.getsockname()[1]
    print(f"http://{host}:{port}/  http://{host}:{port}/v1/models/{name}", flush=True)
    server.serve(app, listening)


def _name(given: Path, folder: Path) -> str:
    """The run's, or the servable's; of a single version the folder that it is in."""
    found = folder.resolve()
    if folder != given:
        found = given.resolve()
    elif (found / "saved_model.pb").is_file() and found.name.isdecimal():
        found = found.parent
    return re.sub(r"[^A-Za-z0-9._-]+", "-", found.name) or "model"


def _check_installed() -> None:
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ArgumentError(
            f"{' and '.join(missing)} not installed",
            where="tltf serve",
            next_action="pip install 'tltf[serve]'",
        )


PROGRAM = Program(
    name="tltf serve",
    about="""tries a servable on this machine: TF Serving's REST interface, and a page on /.

  tltf serve --model=SERVABLE --port=8501""",
    flag_values=FLAGS,
    run=run,
)
