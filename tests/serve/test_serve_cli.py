"""`reeltag serve`, started as a person starts it, and ended by a signal."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from reeltag.cli import main


@pytest.fixture
def refused(monkeypatch, capsys):
    """`refused(*words)`: what a call complains of that ends with 2."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["reeltag", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
        return capsys.readouterr().err

    return run


@contextmanager
def started(run, folder, *options):
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "reeltag", "serve", str(run), "--port", "0", "--device", "cpu", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_it_says_where_it_is_answers_and_ends(mini_run, clips, tagger, tmp_path):
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x/clip.mp4"\r\n\r\n'
    body += clips[0].read_bytes() + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    folders = tmp_path / "a", tmp_path / "b"
    with started(mini_run, folders[0], "--workers", "1") as first, started(mini_run, folders[1], "--quiet") as second:
        for process in (first, second):
            line = process.stdout.readline()
            found = re.fullmatch(r"small is served on (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
            assert found, line
            request = urllib.request.Request(f"{found[1]}/tag?top=2", body, kind)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer) == tagger(clips[0]).to_dict(2) | {"video": "clip.mp4"}
        assert [len(list(folder.glob("reeltag-*"))) for folder in folders] == [1, 1]
        first.send_signal(signal.SIGINT)
        second.send_signal(signal.SIGTERM)
        for process, code, logged in ((first, 130, '"POST /tag?top=2 HTTP/1.1" 200'), (second, 143, "")):
            _, err = process.communicate(timeout=60)
            assert process.returncode == code, err
            assert logged in err
            assert "Traceback" not in err
    assert [list(folder.glob("reeltag-*")) for folder in folders] == [[], []]


def test_a_taken_port_and_a_missing_model_are_one_line(refused, mini_run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refused("serve", mini_run, "--port", port)
    assert message.startswith(f"error: cannot listen on 127.0.0.1 port {port}: ")
    assert "choose another --port" in message
    assert "no.such.host.invalid" in refused("serve", mini_run, "--host", "no.such.host.invalid")
    assert "nothing does not exist" in refused("serve", tmp_path / "nothing", "--port", 0)


def test_without_the_extra_one_line_names_it(refused, mini_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    message = refused("serve", mini_run, "--port", 0)
    assert message.count("\n") == 1
    assert "pip install 'reeltag[serve]'" in message
