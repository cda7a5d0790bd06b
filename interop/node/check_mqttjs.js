'use strict';
// What plain MQTT clients do and the SDKs do not, with the library MQTT.js.

const { once } = require('events');
const mqtt = require('mqtt');
const { run, assert, equal, soon, sleep, until, refused, hubNeeds } = require('./lib/runner');
const { registry, newId, HOST_NAME } = require('./lib/scope');
const { settings } = require('./lib/settings');
const { sasToken, later, c2dMessage } = require('./lib/calls');
const { eventsOf } = require('./lib/events');

/** An open connection as this device. */
async function connect(t, device, more = {}) {
  const client = mqtt.connect(`mqtts://${HOST_NAME}:8883`, {
    clientId: device.id,
    username: `${HOST_NAME}/${device.id}/?api-version=2021-04-12`,
    password: sasToken({ SharedAccessKey: device.key }, `${HOST_NAME}/devices/${device.id}`, later()),
    clean: true,
    reconnectPeriod: 0,
    connectTimeout: 5000,
    ...more,
  });
  t.defer(() => client.end(true));
  const failed = new Promise((_, reject) => {
    client.on('error', reject);
    client.on('close', () => reject(new Error('closed')));
  });
  failed.catch(() => {});
  client.arrived = [];
  client.on('message', (topic, payload, packet) => client.arrived.push({ topic, payload: payload.toString(), packet }));
  await soon(Promise.race([once(client, 'connect'), failed]), 'connection');
  return client;
}

const publish = (client, topic, payload = '', options = { qos: 1 }) =>
  soon(new Promise((resolve, reject) => client.publish(topic, payload, options, (e) => (e ? reject(e) : resolve()))), 'PUBACK');

const subscribe = (client, filter, qos = 1) =>
  soon(new Promise((resolve, reject) => client.subscribe(filter, { qos }, (e, granted) => (e ? reject(e) : resolve(granted)))), 'SUBACK');

const closed = (client) => soon(once(client, 'close'), 'end of the connection', 8000);
const events = (device) => `devices/${device.id}/messages/events/`;

const checks = {
  async 'telemetry of QoS 0 and 1, with and without a property bag'(t) {
    const device = await t.device();
    const client = await connect(t, device);
    await publish(client, events(device), 'zero', { qos: 0 });
    await publish(client, `devices/${device.id}/messages/events`, 'no slash');
    await publish(client, `${events(device)}%24.mid=m-1&%24.ct=text%2Fplain&a=b%20c&empty=&bare`, 'bag');
    const found = await eventsOf(t, device.id, 3);
    equal(found.map((event) => event.body.toString()), ['zero', 'no slash', 'bag'], 'bodies');
    const { messageId, contentType, properties } = found[2];
    equal([messageId, contentType, properties.a, properties.empty], ['m-1', 'text/plain', 'b c', ''], 'bag');
  },

  async 'QoS 2 ends the connection'(t) {
    const device = await t.device();
    const client = await connect(t, device);
    const end = closed(client);
    client.publish(events(device), 'twice', { qos: 2 });
    await end;
  },

  async 'a publication to any other topic ends the connection'(t) {
    for (const topic of ['any/topic', `devices/${newId('other')}/messages/events/`, '$iothub/other']) {
      const client = await connect(t, await t.device());
      const end = closed(client);
      client.publish(topic, 'x', { qos: 1 });
      await end;
    }
  },

  async 'a subscription of QoS 2 is granted 1; any other filter is refused'(t) {
    const device = await t.device();
    const client = await connect(t, device);
    const [granted] = await subscribe(client, `devices/${device.id}/messages/devicebound/#`, 2);
    equal(granted.qos, 1, 'granted');
    const end = once(client, 'close').then(() => 'closed');
    const answer = new Promise((resolve) => {
      client.on('packetreceive', ({ cmd, granted }) => cmd === 'suback' && resolve(granted));
    });
    client.subscribe('#', { qos: 1 }, () => {});
    const refusal = await soon(Promise.race([end, answer]), 'refusal');
    assert(refusal === 'closed' || refusal[0] === 128, `granted ${refusal}`);
  },

  async 'RETAIN is told as a property, and nothing is retained'(t) {
    const device = await t.device();
    const client = await connect(t, device);
    await publish(client, events(device), 'keep me', { qos: 1, retain: true });
    const [event] = await eventsOf(t, device.id);
    equal(event.properties['mqtt-retain'], 'true', 'mqtt-retain');
  },

  async 'the will of a lost connection is telemetry, that of a proper end is not'(t) {
    const will = (device) => ({ topic: events(device), payload: 'last words', qos: 1 });
    const [lost, proper] = [await t.device(), await t.device()];
    const first = await connect(t, lost, { will: will(lost) });
    const second = await connect(t, proper, { will: will(proper) });
    first.stream.destroy();
    await new Promise((resolve) => second.end(false, {}, resolve));
    const [event] = await eventsOf(t, lost.id);
    equal([event.body.toString(), event.properties['iothub-MessageType']], ['last words', 'Will'], 'event');
    await publish(await connect(t, proper), events(proper), 'after');
    equal((await eventsOf(t, proper.id)).map((e) => e.body.toString()), ['after'], 'events after a proper end');
  },

  async 'a persistent session keeps subscription and queue, a clean one neither'(t) {
    const device = await t.device();
    const service = t.service();
    const filter = `devices/${device.id}/messages/devicebound/#`;
    const first = await connect(t, device, { clean: false });
    await subscribe(first, filter);
    await new Promise((resolve) => first.end(false, {}, resolve));
    await service.send(device.id, c2dMessage('waited'));
    const second = await connect(t, device, { clean: false });
    await until(() => second.arrived.length === 1, 'the message without a new subscription');
    equal(second.arrived[0].payload, 'waited', 'body');
    await new Promise((resolve) => second.end(false, {}, resolve));
    const third = await connect(t, device);
    await service.send(device.id, c2dMessage('for a listener'));
    await sleep(500);
    equal(third.arrived.length, 0, 'messages without a subscription');
    await subscribe(third, filter);
    await until(() => third.arrived.length === 1, 'the message after the subscription');
  },

  async 'the topic of a C2D message is as the real one'(t) {
    const device = await t.device();
    const client = await connect(t, device);
    await subscribe(client, `devices/${device.id}/messages/devicebound/#`);
    const sent = c2dMessage('x', { correlationId: 'c-1', ack: 'full', properties: { property1: 'value 1' } });
    await t.service().send(device.id, sent);
    await until(() => client.arrived.length === 1, 'the message');
    const [{ topic, packet }] = client.arrived;
    assert(topic.startsWith(`devices/${device.id}/messages/devicebound/`), topic);
    const bag = topic.split('/').pop();
    const names = bag.split('&').map((pair) => pair.split('=')[0]);
    for (const name of ['%24.mid', '%24.to', '%24.cid', 'property1']) assert(names.includes(name), `${name} in ${bag}`);
    assert(bag.includes(`%2Fdevices%2F${device.id}%2Fmessages%2F`), `to in ${bag}`);
    assert(bag.includes('property1=value%201'), `property in ${bag}`);
    equal(packet.qos, 1, 'QoS');
  },

  async 'twin answers carry status, request id and version'(t) {
    const device = await t.device();
    const client = await connect(t, device);
    await subscribe(client, '$iothub/twin/res/#', 0);
    await subscribe(client, '$iothub/twin/PATCH/properties/desired/#', 0);
    const answer = (start) => until(() => client.arrived.find(({ topic }) => topic.startsWith(start)), `answer ${start}`);
    await publish(client, '$iothub/twin/GET/?$rid=g1', '', { qos: 0 });
    const got = await answer('$iothub/twin/res/200/?$rid=g1');
    equal(JSON.parse(got.payload), { desired: { $version: 1 }, reported: { $version: 1 } }, 'twin');
    await publish(client, '$iothub/twin/PATCH/properties/reported/?$rid=p1', '{"a":1}', { qos: 0 });
    const patched = await answer('$iothub/twin/res/204/?$rid=p1');
    assert(patched.topic.endsWith('$version=2'), patched.topic);
    await publish(client, '$iothub/twin/PATCH/properties/reported/?$rid=p2', '{broken', { qos: 0 });
    await answer('$iothub/twin/res/400/?$rid=p2');
    await registry().updateTwin(device.id, { properties: { desired: { rate: 5 } } }, '*');
    const told = await answer('$iothub/twin/PATCH/properties/desired/?$version=2');
    equal(JSON.parse(told.payload), { rate: 5, $version: 2 }, 'patch');
  },

  async 'names that do not agree, other versions of MQTT and no user name are refused'(t) {
    const device = await t.device();
    await refused(connect(t, device, { clientId: newId('other') }));
    await refused(connect(t, device, { username: undefined }));
    await refused(connect(t, device, { username: `other.example/${device.id}/?api-version=2021-04-12` }));
    await refused(connect(t, device, { password: 'no token' }));
    for (const version of [{ protocolId: 'MQIsdp', protocolVersion: 3 }, { protocolVersion: 5 }]) {
      const error = await refused(connect(t, device, version));
      equal(error.code, 1, `CONNACK to version ${version.protocolVersion}: ${error.message}`);
    }
    await connect(t, device, { username: `${HOST_NAME}/${device.id}/api-version=2016-11-14` });
  },

  async 'a silent client is dropped after one and a half keep-alives'(t) {
    const device = await t.device();
    const client = await connect(t, device, { keepalive: 2 });
    clearInterval(client.pingTimer && client.pingTimer._intervalId);
    if (client.pingTimer) client.pingTimer.clear();
    client.pingTimer = null;
    const start = Date.now();
    await closed(client);
    const seconds = (Date.now() - start) / 1000;
    assert(seconds > 1.5 && seconds < 7, `dropped after ${seconds} s`);
  },
};

run('MQTT by MQTT.js', checks, { needs: [...hubNeeds, ['EVENTHUB_CS', settings.eventHub]], atOnce: 4 });
