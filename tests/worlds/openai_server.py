"""A server with OpenAI's chat completions, a process of its own, before a small Gemma 3.

It checks the bearer key, records what it was asked, and misbehaves as it is told.
"""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

MODEL = "small-gemma"
KEY = "sk-a-key-that-nobody-else-has"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
END_OF_TURN = SPECIAL.index("<end_of_turn>")
WORDS = """
    user model Caption : , . An earlier answer was refused Write the paragraph again beacon Hz tone
    1 2 3 red green blue A disc flashes once twice three times a second with low high beep
"""
# What the small model has learnt; other captions get words all the same.
LEARNT = {
    "red beacon, 2 Hz, high tone": "A red disc flashes twice a second with a high beep",
    "green beacon, 1 Hz": "A green disc flashes once a second with a low beep",
    "blue beacon, 3 Hz, low tone, low tone": "A blue disc flashes three times a second with a beep",
}
# As Gemma has it: what the system says stands at the head of the first turn.
CHAT_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}{% if message.role != 'system' %}<start_of_turn>\
{{ message.role }}
{% if loop.index0 == 1 %}{{ messages[0].content }}

{% endif %}{{ message.content }}<end_of_turn>
{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""


def write_gemma(folder, config, steps=120):
    """A Gemma 3 of two layers with its tokenizer that rewrites the captions of `LEARNT`."""
    import torch

    from actors.captions.prompts import chat_messages

    torch.manual_seed(0)
    words, model = _tokenizer(), _gemma()
    prompts = [
        words.apply_chat_template(chat_messages(config, raw), tokenize=False) for raw in LEARNT
    ]
    whole = [
        f"{prompt}<start_of_turn>model\n{answer}<end_of_turn>"
        for prompt, answer in zip(prompts, LEARNT.values(), strict=True)
    ]
    batch = words(whole, add_special_tokens=False, padding=True, return_tensors="pt")
    # The answers alone count: they end where the batch does, as padding comes first.
    labels = torch.full_like(batch.input_ids, -100)
    labels[:, -16:] = batch.input_ids[:, -16:]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(batch.input_ids, batch.attention_mask, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.generation_config.eos_token_id = [SPECIAL.index("<eos>"), END_OF_TURN]
    # As a release of Gemma does: a rewriter must not sample because of it.
    model.generation_config.update(do_sample=True, top_k=64, top_p=0.95)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _gemma():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    shape = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"],
    )
    return Gemma3ForCausalLM(shape)


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate((*SPECIAL, *WORDS.split()))}
    words = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        padding_side="left",
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        chat_template=CHAT_TEMPLATE,
    )


class OpenAiServer:
    """The test's end of a running server."""

    def __init__(self, process, port):
        self._process = process
        self._port = port
        self.url = f"http://127.0.0.1:{port}/v1"

    def behave(self, *faults, delay_s=0.0):
        """Forget the past; answer after `delay_s`, the next requests with `faults`.

        A fault is {"status": 500, "headers": {}, "body": ""}, {"body": "..."} with status 200,
        {"say": "..."} in place of the model, {"hang": true}, {"trickle": true} or {"cut": true};
        "times" (1) of them, and "caption" if only requests with that in them meet it.
        """
        answer = httpx.post(
            f"http://127.0.0.1:{self._port}/behave",
            json={"faults": faults, "delay_s": delay_s},
            trust_env=False,
        )
        answer.raise_for_status()

    def record(self):
        """What it was asked since: `requests`, their `headers`, `paths`, `most_in_flight`,
        `in_flight` and `answered`."""
        return httpx.get(f"http://127.0.0.1:{self._port}/record", trust_env=False).json()

    def kill(self):
        """As a machine that goes away."""
        self._process.kill()
        self._process.wait()


@contextmanager
def openai_server(scratch, gemma="", key=KEY):
    """A server with the model in the folder `gemma`, which it loads when it is first asked."""
    from tests.worlds.waiting import wait_until

    port_file = Path(scratch) / "port"
    command = [sys.executable, __file__, str(port_file), str(gemma), key]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None)
        yield OpenAiServer(process, int(port_file.read_text()))
    finally:
        process.kill()
        process.wait()


class _State:
    """Shared by the server's threads; `lock` guards all of it but the model, which has its own."""

    def __init__(self, gemma, key):
        self.gemma, self.key = gemma, key
        self.lock, self.model_lock, self.loaded = threading.Lock(), threading.Lock(), None
        self.behave([], 0.0)

    def behave(self, faults, delay_s):
        with self.lock:
            self.faults = [{"times": 1, "caption": ""} | fault for fault in faults]
            self.delay_s = delay_s
            self.requests, self.headers, self.paths = [], [], []
            self.in_flight, self.most_in_flight, self.answered = 0, 0, 0

    def begin(self, path, headers, request):
        with self.lock:
            self.paths.append(path)
            self.headers.append(headers)
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            for fault in self.faults:
                if fault["times"] and fault["caption"] in request["messages"][-1]["content"]:
                    fault["times"] -= 1
                    return fault
        return {}

    def end(self):
        with self.lock:
            self.in_flight -= 1
            self.answered += 1

    def record(self):
        names = ("requests", "headers", "paths", "most_in_flight", "in_flight", "answered")
        with self.lock:
            return {name: getattr(self, name) for name in names}

    def complete(self, request):
        """The model's words, one request at a time and without padding; and why they end."""
        # Transformers does not bear to be imported by several threads at once.
        with self.model_lock:
            import torch

            with torch.no_grad():
                return self._complete(request)

    def _complete(self, request):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.loaded = self.loaded or (
            AutoModelForCausalLM.from_pretrained(self.gemma),
            AutoTokenizer.from_pretrained(self.gemma),
        )
        model, words = self.loaded
        prompt = words.apply_chat_template(
            request["messages"], tokenize=False, add_generation_prompt=True
        )
        start = words(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        new = []
        while len(new) < request["max_tokens"]:
            tokens = torch.cat((start, torch.tensor([new], dtype=torch.long)), 1)
            new.append(int(model(tokens).logits[0, -1].argmax()))
            if new[-1] in (END_OF_TURN, SPECIAL.index("<eos>")):
                return words.decode(new, skip_special_tokens=True), "stop"
        return words.decode(new, skip_special_tokens=True), "length"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Quietly."""

    def do_GET(self):
        if self.path == "/record":
            self._reply(200, self.server.state.record())
        elif self._allowed():
            self._reply(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self):
        state = self.server.state
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/behave":
            state.behave(**request)
            self._reply(200, {})
        elif self._allowed():
            fault = state.begin(self.path, dict(self.headers), request)
            try:
                time.sleep(state.delay_s)
                self._chat(request, fault)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                state.end()

    def _allowed(self):
        sent = self.headers.get("Authorization", "")
        if not self.server.state.key or sent == f"Bearer {self.server.state.key}":
            return True
        self._reply(401, {"error": {"message": f"Incorrect API key provided: {sent}"}})
        return False

    def _chat(self, request, fault):
        if fault.get("hang"):
            time.sleep(30)
        elif fault.get("trickle"):
            self._trickle()
        elif fault.get("cut"):
            self._send(200, {"Content-Length": "1000"}, b'{"choices": [')
            self.close_connection = True
        elif "status" in fault or "body" in fault:
            body = fault.get("body", "").encode()
            headers = {"Content-Length": str(len(body))} | fault.get("headers", {})
            self._send(fault.get("status", 200), headers, body)
        elif request["model"] != MODEL:
            missing = {"message": f"The model `{request['model']}` does not exist."}
            self._reply(404, {"error": missing})
        else:
            words = fault.get("say")
            text, why = (
                (words, "stop") if words is not None else self.server.state.complete(request)
            )
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": why}
            self._reply(200, {"object": "chat.completion", "choices": [choice]})

    def _trickle(self):
        self._send(200, {"Content-Length": "1000"}, b"{")
        for _ in range(300):
            time.sleep(0.1)
            self.wfile.write(b" ")

    def _reply(self, status, value):
        body = json.dumps(value).encode()
        self._send(status, {"Content-Length": str(len(body))}, body)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main(port_file, gemma, key):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.state = _State(gemma, key)
    part = Path(f"{port_file}.part")
    part.write_text(str(server.server_port))
    part.rename(port_file)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
