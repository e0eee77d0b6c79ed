"""What the service refuses, what it does meanwhile, and that nothing is left behind by clients that go away."""

import socket
import time
from urllib.parse import urlsplit

import pytest

MIB = 1 << 20
HEAD = b"POST /tag HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=a-boundary\r\n%s\r\n\r\n"
PART = b'--a-boundary\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'


def open_socket(service, *head):
    where = urlsplit(service.url)
    stream = socket.create_connection((where.hostname, where.port), timeout=20)
    stream.sendall(HEAD % b"\r\n".join(head))
    return stream


def answer_of(stream):
    """Return status line and body once the server has closed the connection."""
    found = b""
    while piece := stream.recv(1 << 16):
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    return head.splitlines()[0], body


def test_a_length_above_the_limit_is_refused_before_anything_is_sent(serving, tagger):
    with serving(tagger, max_mib=1) as service, open_socket(service, b"Content-Length: %d" % (9 * MIB)) as stream:
        found = stream.recv(1 << 16)
        assert b" 413 " in found.splitlines()[0]
        assert b"at most 1 MiB" in found + stream.recv(1 << 16)


@pytest.mark.parametrize("excess", [1, 20 * MIB])
def test_a_client_that_sends_all_before_it_reads_still_gets_413(serving, tagger, excess):
    with serving(tagger, max_mib=1) as service:
        answer = service.tag(("file", "long.mp4", bytes(MIB + excess)))
        assert (answer.status, answer.json["error"]["reason"]) == (413, "too_large")
        assert service.tag(("file", "fits.mp4", bytes(MIB))).status == 422  # read to its end


def test_a_stream_without_length_is_cut_off_at_the_limit(serving, tagger, until):
    with serving(tagger, max_mib=2) as service, open_socket(service, b"Transfer-Encoding: chunked") as stream:
        piece = bytes(1 << 16)
        most = sent = 0
        stream.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))
        stream.sendall(b"%x\r\n%s\r\n" % (3 * MIB // 2, bytes(3 * MIB // 2)))
        until(lambda: any(service.stored_bytes))  # it goes to disk while more is to come
        while service.service.seats.taken:
            stream.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
            most = max([most, *service.stored_bytes])
            assert sent < 64 * MIB
        assert most <= 2 * MIB
        assert b" 413 " in answer_of(stream)[0]


def test_a_client_that_stalls_is_given_up(serving, tagger):
    with serving(tagger, idle_s=0.3) as service, open_socket(service, b"Content-Length: 5000") as stream:
        stream.sendall(PART)
        status, body = answer_of(stream)
        assert b" 408 " in status
        assert b"nothing came for 0.3 s" in body


def test_a_client_that_leaves_while_it_sends_leaves_nothing(serving, tagger, until):
    with serving(tagger) as service:
        with open_socket(service, b"Content-Length: 5000000") as stream:
            stream.sendall(PART + bytes(2 * MIB))
            until(lambda: any(service.stored_bytes))
        until(lambda: not service.stored_bytes)


def test_a_full_queue_is_503_and_health_answers_meanwhile(serving, held, tagger, clips, until):
    upload = ("file", "a.mp4", clips[0].read_bytes())
    with serving(held, workers=1, queue=1) as service:
        first, second = service.begin(upload), service.begin(upload)
        until(lambda: held.begun == 1 and service.service.seats.taken == 2)
        with open_socket(service, b"Content-Length: 400000000") as stream:  # refused before it sends
            found = stream.recv(1 << 16)
        assert b" 503 " in found.splitlines()[0]
        third = service.tag(upload)
        assert (third.status, third.json["error"]["reason"]) == (503, "busy")
        assert 1 <= int(third.headers["retry-after"]) <= 30
        started = time.monotonic()
        assert service.health["requests"] == 2
        assert time.monotonic() - started < 5  # and not after the videos, which are held
        assert held.begun == 1  # one worker
        held.go.set()
        said = tagger(clips[0]).to_dict()["labels"]
        for connection in (first, second):
            assert connection.getresponse().status == 200
        assert service.tag(upload).json["labels"] == said


def test_a_request_whose_client_left_is_not_begun(serving, held, clips, until):
    upload = ("file", "a.mp4", clips[0].read_bytes())
    with serving(held, workers=1, queue=1) as service:
        first = service.begin(upload)
        until(lambda: held.begun == 1)
        second = service.begin(upload)
        until(lambda: service.service.seats.taken == 2)
        second.close()
        until(lambda: service.service.seats.taken == 1)
        third = service.begin(upload)
        until(lambda: service.service.seats.taken == 2)
        held.go.set()
        assert first.getresponse().status == 200
        assert third.getresponse().status == 200
        assert held.begun == 2


def test_a_video_whose_client_left_keeps_its_place_until_it_is_done(serving, held, clips, until):
    upload = ("file", "a.mp4", clips[0].read_bytes())
    with serving(held, workers=1, queue=0) as service:
        first = service.begin(upload, upload)
        until(lambda: held.begun == 1)
        first.close()
        until(lambda: not service.stored_bytes)
        assert service.service.seats.taken == 1
        assert service.tag(upload).status == 503
        held.go.set()
        until(lambda: service.service.seats.taken == 0)
        assert held.begun == 1  # its second file was not begun


def test_ending_finishes_what_runs_and_refuses_what_waits(serving, held, clips, until):
    upload = ("file", "a.mp4", clips[0].read_bytes())
    with serving(held, workers=1, queue=2) as service:
        first, second = service.begin(upload), service.begin(upload)
        until(lambda: held.begun == 1 and service.service.seats.taken == 2)
        service.service.stop()
        waiting = second.getresponse()
        assert (waiting.status, waiting.headers["retry-after"]) == (503, "10")
        assert b"stopping" in waiting.read()
        late = service.tag(upload)
        assert (late.status, late.json["error"]["reason"]) == (503, "stopping")
        assert service.ask("GET", "/health").status == 503
        held.go.set()
        assert first.getresponse().status == 200


def test_ending_waits_for_no_upload(serving, tagger, until):
    with serving(tagger) as service, open_socket(service, b"Content-Length: 5000000") as stream:
        stream.sendall(PART + bytes(2 * MIB))
        until(lambda: any(service.stored_bytes))
        service.service.stop()
        assert b" 503 " in stream.recv(1 << 16).splitlines()[0]


@pytest.mark.parametrize(("calls", "grace_s"), [(1, 0.2), (2, 600)])
def test_ending_waits_for_its_grace_or_for_the_second_ctrl_c(serving, held, clips, until, calls, grace_s):
    upload = ("file", "a.mp4", clips[0].read_bytes())
    with serving(held, workers=1, grace_s=grace_s) as service:
        first = service.begin(upload)
        until(lambda: held.begun == 1)
        for _ in range(calls):
            service.service.stop()
        assert first.getresponse().status == 503
        held.go.set()
