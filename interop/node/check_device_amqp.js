'use strict';
// A device over AMQP. This is the SDK that rejects and abandons.

const { Amqp } = require('azure-iot-device-amqp');
const { Message } = require('azure-iot-device');
const { run, assert, equal, soon, sleep, refused, hubNeeds } = require('./lib/runner');
const { deviceChecks, update } = require('./lib/device_checks');
const { c2dMessage, inbox } = require('./lib/calls');

const checks = {
  ...deviceChecks(Amqp),

  async 'a message over 256 KiB is too large, and the next one is accepted'(t) {
    const client = await t.open(await t.device(), Amqp);
    await refused(client.sendEvent(new Message('x'.repeat(300 * 1024))), 'MessageTooLargeError');
    await soon(client.sendEvent(new Message('small')), 'settlement');
  },

  async 'C2D that is abandoned comes again, with its delivery count'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    const messages = inbox(client);
    const sent = c2dMessage('again and again');
    await t.service().send(device.id, sent);
    const counts = [];
    for (const settle of ['abandon', 'abandon', 'complete']) {
      const message = await messages.byId(sent.messageId);
      counts.push(message.transportObj.message_annotations['iothub-deliverycount']);
      await soon(client[settle](message), `end of ${settle}`);
    }
    equal(counts, [0, 1, 2], 'delivery counts');
  },

  async 'C2D that is rejected does not come again'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    const messages = inbox(client);
    const service = t.service();
    const [bad, good] = [c2dMessage('bad'), c2dMessage('good')];
    await service.send(device.id, bad);
    await soon(client.reject(await messages.byId(bad.messageId)), 'end of reject');
    await service.send(device.id, good);
    await client.complete(await messages.next(() => true));
    equal(messages.seen.length, 0, 'further messages');
  },

  async 'C2D carries the annotations of the hub'(t) {
    const device = await t.device();
    const messages = inbox(await t.open(device, Amqp));
    const sent = c2dMessage('stamped');
    await t.service().send(device.id, sent);
    const { message_annotations: annotations, to } = (await messages.byId(sent.messageId)).transportObj;
    assert(annotations['iothub-enqueuedtime'] !== undefined, 'iothub-enqueuedtime');
    assert(annotations['x-opt-sequence-number'] !== undefined, 'x-opt-sequence-number');
    equal(to.toLowerCase(), `/devices/${device.id}/messages/devicebound`, 'to');
  },

  async 'C2D goes on over a second listener, once the first has ended'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    const service = t.service();
    const first = inbox(client);
    const one = c2dMessage('one');
    await service.send(device.id, one);
    await client.complete(await first.byId(one.messageId));
    client.removeAllListeners('message');
    // The SDK does not say when it has detached.
    await sleep(300);
    const two = c2dMessage('two');
    await service.send(device.id, two);
    const second = inbox(client);
    await client.complete(await second.byId(two.messageId));
  },

  async 'a bad report is refused, and the twin stays as it was'(t) {
    const client = await t.open(await t.device(), Amqp);
    const twin = await soon(client.getTwin(), 'twin');
    const error = await refused(update(twin, { 'dotted.name': 1 }));
    equal(error.amqpError.name, 'FormatError', 'error, which the SDK makes of status 400');
    await soon(twin.get(), 'twin');
    equal(twin.properties.reported.$version, 1, 'version');
  },

  async 'a device comes back on the same client'(t) {
    const client = await t.open(await t.device(), Amqp);
    for (let round = 0; round < 3; round += 1) {
      await soon(client.sendEvent(new Message(String(round))), 'settlement');
      await client.close();
      await client.open();
    }
  },
};

run('device AMQP', checks, { needs: hubNeeds });
