"""The page in a real browser without a screen, driven through its own protocol; skipped where there is no Chromium."""

import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
SETTLED = "items.size > 0 && [...items].every((item) => ['done', 'failed'].includes(item.state))"
# The browser reads descriptor 3 and writes descriptor 4.
ON_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
    os.close(end)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """Chromium, spoken to over the pipe of --remote-debugging-pipe: JSON, each message ended by a zero byte."""

    def __init__(self, profile):
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ]
        command = [CHROMIUM, *options, "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", ON_3_AND_4, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._rest, self._session = itertools.count(1), b"", {}
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _message(self):
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], 60)[0], "the browser says nothing"
            piece = os.read(self._in, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        one, self._rest = self._rest.split(b"\0", 1)
        return json.loads(one)

    def value(self, code):
        return self.call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def until(self, code):
        deadline = time.monotonic() + 60
        while not self.value(code):
            assert time.monotonic() < deadline, code
            time.sleep(0.05)

    def choose(self, *files):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=field, files=list(map(str, files)))

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def test_videos_become_labels_and_other_files_plain_words(serving, tagger, clips, tmp_path, browser):
    bad = tmp_path / "notes.mp4"
    bad.write_text("no video, but long enough to be looked at")
    with serving(tagger, workers=1, max_mib=1) as service:
        large = tmp_path / "large.mp4"
        large.write_bytes(bytes((1 << 20) + 1))
        browser.call("Page.navigate", url=f"{service.url}/")
        browser.until("document.querySelector('#about')?.textContent.includes('30 labels from pictures')")
        browser.choose(clips[0], bad, large)
        browser.until(SETTLED)
        said = tagger(clips[0]).to_dict()
        shown = browser.value(
            "[...items][0].card.querySelectorAll('.label').length && [...[...items][0].card.querySelectorAll('.label')]"
            ".map((row) => [row.querySelector('.name').textContent, row.classList.contains('present')])"
        )
        first = max(8, sum(row["present"] for row in said["labels"]))
        assert shown == [[row["label"], row["present"]] for row in said["labels"][:first]]
        assert browser.value("[...items][0].result") == said | {"video": clips[0].name}
        assert "This is no video or sound file." in browser.value("[...items][1].card.textContent")
        assert "at most 1 MiB" in browser.value("[...items][2].card.textContent")
        assert browser.value("document.querySelector('#count').textContent") == "1 tagged, 2 not"
        width = browser.value("[...items][0].card.querySelector('.fill').style.width")
        assert float(width.removesuffix("%")) == pytest.approx(100 * said["labels"][0]["score"], abs=1e-3)
        browser.value("document.querySelector('#clear').click()")
        assert browser.value("items.size + document.querySelectorAll('.card').length") == 0
        browser.call("Page.navigate", url="about:blank")
    complaints = [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
    complaints += [event for event in browser.events if "Content Security Policy" in json.dumps(event)]
    assert complaints == []


def test_a_cancelled_video_is_not_tagged(serving, held, clips, browser, until):
    with serving(held, workers=1) as service:
        browser.call("Page.navigate", url=f"{service.url}/")
        browser.until("document.querySelector('#about')?.textContent.includes('labels')")
        browser.choose(clips[0], clips[1])
        until(lambda: held.begun == 1)
        browser.until("[...items][0].card.textContent.includes('Tagging')")
        assert browser.value("[...items][1].state") == "waiting"  # as many at once as the service has workers
        browser.value("[...items][1].card.querySelector('button').click()")
        assert browser.value("items.size") == 1
        held.go.set()
        browser.until(SETTLED)
        assert browser.value("[...items][0].state") == "done"
        assert held.begun == 1
        browser.call("Page.navigate", url="about:blank")
