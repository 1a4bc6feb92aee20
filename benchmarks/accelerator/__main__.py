"""``python -m benchmarks.accelerator [--out DIR]``: measure, and write one JSON and one page of tables.

Needs a clone and PyTorch; what else is missing comes from a folder of wheels (``benchmarks/accelerator-wheels``). No
internet is needed, and nothing is imported that would have to be installed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.accelerator.measure import read_rows
from benchmarks.accelerator.plan import PARTS, SECONDS, Part

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE, PACKAGES = "accelerator.json", "accelerator.md", "packages"
MORE_CORES = "The machine has {found} cores: measured on these."


class Refused(Exception):
    """What is missing, as a sentence."""


class Session:
    """One folder of results, and the processes that add to it.

    :param out: the folder
    :param rehearse: on the CPU, with tiny sizes
    :param wheels: folder of what is not installed; None uses what is
    :param limits: seconds of each part by its name, in place of those of the plan
    """

    def __init__(self, out: Path, rehearse: bool, wheels: Path | None, limits: dict[str, float]) -> None:
        self.out, self.rehearse, self.limits = out, rehearse, limits
        out.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT)]
        if wheels is not None:
            paths.append(str(unpack(wheels, out / PACKAGES)))
        before = os.environ.get("PYTHONPATH")
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])])}
        self.results = self._read()

    def _read(self) -> dict[str, Any]:
        path = self.out / RESULTS
        if not path.exists():
            return {"rehearsal": self.rehearse, "machine": self._machine(), "parts": {}}
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if results["rehearsal"] != self.rehearse:
            kind = "a rehearsal" if results["rehearsal"] else "measurements"
            raise Refused(f"'{self.out}' holds {kind}: choose another --out.")
        self._machine()
        return results

    def _machine(self) -> dict[str, Any]:
        """:raises Refused: for what is missing here"""
        machine: dict[str, Any] = json.loads(self._command("machine", stdout=subprocess.PIPE).communicate()[0])
        if missing := machine.pop("missing"):
            raise Refused(
                f"Not installed here: {', '.join(missing)}. benchmarks/accelerator-wheels collects them where there is "
                "internet, and --wheels names their folder."
            )
        if machine["device"] is None and not self.rehearse:
            raise Refused(
                f"PyTorch {machine['torch']} finds no CUDA device here: --rehearse goes through every part on the CPU, "
                "with tiny sizes."
            )
        return machine

    def _command(self, part: str, **options: Any) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "benchmarks.accelerator.measure", part, str(self.out)]
        flags = ["--rehearse"] if self.rehearse else []
        return subprocess.Popen([*command, *flags], cwd=ROOT, env=self.environment, start_new_session=True, **options)

    def run(self, parts: list[Part]) -> None:
        """Measure what is not complete yet, within the time of the plan."""
        end = time.monotonic() + SECONDS
        for part in parts:
            known = self.results["parts"].get(part.name, {})
            left = min(self.limits.get(part.name, part.limit), end - time.monotonic())
            if known.get("complete") or left <= 0:
                continue
            print(f"{part.name} (at most {left:.0f} s) ... ", end="", flush=True)
            self.results["parts"][part.name] = self._measure(part, left)
            self.write()
            print(self.results["parts"][part.name]["note"] or "done", flush=True)

    def _measure(self, part: Part, limit: float) -> dict[str, Any]:
        began, log = time.monotonic(), self.out / f"{part.name}.log"
        with log.open("ab") as file:
            process = self._command(part.name, stdout=file, stderr=file)
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)
        note = ""
        if code is None:
            note = f"Stopped at its limit of {limit:.0f} s: the same command measures the rest."
        elif code != 0:
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            note = f"Ended with code {code}: {' '.join(last)[:300] or 'it said nothing'}"
        elif part.cores is not None and part.cores > self.results["machine"]["cores"]:
            note = MORE_CORES.format(found=self.results["machine"]["cores"])
        rows = read_rows(self.out / f"{part.name}.jsonl")
        return {"complete": code == 0, "seconds": round(time.monotonic() - began, 1), "note": note, "rows": rows}

    def write(self) -> None:
        """The results so far, as JSON and as Markdown."""
        (self.out / RESULTS).write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        (self.out / TABLE).write_text(markdown(self.results), encoding="utf-8")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it started; they have a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def unpack(wheels: Path, folder: Path) -> Path:
    """Lay the contents of wheels into a folder that Python can import from.

    :raises Refused: if there are none
    """
    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if not found:
        raise Refused(f"--wheels must be a folder with wheels in it, found '{wheels}'.")
    done = folder / ".unpacked"
    if not done.exists():
        for wheel in found:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        done.touch()
    return folder.resolve()


def markdown(results: dict[str, Any]) -> str:
    """All parts as one page."""
    machine = results["machine"]
    kind = "Rehearsed on the CPU with tiny sizes: no figure means anything. " if results["rehearsal"] else ""
    where = f"{machine['device'] or 'no accelerator'}, {machine['cores']} cores; "
    lines = ["# On an accelerator", f"{kind}{where}Python {machine['python']}, torch {machine['torch']}."]
    for part in PARTS:
        if (found := results["parts"].get(part.name)) is not None:
            lines += [f"## {part.title}", *([found["note"]] if found["note"] else []), _table(found["rows"])]
    return "\n\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "of"))
    header = "| " + " | ".join("" if column == "what" else column for column in columns) + " |"
    rule = "| " + " | ".join("---" if column in ("what", "note") else "---:" for column in columns) + " |"
    return "\n".join([header, rule, *("| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows)])


def main() -> None:
    """Command line."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(names)}; without a name: all")
    parser.add_argument("--out", type=Path, default=Path("accelerator"), help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for what is not installed")
    parser.add_argument("--rehearse", action="store_true", help="go through every part on the CPU, with tiny sizes")
    parser.add_argument("--limit", type=float, help="seconds for each part, in place of its own limit")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in names]:
        parser.error(f"there is no part '{unknown[0]}': choose from {', '.join(names)}")
    limits = {} if arguments.limit is None else dict.fromkeys(names, arguments.limit)
    try:
        session = Session(arguments.out.resolve(), arguments.rehearse, arguments.wheels, limits)
    except Refused as error:
        sys.exit(f"accelerator: {error}")
    session.run([part for part in PARTS if not arguments.parts or part.name in arguments.parts])
    print(f"Written to {arguments.out}: {RESULTS}, {TABLE}")


if __name__ == "__main__":
    main()
