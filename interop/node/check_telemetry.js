'use strict';
// What a device sends over each protocol is what is read at the other end.

const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Http } = require('azure-iot-device-http');
const { Message } = require('azure-iot-device');
const { run, equal, soon, hubNeeds } = require('./lib/runner');
const { settings } = require('./lib/settings');
const { eventsOf } = require('./lib/events');

const checks = {};

for (const Transport of [Amqp, AmqpWs, Mqtt, MqttWs, Http]) {
  checks[`a message with all its properties, over ${Transport.name}`] = async (t) => {
    const device = await t.device();
    const client = await t.open(device, Transport);
    const message = new Message(JSON.stringify({ temperature: 21.5, text: 'æøå' }));
    Object.assign(message, { messageId: 'm-1', correlationId: 'c-1', contentType: 'application/json', contentEncoding: 'utf-8' });
    message.properties.add('level', 'high');
    message.properties.add('sentence', 'a&b=c d%/?#');
    await soon(client.sendEvent(message), 'settlement');
    const [event] = await eventsOf(t, device.id);
    equal(JSON.parse(event.body.toString()), { temperature: 21.5, text: 'æøå' }, 'body');
    equal([event.messageId, event.correlationId, event.contentType], ['m-1', 'c-1', 'application/json'], 'system properties');
    equal(event.getRawAmqpMessage().properties.contentEncoding, 'utf-8', 'content encoding');
    equal([event.properties.level, event.properties.sentence], ['high', 'a&b=c d%/?#'], 'properties');
    equal(event.systemProperties['iothub-connection-auth-method'].includes('"scope":"device"'), true, 'auth method');
  };

  checks[`bytes as they are, over ${Transport.name}`] = async (t) => {
    const device = await t.device();
    const client = await t.open(device, Transport);
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    await soon(client.sendEvent(new Message(bytes)), 'settlement');
    const [event] = await eventsOf(t, device.id);
    equal(Buffer.from(event.body).toString('hex'), bytes.toString('hex'), 'body');
  };
}

Object.assign(checks, {
  async 'a batch over HTTPS is as many events, in order'(t) {
    const device = await t.device();
    const client = await t.open(device, Http);
    const batch = Array.from({ length: 20 }, (_, i) => {
      const message = new Message(`number ${i}`);
      message.properties.add('number', String(i));
      return message;
    });
    await soon(client.sendEventBatch(batch), 'answer');
    const events = await eventsOf(t, device.id, 20);
    equal(events.map((event) => event.body.toString()), batch.map((message) => message.data), 'bodies');
    equal(events[7].properties.number, '7', 'property');
  },

  async 'a module is named beside its device'(t) {
    const device = await t.device();
    for (const Transport of [Amqp, Mqtt]) {
      const module = await t.module(device);
      const client = await t.openModule(module, Transport);
      await soon(client.sendEvent(new Message(Transport.name)), 'settlement');
      await soon(client.sendOutputEvent('out1', new Message(`${Transport.name} out`)), 'settlement');
      const events = await eventsOf(t, device.id, Transport === Amqp ? 2 : 4);
      const mine = events.filter((event) => event.systemProperties['iothub-connection-module-id'] === module.id);
      equal(mine.map((event) => event.body.toString()), [Transport.name, `${Transport.name} out`], 'bodies');
    }
  },
});

run('telemetry read back', checks, { needs: [...hubNeeds, ['EVENTHUB_CS', settings.eventHub]], atOnce: 4 });
