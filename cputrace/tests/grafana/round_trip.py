"""Reads dashboards by Grafana's own model and writes them again: every key has to survive. A line a dashboard."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(before, after, path=""):
    if isinstance(before, dict):
        if not isinstance(after, dict):
            yield path
            return
        for key, value in before.items():
            if key not in after:
                # The model leaves out what is empty.
                if value not in (None, [], {}, "", False, 0):
                    yield f"{path}.{key}"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list):
        if not isinstance(after, list) or len(before) != len(after):
            yield path
            return
        for index, (left, right) in enumerate(zip(before, after)):
            yield from lost(left, right, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


failed = False
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        dashboard = json.load(file)
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))
    gone = list(lost(dashboard, again))
    failed |= bool(gone)
    print(name, "lost", len(gone), "keys", *gone)
sys.exit(failed)
