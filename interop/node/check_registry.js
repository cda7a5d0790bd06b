'use strict';
// The identity registry over REST, with the service SDK.

const { Registry } = require('azure-iothub');
const { run, assert, equal, refused, refusedWith, until, hubNeeds } = require('./lib/runner');
const { settings, fields, connectionString } = require('./lib/settings');
const { registry, newId, newKey, HOST_NAME } = require('./lib/scope');
const { rest, sasToken, later, c2dMessage } = require('./lib/calls');

const get = async (id) => (await registry().get(id)).responseBody;
const exists = (id) => get(id).then(() => true, () => false);

/** New devices for the bulk calls, removed at the end. */
function some(t, count) {
  const devices = Array.from({ length: count }, () => ({ deviceId: newId('bulk'), status: 'enabled' }));
  t.defer(() => registry().removeDevices(devices, true));
  return devices;
}

const checks = {
  async 'a device is created with what was asked for'(t) {
    const { id, key, secondaryKey, identity } = await t.device({ statusReason: 'for a check' });
    equal(identity.authentication.type, 'sas', 'authentication');
    equal(identity.authentication.symmetricKey, { primaryKey: key, secondaryKey }, 'keys');
    equal([identity.status, identity.connectionState], ['enabled', 'Disconnected'], 'states');
    assert(identity.generationId && identity.etag, 'generationId and etag');
    equal(Number(identity.cloudToDeviceMessageCount), 0, 'messages');
    equal(identity.capabilities, { iotEdge: false }, 'capabilities');
    equal(await get(id), identity, 'what is read is what was answered');
  },

  async 'keys that are not given are made'(t) {
    const id = newId();
    const { authentication } = (await registry().create({ deviceId: id })).responseBody;
    t.defer(() => registry().delete(id));
    const { primaryKey, secondaryKey } = authentication.symmetricKey;
    assert(primaryKey && secondaryKey && primaryKey !== secondaryKey, 'two keys');
    assert(Buffer.from(primaryKey, 'base64').length >= 16, 'a key of base64');
  },

  async 'devices of X.509 thumbprints and of an authority are created'(t) {
    const thumbprint = (digit) => digit.repeat(40);
    const selfSigned = await t.device({
      authentication: { type: 'selfSigned', x509Thumbprint: { primaryThumbprint: thumbprint('A'), secondaryThumbprint: thumbprint('B') } },
    });
    equal(selfSigned.identity.authentication.type, 'selfSigned', 'type');
    equal(selfSigned.identity.authentication.x509Thumbprint.primaryThumbprint, thumbprint('A'), 'thumbprint');
    const authority = await t.device({ authentication: { type: 'certificateAuthority' } });
    equal(authority.identity.authentication.type, 'certificateAuthority', 'type');
  },

  async 'an id of every allowed character works, case and all'(t) {
    const id = `${newId()}-.%_#*?!(),:=@$'A`;
    const device = await t.device({ deviceId: id });
    equal((await get(device.id)).deviceId, id, 'id');
    await refusedWith(registry().get(id.toLowerCase()), 404, 'DeviceNotFound');
  },

  async 'an id with a character that is not allowed is refused'() {
    await refusedWith(registry().create({ deviceId: `${newId()} with space` }), 400);
    await refusedWith(registry().create({ deviceId: 'x'.repeat(129) }), 400);
  },

  async 'a second device of one id is refused'(t) {
    const { id } = await t.device();
    const error = await refusedWith(registry().create({ deviceId: id }), 409, 'DeviceAlreadyExists');
    equal(error.name, 'DeviceAlreadyExistsError', 'error');
    assert(error.response.headers['iothub-errorcode'], 'header iothub-errorcode');
  },

  async 'an unknown device is not found'() {
    for (const call of [(id) => registry().get(id), (id) => registry().delete(id), (id) => registry().getTwin(id)]) {
      const error = await refusedWith(call(newId('ghost')), 404, 'DeviceNotFound');
      equal(error.name, 'DeviceNotFoundError', 'error');
      assert(/DeviceNotFound|404001/.test(error.response.headers['iothub-errorcode']), 'header iothub-errorcode');
    }
  },

  async 'a device is updated, and its etag changes'(t) {
    const { id, identity } = await t.device();
    await registry().update({ ...identity, status: 'disabled', statusReason: 'a while' });
    const changed = await get(id);
    equal([changed.status, changed.statusReason], ['disabled', 'a while'], 'status');
    equal(changed.generationId, identity.generationId, 'generation');
    assert(changed.etag !== identity.etag, 'the etag changed');
    assert(Date.parse(changed.statusUpdatedTime) > Date.parse('2020-01-01'), `statusUpdatedTime ${changed.statusUpdatedTime}`);
  },

  async 'a stale etag is refused, the right one and the star are taken'(t) {
    const { id, identity } = await t.device();
    const body = { deviceId: id, authentication: identity.authentication, status: 'enabled' };
    const put = (etag) => rest('PUT', `/devices/${id}`, { body, headers: { 'If-Match': etag } });
    const { result } = await put(`"${identity.etag}"`);
    const error = await refusedWith(put(`"${identity.etag}"`), 412, 'PreconditionFailed');
    equal(error.name, 'InvalidEtagError', 'error');
    await put(`"${result.etag}"`);
    await put('*');
    await refusedWith(rest('DELETE', `/devices/${id}`, { headers: { 'If-Match': '"c3RhbGU="' } }), 412);
    assert(await exists(id), 'the device is still there');
  },

  async 'a device that is made anew has another generation'(t) {
    const { id, identity } = await t.device();
    await registry().delete(id);
    await refusedWith(registry().get(id), 404, 'DeviceNotFound');
    const again = await t.device({ deviceId: id });
    assert(again.identity.generationId !== identity.generationId, 'another generation');
  },

  async 'devices are listed'(t) {
    const { id } = await t.device();
    const list = (await registry().list()).responseBody;
    assert(list.some((device) => device.deviceId === id), 'the device is in the list');
    const { result } = await rest('GET', '/devices?top=1');
    equal(result.length, 1, 'devices of a list of one');
  },

  async 'many devices are added, updated and removed at once'(t) {
    const devices = some(t, 100);
    const added = (await registry().addDevices(devices)).responseBody;
    equal([added.isSuccessful, added.errors, added.warnings], [true, [], []], 'result of adding');
    const [first] = devices;
    const { etag, authentication } = await get(first.deviceId);
    assert(authentication.symmetricKey.primaryKey, 'a key was made');
    const changes = [{ ...first, etag, authentication, status: 'disabled' }];
    equal((await registry().updateDevices(changes, true)).responseBody.isSuccessful, true, 'result of updating');
    equal((await get(first.deviceId)).status, 'disabled', 'status');
    equal((await registry().removeDevices(devices.slice(0, 50), true)).responseBody.isSuccessful, true, 'result of removing');
    equal([await exists(first.deviceId), await exists(devices[99].deviceId)], [false, true], 'who is left');
  },

  async 'what fails of many is told by name, and the rest is done'(t) {
    const [known, fresh] = some(t, 2);
    await registry().addDevices([known]);
    const answer = await registry().addDevices([known, fresh]).then(
      ({ responseBody }) => responseBody,
      (error) => JSON.parse(error.responseBody),
    );
    equal(answer.isSuccessful, false, 'success');
    equal(answer.errors.map((e) => e.deviceId), [known.deviceId], 'who failed');
    assert(/AlreadyExists|409001/.test(String(answer.errors[0].errorCode)), `error code ${answer.errors[0].errorCode}`);
    assert(await exists(fresh.deviceId), 'the other one was added');
  },

  async 'a bulk update by etag minds the etag'(t) {
    const [device] = some(t, 1);
    await registry().addDevices([device]);
    const { authentication } = await get(device.deviceId);
    const stale = { ...device, etag: 'c3RhbGU=', eTag: 'c3RhbGU=', authentication, status: 'disabled' };
    const answer = await registry().updateDevices([stale], false).then(
      ({ responseBody }) => responseBody,
      (error) => JSON.parse(error.responseBody),
    );
    equal(answer.isSuccessful, false, 'success');
    equal((await get(device.deviceId)).status, 'enabled', 'status');
  },

  async 'the statistics count devices'(t) {
    const count = async () => (await registry().getRegistryStatistics()).responseBody;
    const before = await count();
    await t.device();
    await t.device({ status: 'disabled' });
    // Other checks add and remove devices meanwhile.
    const after = await until(async () => {
      const now = await count();
      return now.totalDeviceCount === now.enabledDeviceCount + now.disabledDeviceCount && now;
    }, 'a sum that is right');
    assert(after.disabledDeviceCount >= 1 && before.totalDeviceCount >= 0, JSON.stringify(after));
    const { result } = await rest('GET', '/statistics/service');
    assert(result.connectedDeviceCount >= 0, `connected devices ${JSON.stringify(result)}`);
  },

  async 'the queue of a device is purged'(t) {
    const device = await t.device();
    const service = t.service();
    for (const body of ['1', '2', '3']) await service.send(device.id, c2dMessage(body));
    equal(Number((await get(device.id)).cloudToDeviceMessageCount), 3, 'messages');
    const { result } = await rest('DELETE', `/devices/${device.id}/commands`);
    equal(result.totalMessagesPurged, 3, 'purged');
    equal(Number((await get(device.id)).cloudToDeviceMessageCount), 0, 'messages');
  },

  async 'configurations are an empty list'() {
    equal((await registry().getConfigurations()).responseBody, [], 'configurations');
  },

  async 'a wrong key, an unknown policy and an expired token are unauthorized'() {
    const cs = fields(settings.service);
    for (const wrong of [{ SharedAccessKey: newKey() }, { SharedAccessKeyName: 'nobody' }]) {
      const stranger = Registry.fromConnectionString(connectionString({ ...cs, ...wrong }));
      await refused(stranger.get('any'), 'UnauthorizedError');
    }
    const token = sasToken(cs, HOST_NAME, later(-600));
    await refused(rest('GET', '/devices/any', { token }), 'UnauthorizedError');
  },
};

run('registry', checks, { needs: hubNeeds, atOnce: 3 });
