"""A chat service on loopback that can fail in every way a real one does, and counts what it is asked."""

import collections
import email
import http.server
import json
import random
import re
import threading
import time

FAULTS = ("429", "500", "dropped", "malformed", "slow")


class ChatServer(http.server.ThreadingHTTPServer):
    """Speaks ``/v1/chat/completions``, and ``/v1/files`` and ``/v1/batches`` for batches.

    Args:
        faults: kind of `FAULTS` -> share of the answers.
        delay: seconds before an answer; `slow` seconds for a slow one.
        refuse_formats: answer formats that the server answers with status 400.
        reply: called with the topic; the content of a good answer. None: a valid dialogue with as many exchanges as asked.
        odd: called with the request and the good completion; None, or the (status, JSON or bytes) that is sent instead.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, faults=None, delay=0.0, slow=3.0, seed=0, refuse_formats=(), reply=None, status=None, odd=None
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.delay, self.slow = faults or {}, delay, slow
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.refuse_formats, self.reply, self.status, self.odd = refuse_formats, reply, status, odd
        self.requests = collections.Counter()  # topic -> requests
        self.injected = collections.Counter()  # fault -> times
        self.repairs, self.active, self.most_active, self.headers_seen, self.bodies = 0, 0, 0, [], []
        self.files, self.batches = {}, {}
        self.paths = ("/v1/chat/completions",)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """What goes into --base-url."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """A client that was killed is part of the game."""

    def draw(self) -> str | None:
        """The fault of the next answer, if any."""
        point = self.random.random()
        for kind, share in self.faults.items():
            point -= share
            if point < 0:
                return kind
        return None

    def completion(self, body: dict) -> dict:
        """A good answer to a request."""
        prompt = body["messages"][1]["content"]
        topic = re.search(r"Topic: (.*)", prompt)[1]
        turns = int(re.search(r"Write (\d+) exchange", prompt)[1])
        pairs = [
            {
                "user": f"What about the {topic} number {n}?",
                "reply": f"The {topic} will be there on day {n}, wait and see.",
            }
            for n in range(turns)
        ]
        content = json.dumps({"dialogue": pairs}) if self.reply is None else self.reply(topic)
        return {
            "id": "c", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        }  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Nothing on the terminal."""

    def answer(self, content: dict | bytes, status: int = 200, headers: dict | None = None) -> None:
        """Send JSON or raw bytes."""
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        """Batches and files."""
        server = self.server
        parts = self.path.split("?")[0].removeprefix("/v1/").split("/")
        if parts == ["batches"]:
            self.answer({"object": "list", "data": list(server.batches.values()), "has_more": False})
        elif parts[0] == "batches":
            batch = server.batches[parts[1]]
            batch["polls"] = batch.get("polls", 0) + 1
            if batch["polls"] >= 2 and batch["status"] != "completed":
                self.finish_batch(batch)
            self.answer(batch)
        else:
            self.answer(server.files[parts[1]])

    def do_POST(self):
        """A chat request, an upload, or a new batch."""
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            message = email.message_from_bytes(
                b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + raw
            )
            content = next(
                part.get_payload(decode=True) for part in message.get_payload() if part.get_filename()
            )
            name = f"file-{len(self.server.files)}"
            self.server.files[name] = content
            return self.answer(
                {
                    "id": name,
                    "object": "file",
                    "bytes": len(content),
                    "created_at": 0,
                    "filename": "f",
                    "purpose": "batch",
                    "status": "processed",
                }
            )
        if self.path == "/v1/batches":
            body = json.loads(raw)
            name = f"batch-{len(self.server.batches)}"
            self.server.batches[name] = {
                "id": name, "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"], "completion_window": "24h",
                "status": "in_progress", "created_at": 0, "metadata": body.get("metadata"), "request_counts": {"total": 0, "completed": 0, "failed": 0},
            }  # fmt: skip
            return self.answer(self.server.batches[name])
        server, body = self.server, json.loads(raw)
        if self.path not in server.paths:
            return self.answer(b"404 page not found", 404)
        with server.lock:
            server.headers_seen.append(dict(self.headers))
            server.bodies.append(body)
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            server.requests[re.search(r"Topic: (.*)", body["messages"][1]["content"])[1]] += 1
            server.repairs += len(body["messages"]) > 2
            fault = server.draw()
            server.injected[fault] += fault is not None
        try:
            self.chat(body, fault)
        finally:
            with server.lock:
                server.active -= 1

    def chat(self, body: dict, fault: str | None) -> None:
        """Answer a chat request, well or badly."""
        server = self.server
        time.sleep(server.slow if fault == "slow" else server.delay)
        if server.status:
            status, code, message = server.status
            return self.answer({"error": {"message": message, "code": code, "type": code}}, status)
        form = body.get("response_format", {}).get("type", "text")
        if form in server.refuse_formats:
            server.injected["format"] += 1
            return self.answer({"error": {"message": f"response_format {form} is not supported"}}, 400)
        if fault == "429":
            return self.answer({"error": {"message": "slow down"}}, 429, {"Retry-After-Ms": "40"})
        if fault == "500":
            return self.answer({"error": {"message": "oops"}}, 500, {"Retry-After-Ms": "20"})
        if fault == "dropped":
            self.close_connection = True
            return self.connection.close()
        completion = server.completion(body)
        if fault == "malformed":
            completion["choices"][0]["message"]["content"] = (
                "Sure! Here is a nice dialogue about that: hello, hello."
            )
        if server.odd and (instead := server.odd(body, completion)) is not None:
            return self.answer(
                instead[1],
                instead[0],
                {"Content-Type": "text/html"} if isinstance(instead[1], bytes) else None,
            )
        self.answer(completion)
        return None

    def finish_batch(self, batch: dict) -> None:
        """Answer a batch's requests, with the server's faults as errors or malformed answers."""
        lines, server = [], self.server
        for line in server.files[batch["input_file_id"]].decode().splitlines():
            request, fault = json.loads(line), server.draw()
            server.injected[fault] += fault is not None
            completion = server.completion(request["body"])
            if fault == "malformed":
                completion["choices"][0]["message"]["content"] = "Hello."
            if server.odd and (instead := server.odd(request["body"], completion)) is not None:
                status, completion = instead
                lines.append(
                    json.dumps(
                        {
                            "custom_id": request["custom_id"],
                            "response": {"status_code": status, "body": completion},
                        },
                        ensure_ascii=False,
                    )
                    if isinstance(completion, dict)
                    else completion.decode()
                )
                continue
            response = (
                {"status_code": 200, "body": completion}
                if fault in (None, "malformed")
                else {"status_code": 500, "body": {}}
            )
            lines.append(
                json.dumps(
                    {"id": "r", "custom_id": request["custom_id"], "response": response, "error": None},
                    ensure_ascii=False,
                )
            )
        server.files[f"out-{batch['id']}"] = ("\n".join(lines) + "\n").encode()
        batch |= {
            "status": "completed",
            "output_file_id": f"out-{batch['id']}",
            "request_counts": {"total": len(lines), "completed": len(lines), "failed": 0},
        }
