#!/bin/sh
# Makes the virtual environment .venv of this checkout, with the versions of constraints.txt.
# Usage: .ci/setup.sh [PYTHON]. Needs Python 3.11 to 3.13 or uv; never asks for root.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
quiet=--quiet
if [ -t 2 ]; then quiet=; fi
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}" # a wheel may have 500 MB
unset VIRTUAL_ENV PYTHONHOME CONDA_PREFIX || true

say() { printf '%s\n' "setup: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    for name in ${1:-python3.13 python3.12 python3.11 python3 python}; do
        if suits "$name"; then
            command -v "$name"
            return
        fi
    done
}

make_venv() { # with pip where Python has it, else with the pip of the host
    rm -rf "$venv"
    if "$python" -m venv "$venv" >/dev/null 2>&1; then return; fi
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv" || fail "$python cannot make virtual environments." \
        "Install its venv module (Debian, Ubuntu: apt-get install python3-venv) or uv."
    if ! "$python" -m pip --python "$venv" --version >/dev/null 2>&1; then
        rm -rf "$venv"
        fail "$python has neither ensurepip nor a pip of version 22.3 or later." \
            "Install one (Debian, Ubuntu: apt-get install python3-venv) or uv, then try again."
    fi
}

pip_install() {
    if [ -x "$venv/bin/pip" ]; then
        "$venv/bin/python" -m pip install $quiet --disable-pip-version-check "$@"
    else
        "$python" -m pip --python "$venv" install $quiet --disable-pip-version-check "$@"
    fi
}

install_with() {
    say "installing into $venv; the first time downloads about 3 GB, mostly torch with CUDA"
    "$1" pip install $quiet --python "$venv/bin/python" -c constraints.txt -e '.[dev]'
}

python=$(find_python "${1:-}")
if [ -n "${1:-}" ] && [ -z "$python" ]; then
    fail "raysearch needs Python 3.11 to 3.13, but $1 is not one that runs."
fi
if command -v uv >/dev/null 2>&1; then
    rm -rf "$venv"
    uv venv --quiet --python "${python:-3.13}" "$venv"
    install_with uv
elif [ -z "$python" ]; then
    found=$(python3 --version 2>/dev/null || echo "no python3")
    fail "raysearch needs Python 3.11 to 3.13, but here is $found. Install one, or uv."
else
    make_venv
    if pip_install uv && [ -x "$venv/bin/uv" ]; then
        install_with "$venv/bin/uv"
    else
        say "uv cannot be installed; going on with pip, which is slower"
        pip_install -c constraints.txt -e '.[dev]'
    fi
fi
"$venv/bin/raysearch" --help >/dev/null
say "$("$venv/bin/python" --version) with $(grep -c == constraints.txt) pinned packages is in $venv"
