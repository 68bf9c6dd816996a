import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.captions.endpoint_rewriter import EndpointRewriter
from actors.captions.prompts import system_prompt
from infra.errors import ConfigError, RewriterError
from infra.presets import load_preset
from tests.worlds.openai_server import KEY, MODEL, openai_server
from tests.worlds.waiting import wait_until

ANSWER = "A red disc flashes twice a second with a high beep."
SAY_ANSWER = {"say": ANSWER, "times": -1}
# What the client understands besides Retry-After: tests need not wait for its usual pauses.
SOON = {"headers": {"Retry-After-Ms": "10"}}
BASE = load_preset("tiny").data.rewriter


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with openai_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("key") / "key"
    file.write_text(f"{KEY}\n")
    return file


@pytest.fixture
def rewriter(server, key_file):
    def make(**changes):
        config = {
            "kind": "endpoint",
            "url": server.url,
            "model": MODEL,
            "api_key_file": str(key_file),
            "concurrency": 4,
            "timeout_s": 10.0,
            "retries": 2,
        }
        return EndpointRewriter(BASE.model_copy(update=config | changes))

    return make


def ask(rewriter, *captions):
    return rewriter.rewrite(captions, range(len(captions)))


def test_a_request_says_all_that_decides_the_answer(rewriter, server):
    server.behave(SAY_ANSWER)
    config = BASE.model_copy(update={"max_new_tokens": 77})
    (answer,) = rewriter(max_new_tokens=77).rewrite(
        ["red, 2 Hz"], [2**32 + 5], ["expected English, got none"]
    )
    assert answer == (ANSWER, "", False)
    (request,) = server.record()["requests"]
    assert request["model"] == MODEL
    assert request["temperature"] == 0
    assert request["max_tokens"] == 77
    # Servers take seeds of 31 bits.
    assert request["seed"] == 2**32 + 5 - 2 * (2**31 - 1)
    assert request["stream"] is False
    system, user = request["messages"]
    assert system == {"role": "system", "content": system_prompt(config)}
    assert user["content"].startswith("Caption: red, 2 Hz\n")
    assert "expected English, got none" in user["content"]


def test_seeds_differ_from_caption_to_caption(rewriter, server):
    server.behave(SAY_ANSWER)
    rewriter().rewrite(["one", "two"], [3, 4])
    assert {request["seed"] for request in server.record()["requests"]} == {3, 4}


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_requests_as_configured_are_in_flight(rewriter, server, concurrency):
    server.behave(SAY_ANSWER, delay_s=0.1)
    answers = ask(rewriter(concurrency=concurrency), *(f"caption {n}" for n in range(9)))
    assert [answer.text for answer in answers] == [ANSWER] * 9
    assert server.record()["most_in_flight"] == concurrency


def test_answers_come_in_the_order_of_the_captions(rewriter, server):
    server.behave(*({"say": f"answer {n}", "caption": f"caption {n}"} for n in range(6)))
    answers = ask(rewriter(), *(f"caption {n}" for n in range(6)))
    assert [answer.text for answer in answers] == [f"answer {n}" for n in range(6)]


@pytest.mark.parametrize(
    "fault", [{"status": 500} | SOON, {"status": 429} | SOON, {"status": 503} | SOON, {"cut": True}]
)
def test_what_may_pass_is_asked_again(rewriter, server, fault):
    server.behave(fault | {"times": 2}, SAY_ANSWER)
    assert ask(rewriter(), "one") == [(ANSWER, "", False)]
    assert len(server.record()["requests"]) == 3


@pytest.mark.parametrize(("retries", "pauses_s"), [(1, 0.5), (2, 1.5)])
def test_pauses_grow(rewriter, server, retries, pauses_s):
    server.behave({"status": 500, "times": retries}, SAY_ANSWER)
    began = time.monotonic()
    assert ask(rewriter(retries=retries), "one")[0].text == ANSWER
    # Up to a quarter shorter at random: captions that failed together come back one by one.
    assert time.monotonic() - began > 0.75 * pauses_s


def test_after_the_retries_the_caption_fails_alone(rewriter, server):
    broken = {"status": 500, "times": -1, "caption": "bad", "body": "out of memory"} | SOON
    server.behave(broken, SAY_ANSWER)
    good, bad, other = ask(rewriter(), "good", "bad", "other")
    assert (good.text, other.text, bad.text) == (ANSWER, ANSWER, "")
    expected = f"expected a caption from {server.url}, got 500 (out of memory); "
    assert bad.error.startswith(expected)
    requests = [request["messages"][-1]["content"] for request in server.record()["requests"]]
    assert sum("bad" in request for request in requests) == 3


@pytest.mark.parametrize("fault", [{"hang": True}, {"trickle": True}])
def test_a_request_ends_at_its_timeout(rewriter, server, fault):
    server.behave(fault | {"times": 2, "caption": "slow"}, SAY_ANSWER)
    began = time.monotonic()
    slow, other = ask(rewriter(timeout_s=0.4, retries=1), "slow", "other")
    assert 0.8 < time.monotonic() - began < 5
    assert slow.error == (
        f"expected a caption from {server.url}, got nothing whole in 0.4 s; see its load"
    )
    assert len(server.record()["requests"]) == 3
    assert other.text == ANSWER


def test_a_server_says_when_it_wants_to_be_asked_again(rewriter, server):
    server.behave({"status": 429, "headers": {"Retry-After": "1"}}, SAY_ANSWER)
    began = time.monotonic()
    assert ask(rewriter(), "one")[0].text == ANSWER
    assert time.monotonic() - began > 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (503, {"Retry-After": "3600"}),
        (429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}),
        (429, {"X-Should-Retry": "false"}),
    ],
)
def test_a_server_that_wants_a_long_rest_ends_the_work(rewriter, server, status, headers):
    server.behave({"status": status, "headers": headers, "times": -1, "body": "no quota"})
    began = time.monotonic()
    with pytest.raises(RewriterError) as refused:
        ask(rewriter(), "one")
    assert time.monotonic() - began < 5
    assert str(refused.value) == (
        f"expected a caption from {server.url}, got {status} (no quota); run again when it has room"
    )
    assert len(server.record()["requests"]) == 1


def test_a_caption_that_a_server_fails_on_for_good_fails_alone(rewriter, server):
    server.behave(
        {"status": 500, "headers": {"X-Should-Retry": "false"}, "caption": "bad"}, SAY_ANSWER
    )
    bad, good = ask(rewriter(), "bad", "good")
    assert bad.error.endswith("got 500; run again when it has room")
    assert good.text == ANSWER


def test_a_wait_may_be_given_as_a_date(rewriter, server):
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.behave({"status": 503, "headers": {"Retry-After": past}}, SAY_ANSWER)
    assert ask(rewriter(), "one")[0].text == ANSWER


def test_a_wrong_key_ends_the_work_with_a_message_without_the_key(
    rewriter, server, tmp_path, caplog
):
    caplog.set_level(logging.DEBUG)
    server.behave(SAY_ANSWER)
    (tmp_path / "wrong").write_text("sk-wrong-and-secret")
    with pytest.raises(RewriterError) as refused:
        ask(rewriter(api_key_file=str(tmp_path / "wrong")), "one")
    # The server repeats the key that it was sent.
    assert "got 401 (Incorrect API key provided: Bearer (key))" in str(refused.value)
    assert "data.rewriter.api_key_file" in str(refused.value)
    assert "sk-wrong-and-secret" not in str(refused.value) + caplog.text
    with pytest.raises(RewriterError, match=r"file with its key in data\.rewriter\.api_key_file"):
        ask(rewriter(api_key_file=None), "one")


def test_a_key_goes_to_no_other_server(rewriter, server, tmp_path):
    with openai_server(tmp_path) as other:
        other.behave(SAY_ANSWER)
        place = f"{other.url}/chat/completions"
        server.behave({"status": 307, "headers": {"Location": place}, "times": -1})
        with pytest.raises(RewriterError, match=r"got 307; check data\.rewriter\.url"):
            ask(rewriter(), "one")
        assert other.record()["requests"] == []


@pytest.mark.parametrize("with_key", [True, False])
def test_environment_variables_change_nothing(rewriter, server, tmp_path, monkeypatch, with_key):
    for name, value in {
        "OPENAI_API_KEY": "sk-of-the-environment",
        "OPENAI_ADMIN_KEY": "sk-of-the-environment",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "OPENAI_ORG_ID": "org-of-the-environment",
        "OPENAI_PROJECT_ID": "project-of-the-environment",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer other\nContent-Type: text/plain\nX-Own: 1",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
        "NO_PROXY": "",
        "no_proxy": "",
    }.items():
        monkeypatch.setenv(name, value)
    server.behave(SAY_ANSWER)
    if with_key:
        assert ask(rewriter(), "one") == [(ANSWER, "", False)]
        record = server.record()
    else:
        with openai_server(tmp_path, key="") as keyless:
            keyless.behave(SAY_ANSWER)
            config = {"url": f"{keyless.url}/", "api_key_file": None}
            assert ask(rewriter(**config), "one") == [(ANSWER, "", False)]
            record = keyless.record()
    assert record["paths"] == ["/v1/chat/completions"]
    (headers,) = record["headers"]
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers.pop("host").startswith("127.0.0.1:")
    assert int(headers.pop("content-length")) > 0
    assert headers.pop("connection", "keep-alive") == "keep-alive"
    assert headers.pop("authorization", None) == (f"Bearer {KEY}" if with_key else None)
    assert headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "omniforcing",
    }


def test_a_packed_answer_is_not_unpacked(rewriter, server):
    server.behave({"body": "packed", "headers": {"Content-Encoding": "gzip"}})
    (answer,) = ask(rewriter(), "one")
    assert "another form" in answer.error


@pytest.mark.parametrize(
    ("status", "is_fatal"), [(401, True), (403, True), (404, True), (422, False)]
)
def test_what_is_wrong_with_every_caption_ends_the_work(rewriter, server, status, is_fatal):
    server.behave({"status": status, "body": "no"})
    if is_fatal:
        with pytest.raises(RewriterError, match=rf"got {status} \(no\); "):
            ask(rewriter(), "one")
    else:
        (answer,) = ask(rewriter(), "one")
        assert f"got {status} (no); " in answer.error
    assert len(server.record()["requests"]) == 1


def test_a_wrong_model_is_asked_for_once_and_named(rewriter, server):
    server.behave()
    with pytest.raises(RewriterError) as refused:
        ask(rewriter(model="gemma-9"), "one")
    assert "got 404 (The model `gemma-9` does not exist.)" in str(refused.value)
    assert "data.rewriter.model 'gemma-9'" in str(refused.value)
    assert len(server.record()["requests"]) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"object": "error", "message": "too long"}', "(too long)"),
        ('{"detail": "no such field"}', '({"detail": "no such field"})'),
        ("<html>no</html>", "(<html>no</html>)"),
        ("", "got 400;"),
        ("no " * 500, f"({'no ' * 66}no)"),
        ("no" * 101, f"({'no' * 100})"),
        ('{"error": {"message": 5}}', '({"error": {"message": 5}})'),
    ],
)
def test_another_refusal_is_not_asked_again(rewriter, server, body, words):
    server.behave({"status": 400, "body": body})
    (answer,) = ask(rewriter(), "one")
    assert answer.error.endswith(f"; check data.rewriter, with data.rewriter.model {MODEL!r}")
    assert words in answer.error
    assert len(answer.error) < 500
    assert len(server.record()["requests"]) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("no JSON", "another form"),
        ('{"choices": [', "another form"),
        ("[" * 100_000, "another form"),
        ('{"choices": [{"message": {}}]}', "choices.0.message.content: Field required"),
        ('{"choices": [{"message": {"content": 5}}]}', "choices.0.message.content"),
        ('{"choices": []}', "no choice"),
        ("x" * 1_000_001, "got more than 1000000 bytes; check what answers there"),
        ("x" * 1_000_000, "another form"),
    ],
)
def test_an_answer_of_another_form_fails_its_caption_alone(rewriter, server, body, words):
    server.behave({"body": body, "caption": "bad"}, SAY_ANSWER)
    bad, good = ask(rewriter(), "bad", "good")
    assert words in bad.error
    assert good.text == ANSWER


def test_an_answer_that_is_cut_off_says_so(rewriter, server):
    choice = '{"message": {"content": "A red disc"}, "finish_reason": "length"}'
    server.behave({"body": f'{{"choices": [{choice}]}}'})
    (answer,) = ask(rewriter(max_new_tokens=3), "one")
    assert answer.text == "A red disc"
    assert "at most 3 tokens" in answer.error


def test_nobody_at_the_address_ends_the_work(rewriter):
    with pytest.raises(RewriterError, match=r"http://127\.0\.0\.1:1/v1, got ConnectError"):
        ask(rewriter(url="http://127.0.0.1:1/v1", retries=1), "one", "two")


def test_a_server_that_dies_ends_the_work_and_condemns_no_caption(rewriter, tmp_path):
    with openai_server(tmp_path) as server:
        server.behave(SAY_ANSWER, delay_s=0.3)
        dying = rewriter(url=server.url, concurrency=2, retries=1)
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(ask, dying, *(f"caption {n}" for n in range(6)))
            wait_until(lambda: server.record()["answered"] >= 2)
            server.kill()
            with pytest.raises(RewriterError, match="got ConnectError"):
                asking.result()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": None}, "data.rewriter.model"),
        ({"url": None}, "data.rewriter.url"),
        ({"url": "localhost:8000/v1"}, "http://host:8000/v1"),
        ({"url": "http://me:password@host/v1"}, "without a user or password"),
        ({"url": "http://host:port/v1"}, "to be a URL"),
        ({"api_key_file": "/nowhere/key"}, "got: No such file"),
    ],
)
def test_what_cannot_work_is_refused_at_once(rewriter, changes, expected):
    with pytest.raises(ConfigError) as caught:
        rewriter(**changes)
    assert expected in str(caught.value)
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b" \n", "sk-schlüssel".encode(), b"\xff\xfe-secret"])
def test_a_file_without_a_usable_key_is_refused_without_its_content(rewriter, tmp_path, content):
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"data\.rewriter\.api_key_file") as caught:
        rewriter(api_key_file=str(file))
    message = f"{caught.value!s}{caught.value.__cause__}"
    assert "schl" not in message
    assert "secret" not in message
