'use strict';
// Feedback on C2D messages: every status, by the modes of acknowledgement, over AMQP, WebSocket and REST.
//
// All receivers share one queue of the hub, so this file alone asks for feedback, and its checks share one list.

const { AmqpWs } = require('azure-iothub');
const { Amqp } = require('azure-iot-device-amqp');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Http } = require('azure-iot-device-http');
const { run, assert, equal, soon, sleep, until, hubNeeds } = require('./lib/runner');
const { c2dMessage, get, inbox, rest } = require('./lib/calls');

const records = [];
const batches = [];
let receiving;

/** Collects what the hub tells over this transport, completing every batch. */
async function receive(t, Transport) {
  const service = t.service(Transport);
  await service.open();
  const { result: receiver } = await service.getFeedbackReceiver();
  receiver.on('message', (message) => {
    batches.push(message);
    records.push(...JSON.parse(message.data.toString()));
    receiver.complete(message, () => {});
  });
  return service;
}

/** The record on this message. */
const told = (message) =>
  until(() => records.find((record) => record.originalMessageId === message.messageId), 'the feedback record', 28000);

async function statusOf(message, device, status) {
  const record = await told(message);
  equal([record.statusCode, record.deviceId, record.deviceGenerationId], [status, device.id, device.identity.generationId], 'record');
  assert(Math.abs(Date.parse(record.enqueuedTimeUtc) - Date.now()) < 120000, `time ${record.enqueuedTimeUtc}`);
  assert(typeof record.description === 'string', `description ${record.description}`);
}

/** Sends a message that asks for feedback to a device that settles it so. */
async function settled(t, settle, { ack = 'full', Transport = Amqp } = {}) {
  const device = await t.device();
  const client = await t.open(device, Transport);
  if (Transport === Http) await client.setTransportOptions({ interval: 0.2 });
  const messages = inbox(client);
  const sent = c2dMessage(`to ${settle}`, { ack });
  await t.service().send(device.id, sent);
  await soon(client[settle](await messages.byId(sent.messageId)), `end of ${settle}`);
  return { device, sent };
}

const checks = {};

for (const [name, Transport] of [['AMQP', Amqp], ['MQTT', Mqtt], ['HTTPS', Http]]) {
  checks[`Success, when a device completes over ${name}`] = async (t) => {
    const { device, sent } = await settled(t, 'complete', { Transport });
    await statusOf(sent, device, 'Success');
  };
}

for (const [name, Transport] of [['AMQP', Amqp], ['HTTPS', Http]]) {
  checks[`Rejected, when a device rejects over ${name}`] = async (t) => {
    const { device, sent } = await settled(t, 'reject', { Transport });
    await statusOf(sent, device, 'Rejected');
  };
}

Object.assign(checks, {
  async 'Expired, when nobody came for it'(t) {
    const device = await t.device();
    const sent = c2dMessage('brief', { ack: 'full', expiryTimeUtc: Date.now() + 1000 });
    await t.service().send(device.id, sent);
    await statusOf(sent, device, 'Expired');
  },

  async 'DeliveryCountExceeded, when it was abandoned ten times'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    const sent = c2dMessage('hot potato', { ack: 'full' });
    let deliveries = 0;
    client.on('message', (message) => {
      deliveries += 1;
      client.abandon(message).catch(() => {});
    });
    await t.service().send(device.id, sent);
    await statusOf(sent, device, 'DeliveryCountExceeded');
    equal(deliveries, 10, 'deliveries');
  },

  async 'Purged, when the queue was'(t) {
    const device = await t.device();
    const sent = c2dMessage('never mind', { ack: 'full' });
    await t.service().send(device.id, sent);
    await rest('DELETE', `/devices/${device.id}/commands`);
    await statusOf(sent, device, 'Purged');
  },

  async 'positive asks for the good end only, negative for the bad, none for nothing'(t) {
    const silent = [
      await settled(t, 'reject', { ack: 'positive' }),
      await settled(t, 'complete', { ack: 'negative' }),
      await settled(t, 'complete', { ack: 'none' }),
      await settled(t, 'complete', { ack: null }),
    ];
    const loud = [await settled(t, 'complete', { ack: 'positive' }), await settled(t, 'reject', { ack: 'negative' })];
    await statusOf(loud[0].sent, loud[0].device, 'Success');
    await statusOf(loud[1].sent, loud[1].device, 'Rejected');
    const wrong = silent.filter(({ sent }) => records.some((record) => record.originalMessageId === sent.messageId));
    equal(wrong.length, 0, 'records that nobody asked for');
  },

  async 'a message id that is a UUID is named as text'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    const sent = c2dMessage('with a UUID', { ack: 'full', messageId: require('crypto').randomUUID() });
    await t.service().send(device.id, sent);
    const messages = inbox(client);
    await client.complete(await messages.byId(sent.messageId));
    await statusOf(sent, device, 'Success');
  },
});

/** After the others, since they take the records from the same queue. */
const alone = {
  async 'batches are of the feedback content type, with the hub’s name and time'() {
    assert(batches.length > 0, 'a batch came');
    const { transportObj } = batches[0];
    equal(String(transportObj.content_type), 'application/vnd.microsoft.iothub.feedback.json', 'content type');
    assert(transportObj.user_id && transportObj.user_id.length > 0, 'user-id');
    assert(transportObj.message_annotations['iothub-enqueuedtime'] !== undefined, 'iothub-enqueuedtime');
  },

  async 'a receiver over WebSocket is told'(t) {
    await receiving.close();
    const service = await receive(t, AmqpWs);
    const { device, sent } = await settled(t, 'complete');
    await statusOf(sent, device, 'Success');
    await service.close();
  },

  async 'an abandoned batch comes again, over REST as well'(t) {
    const path = '/messages/serviceBound/feedback';
    const { sent } = await settled(t, 'complete');
    const look = async () => {
      const { status, headers, body } = await get(path);
      if (status === 204) return undefined;
      const batch = JSON.parse(body);
      const lock = headers.etag.replace(/"/g, '');
      return { lock, mine: batch.some((record) => record.originalMessageId === sent.messageId) };
    };
    const first = await until(async () => {
      const batch = await look();
      if (batch && !batch.mine) await rest('DELETE', `${path}/${batch.lock}`);
      await sleep(200);
      return batch && batch.mine && batch;
    }, 'the feedback record');
    await rest('POST', `${path}/${first.lock}/abandon`);
    const again = await until(look, 'the batch again', 5000);
    assert(again.mine, 'the same batch');
    await rest('DELETE', `${path}/${again.lock}`);
    equal(await look(), undefined, 'a batch after it was completed');
  },
};

async function before(t) {
  receiving = await receive(t);
}

// The first wait for the hub's fifteen seconds together; the others one by one.
run('feedback', checks, { needs: hubNeeds, atOnce: 20, then: alone, before });
