"""A device on aiocoap: does one thing and says on standard output what it saw.

Usage: device.py WHAT URI COUNT
  post     posts COUNT bytes and prints the answer's code
  insist   posts COUNT messages of 3,000 bytes over a bad network, each until it is answered, and
           prints the answers' codes, then how often it began anew
  get      prints the answer's code and its payload
  observe  prints the payloads of the first COUNT notifications that have one
  answer   answers COUNT methods, each with its own payload
"""

import asyncio
import sys

from aiocoap import GET, POST, UNAUTHORIZED, Context, Message
from aiocoap.error import TimeoutError
from aiocoap.numbers.constants import TransportTuning

PATIENCE = 90
COMMAND_RESPONSE = "r"


def say(*words):
    print(*words, flush=True)


async def ask(context, notified=None, **parts):
    """Sends a request; aiocoap leaves it to us to answer a challenge by Echo (RFC 9175)."""
    request = send(context, notified, **parts)
    answer = await request.response
    if answer.code == UNAUTHORIZED and answer.opt.echo:
        request = send(context, notified, **parts, echo=answer.opt.echo)
        answer = await request.response
    return request, answer


def send(context, notified, **parts):
    # Here each notification counts: iterating over an observation, as aiocoap itself does to put
    # blocks together, gives the newest only.
    request = context.request(Message(**parts), handle_blockwise=notified is None)
    if notified:
        request.observation.register_callback(notified)
    return request


async def post(context, uri, count):
    body = bytes(number % 251 for number in range(count))
    _, answer = await ask(context, code=POST, uri=uri, payload=body)
    say(answer.code)


class Impatient(TransportTuning):
    ACK_TIMEOUT = 0.05


async def insist(context, uri, count):
    again = 0
    for number in range(count):
        body = str(number).encode() * (3000 // len(str(number)))
        parts = {"code": POST, "uri": f"{uri}&$.mid=m{number}", "payload": body}
        while True:
            try:
                _, answer = await ask(context, **parts, transport_tuning=Impatient())
                break
            except TimeoutError:
                again += 1
        say(answer.code)
    say(again)


async def get(context, uri, _count):
    _, answer = await ask(context, code=GET, uri=uri)
    say(answer.code, answer.payload.decode())


async def notifications(context, uri):
    """Gives every notification that brings a command, the first state included."""
    heard = asyncio.Queue()
    # The request lasts as long as the observation.
    request, first = await ask(context, heard.put_nowait, code=GET, uri=uri, observe=0)
    if not first.code.is_successful():
        raise SystemExit(f"not observing: {first.code}")
    if first.payload:
        yield first
    while True:
        notification = await heard.get()
        if notification.payload:
            yield notification


async def observe(context, uri, count):
    async for notification in notifications(context, uri):
        say(notification.payload.decode())
        count -= 1
        if count == 0:
            return


async def answer(context, uri, count):
    base, query = uri.rsplit("/c?", 1)
    async for notification in notifications(context, uri):
        path = "/".join(notification.opt.location_path)
        assert path.startswith(COMMAND_RESPONSE + "/"), path
        there = f"{base}/{path}?$.status=201&{query}"
        _, told = await ask(context, code=POST, uri=there, payload=notification.payload)
        say(told.code)
        count -= 1
        if count == 0:
            return


async def main():
    what, uri, count = sys.argv[1:]
    context = await Context.create_client_context()
    jobs = {
        "post": post,
        "insist": insist,
        "get": get,
        "observe": observe,
        "answer": answer,
    }
    try:
        await asyncio.wait_for(jobs[what](context, uri, int(count)), PATIENCE)
    finally:
        await context.shutdown()


asyncio.run(main())
