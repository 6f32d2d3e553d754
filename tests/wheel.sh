#!/usr/bin/env bash
# Build the wheel and the sdist, check them, and train with the wheel in an empty environment. ./check --slow runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python="${PYTHON:-python3}"

"$python" -m venv "$place/tools"
"$place/tools/bin/pip" install --quiet build twine
"$place/tools/bin/python" -m build --outdir "$place/dist" . > /dev/null
"$place/tools/bin/twine" check --strict "$place"/dist/*
wheel="$(echo "$place"/dist/*.whl)"
comm -3 <(git ls-files src/luthier | sed 's#^src/##' | sort) \
    <("$python" -m zipfile -l "$wheel" | awk '/^luthier\// { print $1 }' | sort) > "$place/differ"
[[ ! -s "$place/differ" ]] || { echo "the wheel and the source differ:"; cat "$place/differ"; exit 1; }

# pip keeps a torch that is there: an environment whose records say that there is an old one is enough to see it
"$python" -m venv "$place/old"
records="$("$place/old/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch-2.1.0.dist-info"
mkdir "$records"
printf 'Metadata-Version: 2.1\nName: torch\nVersion: 2.1.0\n' > "$records/METADATA"
for extra in "" "[text]" "[jpeg]" "[excel]" "[sql]" "[onnx]"; do
    "$place/old/bin/pip" install --quiet --dry-run --report "$place/plan.json" "$wheel$extra"
    "$python" - "$place/plan.json" <<'PYTHON'
import json, sys
names = {item["metadata"]["name"] for item in json.load(open(sys.argv[1]))["install"]}
assert "luthier" in names and "torch" not in names, names
PYTHON
done

"$python" -m venv "$place/empty"
"$place/empty/bin/pip" install --quiet "$(grep '^torch==' constraints.txt)"
"$place/empty/bin/pip" install --quiet "$wheel"
cp examples/penguins.csv "$place"
cd "$place" # away from the source
empty/bin/luthier doctor
empty/bin/luthier train penguins.csv --target species --epochs 5 --run run --quiet
empty/bin/luthier predict run penguins.csv -o answers.csv
empty/bin/luthier report run -o report.html
empty/bin/luthier eject run plain
empty/bin/luthier explain check-double-softmax > /dev/null
echo "the wheel trains, predicts, reports and ejects in an environment of its own"
