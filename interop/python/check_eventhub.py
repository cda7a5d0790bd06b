"""Telemetry read back through the Event Hubs-compatible endpoint."""

import json
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from azure.eventhub import EventHubConsumerClient
from azure.eventhub.exceptions import AuthenticationError
from azure.iot.device import Message

import hub
from expect import until


def consumer(connection_string=hub.EVENT_HUB):
    return EventHubConsumerClient.from_connection_string(
        connection_string, "$Default", connection_verify=hub.CA, retry_total=0
    )


@pytest.fixture
def events_of():
    """Reads all partitions; waits for so many events of a device: pairs of partition and event."""
    events, errors = [], []
    with consumer() as client:
        reader = Thread(
            target=client.receive_batch,
            kwargs={
                "on_event_batch": lambda partition, batch: events.extend(
                    (partition.partition_id, event) for event in batch
                ),
                "on_error": lambda _, error: errors.append(error),
                "starting_position": datetime.now(UTC) - timedelta(seconds=5),
            },
            daemon=True,
        )
        reader.start()

        def look(device_id, count):
            assert not errors
            found = [
                (partition, event)
                for partition, event in events
                if text(event.system_properties)["iothub-connection-device-id"] == device_id
            ]
            return len(found) >= count and found

        yield lambda device, count=1: until(lambda: look(device.id, count))
    reader.join()


def text(properties):
    """The same properties with strings for bytes."""
    return {name.decode(): as_text(value) for name, value in properties.items()}


def as_text(value):
    return value.decode() if isinstance(value, bytes) else value


def test_the_hub_tells_its_name_and_partitions():
    with consumer() as client:
        partitions = client.get_partition_ids()
        assert partitions
        name = hub.fields(hub.EVENT_HUB)["EntityPath"]
        assert client.get_eventhub_properties()["eventhub_name"] == name
        assert client.get_partition_properties(partitions[0])["id"] == partitions[0]


def test_an_event_has_what_the_device_sent(client, device, events_of):
    message = Message(
        json.dumps({"temperature": 21.5}),
        message_id=hub.new_id(),
        content_encoding="utf-8",
        content_type="application/json",
    )
    message.correlation_id = "about-1"
    message.custom_properties["colour"] = "blue"
    client.send_message(message)
    [(_, event)] = events_of(device)
    assert event.body_as_json() == {"temperature": 21.5}
    assert (event.message_id, event.correlation_id) == (message.message_id, "about-1")
    assert event.content_type == "application/json"
    assert text(event.properties) == {"colour": "blue"}


def test_an_event_has_the_stamps_of_the_hub(client, registry, device, events_of):
    client.send_message(Message("stamp me"))
    [(_, event)] = events_of(device)
    stamps = text(event.system_properties)
    method = json.loads(stamps["iothub-connection-auth-method"])
    assert (method["scope"], method["type"], method["issuer"]) == ("device", "sas", "iothub")
    generation = registry.get_device(device.id).generation_id
    assert stamps["iothub-connection-auth-generation-id"] == generation
    assert stamps["iothub-enqueuedtime"]
    assert stamps["iothub-message-source"] == "Telemetry"


def test_the_events_of_a_device_are_in_one_partition_in_order(client, device, events_of):
    for number in range(30):
        client.send_message(Message(str(number)))
    found = events_of(device, 30)
    assert [int(event.body_as_str()) for _, event in found] == list(range(30))
    assert len({partition for partition, _ in found}) == 1
    sequence = [event.sequence_number for _, event in found]
    assert sequence == sorted(set(sequence))


def test_a_wrong_key_of_the_event_hub_is_refused():
    with (
        consumer(hub.with_wrong_key(hub.EVENT_HUB)) as client,
        pytest.raises(AuthenticationError),
    ):
        client.get_partition_ids()
