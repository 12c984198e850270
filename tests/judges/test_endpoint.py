# SPDX-License-Identifier: Apache-2.0
"""Endpoints as judges: what is sent, what answers mean, and what is no judgement.

The endpoint is a server in a thread of this process, and the client the official one,
where the extra `feedback` is installed.
"""

import contextlib
import http.server
import importlib.util
import json
import math
import threading
import time

import pytest

from alignjax import cli, errors, judges
from alignjax.evals import rows, suites
from alignjax.judges import endpoint, judgements, kinds
from tests.judges import test_studies as studies

needs_client = pytest.mark.skipif(
    importlib.util.find_spec("openai") is None,
    reason="no official client here: pip install 'alignjax[feedback]'",
)
PAIR = judges.Shown({"turns": [["user", "hi {x}"]]}, ("yes", "no"))
KEY = "secret-5f1e"


def completion(content="A", finish_reason="stop", refusal=None, **choice):
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, **choice}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-v3",
        "choices": [choice],
        "usage": {"prompt_tokens": 90, "completion_tokens": 2, "total_tokens": 92},
    }


def top(**logps):
    likeliest = [{"token": k, "logprob": v, "bytes": None} for k, v in logps.items()]
    first = {**likeliest[0], "top_logprobs": likeliest}
    return completion(logprobs={"content": [first], "refusal": None})


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the server's list of answers, the last one for ever."""

    def do_POST(self):
        """Answers a request with the next answer."""
        server = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        with server.lock:
            headers = {k.lower(): v for k, v in self.headers.items()}
            server.requests.append((self.path, headers, json.loads(body)))
            many = len(server.answers) > 1
            answer = server.answers.pop(0) if many else server.answers[0]
        status, headers, body = 200, {}, answer
        if isinstance(answer, tuple):
            status, headers, body = answer
        if isinstance(body, int):  # bytes that trickle, or come at once without end
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(body):
                    self.wfile.write(b" " * (1 if body < 1000 else 4096))
                    self.wfile.flush()
                    time.sleep(0.02 * (body < 1000))
            return
        if isinstance(body, float):  # seconds
            time.sleep(body)
            body = completion()
        kind = "application/json"
        if isinstance(body, str):
            body, kind = body.encode(), headers.pop("kind", kind)
        else:
            body = json.dumps(body).encode()
        with contextlib.suppress(OSError):  # the client has gone
            self.send_response(status)
            for name, value in {"content-type": kind, **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.requests = [completion()], []
        server.lock = threading.Lock()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("JUDGE_KEY", KEY)


@pytest.fixture
def make(tmp_path, server):
    """A judge that asks the server."""

    def make(**fields):
        url = f"http://127.0.0.1:{server.server_port}/v1"
        own = {"url": url, "model": "judge", "key": "JUDGE_KEY", "at_once": 1}
        path = tmp_path / "judge.json"
        path.write_text(json.dumps({**own, "retries": 2, **fields}))
        return kinds.find(f"endpoint:{path}")

    return make


def one(judge, pair=PAIR):
    (verdict,) = judges.verdicts(judge, [pair])
    return verdict


@needs_client
def test_a_label_is_a_verdict_and_the_request_is_as_described(
    make, server, monkeypatch
):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-somebody-else")
    judge = make(question="Which {one} is kinder?", parameters={"seed": 7})
    assert one(judge)[:3] == (1.0, None, 0)
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "of-somebody-else" not in str(headers)
    (message,) = body.pop("messages")
    assert body == {"model": "judge", "temperature": 0.0, "max_tokens": 16, "seed": 7}
    assert message["role"] == "user" and message["content"] == judge.ask(PAIR)
    text = message["content"]
    assert "hi {x}" in text and "Which {one} is kinder?" in text
    assert text.index("yes") < text.index("no\n</")
    assert one(judge, PAIR._replace(responses=("no", "yes"))).first == 1.0
    swapped = server.requests[-1][2]["messages"][0]["content"]
    assert swapped.index("no\n</") < swapped.index("yes")


@needs_client
def test_provenance_says_all_but_the_key(make, server):
    judge = make()
    assert KEY not in str(judge[:2]) + str(judge.provenance)
    assert judge.name == f"endpoint:judge@127.0.0.1:{server.server_port}"
    assert set(judge.provenance) == {"model", "host", "prompt", "read", "parameters"}
    assert one(judge).details == {
        "answered_by": "judge-v3",
        "prompt_tokens": 90,
        "completion_tokens": 2,
    }
    others = [
        make(model="other"),
        make(question="Which is shorter?"),
        make(parameters={"temperature": 1.0}),
    ]
    digests = {other.digest for other in others} | {judge.digest}
    assert len(digests) == 4 and make(timeout=3.0).digest == judge.digest


@needs_client
@pytest.mark.parametrize(
    ("answer", "first", "reason"),
    [
        (completion("B"), 0.0, None),
        (completion(" **(b).**\n"), 0.0, None),
        (
            completion("<think>A is longer, B is not</think>\nThe answer is C."),
            0.5,
            None,
        ),
        (completion("A or B"), None, "several labels"),
        (completion("Neither of them."), None, "no label alone"),
        (completion("a tie"), None, "no label alone"),
        (completion('{"answer": "<b>A</b>"}'), None, "no label alone"),
        (completion(""), None, "an empty answer"),
        (completion(None), None, "an empty answer"),
        (completion("A", refusal="I cannot judge that"), None, "refused: "),
        (completion(None, "content_filter"), None, "refused by a filter"),
        ({**completion(), "choices": []}, None, "without a choice"),
        ("<html>busy</html>", None, "as JSON"),
        ((200, {"kind": "text/html"}, "<html>busy</html>"), None, "as JSON"),
        ("[" * 10**5, None, "as JSON"),
        ('{"choices": [], "created": NaN}', None, "as JSON"),
        ([completion()], None, "not dict"),
        ({**completion(), "choices": ["A"]}, None, "another shape"),
        ({**completion(), "choices": [None]}, None, "another shape"),
        ({**completion(), "choices": [{"message": None}]}, None, "empty"),
        (completion(5), None, "another shape"),
        (completion({"text": "A"}), None, "another shape"),
        ((400, {}, {"error": {"message": f"too long for {KEY}"}}), None, "status 400"),
    ],
)
def test_what_is_no_label_is_no_verdict(make, server, answer, first, reason):
    server.answers = [answer]
    verdict = one(make(retries=0))
    assert verdict.first == first
    if reason:
        assert reason in verdict.failure and KEY not in verdict.failure
        assert len(verdict.failure) <= 200


@needs_client
def test_what_may_pass_is_sent_again_and_counted(make, server):
    busy = (429, {"retry-after": "0.05"}, {"error": {"message": "slow down"}})
    server.answers = [busy, (500, {}, {"error": {"message": "oops"}}), completion("B")]
    began = time.monotonic()
    verdict = one(make())
    assert (verdict.first, verdict.retries) == (0.0, 2)
    assert time.monotonic() - began >= 0.05 and len(server.requests) == 3
    server.answers = [(503, {}, {"error": {"message": "down"}})]
    verdict = one(make())
    assert verdict.first is None and verdict.retries == 2
    assert "status 503" in verdict.failure and len(server.requests) == 6
    server.answers = [(422, {}, {"error": {"message": "no such field"}})]
    assert one(make()).retries == 0  # which is of no use to send again


@needs_client
def test_an_answer_that_is_too_slow_is_a_failure(make, server):
    server.answers = [0.3, 0.0]
    verdict = one(make(timeout=0.1, retries=0))
    assert verdict.first is None and "timed out after 0.1 s" in verdict.failure
    server.answers = [0.3, 0.0]
    verdict = one(make(timeout=0.15, retries=1))
    assert (verdict.first, verdict.retries) == (1.0, 1)


@needs_client
def test_an_answer_that_trickles_or_never_ends_is_a_failure(make, server):
    server.answers = [200]  # a byte in time for each read
    began = time.monotonic()
    verdict = one(make(timeout=0.3, retries=0))
    assert verdict.first is None and "timed out after 0.3 s" in verdict.failure
    assert time.monotonic() - began < 3
    server.answers = [10**5]
    assert "more than 4,194,304 bytes" in one(make(retries=0)).failure


@needs_client
def test_verdicts_keep_their_order_and_come_from_several_requests(make, server):
    server.answers = [0.1, completion("B"), completion("C"), completion("B")]
    made = list(judges.verdicts(make(at_once=3), [PAIR] * 6))
    assert sorted(v.first for v in made) == [0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    # The slow answer is of the first three pairs, wherever it arrived.
    assert 1.0 in [v.first for v in made[:3]]


@needs_client
def test_an_endpoint_that_is_down_or_refuses_us_stops_the_command(make, server):
    server.answers = [(500, {}, "oops")]
    judge, made = make(retries=0), []
    with pytest.raises(errors.ConfigError, match=rf"none of {endpoint.DOWN} pairs"):
        made.extend(judges.verdicts(judge, [PAIR] * 20))
    assert made == []  # so they wait to be judged
    server.answers = [completion("B"), (500, {}, "oops")]
    for verdict in judges.verdicts(judge, [PAIR] * 5):  # a few of them are counted
        made.append(verdict.first)
    assert made == [0.0, None, None, None, None]
    for status in (401, 403, 404):
        server.answers = [(status, {}, {"error": {"message": f"bad key {KEY}"}})]
        with pytest.raises(errors.ConfigError, match=f"status {status}") as raised:
            one(judge)
        assert KEY not in str(raised.value)
    port = server.server_port
    server.answers = [(307, {"location": f"http://127.0.0.1:{port}/x"}, "")]
    sent = len(server.requests)
    assert "status 307" in one(judge).failure and len(server.requests) == sent + 1


@needs_client
def test_a_budget_of_tokens_stops_the_command(make, server):
    judge, made = make(token_budget=100), []
    with pytest.raises(errors.ConfigError, match="token_budget"):
        for verdict in judges.verdicts(judge, [PAIR] * 5):
            made.append(verdict)
    assert len(made) == len(server.requests) == 2  # 92 tokens each


@needs_client
def test_log_probs_of_the_first_token(make, server):
    server.answers = [top(A=math.log(0.7), B=math.log(0.2), C=math.log(0.08))]
    verdict = one(make(read="logprobs"))
    assert verdict.first == pytest.approx((0.7 + 0.04) / 0.98)
    assert verdict.details["mass"] == pytest.approx(0.98)
    body = server.requests[0][2]
    assert body["max_tokens"] == 1 and body["top_logprobs"] == 20 and body["logprobs"]
    server.answers = [completion()]
    assert 'set read to "text"' in one(make(read="logprobs")).failure


@needs_client
def test_what_an_endpoint_says_of_itself_fits_a_row(make, server):
    raw = lambda answer: json.dumps(answer).replace("Infinity", "1e400")
    usage = {"prompt_tokens": 1e400, "completion_tokens": "2", "total_tokens": -1}
    odd = {**completion(), "model": "a\ud800\x1b" * 999, "usage": usage}
    server.answers = [raw(odd)]
    verdict = one(make())
    assert verdict.first == 1
    json.dumps(verdict.details, allow_nan=False, ensure_ascii=False).encode()
    assert verdict.details["prompt_tokens"] is None
    assert len(verdict.details["answered_by"]) <= 200
    for odd in (1e400, 1e3, 0.5):  # log-probs of more than certainty
        server.answers = [raw(top(A=odd, B=-2.0))]
        verdict = one(make(read="logprobs"))
        assert verdict.first is None and verdict.failure
    server.answers = [top(A="-0.1", B=None)]
    assert "another shape" in one(make(read="logprobs")).failure


@needs_client
def test_a_study_by_an_endpoint(make, server, tmp_path, capsys):
    make()
    for name, good in (("sft", 0.2), ("dpo", 0.9)):
        rows.write(tmp_path / f"{name}.jsonl", studies.answers(name, good))
    suites.write(tmp_path / "suite.jsonl", studies.SUITE)
    path = studies.study(tmp_path, pairs=3)
    name = f"--judge=endpoint:{tmp_path / 'judge.json'}"
    assert cli.main(["judge", path, name, "--dry_run"]) == errors.DONE
    out = capsys.readouterr().out
    assert "6 judgements to make" in out and "Reply A:" in out
    assert not server.requests
    server.answers = [completion("A"), completion("what?"), completion("C")]
    assert cli.main(["judge", path, name]) == errors.DONE
    out = capsys.readouterr().out
    assert "4 ties, 1 failures in 6 judgements" in out
    assert "failed 1 times: no label alone in 'what?'" in out
    (file,) = (tmp_path / "study.judgements").iterdir()
    made = list(rows.read(file, judgements.Judgement))
    assert {j.provenance["answered_by"] for j in made} == {"judge-v3"}
    assert {j.provenance["model"] for j in made} == {"judge"}
    assert KEY not in file.read_text() + file.name


def test_the_share_of_labels_and_what_the_list_cuts_off():
    spread = [("A", -0.9), ("B", -1.6), (" A", -3.2), (" B", -2.9)]
    with pytest.raises(judges.Failure, match=r"0\.704"):
        endpoint.of_first_token(spread)
    first, details = endpoint.of_first_token([*spread, ("C", math.log(0.25))])
    share = math.exp(-0.9) + math.exp(-3.2)
    assert details == {"mass": pytest.approx(0.7042516018 + 0.25)}
    assert share / 0.7042516018 == pytest.approx(0.6351875702)  # without ties
    assert first == pytest.approx((share + 0.125) / 0.9542516018)
    cut = [("A", math.log(0.93)), ("(", -4.0), ("x", -6.2)]
    first, details = endpoint.of_first_token(cut)
    assert first == pytest.approx(0.93 / (0.93 + math.exp(-6.2)))
    assert details["truncated"] and details["mass"] == pytest.approx(0.93)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"url": "127.0.0.1:8000"}, "url"),
        ({"url": "http://anna:pass@host/v1"}, "url"),
        ({"url": "http://host/v1?key=1"}, "url"),
        ({"url": "http://[::1/v1"}, "url"),
        ({"model": ""}, "model"),
        ({"model": "\x1b[2J"}, "model"),
        ({"key": "NO_SUCH_VARIABLE"}, "key"),
        ({"parameters": {"stream": True}}, r"parameters\.stream"),
        ({"read": "mind"}, "read"),
        ({"timeout": 0}, "timeout"),
        ({"api_key": KEY}, "api_key: unknown"),
    ],
)
def test_files_that_describe_no_endpoint(tmp_path, change, reason):
    path = tmp_path / "judge.json"
    path.write_text(json.dumps({"url": "http://host/v1", "model": "m", **change}))
    with pytest.raises(errors.ConfigError, match=reason) as raised:
        endpoint.read(path)
    assert "pass" not in str(raised.value)
    with pytest.raises(errors.ConfigError):
        kinds.find("endpoint:")
