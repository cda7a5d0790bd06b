"""What checks are given: the service's client, new devices, clients of them."""

from dataclasses import dataclass

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager

import hub


@dataclass
class Device:
    """A device that the hub knows."""

    id: str
    key: str
    secondary_key: str


@pytest.fixture
def registry():
    return IoTHubRegistryManager.from_connection_string(hub.SERVICE)


@pytest.fixture
def device(registry):
    device = Device(hub.new_id(), hub.new_key(), hub.new_key())
    registry.create_device_with_sas(device.id, device.key, device.secondary_key, "enabled")
    yield device
    registry.delete_device(device.id)


@pytest.fixture
def client_of():
    """Makes clients of the device SDK, not yet connected."""
    clients = []

    def make(device_id, key, host=hub.HOST_NAME):
        text = hub.connection_string(
            {"HostName": host, "DeviceId": device_id, "SharedAccessKey": key}
        )
        clients.append(
            IoTHubDeviceClient.create_from_connection_string(
                text, server_verification_cert=hub.CA_PEM, connection_retry=False
            )
        )
        return clients[-1]

    yield make
    for client in clients:
        client.shutdown()


@pytest.fixture
def client(device, client_of):
    """A connected client of the device."""
    client = client_of(device.id, device.key)
    client.connect()
    return client


def pytest_terminal_summary(terminalreporter):
    """The closing line, as the checks on Node have it."""
    passed, *failed = (
        len(terminalreporter.getreports(outcome)) for outcome in ("passed", "failed", "error")
    )
    terminalreporter.write_line(f"{passed} passed, {sum(failed)} failed")
