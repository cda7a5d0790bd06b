'use strict';
// Twins over REST, with the service SDK.

const { run, assert, equal, refusedWith, hubNeeds } = require('./lib/runner');
const { registry, newId } = require('./lib/scope');
const { rest } = require('./lib/calls');

const read = async (id) => (await registry().getTwin(id)).responseBody;
const patch = async (id, change, etag = '*') => (await registry().updateTwin(id, change, etag)).responseBody;
const replace = async (id, body, etag = '*') =>
  (await rest('PUT', `/twins/${id}`, { body, headers: { 'If-Match': `"${etag}"` } })).result;

const checks = {
  async 'a fresh twin is as the real one'(t) {
    const { id } = await t.device();
    const twin = await read(id);
    equal([twin.deviceId, twin.status, twin.connectionState], [id, 'enabled', 'Disconnected'], 'device');
    equal([twin.properties.desired.$version, twin.properties.reported.$version], [1, 1], 'versions');
    assert(twin.properties.desired.$metadata.$lastUpdated, 'desired.$metadata.$lastUpdated');
    equal([twin.version, twin.authenticationType, twin.cloudToDeviceMessageCount], [2, 'sas', 0], 'version and more');
    equal(twin.tags, {}, 'tags');
    assert(twin.etag && twin.deviceEtag, 'etag and deviceEtag');
  },

  async 'tags and desired properties are merged, and null removes'(t) {
    const { id } = await t.device();
    const first = await patch(id, { tags: { site: 'north', row: { a: 1, b: 2 } }, properties: { desired: { rate: 5, deep: { x: 1, y: 2 } } } });
    equal(first.properties.desired.$version, 2, 'desired version');
    const second = await patch(id, { tags: { row: { b: null, c: 3 } }, properties: { desired: { deep: { x: null }, list: [1, 2] } } });
    equal(second.tags, { site: 'north', row: { a: 1, c: 3 } }, 'tags');
    const { rate, deep, list, $version, $metadata } = second.properties.desired;
    equal({ rate, deep, list, $version }, { rate: 5, deep: { y: 2 }, list: [1, 2], $version: 3 }, 'desired');
    assert($metadata.deep.y.$lastUpdated && $metadata.$lastUpdatedVersion === 3, `$metadata ${JSON.stringify($metadata)}`);
    assert(second.etag !== first.etag && second.version === first.version + 1, 'etag and version');
    equal((await read(id)).tags, second.tags, 'tags, read again');
  },

  async 'a replacement leaves nothing of what was'(t) {
    const { id } = await t.device();
    await patch(id, { tags: { old: 1 }, properties: { desired: { old: 1, kept: 1 } } });
    const twin = await replace(id, { tags: { fresh: 1 }, properties: { desired: { kept: 2 } } });
    equal(twin.tags, { fresh: 1 }, 'tags');
    equal([twin.properties.desired.old, twin.properties.desired.kept, twin.properties.desired.$version], [undefined, 2, 3], 'desired');
  },

  async 'a stale etag is refused'(t) {
    const { id } = await t.device();
    const { etag } = await read(id);
    const next = await patch(id, { tags: { n: 1 } }, etag);
    const error = await refusedWith(registry().updateTwin(id, { tags: { n: 2 } }, etag), 412, 'PreconditionFailed');
    equal(error.name, 'InvalidEtagError', 'error');
    await patch(id, { tags: { n: 3 } }, next.etag);
    equal((await read(id)).tags, { n: 3 }, 'tags');
  },

  async "the SDK's twin reads and updates itself"(t) {
    const { id } = await t.device();
    const twin = await read(id);
    await twin.update({ tags: { by: 'twin' }, properties: { desired: { on: true } } });
    await twin.get();
    equal([twin.tags, twin.properties.desired.on], [{ by: 'twin' }, true], 'twin');
  },

  async 'reported properties are the device’s: the service cannot write them'(t) {
    const { id } = await t.device();
    await patch(id, { properties: { reported: { forged: 1 }, desired: { n: 1 } } }).catch(() => {});
    const { reported } = (await read(id)).properties;
    equal([reported.forged, reported.$version], [undefined, 1], 'reported');
  },

  async 'what is too large, too deep or badly named is refused'(t) {
    const { id } = await t.device();
    const deep = (levels) => (levels === 0 ? 1 : { d: deep(levels - 1) });
    const large = Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`k${i}`, 'x'.repeat(3600)]));
    const bad = [
      { properties: { desired: large } },
      { tags: Object.fromEntries(Object.entries(large).slice(0, 3)) },
      { properties: { desired: deep(12) } },
      { properties: { desired: { 'a.b': 1 } } },
      { properties: { desired: { 'a b': 1 } } },
      { properties: { desired: { a$: 1 } } },
      { properties: { desired: { s: 'x'.repeat(4097) } } },
      { properties: { desired: { n: 2 ** 53 } } },
    ];
    for (const [index, change] of bad.entries()) {
      await refusedWith(registry().updateTwin(id, change, '*'), 400).catch((error) => {
        throw new Error(`case ${index}: ${error.message}`);
      });
    }
    const { properties, tags } = await read(id);
    equal([properties.desired.$version, tags], [1, {}], 'the twin');
  },

  async 'an unknown device has no twin'() {
    await refusedWith(registry().getTwin(newId('ghost')), 404, 'DeviceNotFound');
    await refusedWith(registry().updateTwin(newId('ghost'), { tags: {} }, '*'), 404, 'DeviceNotFound');
  },
};

run('twins', checks, { needs: hubNeeds, atOnce: 3 });
