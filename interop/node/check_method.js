'use strict';
// Direct methods, as the service side sees them.

const { Amqp } = require('azure-iot-device-amqp');
const { Mqtt } = require('azure-iot-device-mqtt');
const { run, assert, equal, refusedWith, hubNeeds } = require('./lib/runner');
const { newId } = require('./lib/scope');
const { call, callOnce, answer, rest } = require('./lib/calls');

const checks = {
  async 'a device that is away is 404103 at once'(t) {
    const device = await t.device();
    const start = Date.now();
    const error = await refusedWith(callOnce(t.service(), device, 'm', {}), 404, '404103');
    assert(Date.now() - start < 3000, 'at once');
    assert(/DeviceNotOnline|404103/.test(error.response.headers['iothub-errorcode']), 'header iothub-errorcode');
    assert(/Timed out waiting for device to connect/.test(error.responseBody), error.responseBody);
  },

  async 'a device that is connected but does not listen is 404103'(t) {
    const device = await t.device();
    for (const Transport of [Amqp, Mqtt]) {
      const client = await t.open(device, Transport);
      await refusedWith(callOnce(t.service(), device, 'm', {}), 404, '404103');
      await client.close();
    }
  },

  async 'a device that comes within the connect time-out is called'(t) {
    const device = await t.device();
    const calling = callOnce(t.service(), device, 'echo', 'late', 10, 10);
    const client = await t.open(device, Mqtt);
    answer(client, 'echo');
    equal(await calling, { status: 200, payload: { youSaid: 'late' } });
  },

  async 'no answer in time is 504'(t) {
    const service = t.service();
    const silent = async (Transport) => {
      const device = await t.device();
      const client = await t.open(device, Transport);
      answer(client, 'ready');
      client.onDeviceMethod('silent', () => {});
      await call(service, device, 'ready', null);
      const error = await refusedWith(callOnce(service, device, 'silent', null, 5), 504, '504101');
      equal(error.name, 'GatewayTimeoutError', 'error');
    };
    await Promise.all([silent(Amqp), silent(Mqtt)]);
  },

  async 'an unknown device is not found'(t) {
    await refusedWith(callOnce(t.service(), { id: newId('ghost') }, 'm', {}), 404, /404001|DeviceNotFound/);
  },

  async 'time-outs out of range, a missing name and a bad name are refused'(t) {
    const device = await t.device();
    const invoke = (body) => rest('POST', `/twins/${device.id}/methods`, { body });
    await refusedWith(invoke({ methodName: 'm', responseTimeoutInSeconds: 4 }), 400);
    await refusedWith(invoke({ methodName: 'm', responseTimeoutInSeconds: 301 }), 400);
    await refusedWith(invoke({ methodName: 'm', connectTimeoutInSeconds: 301 }), 400);
    await refusedWith(invoke({ payload: {} }), 400);
    for (const methodName of ['', 'no name', 'a/b', 'ö']) await refusedWith(invoke({ methodName }), 400);
  },

  async 'a payload of 128 KB goes through, a larger one is refused'(t) {
    const device = await t.device();
    const service = t.service();
    answer(await t.open(device, Amqp), 'measure', 200, (payload) => payload.length);
    equal((await call(service, device, 'measure', 'x'.repeat(127 * 1024))).payload, 127 * 1024, 'size');
    await refusedWith(callOnce(service, device, 'measure', 'x'.repeat(140 * 1024)), 413).catch((error) => {
      if (!/expected HTTP 413, got 400/.test(error.message)) throw error;
    });
  },

  async 'answers are given to the calls they belong to, whatever their order'(t) {
    const device = await t.device();
    const client = await t.open(device, Amqp);
    const service = t.service();
    const held = [];
    answer(client, 'ready');
    client.onDeviceMethod('hold', (request, response) => {
      held.push([request.payload, response]);
      if (held.length === 5) for (const [payload, later] of held.reverse()) later.send(200, payload).catch(() => {});
    });
    await call(service, device, 'ready', null);
    const answers = await Promise.all([0, 1, 2, 3, 4].map((i) => callOnce(service, device, 'hold', i)));
    equal(answers.map(({ payload }) => payload), [0, 1, 2, 3, 4], 'answers');
  },
};

run('direct methods', checks, { needs: hubNeeds, atOnce: 4 });
