"""Where the hub is, from the environment, and the way there below the SDKs."""

import base64
import hashlib
import hmac
import os
import socket
import uuid

from uamqp import constants
from uamqp.authentication import common

HOST = os.environ.get("HUB_HOST", "localhost")
PORTS = {
    5671: int(os.environ.get("HUB_AMQPS_PORT", "5671")),
    8883: int(os.environ.get("HUB_MQTTS_PORT", "8883")),
    443: int(os.environ.get("HUB_HTTPS_PORT", "443")),
}
CA = os.environ["HUB_CA"]
SERVICE = os.environ["HUB_SERVICE_CS"]
EVENT_HUB = os.environ["EVENTHUB_CS"]
DPS_HOST = os.environ["DPS_HOST"]
DPS_SCOPE = os.environ["DPS_ID_SCOPE"]
DPS_GROUP_KEY = os.environ["DPS_GROUP_KEY"]

with open(CA, encoding="utf-8") as file:
    CA_PEM = file.read()


def fields(connection_string):
    """The fields of a connection string. A value may hold `=`."""
    return dict(field.split("=", 1) for field in connection_string.split(";"))


def connection_string(values):
    return ";".join("=".join(pair) for pair in values.items())


def with_wrong_key(text):
    """The same connection string with a key that the hub does not know."""
    return connection_string(fields(text) | {"SharedAccessKey": new_key()})


HOST_NAME = fields(SERVICE)["HostName"]


def new_id(prefix="python"):
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def new_key():
    return base64.b64encode(os.urandom(32)).decode()


def derived(registration):
    """The key of a registration, derived from the key of its group."""
    key = base64.b64decode(DPS_GROUP_KEY)
    digest = hmac.digest(key, registration.encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


# The SDKs know the ports 5671, 8883 and 443 only. Host and port are turned where names are looked
# up; the TLS server name stays the one that the SDK asked for.
_look_up = socket.getaddrinfo
socket.getaddrinfo = lambda _, port, *more, **named: _look_up(
    HOST, PORTS.get(port, port), *more, **named
)
os.environ["REQUESTS_CA_BUNDLE"] = CA
# uamqp, by which the service SDK sends, is C: it looks up the connection string's own host.
constants.DEFAULT_AMQPS_PORT = PORTS[5671]
common.certifi.where = lambda: CA
