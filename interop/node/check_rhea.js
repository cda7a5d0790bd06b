'use strict';
// What Microsoft's SDKs for other languages do over AMQP and those for Node do not, with the AMQP library rhea.

const { once } = require('events');
const rhea = require('rhea');
const { run, assert, equal, soon, refused, hubNeeds } = require('./lib/runner');
const { settings, fields } = require('./lib/settings');
const { HOST_NAME, newId, newKey } = require('./lib/scope');
const { sasToken, later, c2dMessage } = require('./lib/calls');
const { eventsOf } = require('./lib/events');

const BATCH = 0x80013700;

/** An open connection, after a login if one is given. */
async function connect(t, login = {}) {
  const connection = rhea.create_container().connect({
    transport: 'tls',
    host: HOST_NAME,
    hostname: HOST_NAME,
    port: 5671,
    reconnect: false,
    ...login,
  });
  connection.on('error', () => {});
  t.defer(() => connection.close());
  const failed = ['connection_error', 'disconnected', 'connection_close'].map((event) =>
    once(connection, event).then(([context]) => {
      throw Object.assign(new Error(`${event}: ${(context.error || connection.error || {}).message}`), { name: event });
    }),
  );
  await soon(Promise.race([once(connection, 'connection_open'), ...failed]), 'open connection');
  for (const failure of failed) failure.catch(() => {});
  return connection;
}

/** Sends a token to `$cbs`: the status and its description. */
async function putToken(connection, token, name) {
  const receiver = connection.open_receiver('$cbs');
  const sender = connection.open_sender('$cbs');
  await soon(once(sender, 'sendable'), 'credit');
  const answer = once(receiver, 'message');
  sender.send({
    message_id: 'token-1',
    to: '$cbs',
    reply_to: 'cbs',
    application_properties: { operation: 'put-token', type: 'servicebus.windows.net:sastoken', name },
    body: token,
  });
  const [{ message }] = await soon(answer, 'answer');
  equal(message.correlation_id, 'token-1', 'correlation id');
  return message.application_properties['status-code'];
}

/** A link, or the error that it is refused with. */
async function attach(link, kind) {
  const opened = once(link, `${kind}_open`).then(() => new Promise((resolve) => setTimeout(resolve, 300)));
  const closed = once(link, `${kind}_error`).then(() => {
    throw Object.assign(new Error(link.error.description), { name: link.error.condition, info: link.error.info });
  });
  await soon(Promise.race([opened, closed]), 'link');
  closed.catch(() => {});
  return link;
}

async function settled(sender, event, send) {
  const done = Promise.race(
    ['accepted', 'rejected', 'released'].map((outcome) => once(sender, outcome).then(([context]) => [outcome, context.delivery])),
  );
  send();
  const [outcome, delivery] = await soon(done, 'settlement');
  equal(outcome, event, 'outcome');
  return delivery;
}

const deviceToken = (device, seconds) => sasToken({ SharedAccessKey: device.key }, `${HOST_NAME}/devices/${device.id}`, later(seconds));
const hubName = HOST_NAME && HOST_NAME.split('.')[0];

const checks = {
  async 'the events of the hub are elsewhere: the link is redirected'(t) {
    const connection = await connect(t);
    equal(await putToken(connection, sasToken(), HOST_NAME), 200, 'status');
    for (const address of ['messages/events/ConsumerGroups/$Default/Partitions/0', 'messages/events/$management']) {
      const error = await refused(attach(connection.open_receiver(address), 'receiver'), 'amqp:link:redirect');
      const { hostname, 'network-host': networkHost, address: to } = error.info;
      assert(hostname && networkHost, JSON.stringify(error.info));
      const entity = fields(settings.eventHub).EntityPath;
      assert(new RegExp(`^amqps://[^/]+:\\d+/${entity}/`).test(to), `address ${to}`);
      assert(to.endsWith(address.slice('messages/events'.length)), `address ${to} keeps the rest`);
    }
  },

  async 'a batch is as many events'(t) {
    const device = await t.device();
    const connection = await connect(t);
    equal(await putToken(connection, deviceToken(device), `${HOST_NAME}/devices/${device.id}`), 200, 'status');
    const sender = await attach(connection.open_sender(`/devices/${device.id}/messages/events`), 'sender');
    const one = (n) =>
      rhea.message.encode({ message_id: `m-${n}`, application_properties: { n: String(n) }, body: rhea.message.data_section(Buffer.from(`body ${n}`)) });
    const body = rhea.message.data_sections([0, 1, 2].map(one));
    await settled(sender, 'accepted', () => sender.send(rhea.message.encode({ body }), undefined, BATCH));
    const events = await eventsOf(t, device.id, 3);
    equal(events.map((event) => [event.body.toString(), event.messageId, event.properties.n]), [0, 1, 2].map((n) => [`body ${n}`, `m-${n}`, String(n)]), 'events');
  },

  async 'a device logs in with SASL PLAIN, a wrong token does not'(t) {
    const device = await t.device();
    const username = `${device.id}@sas.${hubName}`;
    const connection = await connect(t, { username, password: deviceToken(device) });
    const sender = await attach(connection.open_sender(`/devices/${device.id}/messages/events`), 'sender');
    await settled(sender, 'accepted', () => sender.send({ body: rhea.message.data_section(Buffer.from('plain')) }));
    await refused(connect(t, { username, password: deviceToken({ ...device, key: newKey() }) }));
  },

  async 'a policy logs in with SASL PLAIN and sends C2D'(t) {
    const device = await t.device();
    const { SharedAccessKeyName: policy } = fields(settings.service);
    const connection = await connect(t, { username: `${policy}@sas.root.${hubName}`, password: sasToken() });
    const sender = await attach(connection.open_sender('/messages/devicebound'), 'sender');
    const to = `/devices/${device.id}/messages/devicebound`;
    await settled(sender, 'accepted', () => sender.send({ to, message_id: c2dMessage('x').messageId, body: rhea.message.data_section(Buffer.from('x')) }));
    const ghost = `/devices/${newId('ghost')}/messages/devicebound`;
    const delivery = await settled(sender, 'rejected', () => sender.send({ to: ghost, body: rhea.message.data_section(Buffer.from('x')) }));
    equal(delivery.remote_state.error.condition, 'amqp:not-found', 'condition');
  },

  async 'one connection carries many devices, each by its own token'(t) {
    const devices = await Promise.all(Array.from({ length: 20 }, () => t.device()));
    const connection = await connect(t);
    for (const device of devices) {
      const session = connection.create_session();
      session.begin();
      const name = `${HOST_NAME}/devices/${device.id}`;
      equal(await putToken(connection, deviceToken(device), name), 200, 'status');
      const sender = await attach(session.open_sender(`/devices/${device.id}/messages/events`), 'sender');
      await settled(sender, 'accepted', () => sender.send({ body: rhea.message.data_section(Buffer.from(device.id)) }));
    }
  },

  async 'one policy token serves all devices of a connection'(t) {
    const devices = [await t.device(), await t.device()];
    const connection = await connect(t, { username: 'anonymous' });
    equal(await putToken(connection, sasToken(), `https://${HOST_NAME}`), 200, 'status');
    for (const device of devices) {
      const sender = await attach(connection.open_sender(`amqps://${HOST_NAME}/devices/${device.id}/messages/events`), 'sender');
      await settled(sender, 'accepted', () => sender.send({ body: rhea.message.data_section(Buffer.from('x')) }));
    }
    await refused(attach(connection.open_sender(`/devices/${newId('ghost')}/messages/events`), 'sender'), 'amqp:not-found');
  },

  async 'tokens that are wrong are answered 401, unknown devices 404'(t) {
    const device = await t.device();
    const name = `${HOST_NAME}/devices/${device.id}`;
    const connection = await connect(t);
    equal(await putToken(connection, deviceToken({ ...device, key: newKey() }), name), 401, 'wrong key');
    const ghost = { id: newId('ghost'), key: device.key };
    equal(await putToken(connection, deviceToken(ghost), `${HOST_NAME}/devices/${ghost.id}`), 404, 'unknown device');
    equal(await putToken(connection, deviceToken(device, -60), name), 401, 'expired');
    equal(await putToken(connection, deviceToken(device), name), 200, 'right');
  },

  async 'no token, no link; no such address, no link'(t) {
    const device = await t.device();
    const connection = await connect(t);
    const address = `/devices/${device.id}/messages/events`;
    await refused(attach(connection.open_sender(address), 'sender'), 'amqp:unauthorized-access');
    await putToken(connection, sasToken(), HOST_NAME);
    await attach(connection.open_sender(address), 'sender');
    await refused(attach(connection.open_sender(`/devices/${device.id}/nowhere`), 'sender'), 'amqp:not-found');
  },

  async 'an oversize message is rejected, and the link goes on'(t) {
    const device = await t.device();
    const connection = await connect(t);
    await putToken(connection, deviceToken(device), `${HOST_NAME}/devices/${device.id}`);
    const sender = await attach(connection.open_sender(`/devices/${device.id}/messages/events`), 'sender');
    const send = (size) => () => sender.send({ body: rhea.message.data_section(Buffer.alloc(size)) });
    const delivery = await settled(sender, 'rejected', send(300 * 1024));
    equal(delivery.remote_state.error.condition, 'amqp:link:message-size-exceeded', 'condition');
    await settled(sender, 'accepted', send(200 * 1024));
  },
};

run('AMQP by rhea', checks, { needs: [...hubNeeds, ['EVENTHUB_CS', settings.eventHub]], atOnce: 3 });
