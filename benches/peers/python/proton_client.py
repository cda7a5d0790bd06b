"""Qpid Proton's Python binding: 995 devices a connection, spread over 16 sessions, each with a
token and a link of its own.

Takes orders on standard input, a line of JSON each, and answers each on standard output. The
orders are those of src/bin/side_by_side/client.rs.
"""

import base64
import gc
import hashlib
import hmac
import json
import sys
import tempfile
import threading
import time
from collections import deque
from urllib.parse import quote

from proton import Message, SSLDomain
from proton.handlers import MessagingHandler
from proton.reactor import ApplicationEvent, Container, EventInjector

HOST = "localhost"
BODY = b"x" * 100
DEVICES_PER_CONNECTION = 995
SESSIONS = 16
TOKENS_AT_ONCE = 50
HEARTBEAT = 60
DAY = 24 * 3600


def sign(key, text):
    digest = hmac.digest(base64.b64decode(key), text.encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def token(hub, device):
    """The resource of a device and a token for it."""
    key = sign(hub["group_key"], device)
    resource = quote(f"{HOST}/devices/{device}", safe="")
    expires = int(time.time()) + DAY
    signature = quote(sign(key, f"{resource}\n{expires}"), safe="")
    return resource, f"SharedAccessSignature sr={resource}&sig={signature}&se={expires}"


class Round:
    """Messages of every device, kept in flight until the time is over."""

    def __init__(self, name, seconds):
        self.name = name
        self.ends = time.monotonic() + seconds
        self.sent = 0
        self.accepted = 0


class Share(MessagingHandler):
    """One connection and its devices, while they are attached."""

    def __init__(self, client, hub, names, ssl_domain):
        super().__init__()
        self.client, self.hub = client, hub
        self.names = deque(names)
        connection = client.container.connect(
            f"amqps://{hub['address']}",
            virtual_host=HOST,
            ssl_domain=ssl_domain,
            allowed_mechs="ANONYMOUS",
            reconnect=False,
            heartbeat=HEARTBEAT,
            handler=self,
        )
        self.sessions = deque(connection.session() for _ in range(min(SESSIONS, len(names))))
        for session in self.sessions:
            session.open()
        self.answers = client.container.create_receiver(connection, "$cbs", handler=self)
        self.requests = client.container.create_sender(connection, "$cbs", handler=self)
        self.asked = 0
        self.verdicts = Verdicts(client)

    def on_sendable(self, event):
        if event.sender == self.requests:
            self.ask()

    def ask(self):
        while self.names and self.requests.credit and self.asked < TOKENS_AT_ONCE:
            name = self.names.popleft()
            resource, text = token(self.hub, name)
            properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": resource}
            self.requests.send(Message(id=name, reply_to="cbs", properties=properties, body=text))
            self.asked += 1

    def on_message(self, event):
        self.asked -= 1
        status = event.message.properties["status-code"]
        if status != 200:
            sys.exit(f"the hub answered a token with {status}")
        name = event.message.correlation_id
        self.sessions.rotate()
        self.client.container.create_sender(
            self.sessions[0], f"/devices/{name}/messages/events", handler=self.verdicts
        )
        self.ask()
        if not self.names and not self.asked:
            self.answers.close()
            self.requests.close()


class Verdicts(MessagingHandler):
    """What the hub says of the devices' messages. A link is a device from its first message on."""

    def __init__(self, client):
        super().__init__()
        self.client = client

    def on_link_opened(self, event):
        self.client.attached(event.sender)

    def on_accepted(self, event):
        self.client.accepted(event.sender)

    def on_rejected(self, event):
        sys.exit("the hub rejected a message")

    def on_released(self, event):
        sys.exit("the hub released a message")


class Client(MessagingHandler):
    def __init__(self):
        super().__init__()
        self.orders = EventInjector()
        self.senders = []
        self.expected = 0
        self.round = None

    def on_start(self, event):
        self.container = event.container
        event.container.selectable(self.orders)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in sys.stdin:
            self.orders.trigger(ApplicationEvent("order", subject=json.loads(line)))
        self.orders.trigger(ApplicationEvent("end"))

    def on_order(self, event):
        order = event.subject
        if order["do"] == "open":
            self.open(**order)
        elif order["do"] == "round":
            self.round = Round(order["name"], order["milliseconds"] / 1000)
            for sender in self.senders:
                for _ in range(order["in_flight"]):
                    self.send(sender)
        else:
            gc.collect()
            self.answer(0)

    def on_end(self, event):
        sys.exit(0)

    def open(self, hub, first, devices, **_):
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as authority:
            authority.write(hub["ca_pem"])
            authority.flush()
            domain.set_trusted_ca_db(authority.name)
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME)
        names = [f"device-{number:07}" for number in range(first, first + devices)]
        self.expected = devices
        self.round = Round("open", 0)
        for start in range(0, devices, DEVICES_PER_CONNECTION):
            Share(self, hub, names[start : start + DEVICES_PER_CONNECTION], domain)

    def attached(self, sender):
        self.senders.append(sender)
        self.send(sender)

    def send(self, sender):
        round = self.round
        sender.send(Message(id=f"{round.name}-{round.sent}", body=BODY, inferred=True))
        round.sent += 1

    def accepted(self, sender):
        round = self.round
        round.accepted += 1
        if time.monotonic() < round.ends:
            self.send(sender)
        elif round.accepted == round.sent and len(self.senders) == self.expected:
            self.answer(round.accepted)

    def answer(self, accepted):
        print(json.dumps({"accepted": accepted}), flush=True)


Container(Client()).run()
