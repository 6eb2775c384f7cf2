"""Stage 0: what the run runs on, compared with what it began on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tltf.errors import MismatchError, named_list
from tltf.rundir import RunDir
from tltf.training import environment

Say = Callable[[str], None]


def run_environment(run: RunDir, *, require_exact: bool, replicas: int = 1, say: Say) -> None:
    """Commits ``env.json`` when the run begins; later says what differs from it.

    The same bits follow from the same versions, processor and thread counts only.

    Raises:
      MismatchError: something differs and ``require_exact`` is set.
    """
    now = environment.describe() | {"replicas": replicas}
    if not run.has(run.env):
        run.commit(run.env, json.dumps(now, indent=2) + "\n")
        return
    changed = differences(json.loads(run.read_committed(run.env)), now)
    if not changed:
        return
    if require_exact:
        raise MismatchError(
            f"the environment changed since the run began: {named_list(changed)}",
            where=run.path,
            kept="the run as it is",
            next_action="restore it, leave --require_exact out, or --fresh to start over",
        )
    say(f"environment: {named_list(changed)}; the result may differ in its last bits")
    run.record(environment_changes=[*run.stage().get("environment_changes", []), changed])


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``field: old -> new`` for each field that differs.

    >>> differences({"threads": 2, "keras": "3.15.1"}, {"threads": 1, "keras": "3.15.1"})
    ['threads: 2 -> 1']
    """
    absent = "absent"
    return [
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]
