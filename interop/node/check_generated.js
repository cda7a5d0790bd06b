'use strict';
// The strict client that Microsoft generates from the description of the REST API, as the service SDK carries it.

const { IoTHubTokenCredentials } = require('azure-iothub');
const { IoTHubRegistryManager } = require('azure-iothub/dist/cl/iothub_registry_manager');
const { Mqtt } = require('azure-iot-device-mqtt');
const { run, assert, equal, refusedWith, until, hubNeeds } = require('./lib/runner');
const { settings } = require('./lib/settings');
const { newId, newKey } = require('./lib/scope');
const { answer, c2dMessage } = require('./lib/calls');

const manager = () => new IoTHubRegistryManager(new IoTHubTokenCredentials(settings.service));

const checks = {
  async 'devices and modules are made, read and removed'(t) {
    const [hub, id, key] = [manager(), newId('gen'), newKey()];
    t.defer(() => hub.deleteDevice(id));
    const made = await hub.createDeviceWithSas(id, key, newKey(), true);
    equal([made.deviceId, made.status, made.authentication.symmetricKey.primaryKey], [id, 'enabled', key], 'device');
    assert(made.connectionStateUpdatedTime instanceof Date && made.statusUpdatedTime instanceof Date, 'times');
    equal(made.cloudToDeviceMessageCount, 0, 'messages');
    const module = await hub.createModuleWithSas(id, 'part', 'somebody', newKey(), newKey());
    equal([module.moduleId, module.managedBy], ['part', 'somebody'], 'module');
    equal((await hub.getModules(id)).map((one) => one.moduleId), ['part'], 'modules');
    const certificate = newId('gen');
    t.defer(() => hub.deleteDevice(certificate));
    const selfSigned = await hub.createDeviceWithX509(certificate, 'A'.repeat(40), 'B'.repeat(40), true, true);
    equal([selfSigned.authentication.type, selfSigned.capabilities.iotEdge], ['selfSigned', true], 'device by certificate');
    // The client does not wait for the answers to these two.
    hub.deleteModule(id, 'part');
    await until(async () => (await hub.getModules(id)).length === 0, 'the end of the module');
    hub.deleteDevice(id, made.etag);
    const gone = (error) => error.statusCode === 404;
    await until(() => hub.getDevice(id).then(() => false, gone), 'the end of the device');
  },

  async 'twins are replaced and updated by etag'(t) {
    const hub = manager();
    const { id } = await t.device();
    const twin = await hub.replaceTwin(id, { tags: { site: 'north' }, properties: { desired: { rate: 5 } } });
    equal([twin.tags, twin.properties.desired.rate], [{ site: 'north' }, 5], 'twin');
    assert(twin.statusUpdateTime instanceof Date && twin.lastActivityTime instanceof Date, 'times');
    await hub.updateTwin(id, { tags: { row: 1 } }, `"${twin.etag}"`);
    await refusedWith(hub.updateTwin(id, { tags: { row: 2 } }, `"${twin.etag}"`), 412);
  },

  async 'lists, queries, bulk and statistics are read'(t) {
    const hub = manager();
    const { id } = await t.device();
    assert((await hub.getDevices(1000)).some((device) => device.deviceId === id), 'the device is in the list');
    const [found] = await hub.queryIoTHub({ query: `SELECT * FROM devices WHERE deviceId = '${id}'` });
    equal(found.deviceId, id, 'found');
    const bulk = await hub.bulkCreateOrUpdateDevices([{ id, importMode: 'updateTwin', tags: { bulk: 1 }, status: 'enabled' }]);
    equal(bulk.isSuccessful, true, 'bulk');
    equal((await hub.getTwin(id)).tags, { bulk: 1 }, 'tags');
    assert((await hub.getDeviceRegistryStatistics()).totalDeviceCount > 0, 'devices');
    assert((await hub.getServiceStatistics()).connectedDeviceCount >= 0, 'connected devices');
  },

  async 'methods are called and queues purged'(t) {
    const hub = manager();
    const device = await t.device();
    await t.service().send(device.id, c2dMessage('never mind'));
    const purged = await hub._pl.cloudToDeviceMessages.purgeCloudToDeviceMessageQueue(device.id);
    equal([purged.deviceId, purged.totalMessagesPurged], [device.id, 1], 'purged');
    answer(await t.open(device, Mqtt), 'echo');
    const request = { methodName: 'echo', responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 5 };
    const called = await until(() => hub.invokeDeviceMethod(device.id, request).catch(() => undefined), 'an answer');
    equal(called.status, 200, 'status');
  },
};

run('generated REST client', checks, { needs: hubNeeds });
