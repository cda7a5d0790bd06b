'use strict';
// A device over MQTT.

const { once } = require('events');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Message } = require('azure-iot-device');
const { run, assert, equal, soon, until, refused, hubNeeds } = require('./lib/runner');
const { deviceChecks, update } = require('./lib/device_checks');
const { registry } = require('./lib/scope');
const { answer, call, callOnce, c2dMessage, inbox } = require('./lib/calls');

const checks = {
  ...deviceChecks(Mqtt),

  async 'a second connection of a device ends the first'(t) {
    const device = await t.device();
    for (const Newer of [Mqtt, MqttWs]) {
      const older = await t.open(device, Mqtt);
      const gone = once(older, 'disconnect');
      const newer = await t.open(device, Newer);
      await soon(gone, 'end of the first connection');
      await soon(newer.sendEvent(new Message('from the second')), 'settlement');
      await newer.close();
    }
  },

  async 'the session outlives the connection: C2D sent meanwhile comes'(t) {
    const device = await t.device();
    const client = await t.open(device, Mqtt);
    const messages = inbox(client);
    const service = t.service();
    const first = c2dMessage('first');
    await service.send(device.id, first);
    await messages.byId(first.messageId);
    await client.close();
    const second = c2dMessage('second');
    await service.send(device.id, second);
    await client.open();
    equal((await messages.byId(second.messageId)).data.toString(), 'second', 'body');
  },

  async 'methods are for a listening device only'(t) {
    const device = await t.device();
    const client = await t.open(device, Mqtt);
    const service = t.service();
    answer(client, 'echo');
    await call(service, device, 'echo', 1);
    await client.close();
    await until(
      () => callOnce(service, device, 'echo', 1).then(() => false, (error) => error.response.statusCode === 404),
      '404 once the device has gone',
    );
  },

  async 'a bad report is refused, and the connection stays'(t) {
    const device = await t.device();
    const client = await t.open(device, Mqtt);
    const twin = await soon(client.getTwin(), 'twin');
    await refused(update(twin, { 'dotted.name': 1 }));
    await update(twin, { good: 1 });
    const { reported } = (await registry().getTwin(device.id)).responseBody.properties;
    equal([reported.good, reported.$version], [1, 2], 'value and version');
  },

  async 'a device with a model id is accepted, and its twin tells it'(t) {
    const device = await t.device();
    const client = t.client(device.cs, Mqtt);
    await client.setOptions({ modelId: 'dtmi:com:example:Thermostat;1' });
    await client.open();
    await soon(client.sendEvent(new Message('modelled')), 'settlement');
    const twin = (await registry().getTwin(device.id)).responseBody;
    equal(twin.modelId, 'dtmi:com:example:Thermostat;1', 'model id');
    assert(twin.connectionState === 'Connected', `connection state ${twin.connectionState}`);
  },
};

run('device MQTT', checks, { needs: hubNeeds });
