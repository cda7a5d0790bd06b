"""Identities and twins over REST, with the service SDK."""

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties

import hub
from expect import refused


def test_a_device_is_created_with_what_was_asked_for(registry, device):
    identity = registry.get_device(device.id)
    keys = identity.authentication.symmetric_key
    assert identity.device_id == device.id
    assert (keys.primary_key, keys.secondary_key) == (device.key, device.secondary_key)
    assert (identity.status, identity.connection_state) == ("enabled", "Disconnected")
    assert identity.generation_id and identity.etag


def test_what_is_answered_to_a_creation_is_what_is_read(registry):
    device = hub.new_id()
    created = registry.create_device_with_sas(device, hub.new_key(), hub.new_key(), "enabled")
    assert registry.get_device(device) == created
    registry.delete_device(device)


def test_a_second_device_of_one_id_is_refused(registry, device):
    with refused(409, "DeviceAlreadyExists|409001"):
        registry.create_device_with_sas(device.id, device.key, device.secondary_key, "enabled")


def test_an_update_changes_the_etag_and_the_stale_one_is_refused(registry, device):
    stale = registry.get_device(device.id).etag
    keys = device.key, device.secondary_key
    changed = registry.update_device_with_sas(
        device.id, stale, *keys, "disabled", status_reason="a while"
    )
    assert (changed.status, changed.status_reason) == ("disabled", "a while")
    assert changed.etag != stale
    with refused(412):
        registry.update_device_with_sas(device.id, stale, *keys, "enabled")


def test_devices_are_listed(registry, device):
    assert device.id in [identity.device_id for identity in registry.get_devices()]


def test_a_deleted_device_is_not_found(registry):
    device = hub.new_id()
    registry.create_device_with_sas(device, hub.new_key(), hub.new_key(), "enabled")
    registry.delete_device(device)
    with refused(404, "DeviceNotFound|404001"):
        registry.get_device(device)


@pytest.mark.parametrize("call", ["get_device", "delete_device", "get_twin"])
def test_an_unknown_device_is_not_found(registry, call):
    with refused(404, "DeviceNotFound|404001"):
        getattr(registry, call)(hub.new_id("ghost"))


def test_a_new_twin_has_version_1_of_both_sections(registry, device):
    twin = registry.get_twin(device.id)
    assert twin.device_id == device.id
    assert twin.properties.desired["$version"] == 1
    assert twin.properties.reported["$version"] == 1


def test_a_twin_is_changed_by_its_etag_and_the_stale_one_is_refused(registry, device):
    stale = registry.get_twin(device.id).etag
    change = Twin(tags={"site": "north"}, properties=TwinProperties(desired={"rate": 5}))
    changed = registry.update_twin(device.id, change, stale)
    assert changed.tags == {"site": "north"}
    desired = changed.properties.desired
    assert (desired["rate"], desired["$version"]) == (5, 2)
    with refused(412):
        registry.update_twin(device.id, Twin(tags={"site": "south"}), stale)


def test_the_statistics_count_devices(registry, device):
    assert registry.get_device_registry_statistics().total_device_count >= 1


def test_a_wrong_key_of_the_service_is_unauthorized():
    stranger = IoTHubRegistryManager.from_connection_string(hub.with_wrong_key(hub.SERVICE))
    with refused(401):
        stranger.get_device("any")
