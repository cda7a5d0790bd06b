'use strict';
// Microsoft's device SDK. As documented, a device has a connection of its own. With `--shared`,
// 995 devices are given one connection by the transport's second constructor parameter, which the
// SDK has and does not document.

const { Client, Message } = require('azure-iot-device');
const { Amqp: Transport } = require('azure-iot-device-amqp');
const { Amqp: Connection } = require('azure-iot-amqp-base');
const { HOST, BODY, deviceKey, shares, forEach, sendOne, serve } = require('./client');

/** A connection that attaches links for tokens once, rather than for each device anew. */
class Shared extends Connection {
  initializeCBS(callback) {
    this.tokens ??= new Promise((resolve) => super.initializeCBS(resolve));
    this.tokens.then(callback);
  }
}

class Device {
  constructor(client) {
    this.client = client;
  }

  send(id, done) {
    const message = new Message(BODY);
    message.messageId = id;
    this.client.sendEvent(message, done);
  }
}

async function openDevice(hub, name, transport) {
  const [, port] = hub.address.split(':');
  const fields = {
    HostName: HOST,
    DeviceId: name,
    SharedAccessKey: deviceKey(hub, name),
    GatewayHostName: `${HOST}:${port}`,
  };
  const string = Object.entries(fields).map((pair) => pair.join('=')).join(';');
  const client = Client.fromConnectionString(string, transport);
  await client.setOptions({ ca: hub.ca_pem });
  await client.open();
  const device = new Device(client);
  await sendOne(device);
  return device;
}

const isShared = process.argv.includes('--shared');

serve(async (order) => {
  const devices = [];
  for (const names of shares(order)) {
    const connection = isShared ? new Shared(false) : undefined;
    const transport = function transport(authentication) {
      return new Transport(authentication, connection);
    };
    const add = async (name) => devices.push(await openDevice(order.hub, name, transport));
    // The first opens the shared connection.
    await add(names[0]);
    await forEach(names.slice(1), add);
  }
  return devices;
});
