'use strict';
// Provisioning by symmetric keys over MQTT, AMQP, their WebSockets and HTTPS.

const Amqp = require('azure-iot-provisioning-device-amqp');
const Mqtt = require('azure-iot-provisioning-device-mqtt');
const { Http } = require('azure-iot-provisioning-device-http');
const { Mqtt: DeviceMqtt } = require('azure-iot-device-mqtt');
const { Message } = require('azure-iot-device');
const { run, assert, equal, soon, refused, refusedWith, hubNeeds } = require('./lib/runner');
const { settings } = require('./lib/settings');
const { registry, newId, newKey } = require('./lib/scope');
const { derived, register, assigned, enrolments } = require('./lib/provisioning');

const transports = { MQTT: Mqtt.Mqtt, 'MQTT WebSocket': Mqtt.MqttWs, AMQP: Amqp.Amqp, 'AMQP WebSocket': Amqp.AmqpWs, HTTPS: Http };

const checks = {};

for (const [name, Transport] of Object.entries(transports)) {
  checks[`${name}: a device of a group is assigned, and its hub takes it`] = async (t) => {
    const state = await register(t, Transport, newId('dps'));
    equal([state.status, state.deviceId], ['assigned', state.registrationId], 'state');
    assert(state.assignedHub && state.createdDateTimeUtc && state.lastUpdatedDateTimeUtc && state.etag, JSON.stringify(state));
    equal(state.substatus, 'initialAssignment', 'substatus');
    const client = await t.open(assigned(state), DeviceMqtt);
    await soon(client.sendEvent(new Message('provisioned')), 'settlement');
  };

  checks[`${name}: a wrong key is unauthorized`] = async (t) => {
    const error = await refused(register(t, Transport, newId('dps'), { key: newKey() }));
    // The SDK loses the SASL outcome of a refused login.
    if (/AMQP/.test(name)) return;
    assert(/Unauthorized|Not authorized|401/i.test(`${error.name} ${error.message}`), `${error.name}: ${error.message}`);
  };

  checks[`${name}: an unknown scope is refused`] = async (t) => {
    await refused(register(t, Transport, newId('dps'), { scope: '0ne000FFFFF' }));
  };
}

/** An individual enrolment with a key of its own. */
async function enrol(t, more = {}) {
  const [id, primaryKey] = [newId('ind'), newKey()];
  const { responseBody } = await enrolments().createOrUpdateIndividualEnrollment({
    registrationId: id,
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey, secondaryKey: newKey() } },
    ...more,
  });
  t.defer(() => enrolments().deleteIndividualEnrollment(id));
  return { id, key: primaryKey, enrolment: responseBody };
}

/** A group of devices with a key of its own. */
async function group(t, more = {}) {
  const [id, primaryKey] = [newId('grp'), newKey()];
  const { responseBody } = await enrolments().createOrUpdateEnrollmentGroup({
    enrollmentGroupId: id,
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey, secondaryKey: newKey() } },
    ...more,
  });
  t.defer(() => enrolments().deleteEnrollmentGroup(id));
  return { id, key: primaryKey, group: responseBody };
}

Object.assign(checks, {
  async 'registering again keeps device and hub, over any transport'(t) {
    const id = newId('dps');
    const first = await register(t, Mqtt.Mqtt, id);
    const again = await Promise.all([Amqp.Amqp, Http].map((Transport) => register(t, Transport, id)));
    for (const state of again) {
      equal([state.deviceId, state.assignedHub], [first.deviceId, first.assignedHub], 'assignment');
      equal(state.createdDateTimeUtc, first.createdDateTimeUtc, 'creation');
    }
  },

  async 'a payload is taken'(t) {
    for (const Transport of [Mqtt.Mqtt, Amqp.Amqp, Http]) {
      const state = await register(t, Transport, newId('dps'), { payload: { modelId: 'dtmi:com:example:Thermostat;1' } });
      equal(state.status, 'assigned', 'status');
    }
  },

  async 'ten devices are provisioned at once'(t) {
    const states = await Promise.all(Array.from({ length: 10 }, () => register(t, Mqtt.Mqtt, newId('dps'))));
    equal(new Set(states.map((state) => state.deviceId)).size, 10, 'devices');
  },

  async 'an individual enrolment names device and twin'(t) {
    const deviceId = newId('named');
    const initialTwin = { tags: { site: 'north' }, properties: { desired: { rate: 5 } } };
    t.defer(() => registry().delete(deviceId));
    const { id, key } = await enrol(t, { deviceId, initialTwin });
    const state = await register(t, Mqtt.Mqtt, id, { key });
    equal([state.status, state.deviceId], ['assigned', deviceId], 'state');
    const twin = (await registry().getTwin(deviceId)).responseBody;
    equal([twin.tags, twin.properties.desired.rate], [{ site: 'north' }, 5], 'twin');
    await t.open(assigned({ ...state, registrationId: id }, key), DeviceMqtt);
  },

  async 'a disabled enrolment is refused until it is enabled'(t) {
    const { id, key, enrolment } = await enrol(t, { provisioningStatus: 'disabled' });
    for (const Transport of [Mqtt.Mqtt, Amqp.Amqp, Http]) await refused(register(t, Transport, id, { key }));
    await enrolments().createOrUpdateIndividualEnrollment({ ...enrolment, provisioningStatus: 'enabled' });
    equal((await register(t, Http, id, { key })).status, 'assigned', 'status');
  },

  async 'an individual enrolment goes before a group'(t) {
    const { id, key } = await enrol(t);
    await refused(register(t, Http, id, { key: derived(id) }));
    equal((await register(t, Http, id, { key })).status, 'assigned', 'status');
  },

  async 'a group of its own key assigns its devices'(t) {
    const { id: groupId, key } = await group(t, { initialTwin: { tags: { group: 'mine' }, properties: { desired: {} } } });
    const id = newId('dps');
    const deviceKey = derived(id, key);
    const state = await register(t, Amqp.Amqp, id, { key: deviceKey });
    equal([state.status, state.deviceId], ['assigned', id], 'state');
    equal(state.symmetricKey && state.symmetricKey.enrollmentGroupId, groupId, 'group');
    equal((await registry().getTwin(id)).responseBody.tags, { group: 'mine' }, 'tags');
    await t.open(assigned(state, deviceKey), DeviceMqtt);
  },

  async 'enrolments are read, listed, and changed by etag'(t) {
    const { id, enrolment } = await enrol(t);
    assert(enrolment.etag && enrolment.createdDateTimeUtc, JSON.stringify(enrolment));
    const read = (await enrolments().getIndividualEnrollment(id)).responseBody;
    equal([read.registrationId, read.provisioningStatus], [id, 'enabled'], 'enrolment');
    await enrolments().createOrUpdateIndividualEnrollment({ ...read, provisioningStatus: 'disabled' });
    await refusedWith(enrolments().createOrUpdateIndividualEnrollment(read), 412);
    const query = enrolments().createIndividualEnrollmentQuery({ query: 'SELECT * FROM enrollments' }, 50);
    const rows = await new Promise((resolve, reject) => query.next((error, found) => (error ? reject(error) : resolve(found))));
    assert(rows.some((row) => row.registrationId === id), 'the enrolment is listed');
    const mechanism = (await enrolments().getIndividualEnrollmentAttestationMechanism(id)).responseBody;
    assert(mechanism.symmetricKey.primaryKey, 'the key is told to who asks for it');
    await enrolments().deleteIndividualEnrollment(id);
    await refusedWith(enrolments().getIndividualEnrollment(id), 404);
  },

  async 'the registration is read and deleted over the service API'(t) {
    const id = newId('dps');
    const state = await register(t, Http, id);
    const seen = (await enrolments().getDeviceRegistrationState(id)).responseBody;
    equal([seen.deviceId, seen.assignedHub, seen.status], [id, state.assignedHub, 'assigned'], 'registration');
    await enrolments().deleteDeviceRegistrationState(id);
    await refusedWith(enrolments().getDeviceRegistrationState(id), 404);
  },
});

const { host, scope, groupKey } = settings.provisioning;
const needs = [...hubNeeds, ['DPS_HOST', host], ['DPS_ID_SCOPE', scope], ['DPS_GROUP_KEY', groupKey]];
run('provisioning', checks, { needs, atOnce: 8 });
