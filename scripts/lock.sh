#!/usr/bin/env bash
# Renew requirements.lock (to build and run) and requirements-dev.lock (to test and lint as well). Needs scripts/build.sh first.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python - > "$work/run.in" <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
print("\n".join(project["project"]["dependencies"] + project["build-system"]["requires"]))
PYTHON
printf '%s\n' pytest pytest-timeout pytest-xdist hypothesis ruff mypy import-linter > "$work/dev.in"
.venv/bin/python >> "$work/dev.in" <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(sum(tomllib.load(file)["project"]["optional-dependencies"].values(), [])))
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pip-tools
compile() {
    (cd "$work" && venv/bin/pip-compile --quiet --generate-hashes --strip-extras --annotation-style=line --no-header \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --upgrade --output-file "$@")
    { echo "# Exact versions with hashes; made by scripts/lock.sh from pyproject.toml. Do not edit."
      sed 's/-r run.in/pyproject.toml/; s|-r dev.in|scripts/lock.sh|' "$work/$1"; } > "$1"
}
compile requirements.lock run.in
compile requirements-dev.lock run.in dev.in
