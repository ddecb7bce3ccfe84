"""Checks the dependencies against deny.toml: allowed licences, and no crate in two versions.

The file is in the format of cargo-deny; this needs nothing but Python.
"""

import collections
import json
import re
import subprocess
import sys
import tomllib


def allowed(expression, licences):
    """Whether an SPDX expression can be met with the allowed licences."""
    tokens = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    tokens = ["or" if t in ("OR", "/") else "and" if t == "AND" else t for t in tokens]
    words = []
    for token in tokens:
        if words and words[-1] == "WITH":
            words.pop()
            words[-1] = f"{words[-1]} WITH {token}"
        else:
            words.append(token)
    python = [w if w in ("or", "and", "(", ")") else str(w in licences) for w in words]
    return eval(" ".join(python), {"__builtins__": {}})


with open("deny.toml", "rb") as file:
    deny = tomllib.load(file)
licences = set(deny["licenses"]["allow"])
metadata = json.loads(
    subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"])
)
links = {node["id"]: [dep["pkg"] for dep in node["deps"]] for node in metadata["resolve"]["nodes"]}
linked, waiting = set(), list(metadata["workspace_members"])
while waiting:
    package = waiting.pop()
    if package not in linked:
        linked.add(package)
        waiting += links[package]
packages = [p for p in metadata["packages"] if p["id"] in linked and p["source"]]

problems = []
versions = collections.defaultdict(set)
for package in packages:
    versions[package["name"]].add(package["version"])
    expression = package["license"] or "none stated"
    if not allowed(expression, licences):
        problems.append(f"{package['name']} {package['version']}: licence {expression}")
known = {skip["crate"].split("@")[0] for skip in deny["bans"]["skip"]}
for name, found in sorted(versions.items()):
    if len(found) > 1 and name not in known:
        problems.append(f"{name}: versions {', '.join(sorted(found))}")
for name in sorted(known):
    if len(versions.get(name, ())) < 2:
        problems.append(f"{name}: no duplicate any more, take it out of deny.toml")

print(f"{len(packages)} packages, {len(problems)} problems")
if problems:
    sys.exit("\n".join(problems))
