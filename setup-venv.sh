# Sourced by ./check and ./quickstart: a virtual environment in .venv with Luthier and the tested versions in it.
# Usage: source ./setup-venv.sh [extra]
extra="${1:+[$1]}"
if [[ ! -x .venv/bin/python ]]; then
    "${PYTHON:-python3}" -m venv .venv
fi
export PATH="$PWD/.venv/bin:$PATH"
stamp=".venv/.installed-${1:-plain}"
if [[ ! -e "$stamp" || pyproject.toml -nt "$stamp" || constraints.txt -nt "$stamp" ]]; then
    echo "setting up .venv (the first time takes a few minutes)"
    # torch first and by its exact version: on Linux a plain "torch" brings a build for GPUs of several GB.
    python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extra"
    touch "$stamp"
fi
