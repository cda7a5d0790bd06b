'use strict';
// What every two-way transport of the device SDK must do: the same checks over AMQP, MQTT and their WebSockets.

const { randomUUID } = require('crypto');
const { Message } = require('azure-iot-device');
const { assert, equal, soon, until } = require('./runner');
const { registry } = require('./scope');
const { call, answer, tellDesired, c2dMessage, inbox } = require('./calls');

const update = (twin, patch) =>
  soon(new Promise((resolve, reject) => twin.properties.reported.update(patch, (e) => (e ? reject(e) : resolve()))), 'answer');

/** The checks over this transport. */
function deviceChecks(Transport) {
  return {
    async 'telemetry with all its properties is accepted'(t) {
      const client = await t.open(await t.device(), Transport);
      const message = new Message(JSON.stringify({ temperature: 21 }));
      message.messageId = randomUUID();
      message.correlationId = 'about-1';
      message.contentType = 'application/json';
      message.contentEncoding = 'utf-8';
      message.properties.add('odd name', 'a&b=c d%/?#ø');
      await soon(client.sendEvent(message), 'settlement');
    },

    async 'telemetry of every byte value and of no byte is accepted'(t) {
      const client = await t.open(await t.device(), Transport);
      await soon(client.sendEvent(new Message(Buffer.from(Array.from({ length: 256 }, (_, i) => i)))), 'settlement');
      await soon(client.sendEvent(new Message(Buffer.alloc(0))), 'settlement of an empty message');
    },

    async 'a thousand messages, a hundred in flight, are accepted'(t) {
      const client = await t.open(await t.device(), Transport);
      for (let sent = 0; sent < 1000; sent += 100) {
        const batch = Array.from({ length: 100 }, (_, i) => client.sendEvent(new Message(String(sent + i))));
        await soon(Promise.all(batch), 'settlement');
      }
    },

    async 'a message of 200 KiB is accepted'(t) {
      const client = await t.open(await t.device(), Transport);
      await soon(client.sendEvent(new Message('x'.repeat(200 * 1024))), 'settlement');
    },

    async 'the registry sees the device come and go'(t) {
      const device = await t.device();
      const state = async () => (await registry().get(device.id)).responseBody.connectionState;
      equal(await state(), 'Disconnected', 'state before');
      const client = await t.open(device, Transport);
      await client.sendEvent(new Message('here'));
      await until(async () => (await state()) === 'Connected', 'connection state Connected');
      await client.close();
      await until(async () => (await state()) === 'Disconnected', 'connection state Disconnected');
    },

    async 'C2D comes whole and is completed'(t) {
      const device = await t.device();
      const service = t.service();
      const messages = inbox(await t.open(device, Transport));
      const sent = c2dMessage('for you', {
        correlationId: 'about-2',
        contentType: 'text/plain',
        contentEncoding: 'utf-8',
        properties: { colour: 'blue', 'odd name': 'a&b=c d%/?#' },
      });
      await service.send(device.id, sent);
      const got = await messages.byId(sent.messageId);
      equal(got.data.toString(), 'for you', 'body');
      equal(got.correlationId, 'about-2', 'correlation id');
      equal([got.contentType, got.contentEncoding], ['text/plain', 'utf-8'], 'content');
      equal(got.properties.getValue('colour'), 'blue', 'property');
      equal(got.properties.getValue('odd name'), 'a&b=c d%/?#', 'property with odd characters');
      assert(/\/devices\/.+\/messages\/devicebound/i.test(got.to), `to is ${got.to}`);
    },

    async 'C2D waits for a device that is away, in order'(t) {
      const device = await t.device();
      const service = t.service();
      const sent = ['1', '2', '3'].map((body) => c2dMessage(body));
      for (const message of sent) await service.send(device.id, message);
      const client = await t.open(device, Transport);
      const messages = inbox(client);
      const got = [];
      for (const _ of sent) {
        const message = await messages.next(() => true);
        got.push(message.data.toString());
        await client.complete(message);
      }
      equal(got, ['1', '2', '3'], 'bodies');
      await until(
        async () => Number((await registry().get(device.id)).responseBody.cloudToDeviceMessageCount) === 0,
        'an empty queue',
      );
    },

    async 'a direct method goes there and back'(t) {
      const device = await t.device();
      const client = await t.open(device, Transport);
      answer(client, 'echo');
      const payload = { a: [1, 2, { b: null }], s: 'æøå', t: true };
      equal(await call(t.service(), device, 'echo', payload), { status: 200, payload: { youSaid: payload } });
    },

    async "a direct method's status is the device's"(t) {
      const device = await t.device();
      const client = await t.open(device, Transport);
      answer(client, 'teapot', 418, () => null);
      answer(client, 'broken', 500, () => 'text');
      const service = t.service();
      equal(await call(service, device, 'teapot', null), { status: 418, payload: null });
      equal(await call(service, device, 'broken', {}), { status: 500, payload: 'text' });
    },

    async 'twenty direct methods at once each get their own answer'(t) {
      const device = await t.device();
      const client = await t.open(device, Transport);
      answer(client, 'echo');
      const service = t.service();
      await call(service, device, 'echo', 'warm');
      const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => call(service, device, 'echo', { i })));
      equal(answers.map((a) => a.payload.youSaid.i), Array.from({ length: 20 }, (_, i) => i), 'answers');
    },

    async 'the twin is read, and reported properties are merged'(t) {
      const device = await t.device();
      const client = await t.open(device, Transport);
      const twin = await soon(client.getTwin(), 'twin');
      equal([twin.properties.desired.$version, twin.properties.reported.$version], [1, 1], 'versions');
      assert(twin.properties.desired.$metadata === undefined, 'no $metadata for the device');
      await update(twin, { fw: { version: '1.2.3', build: 7 }, gone: 1 });
      await update(twin, { gone: null, fw: { build: 8 } });
      const seen = (await registry().getTwin(device.id)).responseBody.properties.reported;
      equal(seen.fw, { version: '1.2.3', build: 8 }, 'reported');
      equal([seen.gone, seen.$version], [undefined, 3], 'removed key and version');
      await soon(twin.get(), 'twin');
      equal(twin.properties.reported.fw, { version: '1.2.3', build: 8 }, 'reported, as the device reads it');
      equal(twin.properties.reported.$version, 3, 'version, as the device reads it');
    },

    async 'desired properties are told and read'(t) {
      const device = await t.device();
      const client = await t.open(device, Transport);
      const twin = await soon(client.getTwin(), 'twin');
      const change = (desired) => registry().updateTwin(device.id, { properties: { desired } }, '*');
      await change({ nested: { keep: 1, drop: 2 } });
      const patch = await tellDesired(twin, (mark) => change({ ...mark, nested: { drop: null } }));
      assert(patch.$version > 2, `version ${patch.$version}`);
      equal(patch.nested, { drop: null }, 'patch, nulls kept');
      const fresh = await soon(twin.get(), 'twin');
      equal(fresh.properties.desired.nested, { keep: 1 }, 'desired, as the device reads it');
    },
  };
}

module.exports = { deviceChecks, update };
