#!/usr/bin/env python3
"""Python's `websockets` against a running server: both dialects, echo, pings, fragments and close codes.

Argument: HOST:PORT of a server with --echo, --message-bytes-max 1048576 and a heartbeat of 1 s.
"""
import json
import os
import sys
import threading

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

BASE = f"ws://{sys.argv[1]}"
PATIENCE = 30


def open_at(path, **options):
    return connect(BASE + path, compression=None, max_size=None, open_timeout=PATIENCE, close_timeout=PATIENCE, **options)


def until(peer, kind):
    """The next frame of a type; frames of other types are passed over."""
    while True:
        frame = json.loads(peer.recv(timeout=PATIENCE))
        if frame["type"] == kind:
            return frame
        assert frame["type"] != "error", frame


def send(peer, **frame):
    peer.send(json.dumps(frame))


def modern(user):
    peer = open_at("/ws", subprotocols=["throng.v1"])
    assert peer.subprotocol == "throng.v1"
    send(peer, type="connect", user=user)
    until(peer, "welcome")
    return peer


def the_log_plain():
    with open_at("/") as author, open_at("/ws") as member:
        for peer in (member, author):
            peer.send('{"type":"join_room","roomId":"doc-abc123","seq":1}')
            text = peer.recv(timeout=PATIENCE)
            assert text.startswith('{"type":"room_joined","roomId":"doc-abc123"'), text
        author.send('{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}},"seq":2}')
        text = member.recv(timeout=PATIENCE)
        assert text.startswith('{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}}'), text


def rooms_in_order():
    with modern("author") as author, modern("member") as member:
        send(member, type="join_room", roomId="py", seq=1)
        until(member, "room_joined")
        send(author, type="join_room", roomId="py", seq=1)
        for n in range(2, 62):
            send(author, type="broadcast", roomId="py", data={"n": n}, seq=n)
        assert [until(member, "broadcast")["data"]["n"] for _ in range(2, 62)] == list(range(2, 62))
        while until(author, "ack")["seq"] < 61:
            pass


def presence():
    with modern("watcher") as watcher:
        send(watcher, type="join_room", roomId="py-presence", presence=True, seq=1)
        joined = until(watcher, "room_joined")
        assert [member["user"] for member in joined["members"]] == ["watcher"], joined
        guest = modern("guest")
        send(guest, type="join_room", roomId="py-presence", presence=True, seq=1)
        assert until(watcher, "presence_diff")["joins"][0]["user"] == "guest"
        guest.close()
        assert until(watcher, "presence_diff")["leaves"][0]["user"] == "guest"


def echo_sizes():
    with open_at("/echo") as peer:
        for size in (0, 1, 125, 126, 127, 65535, 65536, 1048576):
            data = os.urandom(size)
            peer.send(data)
            assert peer.recv(timeout=PATIENCE) == data, size
        text = "ünï→𝄞" * 1000
        peer.send(text)
        assert peer.recv(timeout=PATIENCE) == text


def echo_with_compression_offered():
    # The default client offers permessage-deflate, which may be declined.
    with connect(BASE + "/echo", open_timeout=PATIENCE) as peer:
        peer.send("x" * 10000)
        assert peer.recv(timeout=PATIENCE) == "x" * 10000


def fragments():
    with open_at("/echo") as peer:
        peer.send(part for part in ["a", "", "bc", "d" * 70000])
        assert peer.recv(timeout=PATIENCE) == "abc" + "d" * 70000


def pings_both_ways():
    with open_at("/ws", ping_interval=None) as peer:
        assert peer.ping(b"payload").wait(PATIENCE), "no pong came"
        # The server's own pings are answered by the library; longer than heartbeat and timeout together it stays open.
        threading.Event().wait(3)
        send(peer, type="ping")
        until(peer, "pong")


def too_large():
    with open_at("/echo") as peer:
        try:
            peer.send("x" * 1048577)
            peer.recv(timeout=PATIENCE)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 1009, closed
        else:
            raise AssertionError("not refused")


def close_codes():
    for code in (1000, 1001, 4900):
        peer = open_at("/ws")
        peer.close(code)
        assert peer.protocol.close_rcvd is not None and peer.protocol.close_rcvd.code in (1000, code)


def refusals():
    try:
        open_at("/nowhere").close()
    except InvalidStatus as refused:
        assert refused.response.status_code == 404
    else:
        raise AssertionError("not refused")


CHECKS = [the_log_plain, rooms_in_order, presence, echo_sizes, echo_with_compression_offered, fragments, pings_both_ways,
          too_large, close_codes, refusals]
passed = failed = 0
for check in CHECKS:
    try:
        check()
    except Exception as error:  # a failed check must not hide the others
        failed += 1
        print(f"FAILED {check.__name__}: {type(error).__name__}: {error}", flush=True)
    else:
        passed += 1
        print(f"ok {check.__name__}", flush=True)
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
