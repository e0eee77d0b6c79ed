"""The service over a real socket: its answers are the tagger's, and it outlives what is sent to it."""

import base64
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from reeltag.serve.answers import Health, Labels, Refusal, Tagged, Unreadable


@pytest.fixture(scope="module")
def lines(tagger, clips):
    """What the tagger says of each clip, as `reeltag tag --json` prints it."""
    return [replace(tagger(clip), video=clip.name).to_dict() for clip in clips]


def upload(clip):
    return ("file", clip.name, clip.read_bytes())


def test_one_file_and_several_are_answered_as_the_tagger_does(serving, tagger, clips, lines):
    with serving(tagger) as service:
        assert service.tag(upload(clips[0])).json == lines[0]
        best = service.tag(upload(clips[1]), path="/tag?top=3").json
        assert best == lines[1] | {"labels": lines[1]["labels"][:3]}
        assert service.tag(upload(clips[1]), ("top", "", b"3")).json == best
        several = service.tag(upload(clips[0]), ("file", "notes.txt", b"no video"), upload(clips[2]))
        assert several.status == 200
        assert [several.json[0], several.json[2]] == [lines[0], lines[2]]
        assert several.json[1]["video"] == "notes.txt"
        assert several.json[1]["error"]["reason"] == "not_media"


def test_requests_at_once_give_the_answers_of_one_after_the_other(serving, tagger, clips, lines):
    assert len({json.dumps(line["labels"]) for line in lines}) == len(clips)  # no two clips could be mixed up unseen
    with serving(tagger, workers=4, queue=60) as service, ThreadPoolExecutor(12) as clients:
        found = list(clients.map(lambda clip: service.tag(upload(clip)).json, clips))
    assert found == lines


def test_an_unreadable_file_alone_is_422_and_the_service_goes_on(serving, tagger, clips, lines):
    whole = clips[0].read_bytes()
    with serving(tagger) as service:
        for name, content, reason in (
            ("empty.mp4", b"", "empty"),
            ("text.mp4", b"file '/etc/passwd'\n" * 9, "not_media"),
            ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", "unsafe_reference"),
            ("cut.mp4", whole[: whole.index(b"moov") - 4][:2000], "truncated"),
        ):
            answer = service.tag(("file", name, content))
            assert (answer.status, answer.json["video"], answer.json["error"]["reason"]) == (422, name, reason)
            assert set(answer.json) == {"video", "error"}
        assert service.tag(upload(clips[0])).json == lines[0]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../../tmp/evil.mp4", "evil.mp4"),
        ("/etc/passwd", "passwd"),
        (r"C:\clips\a.mp4", "a.mp4"),
        (r"..\b.mp4", "b.mp4"),
        ("folder/", "upload"),
        ("a\x00b.mp4", "a\x00b.mp4"),
        ("Тест %22x%22 ü.mp4", 'Тест "x" ü.mp4'),
        ("n" * 5000, None),
    ],
)
def test_the_name_of_an_upload_is_shown_and_never_a_path(serving, tagger, clips, lines, given, shown):
    with serving(tagger) as service:
        answer = service.tag(("file", given, clips[0].read_bytes()))
        if shown is None:
            assert (answer.status, answer.json["error"]["reason"]) == (400, "bad_request")  # a header of 5 kB
        else:
            assert answer.json == lines[0] | {"video": shown}


def test_bad_calls_say_what_is_allowed(serving, tagger, clips):
    clip = upload(clips[0])
    with serving(tagger) as service:
        for answer, status, words in (
            (service.tag(("video", "a.mp4", b"x")), 400, "no field of files 'video'; allowed: file"),
            (service.tag(clip, ("tops", "", b"3")), 400, "no text field 'tops'; allowed: file"),
            (service.tag(clip, path="/tag?top=0"), 400, "top is '0'; give a whole number from 1 on"),
            (service.tag(clip, path="/tag?top=best"), 400, "top is 'best'; give a whole number from 1 on"),
            (service.tag(clip, ("top", "", b"-1")), 400, "top is '-1'; give a whole number from 1 on"),
            (service.tag(clip, ("top", "", b"1" * 300)), 400, "top is longer than 256 bytes"),
            (service.tag(clip, path="/tag?tpo=3"), 400, "no parameter 'tpo'; allowed: top"),
            (service.tag(("top", "", b"3")), 400, "no file came; send one or more in the field 'file'"),
            (service.tag(*[("file", f"{n}", b"x") for n in range(65)]), 413, "more than 64 files"),
            (service.ask("POST", "/tag", b"{}", {"Content-Type": "application/json"}), 415, "multipart/form-data"),
            (service.ask("POST", "/tag", b""), 415, "multipart/form-data"),
            (service.ask("POST", "/tag", service.body(clip)[:-9], _kind()), 400, "before its last boundary"),
            (service.ask("POST", "/tag", b"nonsense" * 99, _kind()), 400, "no multipart form"),
            (service.ask("GET", "/tag"), 405, "allowed: POST /tag"),
            (service.ask("GET", "/docs"), 404, "/openapi.json"),
            (service.tag(clip, **{"Sec-Fetch-Site": "cross-site"}), 403, "a page of another site"),
        ):
            assert answer.status == status, answer.text
            assert words in Refusal.model_validate(answer.json).error.message


def _kind():
    return {"Content-Type": "multipart/form-data; boundary=a-boundary"}


def test_an_error_of_the_model_is_told_and_the_next_file_is_tagged(serving, tagger, clips, lines, caplog):
    class Fails:
        label_names, takes, loaded = tagger.label_names, tagger.takes, tagger.loaded

        def __call__(self, video):
            tags = tagger(video)
            if tags.duration_s > 0 and json.loads(tags.to_json())["labels"] == lines[1]["labels"]:
                raise RuntimeError(f"no kernel for {video}")
            return tags

    with serving(Fails()) as service:
        answer = service.tag(upload(clips[1]))
        assert (answer.status, answer.json["video"], answer.json["error"]["reason"]) == (500, clips[1].name, "internal")
        assert "kernel" not in answer.text.decode()
        assert "no kernel for" in caplog.text
        assert service.tag(upload(clips[0])).json == lines[0]


def test_health_labels_and_the_description_are_true(serving, tagger, clips):
    with serving(tagger, workers=3, queue=5, max_mib=7) as service:
        health = Health.model_validate(service.health)
        assert (health.ready, health.model, health.labels, health.modalities) == (True, "small", 30, ["rgb"])
        assert (health.device, health.workers, health.queue, health.max_mib) == ("cpu", 3, 5, 7)
        assert Labels.model_validate(service.ask("GET", "/labels").json).labels == tagger.label_names
        Tagged.model_validate(service.tag(upload(clips[0])).json, strict=True)  # the models allow no other key
        Unreadable.model_validate(service.tag(("file", "a", b"a")).json, strict=True)
        described = service.ask("GET", "/openapi.json").json
    tag = described["paths"]["/tag"]["post"]
    assert set(tag["responses"]) == {"200", "400", "403", "408", "413", "415", "422", "500", "503", "507"}
    form = tag["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"file", "top"}
    assert tag["parameters"][0]["name"] == "top"
    assert set(described["components"]["schemas"]) >= {"Tagged", "Unreadable", "Refusal", "Health", "Labels"}


def test_the_page_needs_nothing_else_and_only_its_own_script_may_run(serving, tagger):
    with serving(tagger) as service:
        answer = service.ask("GET", "/")
        assert service.ask("HEAD", "/").status == 200
        health = service.ask("GET", "/health")
    page = answer.text.decode()
    assert not re.findall(r"(?:src|href)=\"(?!data:|openapi|labels)[^\"]*\"", page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("XMLHttpRequest", "")
    assert "style=" not in page  # the policy would drop it
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for kind in ("script", "style"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert health.headers["access-control-allow-origin"] is None
