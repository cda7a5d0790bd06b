'use strict';
// What a check opens and registers, closed and removed at its end.

const { randomBytes, randomUUID } = require('crypto');
const { settings, fields, connectionString } = require('./settings');

const { Client, ModuleClient } = require('azure-iot-device');
const { Client: ServiceClient, Registry } = require('azure-iothub');
const { NoRetry } = require('azure-iot-common');

const HOST_NAME = fields(settings.service).HostName;

const newKey = () => randomBytes(32).toString('base64');
const newId = (prefix = 'node') => `${prefix}-${randomUUID().slice(0, 13)}`;

let shared;

/** The registry client that the checks of one process share. */
function registry() {
  shared = shared || Registry.fromConnectionString(settings.service);
  return shared;
}

/** The things of one check. */
class Scope {
  constructor() {
    this.endings = [];
  }

  /** Has something done when the check ends; the latest first. */
  defer(ending) {
    this.endings.push(ending);
  }

  async close() {
    for (const ending of this.endings.reverse()) {
      await Promise.race([Promise.resolve().then(ending), new Promise((done) => setTimeout(done, 1500))]).catch(() => {});
    }
  }

  /** A new device of the registry: its id, key and connection string. */
  async device(more = {}) {
    const [id, key, secondaryKey] = [more.deviceId || newId(), newKey(), newKey()];
    const symmetricKey = { primaryKey: key, secondaryKey };
    const made = await registry().create({ deviceId: id, status: 'enabled', authentication: { symmetricKey }, ...more });
    this.defer(() => registry().delete(id));
    const cs = connectionString({ HostName: HOST_NAME, DeviceId: id, SharedAccessKey: key });
    return { id, key, secondaryKey, cs, identity: made.responseBody };
  }

  /** A new module of a device. */
  async module(device, name = newId('mod')) {
    const [key, secondaryKey] = [newKey(), newKey()];
    await registry().addModule({
      deviceId: device.id,
      moduleId: name,
      authentication: { symmetricKey: { primaryKey: key, secondaryKey } },
    });
    const cs = connectionString({ HostName: HOST_NAME, DeviceId: device.id, ModuleId: name, SharedAccessKey: key });
    return { id: name, deviceId: device.id, key, cs };
  }

  /** A client of the device SDK, not yet open. */
  client(cs, Transport, Kind = Client) {
    const client = Kind.fromConnectionString(cs, Transport);
    return this.keep(client);
  }

  /** Lets a client fail at once, and closes it at the end. */
  keep(client) {
    client.setRetryPolicy(new NoRetry());
    client.on('error', () => {});
    this.defer(() => client.close());
    return client;
  }

  /** An open client of the device. */
  async open(device, Transport) {
    const client = this.client(device.cs, Transport);
    await client.open();
    return client;
  }

  /** An open client of the module. */
  async openModule(module, Transport) {
    const client = this.client(module.cs, Transport, ModuleClient);
    await client.open();
    return client;
  }

  /** A client of the service SDK, not yet open. */
  service(Transport, cs = settings.service) {
    return this.keep(ServiceClient.fromConnectionString(cs, Transport));
  }
}

module.exports = { Scope, registry, newKey, newId, HOST_NAME };
