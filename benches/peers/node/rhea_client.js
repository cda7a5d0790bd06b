'use strict';
// rhea: 995 devices a connection, spread over 16 sessions, each with a token and a link of its own.

const { once } = require('events');
const rhea = require('rhea');
const { HOST, BODY, deviceToken, shares, forEach, sendOne, serve } = require('./client');

const SESSIONS = 16;
const body = rhea.message.data_section(BODY);

/** Puts tokens on a connection: resolves with the hub's verdict on each. */
class Cbs {
  async open(connection) {
    this.waiting = new Map();
    this.receiver = connection.open_receiver('$cbs');
    this.receiver.on('message', ({ message }) => {
      this.waiting.get(message.correlation_id)(message.application_properties['status-code']);
      this.waiting.delete(message.correlation_id);
    });
    this.sender = connection.open_sender('$cbs');
    await once(this.sender, 'sendable');
    return this;
  }

  async put(id, token) {
    while (!this.sender.sendable()) await once(this.sender, 'sendable');
    const verdict = new Promise((resolve) => this.waiting.set(id, resolve));
    this.sender.send({
      message_id: id,
      to: '$cbs',
      reply_to: 'cbs',
      application_properties: { operation: 'put-token', type: 'servicebus.windows.net:sastoken', name: token.audience },
      body: token.text,
    });
    const status = await verdict;
    if (status !== 200) throw new Error(`the hub answered a token with ${status}`);
  }

  close() {
    this.sender.close();
    this.receiver.close();
  }
}

/** A device's link. Verdicts come in the order of the messages, since the hub accepts all. */
class Device {
  constructor(sender) {
    this.sender = sender;
    this.waiting = [];
    sender.on('accepted', () => this.waiting.shift()());
    for (const event of ['rejected', 'released', 'sender_error']) {
      sender.on(event, () => this.waiting.shift()(new Error(`${event} by the hub`)));
    }
  }

  send(id, done) {
    this.waiting.push(done);
    this.sender.send({ message_id: id, body });
  }
}

async function openShare(hub, names, devices) {
  const [host, port] = hub.address.split(':');
  const connection = rhea.create_container().connect({
    transport: 'tls',
    host,
    port: Number(port),
    hostname: HOST,
    servername: HOST,
    ca: hub.ca_pem,
    reconnect: false,
  });
  await once(connection, 'connection_open');
  const sessions = Array.from({ length: Math.min(SESSIONS, names.length) }, () => {
    const session = connection.create_session();
    session.open();
    return session;
  });
  const cbs = await new Cbs().open(connection);
  await forEach([...names.entries()], async ([n, name]) => {
    await cbs.put(name, deviceToken(hub, name));
    const sender = sessions[n % sessions.length].open_sender(`/devices/${name}/messages/events`);
    await once(sender, 'sendable');
    const device = new Device(sender);
    await sendOne(device);
    devices.push(device);
  });
  cbs.close();
}

serve(async (order) => {
  const devices = [];
  for (const names of shares(order)) await openShare(order.hub, names, devices);
  return devices;
});
