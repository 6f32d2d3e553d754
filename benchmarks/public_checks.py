"""What the checks say of sound public programs, which stay where they are.

    python -m benchmarks.public_checks --sources DIR [--sealed] [--write-manifest] [NAME ...]
    python -m benchmarks.public_checks --sources DIR --planted [--sealed | --verify] [NAME ...]

DIR holds the repositories of `benchmarks/public/manifest.json`, each in `DIR/owner/name` at the commit named there. Of
each program what is before its training loop is run, with packaged or made data, and its parts are handed to
`luthier.check` (its loop to `luthier.watch`). A third of the programs, drawn by the hash of their names, is sealed:
`--sealed` prints that third and no other. Nothing was mended after it was looked at.

`--planted` takes the same programs with a mistake planted in each, and prints what is said of them and not of the
sound program; a third of the mistakes is sealed too. `--planted --verify` checks nothing, but shows that every
mistake runs and is in force.
"""

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tests.checks.kit.program import seed_all

from benchmarks.checks import findings_of
from benchmarks.public.loading import Sources
from benchmarks.public.planted import PLANTED, verify
from benchmarks.public.programs import PROGRAMS

MANIFEST = Path(__file__).parent / "public" / "manifest.json"


def is_sealed(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 3 == 0


def described(sources: Sources, path: str) -> dict[str, str]:
    owner, name, rest = path.split("/", 2)
    place = sources.folder / owner / name
    commit = (place / ".commit").read_text().strip() if (place / ".commit").exists() else subprocess.run(
        ["git", "-C", str(place), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()  # fmt: skip
    digest = hashlib.sha256((sources.folder / path).read_bytes()).hexdigest()
    return {"repository": f"{owner}/{name}", "commit": commit, "path": rest, "sha256": digest}


def check_files(sources: Sources, name: str, known: dict[str, Any]) -> None:
    for item in known[name]["files"]:
        place = sources.folder / item["repository"] / item["path"]
        if hashlib.sha256(place.read_bytes()).hexdigest() != item["sha256"]:
            sys.exit(f"{place} is not the file of commit {item['commit']}")


def verify_planted(folder: Path, names: list[str]) -> None:
    failed = 0
    for entry in [e for e in PLANTED if not names or e.name in names]:
        start = time.process_time()
        try:
            said = verify(entry, folder)
        except Exception as problem:
            failed += 1
            said = f"FAILED: {type(problem).__name__}: {problem}"
        seconds = time.process_time() - start
        print(f"| {entry.name} | {entry.program} | {entry.kind} | {said} | {seconds:.1f} |", flush=True)
    sys.exit(f"{failed} failed" if failed else 0)


def check_planted(folder: Path, names: list[str], is_sealed_wanted: bool, known: dict[str, Any]) -> None:
    counts: Counter[str] = Counter()
    for entry in [e for e in PLANTED if is_sealed(e.name) == is_sealed_wanted and (not names or e.name in names)]:
        try:
            check_files(Sources(folder), entry.program, known)
            sound, wrong = (findings_of(entry.make(folder, is_broken=b), "plain") for b in (False, True))
        except Exception as problem:
            print(f"| {entry.name} | did not run: {type(problem).__name__}: {problem} | | |", flush=True)
            counts["did not run"] += 1
            continue
        shown = {(finding.severity, finding.code) for finding in sound}
        new = [finding for finding in wrong if (finding.severity, finding.code) not in shown]
        said = "; ".join(f"{f.severity} {f.code} {f.where}: {f.what}" for f in new)
        counts["found" if any(f.severity != "note" for f in new) else "not found"] += 1
        print(f"| {entry.name} | {entry.program} | {entry.wrong} | {said or 'nothing'} |", flush=True)
    print(dict(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--sealed", action="store_true", help="the third that is scored once")
    parser.add_argument(
        "--write-manifest", action="store_true", help="write down which files are read, and check nothing"
    )
    parser.add_argument("--planted", action="store_true", help="the programs with a mistake planted in each")
    parser.add_argument("--verify", action="store_true", help="with --planted: show that every mistake is in force")
    given = parser.parse_args()
    if given.verify and not given.planted:
        parser.error("--verify goes with --planted")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    known = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    if given.verify:
        verify_planted(given.sources.resolve(), given.names)
    if given.planted:
        check_planted(given.sources.resolve(), given.names, given.sealed, known)
        return
    written: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    names = [n for n in PROGRAMS if given.write_manifest or is_sealed(n) == given.sealed]
    for name in [n for n in names if not given.names or n in given.names]:
        sources = Sources(given.sources.resolve())
        seed_all(0)
        try:
            if not given.write_manifest:
                check_files(sources, name, known)
            parts = PROGRAMS[name](sources)
            if given.write_manifest:
                files = [described(sources, path) for path in dict.fromkeys(sources.read)]
                written[name] = {"sealed": is_sealed(name), "files": files}
                continue
            start = time.process_time()
            found = findings_of(parts, "plain")
        except Exception as problem:
            print(f"| {name} | did not run: {type(problem).__name__}: {problem} | |", flush=True)
            counts["did not run"] += 1
            continue
        seconds = time.process_time() - start
        counts["programs"] += 1
        loud = [finding for finding in found if finding.severity != "note"]
        for severity in ("error", "warning"):
            counts[f"with {severity}s"] += any(finding.severity == severity for finding in loud)
        said = "; ".join(f"{f.severity} {f.code} {f.where}: {f.what}" for f in loud)
        notes = ", ".join(f"{f.code}: {f.what}" for f in found if f.severity == "note")
        print(f"| {name} | {said or 'nothing'} | {notes} | {seconds:.2f} |", flush=True)
    if given.write_manifest:
        MANIFEST.write_text(json.dumps(written, indent=1) + "\n")
    print(dict(counts))


if __name__ == "__main__":
    main()
