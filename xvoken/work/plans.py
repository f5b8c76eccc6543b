"""What the plan of a long work says besides its settings: by which engine towers are computed, in what batches, by which versions.

A work is gone on with as it was begun, whatever another run asks for; nothing finished is refused for it.
"""

import importlib.metadata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xvoken.console import log
from xvoken.errors import UserError
from xvoken.files.safe import differences, quoted, read_json, write_json
from xvoken.machine import LANES, TOWER_ENGINES, cores
from xvoken.work.jobs import TowerJob

MOST_THREADS, MOST_ITEMS = 1 << 12, 1 << 24  # of a batch that a plan can ask for
VERSIONS = ("torch", "transformers", "openvino")


def agree(job: TowerJob, plan_file: Path, begun: bool, devices: Sequence[str]) -> None:
    """Let the job compute as the work was begun; the first run to get here puts that into the plan.

    begun: whether parts are done already; devices: of each process. The caller holds a lock.
    """
    now, start_over = versions(VERSIONS), f"start over with: rm -r {quoted(plan_file.parent)}"
    plan = read_json(plan_file, start_over)
    if "how" not in plan:  # one that is begun is of an earlier version, whose plans did not say
        plan["how"] = job.old_how(devices[0]) if begun else {**job.fastest(min(cores(), LANES)), "versions": now}
        write_json(plan_file, plan)
    if not _is_how(how := plan["how"]):
        raise UserError(f'{plan_file}: "how" does not say how a tower is computed; {start_over}')
    if how.get("versions", now) != now:
        log.warning(f"{plan_file.parent}: begun with other versions ({differences(how['versions'], now)}); last digits may differ")
    job.take(how)


def _is_how(found: Any) -> bool:
    """Whether this part of a plan is what `agree` writes: a file on the disk may be damaged, or of a later version."""
    if not (isinstance(found, dict) and isinstance(found.get("versions", {}), dict)):
        return False
    counts = ((found.get("threads"), MOST_THREADS), (found.get("batch_size"), MOST_ITEMS))
    return found.get("tower_engine") in TOWER_ENGINES[1:] and all(type(count) is int and 0 < count <= most for count, most in counts)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
