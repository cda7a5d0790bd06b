'use strict';
// Modules of a device, by the registry, over AMQP and over MQTT.

const { Amqp } = require('azure-iot-device-amqp');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Message } = require('azure-iot-device');
const { run, assert, equal, soon, refused, refusedWith, hubNeeds } = require('./lib/runner');
const { registry, newId } = require('./lib/scope');
const { update } = require('./lib/device_checks');
const { answer, call, callOnce, tellDesired } = require('./lib/calls');

function over(name, Transport) {
  return {
    async [`${name}: telemetry and output events are accepted`](t) {
      const client = await t.openModule(await t.module(await t.device()), Transport);
      await soon(client.sendEvent(new Message('from a module')), 'settlement');
      await soon(client.sendOutputEvent('out1', new Message('through an output')), 'settlement of an output');
    },

    async [`${name}: a direct method goes there and back`](t) {
      const module = await t.module(await t.device());
      answer(await t.openModule(module, Transport), 'echo', 207);
      equal(await call(t.service(), module, 'echo', { x: 1 }), { status: 207, payload: { youSaid: { x: 1 } } });
    },

    async [`${name}: the module has a twin of its own`](t) {
      const device = await t.device();
      const module = await t.module(device);
      const client = await t.openModule(module, Transport);
      const twin = await soon(client.getTwin(), 'twin');
      await update(twin, { speed: 9 });
      const seen = (await registry().getModuleTwin(device.id, module.id)).responseBody;
      equal([seen.deviceId, seen.moduleId, seen.properties.reported.speed], [device.id, module.id, 9], 'twin');
      equal((await registry().getTwin(device.id)).responseBody.properties.reported.speed, undefined, "the device's");
      const change = (desired) => registry().updateModuleTwin(device.id, module.id, { properties: { desired } }, '*');
      await tellDesired(twin, change);
    },

    async [`${name}: two modules and their device are connected at once`](t) {
      const device = await t.device();
      const modules = [await t.module(device), await t.module(device)];
      const clients = [await t.open(device, Transport)];
      for (const module of modules) clients.push(await t.openModule(module, Transport));
      for (const client of clients) await soon(client.sendEvent(new Message('still here')), 'settlement');
    },

    async [`${name}: a wrong key and an unknown module are refused`](t) {
      const module = await t.module(await t.device());
      const other = await t.module(await t.device());
      const wrong = module.cs.replace(module.key, other.key);
      await refused(t.openModule({ cs: wrong }, Transport), 'UnauthorizedError');
      const ghost = module.cs.replace(module.id, newId('ghost'));
      await refused(t.openModule({ cs: ghost }, Transport));
    },
  };
}

const checks = {
  ...over('AMQP', Amqp),
  ...over('MQTT', Mqtt),

  async 'a module is created, read, listed, changed and removed'(t) {
    const device = await t.device();
    const module = await t.module(device, 'engine');
    const made = (await registry().getModule(device.id, 'engine')).responseBody;
    equal([made.deviceId, made.moduleId, made.connectionState], [device.id, 'engine', 'Disconnected'], 'module');
    equal(made.authentication.symmetricKey.primaryKey, module.key, 'key');
    assert(made.etag && made.generationId, 'etag and generationId');
    await t.module(device, 'gearbox');
    const list = (await registry().getModulesOnDevice(device.id)).responseBody;
    equal(list.map((m) => m.moduleId).sort(), ['engine', 'gearbox'], 'modules');
    const changed = (await registry().updateModule({ ...made, managedBy: 'somebody' }, false)).responseBody;
    equal(changed.managedBy, 'somebody', 'managedBy');
    assert(changed.etag !== made.etag, 'the etag changed');
    await refusedWith(registry().updateModule(made, false), 412);
    await registry().removeModule(device.id, 'engine');
    await refusedWith(registry().getModule(device.id, 'engine'), 404, 'ModuleNotFound');
  },

  async 'a module of an unknown device, a second of one name, and the module of a removed device are refused'(t) {
    await refusedWith(registry().addModule({ deviceId: newId('ghost'), moduleId: 'm' }), 404, 'DeviceNotFound');
    const device = await t.device();
    await t.module(device, 'm');
    await refusedWith(registry().addModule({ deviceId: device.id, moduleId: 'm' }), 409, 'ModuleAlreadyExistsOnDevice');
    await registry().delete(device.id);
    await refusedWith(registry().getModule(device.id, 'm'), 404);
  },

  async 'a direct method of a module that is away is 404103'(t) {
    const module = await t.module(await t.device());
    await refusedWith(callOnce(t.service(), module, 'm', {}), 404, '404103');
  },
};

run('modules', checks, { needs: hubNeeds });
