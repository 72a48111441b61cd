"""Check the built site in headless Chromium, offline: `python docs/check_site.py FOLDER`.

Every page is opened at two widths. A page fails on an error in the console, a request to another host, a link or anchor
that leads nowhere, formulas left as TeX, a picture that does not load, content wider than the page or cut off, and, on
the wide page, a code block that must be scrolled sideways.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

WIDTHS = (390, 1280)
SECONDS = 30.0  # for one answer of the browser

# What a reader would see; run in the page.
LOOK = r"""
(() => {
  const found = [], page = document.documentElement, width = page.clientWidth;
  const name = (e) => e.tagName.toLowerCase() + (e.className && e.className.baseVal === undefined
    ? "." + String(e.className).trim().split(/\s+/).join(".") : "") + ` "${(e.textContent || "").trim().slice(0, 40)}"`;
  if (page.scrollWidth > width) found.push(`the page is ${page.scrollWidth} wide, needed ${width}`);
  const scrolls = (e) => {
    for (let up = e.parentElement; up; up = up.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(up).overflowX)) return up !== document.body && up !== page;
    return false;
  };
  const article = document.querySelector("article") || document.body;
  for (const e of article.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    if ((box.right > width + 1 || box.left < -1) && !scrolls(e)) found.push(`cut off: ${name(e)}`);
    const hides = ["hidden", "clip"].includes(getComputedStyle(e).overflowX);
    if (hides && e.scrollWidth > e.clientWidth + 1 && box.width > 2) found.push(`hides a part: ${name(e)}`);
  }
  if (width > 1000 && !location.pathname.includes("/_modules/"))
    for (const e of article.querySelectorAll("pre"))
      if (e.scrollWidth > e.clientWidth) found.push(`code scrolls sideways: ${name(e)}`);
  for (const e of document.images) if (!e.complete || !e.naturalWidth) found.push(`no picture: ${e.src}`);
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode;
    if (/\\(?:frac|sum|int|le|ge|alpha|sigma|mathbb|hat|big)(?![a-z])/.test(text.data)
        && !text.parentElement.closest("code, pre, script, style")) found.push(`TeX: ${text.data.trim().slice(0, 60)}`);
  }
  return found;
})()
"""


class Browser:
    """A headless Chromium that finds no host, driven through a pipe."""

    def __init__(self, program: str, profile: str) -> None:
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        # High numbers, so that the copies to 3 and 4 in the child overwrite neither.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (from_us, to_us)]

        def place() -> None:
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [program, *flags], pass_fds=(3, 4), preexec_fn=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (from_us, to_us, *theirs):
            os.close(end)
        os.set_blocking(from_browser, False)
        self._out, self._in, self._rest, self._number = to_browser, from_browser, b"", 0
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def close(self) -> None:
        """End the browser."""
        os.close(self._out)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            while b"\0" in self._rest:
                message, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(message)
            try:
                chunk = os.read(self._in, 1 << 20)
            except BlockingIOError:
                time.sleep(0.002)
                continue
            if not chunk:
                break
            self._rest += chunk
        raise SystemExit(f"the browser gave no answer within {SECONDS:g} s")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result; events on the way are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)
        raise AssertionError  # `_messages` ends with SystemExit

    def load(self, url: str, width: int) -> list[dict[str, Any]]:
        """Open a page, wait until it is loaded, and return the events since then."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self._events = []
        self.call("Page.navigate", url=url)
        if not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            for event in self._messages():
                self._events.append(event)
                if event.get("method") == "Page.loadEventFired":
                    break
        return self._events


def complaints(events: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what the console says is wrong, and requests to other hosts."""
    for event in events:
        method, of = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            yield f"exception: {of['exceptionDetails'].get('text')}"
        elif method == "Runtime.consoleAPICalled" and of["type"] in ("error", "assert"):
            yield f"console: {[value.get('value') for value in of['args']]}"
        elif method == "Log.entryAdded" and of["entry"]["level"] == "error":
            yield f"console: {of['entry']['text']} {of['entry'].get('url', '')}"
        elif method == "Network.requestWillBeSent" and not of["request"]["url"].startswith(
            ("file:", "data:", "about:")
        ):
            yield f"request to another host: {of['request']['url']}"


class Links(HTMLParser):
    """The links of a page, and what they could lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note links and anchors."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.add(value)
            elif value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)


def broken_links(folder: Path, pages: list[Path]) -> Iterator[str]:
    """Yield each link within the site that leads nowhere."""
    parsed = {page: Links(page.read_text()) for page in pages}
    for page, of in parsed.items():
        for link in sorted(of.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file():
                yield f"{page.relative_to(folder)}: no file for the link {link}"
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].anchors:
                yield f"{page.relative_to(folder)}: no anchor for the link {link}"


def check(folder: Path) -> list[str]:
    """Return all that is wrong with a built site."""
    pages = sorted(folder.rglob("*.html"))
    program = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if not pages or program is None:
        raise SystemExit(f"found {len(pages)} pages in {folder} and the browser {program}, needed both")
    found = list(broken_links(folder, pages))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            for page in pages:
                for width in WIDTHS:
                    events = browser.load(page.as_uri(), width)
                    seen = browser.call("Runtime.evaluate", expression=LOOK, returnByValue=True)["result"]["value"]
                    where = f"{page.relative_to(folder)} at {width} px"
                    found += [f"{where}: {each}" for each in dict.fromkeys([*complaints(events), *seen])]
        finally:
            browser.close()
    print(f"{len(pages)} pages at {len(WIDTHS)} widths")
    return found


if __name__ == "__main__":
    problems = check(Path(sys.argv[1]).resolve())
    print(*problems, sep="\n")
    sys.exit(bool(problems))
