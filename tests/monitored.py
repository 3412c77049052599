"""A server in a process of its own with its metrics and status page, on free ports."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import urlopen


@dataclass(frozen=True)
class Monitored:
    """Where the server is, and where its pages are."""

    target: str
    url: str

    def page(self, path):
        """The body of a page."""
        with urlopen(self.url + path, timeout=30) as answer:  # noqa: S310 -- ours, on loopback
            return answer.read().decode()

    def values(self):
        """All samples, by name and labels."""
        samples = json.loads(self.page("/status.json"))["samples"]
        return {
            (name, *(value for _, value in sorted(each["labels"].items()))): each["value"]
            for name, some in samples.items()
            for each in some
        }


@contextmanager
def monitored(*flags):
    """Starts one, and ends it."""
    command = [sys.executable, "-m", "losswire", "serve", "--engine", "numpy", "--port", "0"]
    command += ["--metrics-port", "0", "--log-format", "json", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = {}
            while "serving" not in said:
                event = json.loads(process.stderr.readline())
                said[event["event"]] = event
            yield Monitored(said["serving"]["target"], said["monitor"]["url"])
        finally:
            process.terminate()
            process.communicate(timeout=60)
