'use strict';
// A device over HTTPS: it sends, and polls for C2D messages that it holds by a lock.

const { Http } = require('azure-iot-device-http');
const { Message } = require('azure-iot-device');
const { run, equal, soon, until, sleep, refused, hubNeeds } = require('./lib/runner');
const { registry, HOST_NAME } = require('./lib/scope');
const { c2dMessage, inbox, rest, later, sasToken } = require('./lib/calls');

const queued = async (device) => Number((await registry().get(device.id)).responseBody.cloudToDeviceMessageCount);

/** A client that polls five times a second. */
async function polling(t, device) {
  const client = await t.open(device, Http);
  await client.setTransportOptions({ interval: 0.2 });
  return client;
}

const checks = {
  async 'telemetry with all its properties is accepted'(t) {
    const client = await t.open(await t.device(), Http);
    const message = new Message(JSON.stringify({ temperature: 21 }));
    Object.assign(message, { messageId: 'm-1', correlationId: 'c-1', contentType: 'application/json', contentEncoding: 'utf-8' });
    message.properties.add('level', 'high');
    await soon(client.sendEvent(message), 'answer');
    await soon(client.sendEvent(new Message(Buffer.from(Array.from({ length: 256 }, (_, i) => i)))), 'answer to bytes');
  },

  async 'a batch is accepted'(t) {
    const client = await t.open(await t.device(), Http);
    const messages = Array.from({ length: 50 }, (_, i) => {
      const message = new Message(`number ${i}`);
      message.properties.add('number', String(i));
      return message;
    });
    await soon(client.sendEventBatch(messages), 'answer');
  },

  async 'a message over 256 KiB is too large'(t) {
    const client = await t.open(await t.device(), Http);
    await refused(client.sendEvent(new Message('x'.repeat(300 * 1024))), 'MessageTooLargeError');
    await soon(client.sendEvent(new Message('small')), 'answer');
  },

  async 'C2D is received and completed'(t) {
    const device = await t.device();
    const client = await polling(t, device);
    const messages = inbox(client);
    const sent = c2dMessage('for you', { correlationId: 'about-3', properties: { colour: 'blue' } });
    await t.service().send(device.id, sent);
    const got = await messages.byId(sent.messageId);
    equal(got.data.toString(), 'for you', 'body');
    equal(got.correlationId, 'about-3', 'correlation id');
    equal(got.properties.getValue('iothub-app-colour'), 'blue', 'property');
    await client.complete(got);
    await until(async () => (await queued(device)) === 0, 'an empty queue');
    await sleep(500);
    equal(messages.seen.length, 0, 'further messages');
  },

  async 'C2D that is held is given to nobody else'(t) {
    const device = await t.device();
    const first = inbox(await polling(t, device));
    const sent = c2dMessage('held');
    await t.service().send(device.id, sent);
    await first.byId(sent.messageId);
    const second = inbox(await polling(t, device));
    await sleep(1000);
    equal([first.seen.length, second.seen.length], [0, 0], 'further messages');
  },

  async 'C2D that is abandoned comes again'(t) {
    const device = await t.device();
    const client = await polling(t, device);
    const messages = inbox(client);
    const sent = c2dMessage('again');
    await t.service().send(device.id, sent);
    await client.abandon(await messages.byId(sent.messageId));
    await client.abandon(await messages.byId(sent.messageId));
    await client.complete(await messages.byId(sent.messageId));
  },

  async 'C2D that is rejected does not come again'(t) {
    const device = await t.device();
    const client = await polling(t, device);
    const messages = inbox(client);
    const sent = c2dMessage('bad');
    await t.service().send(device.id, sent);
    await client.reject(await messages.byId(sent.messageId));
    await until(async () => (await queued(device)) === 0, 'an empty queue');
  },

  async 'a lock that was used or never given is lost'(t) {
    const device = await t.device();
    const client = await polling(t, device);
    const messages = inbox(client);
    const sent = c2dMessage('once');
    await t.service().send(device.id, sent);
    const got = await messages.byId(sent.messageId);
    await client.complete(got);
    const error = await refused(client.complete(got));
    equal(error.response.statusCode, 412, 'status');
  },

  async 'no message is 204, and an expired token 401'(t) {
    const device = await t.device();
    const path = `/devices/${device.id}/messages/devicebound`;
    const token = (expiry) => sasToken({ SharedAccessKey: device.key }, `${HOST_NAME}/devices/${device.id}`, expiry);
    const { response } = await rest('GET', path, { token: token(later()) });
    equal(response.statusCode, 204, 'status');
    await refused(rest('GET', path, { token: token(later(-600)) }), 'UnauthorizedError');
  },
};

run('device HTTPS', checks, { needs: hubNeeds, atOnce: 3 });
