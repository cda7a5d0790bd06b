"""Provisioning over MQTT through a group of symmetric keys."""

import pytest
from azure.iot.device import Message, ProvisioningDeviceClient
from azure.iot.device.exceptions import CredentialError

import hub


def register(registration, key):
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=hub.DPS_HOST,
        registration_id=registration,
        id_scope=hub.DPS_SCOPE,
        symmetric_key=key,
        server_verification_cert=hub.CA_PEM,
    )
    return client.register()


@pytest.fixture
def registration(registry):
    registration = hub.new_id("dps")
    yield registration
    registry.delete_device(registration)


def test_a_registration_is_assigned_a_hub_which_takes_the_device(registration, client_of):
    result = register(registration, hub.derived(registration))
    state = result.registration_state
    assert (result.status, state.device_id) == ("assigned", registration)
    client = client_of(state.device_id, hub.derived(registration), state.assigned_hub)
    client.connect()
    client.send_message(Message("provisioned"))


def test_a_device_that_registers_again_stays_where_it_is(registration):
    first, second = (
        register(registration, hub.derived(registration)).registration_state for _ in range(2)
    )
    assert (second.device_id, second.assigned_hub) == (first.device_id, first.assigned_hub)


def test_a_wrong_key_of_a_registration_is_refused():
    with pytest.raises(CredentialError):
        register(hub.new_id("dps"), hub.new_key())
