# Sourced by the scripts beside it: a scratch folder, headings with the time, and virtual environments.
# shellcheck shell=bash

scratch=$(mktemp -d "${TMPDIR:-/tmp}/jaxsoftmax-ci.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# heading TEXT: print TEXT after the seconds since the script began.
heading() {
    printf '\n=== [%4ds] %s\n' "$SECONDS" "$*"
}

skipped=()

# skip TEXT: say that something goes unchecked, now and in `conclusion`.
skip() {
    heading "SKIPPED: $1"
    skipped+=("$1")
}

# conclusion: the last heading of a script whose steps have all passed.
conclusion() {
    if ((${#skipped[@]})); then
        heading "Passed, but skipped: $(printf '%s; ' "${skipped[@]}" | sed 's/; $//')"
    else
        heading 'All checks passed'
    fi
}

# step COMMAND...: run COMMAND under a heading that shows it.
step() {
    heading "$*"
    "$@"
}

# python_in_range PYTHON FROM BELOW: whether PYTHON runs and FROM <= its minor version < BELOW, as in 3.FROM.
python_in_range() {
    "$1" -c "import sys; sys.exit(not (3, $2) <= sys.version_info[:2] < (3, $3))" 2>/dev/null
}

# find_python FROM BELOW CANDIDATE...: print the first candidate in range; fail if there is none.
find_python() {
    local from=$1 below=$2 candidate
    shift 2
    for candidate in "$@"; do
        if python_in_range "$candidate" "$from" "$below"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# pyenv_pythons MINOR: print the interpreters 3.MINOR that pyenv has, one a line.
pyenv_pythons() {
    local root
    root=$(pyenv root 2>/dev/null) || return 0
    compgen -G "$root/versions/3.$1*/bin/python" || true
}

# oldest_python: the interpreter that takes the oldest supported JAX, or failing that any supported one.
oldest_python() {
    local from_pyenv
    mapfile -t from_pyenv < <(pyenv_pythons 11)
    find_python 11 12 python3 python3.11 "${from_pyenv[@]}" || find_python 11 100 python3
}

# newest_python: an interpreter that takes the newest supported JAX.
newest_python() {
    local from_pyenv
    mapfile -t from_pyenv < <(pyenv_pythons 12)
    find_python 12 100 python3.12 python3.13 "${from_pyenv[@]}" python3.14 python3
}

# find_newest OLDEST: set `newest` to an interpreter that takes the newest supported JAX, unless OLDEST is one already.
find_newest() {
    if python_in_range "$1" 12 100; then
        skip 'no Python 3.11 was found, so the oldest supported JAX went unchecked'
        return 1
    fi
    # shellcheck disable=SC2034  # read by the scripts beside this
    newest=$(newest_python) && return
    skip 'no Python 3.12 or later was found, so the newest supported JAX went unchecked'
    return 1
}

# enter_environment PYTHON EXTRA: activate a new environment of PYTHON that holds this checkout with EXTRA.
enter_environment() {
    local folder="$scratch/venv-$2"
    heading "$("$1" --version): pip install -e '.[$2]'"
    "$1" -m venv "$folder"
    # shellcheck source=/dev/null
    source "$folder/bin/activate"
    python -m pip install --quiet --disable-pip-version-check -e ".[$2]"
    python -m pip list --disable-pip-version-check | grep -E '^(Package|jax|jaxlib|optax|numpy) '
}

# is_dev_environment: whether the active environment has the tools of the extra dev, and this checkout as it is now.
is_dev_environment() {
    python -I 2>/dev/null - <<'END'
import tomllib
from importlib import metadata
from pathlib import Path

import build, jaxsoftmax, pyright, twine, uv

here = Path.cwd().resolve()
assert Path(jaxsoftmax.__file__).resolve().parents[1] == here
assert metadata.version("jaxsoftmax") == tomllib.loads((here / "pyproject.toml").read_text())["project"]["version"]
END
}

# ensure_dev_environment PYTHON: enter a new environment with the extra dev, unless the active one is such.
ensure_dev_environment() {
    is_dev_environment || enter_environment "$1" dev
}

# ensure_chromium: install the browser in which pages are tested, if there is none and it can be done.
ensure_chromium() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null && return
    done
    if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        heading 'apt-get install chromium'
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } ||
            skip 'Chromium could not be installed, so pages go untested'
    else
        skip 'no Chromium was found, so pages go untested'
    fi
}
