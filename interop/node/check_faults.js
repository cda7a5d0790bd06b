'use strict';
// What a device sees when the hub goes wrong on purpose, by its control endpoint.

const { once } = require('events');
const { Amqp } = require('azure-iot-device-amqp');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Message } = require('azure-iot-device');
const { run, assert, equal, soon, refused, hubNeeds } = require('./lib/runner');
const { settings } = require('./lib/settings');

/** Asks the control endpoint. */
async function control(path, body) {
  const how = body && { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
  const answer = await fetch(settings.control + path, how);
  const text = await answer.text();
  assert(answer.ok, `${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
}

const fault = (name, more) => control('/faults', { fault: name, ...more });

/** The number of the connection that the device sent over. */
async function connectionOf(device) {
  const sent = await control(`/telemetry?device=${device.id}`);
  assert(sent.length > 0, 'the hub has a message of the device');
  return sent[0].connection;
}

const checks = {};

for (const Transport of [Amqp, Mqtt]) {
  checks[`${Transport.name}: a cut connection is noticed, and the device comes back`] = async (t) => {
    const device = await t.device();
    const client = await t.open(device, Transport);
    await client.sendEvent(new Message('before'));
    const gone = once(client, 'disconnect');
    await fault('cut', { connection: await connectionOf(device) });
    await soon(gone, 'disconnect');
    await soon((await t.open(device, Transport)).sendEvent(new Message('after')), 'settlement');
  };

  checks[`${Transport.name}: a device that is disabled on purpose is put out until it is enabled`] = async (t) => {
    const device = await t.device();
    const client = await t.open(device, Transport);
    await client.sendEvent(new Message('before'));
    const gone = once(client, 'disconnect');
    await fault('disable', { device: device.id });
    await soon(gone, 'disconnect');
    await refused(t.open(device, Transport).then((again) => again.sendEvent(new Message('in?'))));
    await fault('enable', { device: device.id });
    await soon((await t.open(device, Transport)).sendEvent(new Message('after')), 'settlement');
  };
}

Object.assign(checks, {
  async 'throttled telemetry is rejected as that, and the next is accepted'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    await client.sendEvent(new Message('before'));
    await fault('throttle', { device: device.id, count: 2 });
    await refused(client.sendEvent(new Message('1')), 'ThrottlingError');
    await refused(client.sendEvent(new Message('2')), 'ThrottlingError');
    await soon(client.sendEvent(new Message('3')), 'settlement');
  },

  async 'telemetry is rejected with the condition that was asked for'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    await fault('reject', { device: device.id, count: 1, condition: 'amqp:resource-limit-exceeded' });
    await refused(client.sendEvent(new Message('over the quota')), 'IotHubQuotaExceededError');
    await soon(client.sendEvent(new Message('after')), 'settlement');
  },

  async 'a session that is ended closes its device only'(t) {
    const [device, other] = [await t.device(), await t.device()];
    const [client, neighbour] = [await t.open(device, Amqp), await t.open(other, Amqp)];
    for (const one of [client, neighbour]) await one.sendEvent(new Message('before'));
    const gone = once(client, 'disconnect');
    await fault('end_sessions', { device: device.id, condition: 'amqp:internal-error' });
    await soon(gone, 'disconnect');
    await soon(neighbour.sendEvent(new Message('unharmed')), 'settlement');
  },

  async 'a fault that is not known is refused'() {
    const headers = { 'Content-Type': 'application/json' };
    const answer = await fetch(`${settings.control}/faults`, { method: 'POST', headers, body: '{"fault":"nope"}' });
    equal(answer.status, 400, 'status');
  },
});

run('faults', checks, { needs: [...hubNeeds, ['HUB_CONTROL_URL', settings.control]], atOnce: 3 });
