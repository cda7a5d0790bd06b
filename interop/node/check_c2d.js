'use strict';
// C2D messages, as the service side sends them.

const { AmqpWs } = require('azure-iothub');
const { Amqp } = require('azure-iot-device-amqp');
const { run, assert, equal, refused, soon, sleep, until, hubNeeds } = require('./lib/runner');
const { settings, fields, connectionString } = require('./lib/settings');
const { registry, newId, newKey } = require('./lib/scope');
const { c2dMessage, inbox } = require('./lib/calls');

const checks = {
  async 'a message of a service over WebSocket comes'(t) {
    const device = await t.device();
    const service = t.service(AmqpWs);
    await soon(service.open(), 'connection');
    const sent = c2dMessage('through the web');
    await service.send(device.id, sent);
    await inbox(await t.open(device, Amqp)).byId(sent.messageId);
  },

  async 'an unknown device is not found, and the link goes on'(t) {
    const device = await t.device();
    const service = t.service();
    await refused(service.send(newId('ghost'), 'x'), 'DeviceNotFoundError');
    await service.send(device.id, 'y');
  },

  async 'the 51st message in a queue is refused'(t) {
    const device = await t.device();
    const service = t.service();
    for (let sent = 0; sent < 50; sent += 1) await service.send(device.id, c2dMessage(String(sent)));
    await refused(service.send(device.id, c2dMessage('one too many')), 'DeviceMaximumQueueDepthExceededError');
    const client = await t.open(device, Amqp);
    const messages = inbox(client);
    for (let got = 0; got < 50; got += 1) {
      const message = await messages.next(() => true);
      equal(message.data.toString(), String(got), 'body');
      await client.complete(message);
    }
    await service.send(device.id, c2dMessage('room again'));
  },

  async 'a message over 64 KiB is refused, one below is taken'(t) {
    const device = await t.device();
    const service = t.service();
    await refused(service.send(device.id, c2dMessage('x'.repeat(70 * 1024))), 'MessageTooLargeError');
    await service.send(device.id, c2dMessage('x'.repeat(60 * 1024)));
  },

  async 'a message that has expired does not come'(t) {
    const device = await t.device();
    const service = t.service();
    const brief = c2dMessage('brief', { expiryTimeUtc: Date.now() + 700 });
    await service.send(device.id, brief);
    await sleep(1000);
    const kept = c2dMessage('kept');
    await service.send(device.id, kept);
    const messages = inbox(await t.open(device, Amqp));
    await messages.byId(kept.messageId);
    assert(!messages.seen.some((message) => message.messageId === brief.messageId), 'the expired message came');
  },

  async 'the queue of a disabled device is kept until it may come again'(t) {
    const device = await t.device();
    const sent = c2dMessage('wait for it');
    await t.service().send(device.id, sent);
    await registry().update({ ...device.identity, status: 'disabled' });
    await refused(t.open(device, Amqp));
    await registry().update({ ...device.identity, status: 'enabled' });
    await inbox(await t.open(device, Amqp)).byId(sent.messageId);
  },

  async 'the queue goes with the device'(t) {
    const device = await t.device();
    await t.service().send(device.id, c2dMessage('for the first'));
    await registry().delete(device.id);
    const again = await t.device({ deviceId: device.id });
    const messages = inbox(await t.open(again, Amqp));
    await sleep(500);
    equal(messages.seen.length, 0, 'messages');
  },

  async 'an unsettled message comes to the next client of the device'(t) {
    const device = await t.device();
    const first = await t.open(device, Amqp);
    const sent = c2dMessage('not settled');
    await t.service().send(device.id, sent);
    await inbox(first).byId(sent.messageId);
    await first.close();
    const second = await t.open(device, Amqp);
    const messages = inbox(second);
    // The real hub may hold it until its lock of 60 s ends: a message that comes at once is right as well.
    await sleep(300);
    const waiting = Number((await registry().get(device.id)).responseBody.cloudToDeviceMessageCount);
    assert(waiting === 1 || messages.seen.length === 1, `queue of ${waiting}, ${messages.seen.length} come`);
  },

  async 'a newer receiver of a device takes the place of the older'(t) {
    const device = await t.device();
    const service = t.service();
    const older = inbox(await t.open(device, Amqp));
    const probe = c2dMessage('who is there');
    await service.send(device.id, probe);
    await older.byId(probe.messageId);
    const client = await t.open(device, Amqp);
    const newer = inbox(client);
    await until(async () => {
      const sent = c2dMessage('for the newer');
      await service.send(device.id, sent);
      await sleep(100);
      return newer.seen.some((message) => message.messageId === sent.messageId);
    }, 'a message at the newer receiver');
  },

  async 'a wrong key and an unknown policy are unauthorized'(t) {
    const cs = fields(settings.service);
    for (const wrong of [{ SharedAccessKey: newKey() }, { SharedAccessKeyName: 'nobody' }]) {
      const error = await refused(t.service(undefined, connectionString({ ...cs, ...wrong })).open());
      const told = error.amqpError ? error.amqpError.name : error.name;
      equal(told, 'UnauthorizedError', 'error');
    }
  },

  async 'files have a notification address that can be listened to'(t) {
    const { result } = await soon(t.service().getFileNotificationReceiver(), 'receiver');
    assert(result, 'a receiver');
  },
};

run('C2D', checks, { needs: hubNeeds, atOnce: 3 });
