"""The long form: every target under atheris, what it finds kept, figures written down.

`python -m fuzz --runs N` (in tests/): N inputs for each target, of which those that reach something
new become the corpus, as few and as small as reach it all. Ends with 1 where an input failed, which
then lies in `build/fuzz`.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from fuzz.player import CORPUS, TARGETS

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "fuzz"
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.json"

LARGEST_INPUT = 4096
INPUT_SECONDS = 60
"""Of real time for one input, beyond which it hangs for libFuzzer; turns are counted before."""

_STATUS = re.compile(r"#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)")


def main():
    """Fuzzes the targets that were asked for."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    asked = parser.parse_args()
    summary = {"seed": asked.seed, **_code()}
    with ThreadPoolExecutor(asked.jobs) as pool:
        running = {
            name: pool.submit(fuzzed, name, asked.runs, asked.seed) for name in asked.targets
        }
        figures = {name: each.result() for name, each in running.items()}
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    summary["targets"] = figures
    asked.results.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(each["failures"] for each in figures.values()))


def fuzzed(name, runs, seed):
    """Fuzzes one target; the figures of it."""
    found, failing = _empty(WORK / name / "found"), _empty(WORK / name / "failing")
    flags = [f"-runs={runs}", f"-seed={seed}", f"-max_len={LARGEST_INPUT}"]
    flags += [f"-timeout={INPUT_SECONDS}", f"-artifact_prefix={failing}/", "-rss_limit_mb=2048"]
    began = time.monotonic()
    output = _atheris(name, *flags, str(found), str(CORPUS / name))
    seconds = time.monotonic() - began
    statuses = _STATUS.findall(output)
    failures = sorted(path.name for path in failing.iterdir())
    inputs, _, edges, features = statuses[-1] if statuses else (0, "", 0, 0)
    if not failures:
        _keep(name, found)
    kept = list((CORPUS / name).iterdir())
    figures = {
        "inputs": int(inputs),
        "edges": int(edges),
        "features": int(features),
        "corpus_inputs": len(kept),
        "corpus_bytes": sum(path.stat().st_size for path in kept),
        "failures": failures,
        "seconds": round(seconds, 1),
    }
    print(f"{name}: {json.dumps(figures)}", flush=True)
    if failures or not statuses:
        print(output[-4000:], flush=True)
    return figures


def _keep(name, found):
    """Makes the corpus what reaches all that corpus and finds reach."""
    merged = _empty(WORK / name / "merged")
    folders = map(str, (merged, CORPUS / name, found))
    _atheris(name, "-merge=1", f"-max_len={LARGEST_INPUT}", *folders)
    if any(merged.iterdir()):
        shutil.rmtree(CORPUS / name)
        shutil.copytree(merged, CORPUS / name)


def _atheris(name, *arguments):
    command = [sys.executable, "-m", "fuzz.atheris_target", name]
    itself = WORK / name / "again"
    itself.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    itself.chmod(0o755)
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT / "tests",
        env=os.environ | {"FUZZ_ITSELF": str(itself), "PYTHONHASHSEED": "0"},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        check=False,
    )
    return done.stdout.decode(errors="replace")


def _empty(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _code():
    """Which code this was, and of what."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 -- the developer's own git
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    names = ("atheris", "numpy", "protobuf", "grpcio")
    versions = {name: version(name) for name in names}
    return {"commit": commit, "python": sys.version.split()[0], "versions": versions}


if __name__ == "__main__":
    main()
