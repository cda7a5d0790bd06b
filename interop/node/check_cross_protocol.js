'use strict';
// Devices on different protocols see one hub.

const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Http } = require('azure-iot-device-http');
const { Message } = require('azure-iot-device');
const { run, assert, equal, soon, until, hubNeeds } = require('./lib/runner');
const { settings } = require('./lib/settings');
const { registry } = require('./lib/scope');
const { update } = require('./lib/device_checks');
const { call, answer, tellDesired, c2dMessage, inbox } = require('./lib/calls');
const { consumer, listen, ofDevice } = require('./lib/events');

const two = [Amqp, Mqtt];

const checks = {
  async 'a twin written over one protocol is read over another'(t) {
    const device = await t.device();
    let version = 1;
    for (const [Writer, Reader] of [[Amqp, Mqtt], [Mqtt, Amqp], [AmqpWs, MqttWs]]) {
      const writer = await t.open(device, Writer);
      await update(await soon(writer.getTwin(), 'twin'), { by: Writer.name });
      await writer.close();
      const reader = await t.open(device, Reader);
      const { reported } = (await soon(reader.getTwin(), 'twin')).properties;
      equal([reported.by, reported.$version], [Writer.name, (version += 1)], 'reported');
      await reader.close();
    }
    equal((await registry().getTwin(device.id)).responseBody.properties.reported.$version, 4, 'version');
  },

  async 'desired properties are told to devices on both protocols'(t) {
    for (const Transport of two) {
      const device = await t.device();
      const twin = await soon((await t.open(device, Transport)).getTwin(), 'twin');
      await tellDesired(twin, (desired) => registry().updateTwin(device.id, { properties: { desired } }, '*'));
    }
  },

  async 'one service calls devices on both protocols'(t) {
    const service = t.service();
    for (const Transport of two) {
      const device = await t.device();
      answer(await t.open(device, Transport), 'which', 200, () => Transport.name);
      equal((await call(service, device, 'which', null)).payload, Transport.name, 'answer');
    }
  },

  async 'C2D abandoned over one protocol comes over the next, until one completes it'(t) {
    const device = await t.device();
    const sent = c2dMessage('whoever', { properties: { colour: 'blue' } });
    await t.service().send(device.id, sent);
    const http = await t.open(device, Http);
    await http.setTransportOptions({ interval: 3 });
    await http.abandon(await inbox(http).byId(sent.messageId));
    await http.close();
    const amqp = await t.open(device, Amqp);
    const messages = inbox(amqp);
    await amqp.abandon(await messages.byId(sent.messageId));
    const got = await messages.byId(sent.messageId);
    equal([got.data.toString(), got.properties.getValue('colour')], ['whoever', 'blue'], 'message');
    await amqp.complete(got);
    await until(
      async () => Number((await registry().get(device.id)).responseBody.cloudToDeviceMessageCount) === 0,
      'an empty queue',
    );
  },

  async 'events of all protocols come to one reader'(t) {
    const device = await t.device();
    const transports = [Amqp, Mqtt, Http, AmqpWs, MqttWs];
    for (const Transport of transports) {
      const client = await t.open(device, Transport);
      await soon(client.sendEvent(new Message(Transport.name)), 'settlement');
      await client.close();
    }
    const reader = listen(t, consumer(t), { startPosition: { enqueuedOn: Date.now() - 60_000 } });
    const events = await reader.wait(ofDevice(device.id), transports.length);
    equal(events.map(({ event }) => event.body.toString()), transports.map((Transport) => Transport.name), 'bodies');
    equal(new Set(events.map(({ partition }) => partition)).size, 1, 'partitions');
  },

  async 'three devices on three protocols do everything at once'(t) {
    const service = t.service();
    const work = [Amqp, Mqtt, Http].map(async (Transport) => {
      const device = await t.device();
      const client = await t.open(device, Transport);
      if (Transport === Http) await client.setTransportOptions({ interval: 0.2 });
      const messages = inbox(client);
      const sent = Array.from({ length: 5 }, (_, i) => c2dMessage(`${Transport.name} ${i}`));
      const sends = Promise.all(Array.from({ length: 20 }, (_, i) => client.sendEvent(new Message(String(i)))));
      for (const message of sent) await service.send(device.id, message);
      for (const message of sent) {
        const got = await messages.byId(message.messageId);
        assert(got.data.toString().startsWith(Transport.name), `${got.data} for ${Transport.name}`);
        await client.complete(got);
      }
      await sends;
    });
    await soon(Promise.all(work), 'end of all work');
  },
};

run('cross-protocol', checks, { needs: [...hubNeeds, ['EVENTHUB_CS', settings.eventHub]], atOnce: 3 });
