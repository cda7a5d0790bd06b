"""A device over MQTT with the device SDK, seen from both ends."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from azure.iot.device import Message, MethodResponse
from azure.iot.device.exceptions import CredentialError
from azure.iot.hub import IoTHubHttpRuntimeManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

import hub
from expect import refused, until


@pytest.fixture
def inbox(client):
    """The messages that have come to the device. It listens from now on."""
    messages = []
    client.on_message_received = messages.append
    return messages


@pytest.fixture
def call(client, registry, device):
    """Calls a method. The device says what it was given; of `teapot` as 418, of `silent` never."""

    def answer(request):
        if request.name != "silent":
            status = 418 if request.name == "teapot" else 200
            reply = {"youSaid": request.payload}
            response = MethodResponse.create_from_method_request(request, status, reply)
            client.send_method_response(response)

    client.on_method_request_received = answer
    return lambda name, payload=None, seconds=10: registry.invoke_device_method(
        device.id, method(name, payload, seconds)
    )


def method(name, payload=None, seconds=10):
    return CloudToDeviceMethod(
        method_name=name,
        payload=payload,
        response_timeout_in_seconds=seconds,
        connect_timeout_in_seconds=0,
    )


def received(inbox, message_id):
    return until(lambda: next((m for m in inbox if m.message_id == message_id), None))


def test_a_device_that_connects_counts_as_connected(client, registry, device):
    assert client.connected
    until(lambda: registry.get_device(device.id).connection_state == "Connected")


def test_telemetry_with_all_its_properties_is_accepted(client):
    message = Message(
        json.dumps({"temperature": 21.5}),
        message_id=hub.new_id(),
        content_encoding="utf-8",
        content_type="application/json",
    )
    message.correlation_id = "about-1"
    message.custom_properties["odd key"] = "a&b=c d%"
    client.send_message(message)


@pytest.mark.parametrize("body", [bytes(range(256)), b"a" * (200 << 10)], ids=["binary", "200 KiB"])
def test_telemetry_of_bytes_is_accepted(client, body):
    client.send_message(Message(body))


def test_fifty_messages_in_flight_are_all_accepted(client):
    with ThreadPoolExecutor(50) as senders:
        list(senders.map(client.send_message, [f"n={n}" for n in range(50)]))


def test_a_message_above_256_kib_is_not_sent(client):
    with pytest.raises(ValueError):
        client.send_message(Message(b"a" * (300 << 10)))


def test_a_c2d_message_arrives_with_its_properties(registry, device, inbox):
    message_id = hub.new_id("c2d")
    properties = {"correlationId": "about-1", "contentType": "text/plain", "colour": "blue"}
    registry.send_c2d_message(device.id, "hello device", {"messageId": message_id, **properties})
    message = received(inbox, message_id)
    assert message.data == b"hello device"
    assert (message.correlation_id, message.content_type) == ("about-1", "text/plain")
    assert message.custom_properties["colour"] == "blue"


def test_the_sender_of_a_c2d_message_is_told_that_the_device_has_it(registry, device, inbox):
    message_id = hub.new_id("c2d")
    properties = {"messageId": message_id, "iothub-ack": "full"}
    registry.send_c2d_message(device.id, "tell me", properties)
    received(inbox, message_id)
    runtime = IoTHubHttpRuntimeManager.from_connection_string(hub.SERVICE)

    def look():
        # The SDK gives no body: the same request, made by hand.
        response = runtime.auth.signed_session().get(
            f"https://{runtime.auth['HostName']}/messages/serviceBound/feedback",
            params={"api-version": "2021-04-12"},
            timeout=10,
        )
        if response.status_code == 204:
            return None
        assert response.status_code == 200
        runtime.complete_feedback_notification(response.headers["ETag"].strip('"'))
        return next((r for r in response.json() if r["originalMessageId"] == message_id), None)

    record = until(look)
    assert (record["statusCode"], record["deviceId"]) == ("Success", device.id)


def test_a_c2d_message_to_an_unknown_device_is_refused(registry):
    with pytest.raises(Exception, match="send failure"):
        registry.send_c2d_message(hub.new_id("ghost"), "nobody reads it", {})


def test_a_c2d_message_waits_for_the_device(client, registry, device, inbox):
    client.disconnect()
    message_id = hub.new_id("late")
    registry.send_c2d_message(device.id, "while you were away", {"messageId": message_id})
    client.connect()
    received(inbox, message_id)


def test_a_method_is_answered_with_what_the_device_says(call):
    payload = {"a": [1, 2, {"b": None}], "s": "æøå"}
    result = call("echo", payload)
    assert (result.status, result.payload) == (200, {"youSaid": payload})


def test_the_status_of_a_method_is_the_devices_own(call):
    assert call("teapot").status == 418


def test_a_method_without_an_answer_times_out(call):
    with refused(504):
        call("silent", seconds=5)


def test_a_method_of_a_device_that_is_away_is_refused(registry, device):
    with refused(404, "DeviceNotOnline|404103"):
        registry.invoke_device_method(device.id, method("echo"))


def test_a_twin_is_read_with_both_versions(client):
    twin = client.get_twin()
    assert (twin["desired"]["$version"], twin["reported"]["$version"]) == (1, 1)


def test_reported_properties_are_merged_and_null_removes(client, registry, device):
    client.patch_twin_reported_properties({"firmware": {"version": "1.2.3"}, "gone": 1})
    client.patch_twin_reported_properties({"gone": None})
    reported = registry.get_twin(device.id).properties.reported
    assert reported["firmware"]["version"] == "1.2.3"
    assert "gone" not in reported
    assert reported["$version"] == 3


def test_a_device_hears_of_desired_properties_and_their_version(client, registry, device):
    patches = []
    client.on_twin_desired_properties_patch_received = patches.append
    change = Twin(properties=TwinProperties(desired={"interval": 60}))
    changed = registry.update_twin(device.id, change, "*")
    patch = until(lambda: patches and patches[0])
    assert patch == {"interval": 60, "$version": changed.properties.desired["$version"]}


def test_a_wrong_key_is_refused(device, client_of):
    with pytest.raises(CredentialError):
        client_of(device.id, hub.new_key()).connect()


def test_an_unknown_device_is_refused(client_of):
    with pytest.raises(CredentialError):
        client_of(hub.new_id("ghost"), hub.new_key()).connect()
