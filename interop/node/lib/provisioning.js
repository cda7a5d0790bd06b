'use strict';
// Registering devices with the provisioning service.

const { createHmac } = require('crypto');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { settings, connectionString } = require('./settings');
const { assert, soon } = require('./runner');
const { registry } = require('./scope');

/** The key of a registration, derived from the key of its group. */
function derived(registrationId, groupKey = settings.provisioning.groupKey) {
  return createHmac('sha256', Buffer.from(groupKey, 'base64')).update(registrationId).digest('base64');
}

/** Registers once over this transport: the registration state. */
async function register(t, Transport, id, { key = derived(id), scope = settings.provisioning.scope, payload } = {}) {
  const transport = new Transport();
  transport.setTransportOptions({ pollingInterval: 500 });
  const security = new SymmetricKeySecurityClient(id, key);
  const client = ProvisioningDeviceClient.create(settings.provisioning.host, scope, transport, security);
  if (payload !== undefined) client.setProvisioningPayload(payload);
  t.defer(() => registry().delete(id));
  return soon(client.register(), 'registration');
}

/** What a device needs to use the hub that it was assigned to. */
function assigned(state, key = derived(state.registrationId)) {
  const cs = connectionString({ HostName: state.assignedHub, DeviceId: state.deviceId, SharedAccessKey: key });
  return { id: state.deviceId, key, cs };
}

/** The service API of the provisioning service. */
function enrolments() {
  assert(settings.provisioning.service, 'DPS_SERVICE_CS is not set');
  return ProvisioningServiceClient.fromConnectionString(settings.provisioning.service);
}

module.exports = { derived, register, assigned, enrolments };
